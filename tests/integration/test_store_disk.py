"""What a full or failing disk does to writes. It is the real disk behind a shim that refuses on command."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.faulty_disk import BROKEN, FULL, FaultyDisk
from harness.database import Gate, open_database

from nexusd.errors import DiskFull, OutcomeUnknown, ReadOnly
from nexusd.store.database import Database
from nexusd.store.integrity import check_integrity
from nexusd.store.meta import get_epoch, get_meta, set_meta

pytestmark = pytest.mark.anyio

_names = itertools.count()


@pytest.fixture
def disk() -> Iterator[FaultyDisk]:
    disk = FaultyDisk(f"faulty-{next(_names)}")
    yield disk
    disk.unregister()


@pytest.fixture
def eager_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexusd.store.writer.IDLE_TURN_S", 0.02)


async def behind_a_gate(database: Database, count: int, gate: Gate) -> list[asyncio.Task[None]]:
    held = asyncio.create_task(database.write(gate))
    await asyncio.to_thread(gate.entered.wait, 30)
    writes = [asyncio.create_task(database.write(set_meta, f"k{i}", "v" * 3000)) for i in range(count)]
    await asyncio.sleep(0)
    return [held, *writes]


@pytest.mark.usefixtures("eager_probe")
@pytest.mark.parametrize("writes_to_pass", [0, 1, 3])
async def test_full_disk_fails_the_batch_refuses_writes_and_recovers(
    tmp_path: Path, disk: FaultyDisk, writes_to_pass: int
) -> None:
    async with open_database(tmp_path / "nexus.db", vfs=disk.vfs_name) as database:
        await database.write(set_meta, "before", "v")
        gate = Gate()
        batch = await behind_a_gate(database, 20, gate)
        disk.writes_to_pass = writes_to_pass
        disk.write_error = FULL
        gate.opened.set()
        answers = await asyncio.gather(*batch, return_exceptions=True)
        assert DiskFull in {type(answer) for answer in answers}
        assert {type(answer) for answer in answers} <= {DiskFull, type(None)}
        with pytest.raises(DiskFull) as refused:
            await database.write(set_meta, "full", "v")
        assert refused.value.retry_after_ms
        assert database.progress().disk == "full"
        # reads go on, and see what was acknowledged and nothing else
        assert await database.read(get_epoch) == database.peek(get_epoch)
        assert database.peek(get_meta, "before") == "v"
        for i, answer in enumerate(answers[1:]):
            assert (database.peek(get_meta, f"k{i}") is not None) == (answer is None)
        disk.refused.clear()
        assert await asyncio.to_thread(disk.refused.wait, 30)   # a probe that really wrote was refused
        assert database.progress().disk == "full"
        disk.write_error = None
        async with asyncio.timeout(30):
            while database.progress().disk != "ok":
                await asyncio.sleep(0.01)
        await database.write(set_meta, "after", "v")
        assert database.peek(get_meta, "probe") is None
    async with open_database(tmp_path / "nexus.db") as database:
        assert database.peek(get_meta, "after") == "v"
        assert database.peek(get_meta, "full") is None
        assert await database.write(check_integrity) == []


@pytest.mark.parametrize("kind", ["fsync", "write"])
async def test_failing_disk_leaves_the_outcome_open_and_ends_all_writing(
    tmp_path: Path, disk: FaultyDisk, kind: str
) -> None:
    fatal: list[Exception] = []
    async with open_database(tmp_path / "nexus.db", vfs=disk.vfs_name, on_fatal=fatal.append) as database:
        await database.write(set_meta, "before", "v")
        gate = Gate()
        batch = await behind_a_gate(database, 5, gate)
        if kind == "fsync":
            disk.sync_error = BROKEN
        else:
            disk.write_error = BROKEN
        gate.opened.set()
        answers = await asyncio.gather(*batch, return_exceptions=True)
        assert OutcomeUnknown in {type(answer) for answer in answers}
        assert {type(answer) for answer in answers} <= {OutcomeUnknown, ReadOnly, type(None)}
        await asyncio.sleep(0)
        assert len(fatal) == 1
        disk.sync_error = disk.write_error = None       # also if it seems well again: fsync forgets
        size = (tmp_path / "nexus.db-wal").stat().st_size
        with pytest.raises(ReadOnly):
            await database.write(set_meta, "late", "v")
        assert database.peek(get_meta, "before") == "v"
        assert database.progress().disk == "failed"
    assert (tmp_path / "nexus.db-wal").stat().st_size == size       # closing did not checkpoint
    async with open_database(tmp_path / "nexus.db") as database:
        assert database.peek(get_meta, "before") == "v"
        assert database.peek(get_meta, "late") is None
        assert await database.write(check_integrity) == []


@pytest.mark.usefixtures("eager_probe")
async def test_a_checkpoint_whose_fsync_fails_is_fatal(tmp_path: Path, disk: FaultyDisk) -> None:
    failed = asyncio.Event()
    async with open_database(
        tmp_path / "nexus.db", vfs=disk.vfs_name, on_fatal=lambda _error: failed.set()
    ) as database:
        await database.write(set_meta, "k", "v")
        disk.sync_error = BROKEN
        async with asyncio.timeout(30):
            await failed.wait()     # the idle writer checkpoints
        with pytest.raises(ReadOnly):
            await database.write(set_meta, "late", "v")
    disk.sync_error = None
    async with open_database(tmp_path / "nexus.db") as database:
        assert database.peek(get_meta, "k") == "v"

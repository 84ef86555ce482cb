"""A damaged file under the database: what is refused, what goes on, and what is said of it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import apsw
import pytest
from fakes.faulty_disk import FaultyDisk
from harness.damage import overwrite, pages_of, shorten
from harness.database import Gate, open_database
from structlog.testing import capture_logs

from nexusd.errors import DatabaseRefusedError, ReadOnly, StoreDamaged, WordsDamaged
from nexusd.store.connection import Connection
from nexusd.store.damage import damage_of
from nexusd.store.database import Database
from nexusd.store.mending import rebuild_words
from nexusd.store.meta import get_epoch, get_meta, set_meta

pytestmark = pytest.mark.anyio

ROWS = 400
CONDEMNED = "the database is damaged: no writes until a backup is restored"
_names = itertools.count()


def fill(db: Connection) -> None:
    """Conversations with messages: a table of many pages that nobody reads at the start."""
    db.execute("INSERT INTO conversations (id, created_at, updated_at) VALUES (1, 1, 1)")
    db.executemany(
        "INSERT INTO messages (conversation_id, role, content, created_at, updated_at) VALUES (1, 'user', ?, 1, 1)",
        [(f"kettle {n} " + "y" * 900,) for n in range(ROWS)],
    )


def change_messages(db: Connection, suffix: str) -> None:
    db.execute("UPDATE messages SET metadata = json_object('s', ?)", (suffix,))


def count_messages(db: Connection) -> int:
    found: int = db.execute("SELECT sum(length(content)) FROM messages").get
    return found


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A database at rest, with rows in it."""
    path = tmp_path / "nexus.db"
    async with open_database(path) as database:
        await database.write(fill)
        await database.write(set_meta, "before", "v")
    return path


@pytest.fixture
async def damaged(path: Path) -> AsyncIterator[Database]:
    """One whose messages cannot be read any more."""
    overwrite(path, pages_of(path, "messages"))
    async with open_database(path) as database:
        yield database


@pytest.fixture
def eager_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexusd.store.writer.IDLE_TURN_S", 0.02)


async def until_damaged(database: Database) -> None:
    async with asyncio.timeout(30):
        while database.progress().disk != "damaged":
            await asyncio.sleep(0.005)


async def test_a_write_that_meets_damage_ends_all_writing_and_nothing_else(damaged: Database, path: Path) -> None:
    await damaged.write(set_meta, "still", "v")
    with capture_logs() as logs:
        gate = Gate()
        held = asyncio.create_task(damaged.write(gate))
        await asyncio.to_thread(gate.entered.wait, 30)
        batch = [asyncio.create_task(damaged.write(change_messages, "x"))]
        batch += [asyncio.create_task(damaged.write(set_meta, f"k{n}", "v")) for n in range(3)]
        await asyncio.sleep(0)
        gate.opened.set()
        answers = await asyncio.gather(held, *batch, return_exceptions=True)
        assert {type(answer) for answer in answers} <= {StoreDamaged, type(None)}
        assert isinstance(answers[1], StoreDamaged)
        assert "malformed" in answers[1].message
        assert not answers[1].retryable
        assert isinstance(answers[1], ReadOnly)     # who waits where nothing is written waits here too
        for _ in range(3):
            with pytest.raises(StoreDamaged, match="nexusctl restore"):
                await damaged.write(set_meta, "late", "v")
    assert [entry["event"] for entry in logs if entry["log_level"] in {"error", "critical"}] == [CONDEMNED]
    assert damaged.progress().disk == "damaged"
    # what can be read is read, and is what was acknowledged
    assert damaged.peek(get_meta, "still") == damaged.peek(get_meta, "before") == "v"
    assert await damaged.read(get_epoch)
    for n, answer in enumerate(answers[2:]):
        assert (damaged.peek(get_meta, f"k{n}") is not None) == (answer is None)
    size = path.with_name("nexus.db-wal").stat().st_size
    await damaged.close()
    assert path.with_name("nexus.db-wal").stat().st_size == size > 0    # nothing more goes into the damaged file


@pytest.mark.parametrize("way", ["read", "peek"])
async def test_a_read_that_meets_damage_is_told_so_and_ends_all_writing(damaged: Database, way: str) -> None:
    with capture_logs() as logs:
        for _ in range(2):
            with pytest.raises(StoreDamaged, match="nexusctl restore"):
                if way == "read":
                    await damaged.read(count_messages)
                else:
                    damaged.peek(count_messages)
        await until_damaged(damaged)
        with pytest.raises(StoreDamaged):
            await damaged.write(set_meta, "late", "v")
        assert await damaged.read(get_meta, "before") == "v"
        await damaged.close()
    assert [entry["event"] for entry in logs] == [CONDEMNED]


def cut(path: Path) -> None:
    shorten(path, min(pages_of(path, "messages")))


def overwrite_header(path: Path) -> None:
    overwrite(path, [1])


@pytest.mark.usefixtures("eager_rest")
@pytest.mark.parametrize("harm", [cut, overwrite_header])
async def test_a_file_that_is_harmed_while_it_is_open_is_damage(path: Path, harm: Callable[[Path], None]) -> None:
    async with open_database(path) as database:
        await database.write(set_meta, "still", "v")
        async with asyncio.timeout(30):     # at rest what is in the file is read from there, not from the WAL
            while path.with_name("nexus.db-wal").stat().st_size:
                await asyncio.sleep(0.005)
        harm(path)
        with pytest.raises(StoreDamaged):
            await database.read(count_messages)
        await until_damaged(database)
    with pytest.raises(DatabaseRefusedError):   # and no start goes on with it, however often it is tried
        async with open_database(path):
            pass


async def test_a_sector_that_cannot_be_read_is_damage_and_the_process_need_not_end(path: Path) -> None:
    disk = FaultyDisk(f"unreadable-{next(_names)}")
    try:
        fatal: list[Exception] = []
        async with open_database(path, vfs=disk.vfs_name, on_fatal=fatal.append) as database:
            disk.unreadable_from = (min(pages_of(path, "messages")) - 1) * 4096
            with pytest.raises(StoreDamaged):
                await database.write(change_messages, "x")
            assert database.progress().disk == "damaged"
            with pytest.raises(StoreDamaged):
                await database.read(count_messages)
            assert database.peek(get_meta, "before") == "v"
        assert fatal == []
    finally:
        disk.unregister()


async def test_where_only_the_words_are_damaged_other_writes_go_on(path: Path) -> None:
    with apsw.Connection(str(path)) as db:  # sound pages without what FTS5 has to find there
        db.execute("DELETE FROM messages_fts_data WHERE id = 1")
    async with open_database(path) as database:
        with pytest.raises(WordsDamaged, match="index repair"):
            await database.write(delete_messages)
        await database.write(set_meta, "after", "v")
        assert database.progress().disk == "ok"
        assert await database.read(count_messages) > 0      # undone
        await database.write(rebuild_words, "messages")
        await database.write(delete_messages)


def delete_messages(db: Connection) -> None:
    db.execute("DELETE FROM messages")


def test_errors_of_other_kinds_are_none() -> None:
    for other in (apsw.IOError("x"), apsw.FullError("x"), apsw.BusyError("x"), ValueError("x")):
        assert damage_of(other) is None

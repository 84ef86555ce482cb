"""The rehearsal of a restore: what it finds is remembered, and it comes round whatever the clock does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from harness.backup_files import backup_of, fill
from harness.database import open_database

from nexusd.backup.course import Course
from nexusd.backup.drill import AGAIN_AFTER_S, FIRST_AFTER_S, LONGEST_SLEEP_S, Drills
from nexusd.backup.keeper import Backups
from nexusd.backup.shelf import Shelf
from nexusd.model.backups import BackupStep, Drill

pytestmark = pytest.mark.anyio

WEEK_S = 7 * 86400.0


class HandClock:
    """Goes on when somebody sleeps; the wall clock may be set beside."""

    def __init__(self) -> None:
        self.monotonic = 100.0
        self.ahead_ms = 1_800_000_000_000
        self.slept: list[float] = []
        self.enough = 10**6

    def now_ms(self) -> int:
        return int(self.monotonic * 1000) + self.ahead_ms

    def monotonic_s(self) -> float:
        return self.monotonic

    async def sleep(self, seconds: float) -> None:
        if len(self.slept) >= self.enough:
            await asyncio.Event().wait()
        self.slept.append(seconds)
        self.monotonic += seconds
        await asyncio.sleep(0)


class Kept:
    """The backups, as far as a drill asks them."""

    def __init__(self, directory: Path) -> None:
        self.shelf = Shelf(directory)
        self.drill: Drill | None = None
        self.invalid: dict[str, str] = {}

    @contextlib.asynccontextmanager
    async def exclusive(self, step: BackupStep) -> AsyncIterator[Course]:
        yield Course(step, 0)

    def found_invalid(self, name: str, reason: str) -> None:
        self.invalid[name] = reason


class Bench:
    def __init__(self, drills: Drills, kept: Kept, clock: HandClock, scratch: Path, shelf: Path) -> None:
        self.drills, self.kept, self.clock, self.scratch, self.shelf = drills, kept, clock, scratch, shelf

    def shelve(self, name: str = "one", **wrong: Any) -> None:
        backup_of(self.shelf / f"{name}.tar", fill(self.shelf.parent / f"{name}.db", ["a kettle"]), **wrong)

    async def until(self, sleeps: int) -> None:
        """Let the timer run until it has slept so often."""
        self.clock.enough = sleeps
        task = asyncio.create_task(self.drills.run())
        while len(self.clock.slept) < sleeps and not task.done():
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05 if self.kept.drill is None else 0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    (shelf := tmp_path / "backups").mkdir()
    clock, kept, scratch = HandClock(), Kept(shelf), tmp_path / ".drill"
    async with open_database(tmp_path / "nexus.db") as store:
        drills = Drills(store, cast("Backups", kept), scratch, WEEK_S, clock, sleep=clock.sleep)
        yield Bench(drills, kept, clock, scratch, shelf)


async def test_a_good_backup_passes_and_nothing_of_the_drill_is_left(bench: Bench) -> None:
    bench.shelve()
    bench.scratch.mkdir()
    (bench.scratch / "left").write_text("by one that was killed")
    drill = await bench.drills.rehearse()
    assert (drill.backup, drill.error) == ("one", None)
    assert await bench.drills.last() == drill == bench.kept.drill
    assert not bench.scratch.exists()


async def test_an_older_schema_is_migrated_in_the_drill_as_it_would_be(bench: Bench) -> None:
    backup_of(bench.shelf / "old.tar", fill(bench.shelf.parent / "old.db", ["a kettle"], schema=1))
    assert (await bench.drills.rehearse()).error is None


async def test_a_bad_one_fails_and_counts_no_more_as_good(bench: Bench) -> None:
    bench.shelve()
    path = bench.shelf / "one.tar"
    tampered = bytearray(path.read_bytes())
    tampered[tampered.index(b"\x28\xb5\x2f\xfd") + 500] ^= 1    # in the frame of the database
    path.write_bytes(tampered)
    drill = await bench.drills.rehearse()
    assert drill.error is not None
    assert "damaged" in drill.error
    assert list(bench.kept.invalid) == ["one"]
    assert await bench.drills.last() == drill
    assert not bench.scratch.exists()


async def test_the_first_one_waits_an_hour_and_the_next_ones_a_week(bench: Bench) -> None:
    bench.shelve()
    await bench.until(3)
    assert bench.clock.slept[0] == FIRST_AFTER_S
    assert bench.kept.drill is not None
    first = bench.kept.drill.at
    hours = int(WEEK_S / LONGEST_SLEEP_S)
    bench.clock.slept.clear()
    await bench.until(hours + 5)
    assert bench.kept.drill.at - first in range(int(WEEK_S * 1000) - 1000, int((WEEK_S + LONGEST_SLEEP_S) * 1000))


async def test_where_there_is_no_backup_it_looks_again(bench: Bench) -> None:
    await bench.until(3)
    assert bench.clock.slept == [FIRST_AFTER_S, AGAIN_AFTER_S, AGAIN_AFTER_S]
    assert await bench.drills.last() is None


async def test_a_clock_that_was_set_back_delays_nothing(bench: Bench) -> None:
    bench.shelve()
    before = await bench.drills.rehearse()
    bench.clock.ahead_ms -= 10 * 365 * 86_400_000
    await bench.until(1)
    assert bench.kept.drill is not None
    assert bench.kept.drill.at < before.at


async def test_turned_off_it_never_comes(bench: Bench, tmp_path: Path) -> None:
    async with open_database(tmp_path / "off.db") as store:
        off = Drills(store, cast("Backups", bench.kept), bench.scratch, 0.0, bench.clock, sleep=bench.clock.sleep)
        task = asyncio.create_task(off.run())
        await asyncio.sleep(0.02)
        assert not task.done()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert bench.clock.slept == []

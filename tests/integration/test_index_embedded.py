"""The embedded index under faults: its processes killed, stopped, its files damaged, its disk full."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import time
from array import array
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nexusd.clock import SystemClock
from nexusd.config_sections import IndexConfig
from nexusd.errors import IndexUnavailable
from nexusd.index.embedded import EmbeddedIndex
from nexusd.index.filters import Filter, Match
from nexusd.index.index import CollectionSpec, Point

pytestmark = pytest.mark.anyio

DIMENSION = 8
SPEC = CollectionSpec("episodes", DIMENSION)
REBUILD_STEPS = ["started", "copying", "building", "loaded", "caught-up", "named", "adopted", "removed"]
FAULTS = Path(__file__).with_name("index_faults")


@pytest.fixture
def dying_child(monkeypatch: pytest.MonkeyPatch) -> str:
    """The module of a child that dies on command."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FAULTS), os.environ.get("PYTHONPATH", "")]))
    return "dying_child"


@asynccontextmanager
async def opened(
    directory: Path,
    *,
    rebuild_after: int = 10_000,
    call_timeout_s: float = 20.0,
    module: str = "nexusd.index.shard_process",
) -> AsyncIterator[EmbeddedIndex]:
    config = IndexConfig(rebuild_after=rebuild_after, call_timeout_s=call_timeout_s)
    index = EmbeddedIndex(directory, config, SystemClock(), child_module=module)
    await index.start()
    try:
        await again(lambda: index.ensure(SPEC))
        yield index
    finally:
        await index.close()


async def again(call: Callable[[], object], *, within_s: float = 60.0) -> object:
    """The first answer that is not IndexUnavailable."""
    async with asyncio.timeout(within_s):
        while True:
            try:
                return await call()
            except IndexUnavailable:
                await asyncio.sleep(0.02)


async def until(condition: Callable[[], object], *, within_s: float = 60.0) -> None:
    """What another process does has no event here: look again and again, but not for ever."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


def vector(seed: int) -> bytes:
    chance = random.Random(seed)
    return array("f", [chance.gauss(0, 1) for _ in range(DIMENSION)]).tobytes()


def point(id_: int, version: int = 1) -> Point:
    return Point(id_, version, vector(id_ * 1000 + version), {"sessionId": id_ % 5})


async def versions(index: EmbeddedIndex) -> dict[int, int]:
    """What the index holds; the scroll answers each id once or the test ends here."""
    await again(lambda: index.delete(SPEC.name, [10**9]))  # updates go in order: none is on its way after this
    found = await again(lambda: index.scroll(SPEC.name, 0, 1_000_000))
    ids = [each.id for each in found]
    assert ids == sorted(set(ids))
    assert await again(lambda: index.count(SPEC.name)) == len(ids)
    return {each.id: each.version for each in found}


class Writers:
    """Writers that go on for ever, and what they know: acknowledged, and tried since then."""

    def __init__(self, index: EmbeddedIndex, *, ids: int = 400, pause_s: float = 0.0) -> None:
        self.index = index
        self.pause_s = pause_s
        self.ids = ids
        self.acknowledged: dict[int, int] = {}  # 0: deleted
        self.tried: dict[int, set[int]] = {}
        self.refused = 0

    async def write(self, seed: int, *, of: int) -> None:
        chance = random.Random(seed)
        mine = range(1 + seed, self.ids + 1, of)  # one writer an id: what came last is known
        version = 0
        while True:
            version += 1
            ids = chance.sample(mine, min(20, len(mine)))
            new = 0 if chance.random() < 0.2 else version
            for id_ in ids:
                self.tried.setdefault(id_, set()).add(new)
            try:
                if new:
                    await self.index.upsert(SPEC.name, [point(id_, version) for id_ in ids])
                else:
                    await self.index.delete(SPEC.name, ids)
            except IndexUnavailable:
                self.refused += 1
                await asyncio.sleep(0.01)
            else:
                for id_ in ids:
                    self.acknowledged[id_] = new
                    self.tried[id_].clear()
                await asyncio.sleep(self.pause_s)

    def contradicts(self, found: dict[int, int]) -> list[tuple[int, int, int | None]]:
        """Ids whose state in the index is neither what was acknowledged last nor what was tried after it."""
        return [
            (id_, found.get(id_, 0), self.acknowledged.get(id_))
            for id_ in range(1, self.ids + 1)
            if found.get(id_, 0) not in {self.acknowledged.get(id_, 0), *self.tried.get(id_, set())}
        ]


@asynccontextmanager
async def writing(
    index: EmbeddedIndex, count: int = 3, *, ids: int = 400, pause_s: float = 0.0
) -> AsyncIterator[Writers]:
    writers = Writers(index, ids=ids, pause_s=pause_s)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(writers.write(seed, of=count)) for seed in range(count)]
        yield writers
        for task in tasks:
            task.cancel()


async def test_killing_the_child_under_load_loses_nothing_acknowledged_and_doubles_nothing(
    tmp_path: Path,
) -> None:
    chance = random.Random(7)
    async with opened(tmp_path) as index:
        async with writing(index) as writers:
            for kill in range(6):
                before = sum(writers.acknowledged.values())
                await until(lambda before=before: sum(writers.acknowledged.values()) != before)
                await asyncio.sleep(chance.uniform(0, 0.05))  # at any point of its loop
                (process_id,) = index.health().process_ids[:1] or (0,)
                if process_id:
                    os.kill(process_id, signal.SIGKILL)
                await until(lambda kill=kill: index.health().restarts > kill and index.health().available)
        assert writers.refused
        assert writers.contradicts(await versions(index)) == []
    async with opened(tmp_path) as index:
        assert writers.contradicts(await versions(index)) == []


async def test_what_is_on_disk_at_an_acknowledgement_is_enough(tmp_path: Path) -> None:
    """A copy of the files, with the child alive and nothing flushed: what a crash at this moment leaves."""
    async with opened(tmp_path / "live") as index:
        for round_ in range(1, 4):
            await index.upsert(SPEC.name, [point(id_, round_) for id_ in range(1, 100)])
            await index.delete(SPEC.name, [round_])
            shutil.copytree(tmp_path / "live", tmp_path / f"copy-{round_}")
    for round_ in range(1, 4):
        async with opened(tmp_path / f"copy-{round_}") as index:
            assert await versions(index) == {id_: round_ for id_ in range(1, 100) if id_ != round_}


async def test_after_a_power_cut_the_journal_brings_back_what_the_engine_had_not_flushed(tmp_path: Path) -> None:
    """The shard as of its last flush, with the journal as of the last acknowledgement."""
    async with opened(tmp_path / "live") as index:
        await index.upsert(SPEC.name, [point(id_, 1) for id_ in range(1, 100)])
    shutil.copytree(tmp_path / "live", tmp_path / "cut")
    for journal in (tmp_path / "cut" / SPEC.name).glob("journal-*"):
        journal.unlink()
    async with opened(tmp_path / "live") as index:
        await index.upsert(SPEC.name, [point(id_, 2) for id_ in range(50, 200)])
        await index.delete(SPEC.name, [1, 60])
        for journal in (tmp_path / "live" / SPEC.name).glob("journal-*"):
            shutil.copy(journal, tmp_path / "cut" / SPEC.name)
    async with opened(tmp_path / "cut") as index:
        expected = {**dict.fromkeys(range(1, 50), 1), **dict.fromkeys(range(50, 200), 2)}
        assert await versions(index) == {id_: expected[id_] for id_ in expected if id_ not in (1, 60)}
        assert (await index.search(SPEC.name, point(199, 2).vector, 1, None))[0].id == 199


async def test_a_stopped_child_is_killed_after_the_deadline_and_comes_back(tmp_path: Path) -> None:
    async with opened(tmp_path, call_timeout_s=1.0) as index:
        await index.upsert(SPEC.name, [point(1)])
        os.kill(index.health().process_ids[0], signal.SIGSTOP)
        began = time.monotonic()
        answers = await asyncio.gather(
            index.upsert(SPEC.name, [point(2)]),
            index.search(SPEC.name, vector(1), 5, None),
            index.count(SPEC.name),
            return_exceptions=True,
        )
        assert time.monotonic() - began < 3.0
        assert all(isinstance(answer, IndexUnavailable) for answer in answers), answers
        found = await versions(index)
        assert found[1] == 1
        assert index.health().restarts == 1


async def test_without_a_child_no_call_waits_longer_than_its_deadline(tmp_path: Path) -> None:
    index = EmbeddedIndex(
        tmp_path, IndexConfig(call_timeout_s=0.5), SystemClock(), child_module="nexusd.no_such_module"
    )
    await index.start()
    began = time.monotonic()
    with pytest.raises(IndexUnavailable):
        await index.ensure(SPEC)
    assert time.monotonic() - began < 2.0
    assert not index.health().available
    assert index.health().detail
    await index.close()


# damaged files


def truncated(collection: Path) -> None:
    for file in collection.rglob("*"):
        if file.is_file() and "segments" in file.parts and file.stat().st_size:
            os.truncate(file, file.stat().st_size // 3)


def overwritten(collection: Path) -> None:
    for file in (collection / "shard-1" / "segments").rglob("segment.json"):
        file.write_text("{")


def without_shard(collection: Path) -> None:
    shutil.rmtree(collection / "shard-1")


def bad_manifest(collection: Path) -> None:
    (collection / "manifest.json").write_bytes(b"\x00\x01")


@pytest.mark.parametrize("damage", [truncated, overwritten, without_shard, bad_manifest])
async def test_a_damaged_collection_is_set_aside_and_begun_anew_under_another_incarnation(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    async with opened(tmp_path) as index:
        before = index.health().incarnations[SPEC.name]
        await index.upsert(SPEC.name, [point(id_) for id_ in range(1, 300)])
    damage(tmp_path / SPEC.name)
    async with opened(tmp_path) as index:
        assert index.health().incarnations[SPEC.name] != before
        assert await versions(index) == {}
        await index.upsert(SPEC.name, [point(1)])
        assert index.health().restarts <= 4
    assert (tmp_path / f"{SPEC.name}.broken-1" / "reason").read_text().strip()
    async with opened(tmp_path) as index:
        assert await versions(index) == {1: 1}


async def test_damage_that_is_met_at_a_restart_shows_in_the_incarnation(tmp_path: Path) -> None:
    async with opened(tmp_path) as index:
        before = index.health().incarnations[SPEC.name]
        await index.upsert(SPEC.name, [point(1)])
        os.kill(index.health().process_ids[0], signal.SIGKILL)
        overwritten(tmp_path / SPEC.name)
        await until(lambda: index.health().incarnations[SPEC.name] != before)
        assert await versions(index) == {}


async def test_a_shard_that_kills_its_reader_is_set_aside_after_a_few_attempts(
    tmp_path: Path, dying_child: str
) -> None:
    async with opened(tmp_path) as index:
        await index.upsert(SPEC.name, [point(1)])
    (tmp_path / SPEC.name / "shard-1" / "poison").touch()
    async with opened(tmp_path, module=dying_child) as index:
        assert await versions(index) == {}
        assert index.health().restarts == 4
    assert (tmp_path / f"{SPEC.name}.broken-1" / "shard-1" / "poison").exists()


async def test_only_the_newest_broken_collections_are_kept(tmp_path: Path) -> None:
    for _ in range(4):
        async with opened(tmp_path):
            pass
        bad_manifest(tmp_path / SPEC.name)
    kept = sorted(path.name for path in tmp_path.iterdir() if ".broken-" in path.name)
    assert kept == [f"{SPEC.name}.broken-2", f"{SPEC.name}.broken-3"]


async def test_a_second_child_on_the_same_files_waits_for_the_first_to_end(tmp_path: Path) -> None:
    async with opened(tmp_path) as first:
        await first.upsert(SPEC.name, [point(1)])
        second = asyncio.create_task(anext(aiter_of(opened(tmp_path))))
        await asyncio.sleep(0.3)
        assert not second.done()
    index, stack = await second
    assert await versions(index) == {1: 1}
    await stack.aclose()


async def aiter_of(context: contextlib.AbstractAsyncContextManager[EmbeddedIndex]) -> AsyncIterator[object]:
    stack = contextlib.AsyncExitStack()
    yield await stack.enter_async_context(context), stack


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that can be filled."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=240m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


async def test_a_full_disk_refuses_writes_keeps_what_was_acknowledged_and_recovers_with_room(
    small_disk: Path,
) -> None:
    async with opened(small_disk / "index", call_timeout_s=2.0) as index:
        await index.upsert(SPEC.name, [point(id_) for id_ in range(1, 500)])
        ballast = small_disk / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(b"x" * 65536)
                file.flush()
        with pytest.raises(IndexUnavailable):
            for batch in range(100):
                await index.upsert(SPEC.name, [point(id_) for id_ in range(1000 + batch * 100, 1100 + batch * 100)])
        ballast.unlink()
        await again(lambda: index.upsert(SPEC.name, [point(9999)]))
        found = await versions(index)
        assert set(range(1, 500)) | {9999} <= set(found)
        assert not list((small_disk / "index").glob("*.broken-*"))


# rebuilds


def shards(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / SPEC.name).iterdir() if path.is_dir())


def has_graph(directory: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):  # the engine's files come and go under the walk
        return any((directory / SPEC.name).rglob("links*"))
    return False


def valid_shard(directory: Path) -> str:
    return str(json.loads((directory / SPEC.name / "manifest.json").read_text())["shard"])


def rebuilt(index: EmbeddedIndex, directory: Path) -> bool:
    return not index.health().rebuilding and shards(directory) not in ([], ["shard-1"]) and len(shards(directory)) == 1


@pytest.mark.parametrize("step", REBUILD_STEPS)
async def test_a_crash_at_any_step_of_a_rebuild_leaves_one_valid_shard_with_everything_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dying_child: str, step: str
) -> None:
    monkeypatch.setenv("NEXUSD_TEST_DIES_AT", step)
    async with opened(tmp_path, rebuild_after=300, module=dying_child) as index:
        # with a pause: the rebuild, which gives way to whatever is asked, comes to its end sooner
        async with writing(index, pause_s=0.01) as writers:
            await until((tmp_path / f"died-at-{step}").exists)
            valid = valid_shard(tmp_path)
            assert valid == ("shard-2" if step in {"named", "adopted", "removed"} else "shard-1")
            await until(lambda: index.health().restarts == 1 and index.health().available)
            await until(lambda: valid_shard(tmp_path) != valid)  # the next rebuild comes to its end
        assert writers.contradicts(await versions(index)) == []
        assert index.health().restarts == 1
    async with opened(tmp_path, rebuild_after=300) as index:
        assert writers.contradicts(await versions(index)) == []
        assert valid_shard(tmp_path) in shards(tmp_path)
    assert not list(tmp_path.glob("*.broken-*"))


@pytest.mark.alone
async def test_rebuilds_under_writes_and_searches_lose_nothing_double_nothing_and_stall_nobody(
    tmp_path: Path,
) -> None:
    waits: list[float] = []
    async with opened(tmp_path, rebuild_after=500) as index:

        async def search() -> None:
            while True:
                began = time.monotonic()
                await index.search(SPEC.name, vector(1), 10, None)
                waits.append(time.monotonic() - began)
                await asyncio.sleep(0.002)

        searching = asyncio.create_task(search())
        async with writing(index, ids=3000) as writers:
            await until(lambda: has_graph(tmp_path) and valid_shard(tmp_path) == "shard-4")
            # what changed since the last copy and during it, each of the ids at most once in either
            assert int((tmp_path / SPEC.name / "changed").read_text()) <= 2 * 3000
        searching.cancel()
        assert writers.refused == 0
        assert writers.contradicts(await versions(index)) == []
        assert index.health().restarts == 0
    waits.sort()
    assert waits[len(waits) * 99 // 100] < 0.1, waits[-20:]
    assert waits[-1] < 1.0, waits[-20:]  # a stall would be the whole of a rebuild; a shared machine takes some


async def test_a_killed_rebuilding_process_is_reported_and_the_old_shard_serves_on(tmp_path: Path) -> None:
    async with opened(tmp_path, rebuild_after=2000) as index:
        await index.upsert(SPEC.name, [point(id_) for id_ in range(1, 2101)])
        await until(lambda: len(index.health().process_ids) == 2)
        os.kill(index.health().process_ids[1], signal.SIGKILL)
        await until(lambda: index.health().detail)
        assert "rebuilding process ended with -9" in index.health().detail
        assert index.health().available
        assert len(await versions(index)) == 2100
        assert shards(tmp_path) == ["shard-1"]


async def test_dropping_a_collection_ends_its_rebuild(tmp_path: Path) -> None:
    async with opened(tmp_path, rebuild_after=2000) as index:
        await index.upsert(SPEC.name, [point(id_) for id_ in range(1, 2101)])
        await until(lambda: index.health().rebuilding)
        await index.drop(SPEC.name)
        await until(lambda: not index.health().rebuilding)
        assert not (tmp_path / SPEC.name).exists()
        await index.ensure(SPEC)
        assert await versions(index) == {}


async def test_the_rebuilding_process_does_not_outlive_the_index(tmp_path: Path) -> None:
    async with opened(tmp_path, rebuild_after=2000) as index:
        await index.upsert(SPEC.name, [point(id_) for id_ in range(1, 2101)])
        await until(lambda: len(index.health().process_ids) == 2)
        serving, rebuilding = index.health().process_ids
        os.kill(serving, signal.SIGKILL)
        await until(lambda: not Path(f"/proc/{rebuilding}").exists())


@pytest.mark.parametrize("size", [3000, pytest.param(60_000, marks=pytest.mark.long)])
async def test_the_graph_finds_what_comparing_everything_finds(tmp_path: Path, size: int) -> None:
    """Clustered points; with filters from one session to most of them, to the recall of 0.98 that is promised."""
    chance = random.Random(size)
    centres = [[chance.gauss(0, 1) for _ in range(DIMENSION)] for _ in range(40)]

    def clustered() -> bytes:
        return array("f", [number + chance.gauss(0, 0.4) for number in chance.choice(centres)]).tobytes()

    points = [
        Point(id_, 1, clustered(), {"sessionId": id_ // 20, "metadata": {"fifth": id_ % 5, "most": id_ % 10 > 0}})
        for id_ in range(1, size + 1)
    ]
    filters: list[tuple[Filter | None, Callable[[Point], bool]]] = [
        (None, lambda _: True),
        (Filter(must=(Match("sessionId", (7,)),)), lambda each: each.payload["sessionId"] == 7),
        (Filter(must=(Match("metadata.fifth", (3,)),)), lambda each: each.payload["metadata"]["fifth"] == 3),
        (Filter(must=(Match("metadata.most", (True,)),)), lambda each: each.payload["metadata"]["most"]),
    ]
    async with opened(tmp_path, rebuild_after=size - 200) as index:
        for begin in range(0, size, 1000):
            await index.upsert(SPEC.name, points[begin : begin + 1000])
        await until(lambda: has_graph(tmp_path) and rebuilt(index, tmp_path), within_s=100)
        units = {each.id: unit(each.vector) for each in points}
        for where, holds in filters:
            found = expected = 0
            for _ in range(12):
                query = clustered()
                nearest = sorted(
                    (each.id for each in points if holds(each)), key=lambda id_: -dot(unit(query), units[id_])
                )[:10]
                hits = await index.search(SPEC.name, query, 10, where)
                assert all(holds(points[hit.id - 1]) for hit in hits)
                found += len({hit.id for hit in hits} & set(nearest))
                expected += len(nearest)
            assert found >= 0.98 * expected, where


def unit(bytes_: bytes) -> list[float]:
    numbers = array("f", bytes_)
    length = math.hypot(*numbers)
    return [number / length for number in numbers]


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))

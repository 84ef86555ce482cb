"""Verifications while everything changes: nothing is ever reported that is merely on its way."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes.index import FakeIndex
from harness.outbox_bench import NOW_MS, Bench, make_bench
from harness.verifying import Verifying, verifying

from nexusd.errors import NotFound
from nexusd.index.index import Point, PointVersion
from nexusd.model.episodes import UpdateEpisode
from nexusd.store.entities import delete_entity
from nexusd.store.episodes import delete_episode, update_episode
from nexusd.store.vectors import delete_vector
from nexusd.sync import walk
from nexusd.sync.points import put_point, remove_point

pytestmark = pytest.mark.anyio
WRITERS = 2
MOST = 30  # rows of a kind, about
MEANWHILE = 5  # batches that are delivered between a page and its answer, at most


class Unhurried(FakeIndex):
    """Every call takes some turns of the loop, before and after it is carried out; what was read is told late."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance
        self.deliveries = 0
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        await self._dawdle()
        await super().upsert(collection, points)
        self.deliveries += 1
        await self._dawdle()

    async def delete(self, collection: str, ids: Sequence[int]) -> None:
        await self._dawdle()
        await super().delete(collection, ids)
        self.deliveries += 1
        await self._dawdle()

    async def scroll(self, collection: str, after_id: int, limit: int) -> list[PointVersion]:
        await self._dawdle()
        page = await super().scroll(collection, after_id, limit)
        if self.meanwhile is not None:
            await self.meanwhile()
        return page

    async def _dawdle(self) -> None:
        for _ in range(self._chance.randrange(12)):
            await asyncio.sleep(0)


class Writer:
    """Changes of every kind, at random."""

    def __init__(self, bench: Bench, chance: random.Random) -> None:
        self.changes = 0
        self._bench = bench
        self._chance = chance
        self._episodes: list[int] = []

    async def change(self) -> None:
        """One of them."""
        chance, bench = self._chance, self._bench
        self.changes += 1
        number = chance.randrange(MOST)
        kind = chance.choice(["add", "add", "edit", "delete", "entity", "text", "own", "out", "in", "unname"])
        if kind == "add" and len(self._episodes) >= MOST:
            kind = "delete"
        if kind == "add" or not self._episodes:
            self._episodes.append(await bench.add(f"text {number}"))
        elif kind == "edit":
            new = UpdateEpisode(id=chance.choice(self._episodes), user_message=f"{chance.random()}")
            await self._store(update_episode, new, NOW_MS)
        elif kind == "delete":
            row_id = self._episodes.pop(chance.randrange(len(self._episodes)))
            await self._store(delete_episode, row_id)
        elif kind == "entity":
            await bench.entity(f"name {number}", notes=f"{chance.random()}")
        elif kind in ("text", "own"):
            vector = bytes([1 + number, 0, 0, 0x3F]) * 32 if kind == "own" else None
            await bench.text(number, "" if number % 5 == 0 else f"{chance.random()}", vector)
        elif kind == "out":
            await self._store(remove_point, "episodes", chance.choice(self._episodes), NOW_MS)
        elif kind == "in":
            model = bench.serving.model.key
            await self._store(put_point, "episodes", chance.choice(self._episodes), None, model, NOW_MS)
        else:
            await self._unname(number)

    async def _store(self, function: Any, *args: Any) -> None:
        with contextlib.suppress(NotFound):  # another writer was faster
            await self._bench.store.write(function, *args)

    async def _unname(self, number: int) -> None:
        def find(db: Any) -> tuple[int | None, Any]:
            entity = db.execute("SELECT id FROM entities WHERE name = ?", (f"name {number}",)).get
            return entity, db.execute("SELECT key FROM vectors WHERE key = ?", (number,)).get

        entity, key = await self._bench.store.read(find)
        if entity is not None:
            await self._store(delete_entity, entity)
        if key is not None:
            await self._store(delete_vector, key)


async def campaign(directory: Path, seed: int, *, verifications: int) -> int:
    """How many changes were made while so many verifications found nothing."""
    chance = random.Random(seed)
    index = Unhurried(chance)
    async with make_bench(directory, index=index, batch_size=8) as bench, verifying(bench) as run:
        writer = Writer(bench, chance)
        bench.start()
        for _ in range(60):
            await writer.change()

        async def write() -> None:
            while True:
                await writer.change()
                for _ in range(chance.randrange(8)):
                    await asyncio.sleep(0)

        async def some_deliveries() -> None:
            until = index.deliveries + chance.randrange(MEANWHILE)
            while index.deliveries < until:
                await asyncio.sleep(0)

        index.meanwhile = some_deliveries
        writing = [asyncio.create_task(write()) for _ in range(WRITERS)]
        try:
            for _ in range(verifications):
                await _verify(run, seed)
        finally:
            index.meanwhile = None
            for task in writing:
                task.cancel()
            await asyncio.wait(writing)
        assert [task.cancelled() for task in writing] == [True] * WRITERS  # none has failed
        await bench.drained()
        report = await _verify(run, seed)
        assert sum(each.queued for each in report.collections) == 0
        for collection in ("episodes", "entities", "vectors"):
            assert bench.holds(collection) == await bench.rows(collection)
        return writer.changes


async def _verify(run: Verifying, seed: int) -> Any:
    report = await run.verify()
    assert report.agrees, f"seed {seed}: {report}"
    return report


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "SLICE_ROWS", 6)
    monkeypatch.setattr(walk, "REST_S", 0.0)


@pytest.mark.parametrize("seed", [1])
async def test_nothing_is_reported_while_everything_changes(tmp_path: Path, seed: int) -> None:
    assert await campaign(tmp_path, seed, verifications=4) > 100


@pytest.mark.long
@pytest.mark.timeout(1200)
async def test_nothing_is_reported_while_everything_changes_for_long(tmp_path: Path) -> None:
    base = random.randrange(10**6)
    changes = 0
    for seed in range(base, base + 10):
        changes += await campaign(tmp_path / f"{seed}", seed, verifications=40)
    print(f"seeds from {base}: {changes} changes, 410 verifications, no difference")

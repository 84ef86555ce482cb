"""After the wait on a delete's receipt none of its points is in the index, then or ever again.

Rows are made, changed and deleted at random while they are delivered: a delivery is on its way when its row goes, the
index dies in the middle of it, deletes take over the places of what was not delivered yet. Whoever deletes waits on the
receipt alone, looks, and looks again at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes.embedder import FakeEmbedder
from fakes.index import FakeIndex
from harness.outbox_bench import NOW_MS, Bench, make_bench

from nexusd.clock import SystemClock
from nexusd.config_sections import IndexConfig
from nexusd.embedding.embedder import Vector
from nexusd.errors import IndexUnavailable, NotFound
from nexusd.index.embedded import EmbeddedIndex
from nexusd.index.index import Point
from nexusd.model.entities import NewEntity
from nexusd.model.episodes import NewEpisode, UpdateEpisode
from nexusd.model.fields import Deletion
from nexusd.model.sessions import CreateSession
from nexusd.model.summaries import CreateSummary
from nexusd.store import slices
from nexusd.store.cascades import SESSION
from nexusd.store.entities import delete_entity, upsert_entity
from nexusd.store.episodes import delete_episode, insert_episodes, update_episode
from nexusd.store.sessions import insert_session
from nexusd.store.summaries import insert_summary

pytestmark = pytest.mark.anyio

COLLECTIONS = ("episodes", "entities", "summaries")
Points = dict[str, set[int]]


class Dawdling:
    """A delivery takes some turns of the loop, in which its rows change and go."""

    chance = random.Random()

    async def _dawdle(self) -> None:
        for _ in range(self.chance.choice((0, 0, 1, 5, 40))):
            await asyncio.sleep(0)


class DawdlingEmbedder(Dawdling, FakeEmbedder):
    async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        await self._dawdle()
        return await super().embed_documents(texts)


class DawdlingFake(Dawdling, FakeIndex):
    """Also loses its answers: what it says it did not do, it may have done."""

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        await self._dawdle()
        await super().upsert(collection, points)
        if self.chance.random() < 0.05:
            raise IndexUnavailable("the answer was lost")
        await self._dawdle()

    async def delete(self, collection: str, ids: Sequence[int]) -> None:
        if self.chance.random() < 0.05:
            raise IndexUnavailable("the question was lost")
        await self._dawdle()
        await super().delete(collection, ids)


class DawdlingReal(Dawdling, EmbeddedIndex):
    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        await self._dawdle()
        await super().upsert(collection, points)
        await self._dawdle()


class Household:
    """Makes, changes and deletes rows at random, and holds every receipt to its word."""

    def __init__(self, bench: Bench, chance: random.Random) -> None:
        self.bench = bench
        self.chance = chance
        self.sessions: dict[int, list[int]] = {}  # with their exchanges
        self.summaries: dict[int, list[int]] = {}
        self.entities: list[int] = []
        self.gone: Points = {collection: set() for collection in COLLECTIONS}
        self.proofs: list[asyncio.Task[None]] = []
        self.made = 0

    async def held(self, collection: str) -> set[int]:
        """The points that there are."""
        async with asyncio.timeout(30):
            while True:
                try:
                    target = self.bench.collections.physical(collection)
                    return {each.id for each in await self.bench.index.scroll(target, 0, 100_000)}
                except IndexUnavailable:
                    await asyncio.sleep(0.02)

    async def step(self) -> None:
        deeds = {
            self.make_session: 2, self.make_episodes: 8, self.make_summary: 3, self.make_entity: 4, self.change: 8,
            self.delete_one: 8, self.delete_entity: 3, self.delete_session: 2, self.rest: 3,
        }  # fmt: skip
        (deed,) = self.chance.choices(list(deeds), list(deeds.values()))
        with contextlib.suppress(NotFound):  # it is about to go
            await deed()

    async def make_session(self) -> None:
        self.made += 1
        made = await self.bench.store.write(insert_session, CreateSession(external_id=f"p{self.made}"), NOW_MS)
        self.sessions[made.id], self.summaries[made.id] = [], []

    async def make_episodes(self) -> None:
        if self.sessions:
            session = self.chance.choice(list(self.sessions))
            items = [
                NewEpisode(session_id=session, user_message=f"text {self.chance.random()}", ai_response="")
                for _ in range(self.chance.choice((1, 3, 20)))
            ]
            for row in await self.bench.store.write(insert_episodes, items, NOW_MS):
                if not isinstance(row, Exception) and session in self.sessions:
                    self.sessions[session].append(row.id)

    async def make_summary(self) -> None:
        if self.sessions:
            session = self.chance.choice(list(self.sessions))
            new = CreateSummary(session_id=session, content=f"summary {self.chance.random()}")
            row = await self.bench.store.write(insert_summary, new, NOW_MS)
            if session in self.summaries:
                self.summaries[session].append(row.id)

    async def make_entity(self) -> None:
        self.made += 1
        new = NewEntity(name=f"n{self.made}", type="thing", notes=f"{self.chance.random()}")
        self.entities.append((await self.bench.store.write(upsert_entity, new, NOW_MS)).id)

    async def change(self) -> None:
        if (ids := [id_ for rows in self.sessions.values() for id_ in rows]):
            change = UpdateEpisode(id=self.chance.choice(ids), user_message=f"text {self.chance.random()}")
            await self.bench.store.write(update_episode, change, NOW_MS)

    async def rest(self) -> None:
        for _ in range(self.chance.choice((1, 10, 100))):
            await asyncio.sleep(0)

    async def delete_one(self) -> None:
        rows = [rows for rows in self.sessions.values() if rows]
        if rows:
            among = self.chance.choice(rows)
            id_ = among.pop(self.chance.randrange(len(among)))
            self._prove(await self.bench.store.write(delete_episode, id_), {"episodes": {id_}})

    async def delete_entity(self) -> None:
        if self.entities:
            id_ = self.entities.pop(self.chance.randrange(len(self.entities)))
            self._prove(await self.bench.store.write(delete_entity, id_), {"entities": {id_}})

    async def delete_session(self) -> None:
        if self.sessions:
            session = self.chance.choice(list(self.sessions))
            ids = {"episodes": set(self.sessions.pop(session)), "summaries": set(self.summaries.pop(session))}
            gone = await self.bench.store.delete_in_slices(None, SESSION, lambda _db: session)
            assert isinstance(gone, Deletion)
            self._prove(gone, ids)

    def _prove(self, gone: Deletion, ids: Points) -> None:
        for collection, these in ids.items():
            self.gone[collection] |= these
        self.proofs.append(asyncio.create_task(self._proof(gone, ids)))

    async def _proof(self, gone: Deletion, ids: Points) -> None:
        waited = await self.bench.worker.wait_for_deletes(gone.outbox_seq, 60)
        assert waited.done, waited
        for collection, these in ids.items():
            assert not these & await self.held(collection), collection

    async def finish(self) -> None:
        """Every proof holds; and nothing that was proven gone came back, down to the last delivery."""
        await asyncio.gather(*self.proofs)
        await self.bench.drained()
        for collection in COLLECTIONS:
            held = await self.held(collection)
            assert not self.gone[collection] & held
            assert held == set(await self.bench.rows(collection))


@contextlib.asynccontextmanager
async def household(
    directory: Path, index: Any, seed: int, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Household]:
    chance = random.Random(seed)
    monkeypatch.setattr(Dawdling, "chance", random.Random(seed + 1))
    monkeypatch.setattr(slices, "SLICE_S", 0.0)  # a session goes in many slices
    async with make_bench(directory, index=index, embedder=DawdlingEmbedder(), batch_size=8) as bench:
        bench.start()
        yield Household(bench, chance)


@pytest.mark.parametrize("seed", range(6))
async def test_after_the_wait_on_a_receipt_its_points_are_gone_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    async with household(tmp_path, DawdlingFake(), seed, monkeypatch) as house:
        for _ in range(150):
            await house.step()
        await house.finish()


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_so_it_is_from_any_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tens of thousands of steps: 60 households of 500."""
    for seed in range(100, 160):
        async with household(tmp_path / str(seed), DawdlingFake(), seed, monkeypatch) as house:
            for _ in range(500):
                await house.step()
            await house.finish()


async def test_so_it_is_in_a_real_index_that_is_killed_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    houses: list[Household] = []
    index = DawdlingReal(
        tmp_path / "index", IndexConfig(), SystemClock(),
        on_up=lambda: [house.bench.worker.index_up() for house in houses],  # type: ignore[arg-type]  # answers nothing
    )
    await index.start()
    try:
        async with household(tmp_path / "store", index, 7, monkeypatch) as house:
            houses.append(house)
            kills = 0
            for n in range(400):
                await house.step()
                # while it starts again there is nothing to kill: then after one of the next steps
                if n >= 140 * (kills + 1) and kills < 2 and (pids := index.health().process_ids):
                    kills += 1
                    for pid in pids:
                        os.kill(pid, signal.SIGKILL)
            await house.finish()
            assert index.health().restarts >= 2
    finally:
        await index.close()

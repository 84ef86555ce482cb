"""Rows that change or go while they are embedded or sent, thousands of times, whatever fails meanwhile and whatever the
clock does: in the end the index holds exactly the rows, in their last versions, with the vectors of their last texts.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakes.embedder import FakeEmbedder
from fakes.index import FakeIndex
from harness.outbox_bench import NOW_MS, Bench, make_bench
from hypothesis import given, settings
from hypothesis import strategies as st

from nexusd.clock import SystemClock
from nexusd.embedding.embedder import EmbedderDied, RejectedText, Vector
from nexusd.errors import EmbedderUnavailable, IndexUnavailable, NotFound
from nexusd.index.index import IndexDied, Point
from nexusd.model.episodes import NewEpisode, UpdateEpisode
from nexusd.store.episodes import delete_episode, insert_episodes, update_episode
from nexusd.store.outbox import retry_dead
from nexusd.sync.sources import load_episode_documents

YEAR_MS = 366 * 86_400_000
ROWS, CHANGES = 120, 400  # an example's


class Unforeseen(Exception):
    """What nobody expected."""


class JumpyClock(SystemClock):
    """Somebody sets the wall clock again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.ahead_ms


@dataclass
class Weather:
    """What goes wrong, and how often: shares of the calls."""

    chance: random.Random
    embedder_fails: float
    index_fails: float
    changes: float  # of the rows in a call, how many change under it
    clock_jumps: float
    clock: JumpyClock
    bench: Bench | None = None
    changed: int = 0

    def calm(self) -> None:
        self.embedder_fails = self.index_fails = self.changes = self.clock_jumps = 0.0
        self.clock.ahead_ms = 0

    def happens(self, share: float) -> bool:
        return self.chance.random() < share

    async def pass_over(self, row_ids: Sequence[int]) -> None:
        """Something happens to some of these rows, which are under way, and to the clock."""
        assert self.bench is not None
        if self.happens(self.clock_jumps):
            self.clock.ahead_ms = self.chance.choice([-YEAR_MS, 0, YEAR_MS])
        for row_id in row_ids:
            if self.happens(self.changes) and self.changed < CHANGES:
                await self.change(row_id)

    async def change(self, row_id: int) -> None:
        assert self.bench is not None
        self.changed += 1
        try:
            kind = self.chance.choice(["text", "text", "metadata", "back", "delete"])
            if kind == "delete":
                await self.bench.store.write(delete_episode, row_id)
                if self.happens(0.5):  # and another comes
                    await self.bench.add(f"another {self.changed}")
                return
            new = {
                "text": UpdateEpisode(id=row_id, user_message=f"text {row_id} {self.changed}"),
                "metadata": UpdateEpisode(id=row_id, metadata={"n": self.changed}),
                "back": UpdateEpisode(id=row_id, user_message=f"text {row_id}"),  # as it was at first
            }[kind]
            await self.bench.store.write(update_episode, new, NOW_MS)
        except NotFound:  # it went already
            return


class ShakyEmbedder(FakeEmbedder):
    def __init__(self, weather: Weather) -> None:
        super().__init__()
        self.weather = weather

    async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        ids = [int(text.split()[2]) for text in texts if text.startswith("User: text")]
        await self.weather.pass_over(ids)
        if self.weather.happens(self.weather.embedder_fails):
            raise self.weather.chance.choice([
                EmbedderUnavailable("down"), EmbedderUnavailable("busy", retry_after_ms=5), EmbedderDied("died"),
                RejectedText("no", self.weather.chance.randrange(len(texts))), Unforeseen(),
            ])  # fmt: skip
        return await super().embed_documents(texts)


class ShakyIndex(FakeIndex):
    def __init__(self, weather: Weather) -> None:
        super().__init__()
        self.weather = weather

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        await self.weather.pass_over([point.id for point in points])
        await self._perhaps_fail()
        await super().upsert(collection, points)
        await self._perhaps_fail()  # it was done, and nobody learns it

    async def delete(self, collection: str, ids: Sequence[int]) -> None:
        await self._perhaps_fail()
        await super().delete(collection, ids)
        await self._perhaps_fail()

    async def _perhaps_fail(self) -> None:
        await asyncio.sleep(0)
        if self.weather.happens(self.weather.index_fails):
            raise self.weather.chance.choice([IndexUnavailable("down"), IndexDied("died"), Unforeseen()])


async def _whatever_happens(weather: Weather, directory: Path, batch_size: int) -> None:
    index, embedder = ShakyIndex(weather), ShakyEmbedder(weather)
    async with make_bench(
        directory, index=index, embedder=embedder, clock=weather.clock, chance=weather.chance,
        batch_size=batch_size, max_backoff_s=0.1, max_attempts=3,
    ) as bench:  # fmt: skip
        weather.bench = bench
        bench.start()
        new = [
            NewEpisode(session_id=bench.session, user_message=f"text {n}", ai_response="ok") for n in range(1, ROWS + 1)
        ]
        await bench.store.write(insert_episodes, new, NOW_MS)
        async with asyncio.timeout(60):
            while weather.changes and weather.changed < CHANGES:
                rows = await bench.rows()
                if not rows:
                    break
                for row_id in weather.chance.sample(sorted(rows), min(10, len(rows))):  # so that something is under way
                    await weather.change(row_id)
                await asyncio.sleep(0.001)
        weather.calm()
        await bench.drained()
        await bench.store.write(retry_dead, [], NOW_MS)  # what was refused by chance goes through now
        await bench.drained()
        assert bench.held == await bench.rows()
        documents = await bench.store.read(load_episode_documents, list(bench.held), "")
        for document in documents:
            point = index.point(bench.collections.physical("episodes"), document.id)
            assert point.vector == embedder.vector_of(document.text)
            assert point.payload["metadata"] == document.payload["metadata"]
        await bench.stop()


@settings(max_examples=5)
@given(
    seed=st.integers(0, 10**6),
    embedder_fails=st.sampled_from([0.0, 0.05, 0.3]),
    index_fails=st.sampled_from([0.0, 0.05, 0.3]),
    changes=st.sampled_from([0.02, 0.2, 0.6]),
    clock_jumps=st.sampled_from([0.0, 0.3]),
    batch_size=st.sampled_from([1, 7, 64]),
)
def test_whatever_changes_under_way_and_whatever_fails_the_index_ends_with_exactly_the_rows(
    seed: int,
    embedder_fails: float,
    index_fails: float,
    changes: float,
    clock_jumps: float,
    batch_size: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    weather = Weather(random.Random(seed), embedder_fails, index_fails, changes, clock_jumps, JumpyClock())
    asyncio.run(_whatever_happens(weather, tmp_path_factory.mktemp("weather"), batch_size))

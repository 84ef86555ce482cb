"""What the outbox worker tells of itself: a row that was given up, and that nothing is owed any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from fakes.embedder import FakeEmbedder
from harness.outbox_bench import NOW_MS, Bench, make_bench

from nexusd.embedding.embedder import EmbedderDied, Vector
from nexusd.model.episodes import UpdateEpisode
from nexusd.store.episodes import update_episode
from nexusd.store.outbox import bury, claim_batch, retry_dead

pytestmark = pytest.mark.anyio
DRAINED = ("outbox", {"state": "drained", "dead": 0})


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with make_bench(tmp_path) as made:
        yield made


async def until_told(bench: Bench, count: int) -> None:
    async with asyncio.timeout(10):
        while len(bench.told) < count:
            await asyncio.sleep(0)


async def some_turns(bench: Bench) -> None:
    """The worker looks for work, and finds none."""
    until = bench.worker.turns + 3
    async with asyncio.timeout(10):
        while bench.worker.turns < until:
            bench.worker.wake()
            await asyncio.sleep(0)


async def test_the_end_of_a_backlog_is_told_once(bench: Bench) -> None:
    for number in range(100):
        await bench.add(f"text {number}")
    bench.start()
    await until_told(bench, 1)
    await some_turns(bench)
    await bench.stop()
    assert bench.told == [DRAINED]


async def test_each_backlog_has_its_end(bench: Bench) -> None:
    bench.start()
    for count in range(1, 4):
        await bench.add("tea")
        await until_told(bench, count)
    await bench.stop()
    assert bench.told == [DRAINED] * 3


async def test_nothing_is_told_where_nothing_was_owed(bench: Bench) -> None:
    bench.start()
    await some_turns(bench)
    await bench.stop()
    assert bench.told == []


async def test_an_outage_is_no_end(bench: Bench) -> None:
    bench.embedder.unavailable = "down"
    bench.start()
    await bench.add("tea")
    async with asyncio.timeout(10):
        while bench.worker.embedder_breaker.failures < 2:
            await asyncio.sleep(0)
    assert bench.told == []
    bench.embedder.unavailable = ""
    await until_told(bench, 1)
    assert bench.told == [DRAINED]


async def test_a_dead_letter_is_told_by_its_place_and_kind_and_not_by_its_text(bench: Bench) -> None:
    bench.embedder.rejected.add("User: poison\nAssistant: ok")
    row_id = await bench.add("poison")
    bench.start()
    await until_told(bench, 2)
    assert bench.told == [
        ("outbox", {"state": "dead", "collection": "episodes", "id": row_id, "kind": "bad_content"}),
        ("outbox", {"state": "drained", "dead": 1}),
    ]
    bench.embedder.rejected.clear()
    await bench.store.write(retry_dead, [], NOW_MS)
    await until_told(bench, 3)
    assert bench.told[2] == DRAINED


async def test_a_row_that_changed_before_it_was_given_up_is_no_dead_letter(bench: Bench) -> None:
    row_id = await bench.add("first")
    (entry,) = await bench.store.write(claim_batch, 10, NOW_MS + 1, 1000, ["episodes"])
    await bench.store.write(update_episode, UpdateEpisode(id=row_id, user_message="second"), NOW_MS)
    assert await bench.store.write(bury, entry, "bad_content", "no") is False
    (entry,) = await bench.store.write(claim_batch, 10, NOW_MS + 1, 1000, ["episodes"])
    assert await bench.store.write(bury, entry, "bad_content", "no") is True


class Mortal(FakeEmbedder):
    """Dies of one text."""

    async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        if any("killer" in text for text in texts):
            raise EmbedderDied("died before it answered")
        return await super().embed_documents(texts)


async def test_a_row_that_fails_alone_too_often_is_told_as_well(tmp_path: Path) -> None:
    async with make_bench(tmp_path, embedder=Mortal(), max_attempts=2, max_backoff_s=0.11) as bench:
        row_id = await bench.add("killer")
        bench.start()
        await until_told(bench, 2)
        assert bench.told == [
            ("outbox", {"state": "dead", "collection": "episodes", "id": row_id, "kind": "internal_error"}),
            ("outbox", {"state": "drained", "dead": 1}),
        ]

"""A second worker over the second queue: it brings the next model's collections up and leaves the first one alone."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest
from fakes.embedder import FakeEmbedder
from harness.outbox_bench import NOW_MS, Bench, make_bench

from nexusd.clock import SystemClock
from nexusd.config_sections import OutboxConfig
from nexusd.embedding.serving import KeyedModel
from nexusd.index.index import CollectionSpec
from nexusd.model.episodes import UpdateEpisode
from nexusd.model.outbox import ListOutbox
from nexusd.store.episodes import delete_episode, update_episode
from nexusd.store.outbox import OutboxEntry, claim_batch, count_outbox, list_outbox, retry_dead
from nexusd.store.unindexed import finish_without_point
from nexusd.sync.collections import Collections
from nexusd.sync.worker import OutboxWorker

pytestmark = pytest.mark.anyio

BEGIN_NEXT = """
INSERT INTO models (key, state, provider, model, dimension, since_ms) VALUES (?, 'next', 'fake', 'next', ?, ?)"""


REQUEUE_NEXT = """
INSERT INTO outbox_next (collection, row_id, version, op, created_ms) VALUES ('episodes', ?, 1, 'upsert', ?)"""


def requeued(db: apsw.Connection, row_id: int) -> list[OutboxEntry]:
    """The row queued for the next model, and claimed."""
    db.execute(REQUEUE_NEXT, (row_id, NOW_MS))
    return claim_batch(db, 1, NOW_MS, 1000, ["episodes"], queue="outbox_next")


def begin_next(db: apsw.Connection, model: KeyedModel) -> None:
    db.execute(BEGIN_NEXT, (model.key, model.embedder.fingerprint.dimension, NOW_MS))


class Filling(Collections):
    """The next model's collections: made where missing, and compared with nothing while they are filled."""

    async def prepare(self, now_ms: int) -> None:
        for collection in self.logical:
            dimension = self._model.embedder.fingerprint.dimension
            await self._index.ensure(CollectionSpec(self.physical(collection), dimension))


class Pair:
    """A bench, and a second worker for a next model beside it."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.embedder = FakeEmbedder(dimension=16)
        self.model = KeyedModel("next", self.embedder)
        self.worker = OutboxWorker(
            bench.store, bench.index, self.model, Filling(bench.store, bench.index, self.model),
            OutboxConfig(max_backoff_s=0.2), SystemClock(), random.Random(3), queue="outbox_next",
        )
        self.task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """From now on what is queued is queued for both."""
        await self.bench.store.write(begin_next, self.model)

    def start(self) -> None:
        self.bench.start()
        self.task = asyncio.create_task(self.worker.run())

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task

    async def drained(self) -> None:
        await self.bench.drained()
        self.worker.wake()
        waited = await self.worker.wait_for(None, [], 20)
        assert waited.pending == 0

    def held(self, collection: str = "episodes") -> dict[int, int]:
        """What the next model's collection holds: versions by id."""
        return self.bench.index.versions(self.model.physical(collection))


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with make_bench(tmp_path) as bench:
        made = Pair(bench)
        try:
            yield made
        finally:
            await made.stop()


async def test_what_changes_while_a_next_model_is_filled_reaches_the_collections_of_both(pair: Pair) -> None:
    before = await pair.bench.add("before")
    await pair.begin()
    rows = [await pair.bench.add(f"text {n}") for n in range(5)]
    pair.start()
    await pair.drained()
    assert pair.bench.held == await pair.bench.rows()
    assert pair.held() == dict.fromkeys(rows, 1)  # what was there before is queued by whoever fills it
    await pair.bench.store.write(update_episode, UpdateEpisode(id=rows[0], user_message="other"), NOW_MS)
    await pair.bench.store.write(update_episode, UpdateEpisode(id=before, user_message="other"), NOW_MS)
    await pair.bench.store.write(delete_episode, rows[1])
    await pair.drained()
    assert pair.bench.held == await pair.bench.rows()
    assert pair.held() == await pair.bench.rows()


async def test_a_row_that_the_next_model_refuses_is_dead_in_its_queue_alone(pair: Pair) -> None:
    await pair.begin()
    pair.embedder.rejected.add("User: poison\nAssistant: ok")
    poison = await pair.bench.add("poison")
    fine = await pair.bench.add("fine")
    pair.start()
    await pair.drained()
    assert set(pair.bench.held) == {poison, fine}
    assert set(pair.held()) == {fine}
    assert pair.bench.state("episodes", poison) == "indexed"
    assert (pair.bench.worker.status().dead, pair.worker.status().dead) == (0, 1)
    (dead,) = pair.bench.store.peek(list_outbox, ListOutbox(), queue="outbox_next").items
    assert (dead.row_id, dead.error_kind) == (poison, "bad_content")
    pair.embedder.rejected.clear()
    assert await pair.bench.store.write(retry_dead, [dead.seq], NOW_MS, queue="outbox_next") == 1
    await pair.drained()
    assert set(pair.held()) == {poison, fine}


async def test_outages_of_the_next_model_leave_the_first_queue_alone(pair: Pair) -> None:
    await pair.begin()
    pair.embedder.unavailable = "down"
    row = await pair.bench.add("tea")
    pair.start()
    await pair.bench.drained()
    assert set(pair.bench.held) == {row}
    assert pair.bench.store.peek(count_outbox, queue="outbox_next").oldest_ms is not None
    assert pair.bench.worker.status().embedder == "closed"
    pair.embedder.unavailable = ""
    await pair.drained()
    assert set(pair.held()) == {row}


async def test_a_text_with_a_vector_of_its_own_stays_in_the_index_though_the_next_model_has_none_for_it(
    pair: Pair,
) -> None:
    await pair.begin()
    blank = await pair.bench.message(" \n ")
    pair.start()
    await pair.drained()
    assert pair.bench.state("messages", blank) == "none"  # by the worker of what serves
    assert pair.held("messages") == {}
    row = await pair.bench.add("tea")
    await pair.drained()
    (entry,) = await pair.bench.store.write(requeued, row)
    await pair.bench.store.write(finish_without_point, [entry], queue="outbox_next")
    assert pair.bench.store.peek(count_outbox, queue="outbox_next").pending == 0
    assert pair.bench.state("episodes", row) == "indexed"

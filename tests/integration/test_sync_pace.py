"""How fast what is owed is delivered, and who waits for whom: counted on a clock that the embedder alone moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes.clock import ManualClock
from fakes.embedder import FakeEmbedder
from fakes.index import FakeIndex
from harness.outbox_bench import NOW_MS, Bench, make_bench

from nexusd.embedding.embedder import Vector
from nexusd.index.index import Point
from nexusd.model.episodes import NewEpisode, UpdateEpisode
from nexusd.model.outbox import ListOutbox
from nexusd.store.episodes import insert_episodes, update_episode
from nexusd.store.outbox import finish_batch, list_outbox, requeue_collection

pytestmark = pytest.mark.anyio
TEXTS_PER_SECOND = 35
CLAIM_S = 64 / TEXTS_PER_SECOND + 0.001


class SlowEmbedder(FakeEmbedder):
    """Takes the time of a small machine; `calls` are the sizes of what it was given."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self.clock = clock
        self.texts_per_second = TEXTS_PER_SECOND
        self.calls: list[int] = []
        self.on_call: dict[int, asyncio.Event] = {}  # set when so many calls have begun

    async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        self.calls.append(len(texts))
        if (event := self.on_call.get(len(self.calls))) is not None:
            event.set()
            await asyncio.sleep(0.05)  # what was waiting for this moment happens while the call is under way
        self.clock.advance(len(texts) / self.texts_per_second)
        return await super().embed_documents(texts)


class TimingIndex(FakeIndex):
    """Notes when it got which point first."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self.clock = clock
        self.got_s: dict[tuple[str, int], float] = {}

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        await super().upsert(collection, points)
        for point in points:
            self.got_s.setdefault((collection.split("-", maxsplit=1)[0], point.id), self.clock.monotonic_s())

    async def got(self, collection: str, row_id: int) -> float:
        """When it got this one; waits for it."""
        async with asyncio.timeout(20):
            while (collection, row_id) not in self.got_s:
                await asyncio.sleep(0.001)
        return self.got_s[collection, row_id]


async def add_many(bench: Bench, count: int, what: str = "old") -> list[int]:
    ids: list[int] = []
    for start in range(0, count, 500):
        texts = [f"{what} {n}" for n in range(start, min(start + 500, count))]
        new = [NewEpisode(session_id=bench.session, user_message=text, ai_response="ok") for text in texts]
        ids += [episode.id for episode in await bench.store.write(insert_episodes, new, NOW_MS)]
    return ids


async def test_index_has_the_next_claim_while_the_one_before_is_struck_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CountingIndex(FakeIndex):
        async def upsert(self, collection: str, points: Sequence[Point]) -> None:
            await super().upsert(collection, points)
            got.extend(point.id for point in points)
            if len(got) > 64:
                second.set()

    got: list[int] = []
    second = asyncio.Event()
    async with make_bench(tmp_path, index=CountingIndex()) as bench:
        rows = await add_many(bench, 200)
        write = bench.store.write
        struck: list[int] = []

        async def write_slowly(function: Callable[..., Any], *args: Any, **named: Any) -> Any:
            if function is finish_batch:
                async with asyncio.timeout(20):
                    await second.wait()
                struck.append(len(args[0]))
            return await write(function, *args, **named)

        monkeypatch.setattr(bench.store, "write", write_slowly)
        bench.start()
        await bench.drained()
        assert struck[0] == 64
        assert sum(struck) == len(rows) == len(bench.held)


@pytest.mark.parametrize(
    "backlog", [3000, pytest.param(100_000, marks=[pytest.mark.long, pytest.mark.timeout(600)])]
)
async def test_a_backlog_delays_a_fresh_row_of_any_collection_by_a_few_seconds(tmp_path: Path, backlog: int) -> None:
    clock = ManualClock()
    embedder, index = SlowEmbedder(clock), TimingIndex(clock)
    async with make_bench(tmp_path, clock=clock, embedder=embedder, index=index) as bench:
        await add_many(bench, backlog)
        third = embedder.on_call[3] = asyncio.Event()
        bench.start()
        await third.wait()
        asked_s = clock.monotonic_s()
        fresh, entity = await bench.add("fresh"), (await bench.entity("Ada")).id
        took_s = await index.got("episodes", fresh) - asked_s
        assert took_s <= 3 * CLAIM_S  # the claim under way, its own, and the one that is embedded while it is sent
        assert await index.got("entities", entity) - asked_s <= 3 * CLAIM_S
        oldest = sorted(row_id for name, row_id in index.got_s if name == "episodes")[:60]
        assert oldest == list(range(1, 61))  # and the old ones go on all the same
        await bench.stop()


async def test_no_collection_waits_for_the_backlog_of_another(tmp_path: Path) -> None:
    clock = ManualClock()
    embedder, index = SlowEmbedder(clock), TimingIndex(clock)
    async with make_bench(tmp_path, clock=clock, embedder=embedder, index=index) as bench:
        await add_many(bench, 2000)
        people = [(await bench.entity(f"person {n}")).id for n in range(100)]
        began_s = clock.monotonic_s()
        bench.start()
        for row_id in people:
            assert await index.got("entities", row_id) - began_s <= 5 * CLAIM_S  # half of each claim, and one beside
        await bench.stop()


async def test_claims_grow_while_nothing_is_embedded_and_a_fresh_text_does_not_wait_for_a_large_one(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    embedder, index = SlowEmbedder(clock), TimingIndex(clock)
    async with make_bench(tmp_path, clock=clock, embedder=embedder, index=index) as bench:
        ids = await add_many(bench, 3000)
        bench.start()
        await bench.drained()
        await bench.stop()
        commits = bench.store.progress().batches
        await bench.store.write(requeue_collection, "episodes", NOW_MS)
        index.upserts.clear()
        bench.start()
        await bench.drained()
        assert sorted(row_id for upsert in index.upserts for row_id in upsert) == ids
        assert max(map(len, index.upserts)) <= 64  # the index's own calls stay as large as configured
        assert bench.store.progress().batches - commits < 30  # not two or three for each 64 rows
        # Claims are large now. Texts without vectors come: the first claim takes more of them than it can have embedded
        # in time, and gives the rest back.
        embedder.calls.clear()
        first = embedder.on_call[1] = asyncio.Event()
        await add_many(bench, 2000, "new")
        await first.wait()
        asked_s = clock.monotonic_s()
        fresh = await bench.add("fresh")
        assert await index.got("episodes", fresh) - asked_s <= 3 * CLAIM_S
        assert max(embedder.calls) <= 64
        await bench.stop()


async def test_claims_that_take_long_are_as_small_as_configured_again(tmp_path: Path) -> None:
    clock = ManualClock()
    embedder, index = SlowEmbedder(clock), TimingIndex(clock)
    async with make_bench(tmp_path, clock=clock, embedder=embedder, index=index) as bench:
        await add_many(bench, 300)
        bench.start()
        await bench.drained()
        await bench.stop()
        await bench.store.write(requeue_collection, "episodes", NOW_MS)
        bench.start()
        await bench.drained()  # claims are of 128 rows or more now
        embedder.calls.clear()
        embedder.texts_per_second = 200  # two calls are no reason to give anything back, but long enough
        fifth = embedder.on_call[5] = asyncio.Event()
        await add_many(bench, 2000, "new")
        await fifth.wait()
        asked_s = clock.monotonic_s()
        fresh = await bench.add("fresh")
        assert await index.got("episodes", fresh) - asked_s <= 3 * 64 / 200 + 0.001
        await bench.stop()


async def test_the_next_claim_is_embedded_while_the_one_before_is_sent(tmp_path: Path) -> None:
    async with make_bench(tmp_path, batch_size=4) as bench:
        await add_many(bench, 8)
        bench.index.before_upsert = asyncio.Event()
        bench.start()
        await bench.index.upsert_began.wait()
        async with asyncio.timeout(10):
            while len(bench.embedder.document_calls) < 2:
                await asyncio.sleep(0)
        assert bench.held == {}
        bench.index.before_upsert.set()
        await bench.drained()
        assert bench.held == await bench.rows()


async def test_a_row_that_changes_while_it_is_sent_waits_for_the_end_of_that(tmp_path: Path) -> None:
    """Two versions of a row are never under way at once: the older one could arrive last."""

    class Watching(FakeIndex):
        def __init__(self) -> None:
            super().__init__()
            self.under_way: list[int] = []
            self.gate = asyncio.Event()

        async def upsert(self, collection: str, points: Sequence[Point]) -> None:
            ids = [point.id for point in points]
            assert not set(ids) & set(self.under_way)
            self.under_way += ids
            self.upsert_began.set()
            await self.gate.wait()
            await super().upsert(collection, points)
            self.under_way = [each for each in self.under_way if each not in ids]

    index = Watching()
    async with make_bench(tmp_path, index=index) as bench:
        (row_id,) = await add_many(bench, 1)
        bench.start()
        await index.upsert_began.wait()
        await change(bench, row_id)
        other = await bench.add("other")
        async with asyncio.timeout(10):
            while len(bench.embedder.document_calls) < 2:
                await asyncio.sleep(0)
        assert bench.embedder.document_calls[1:] == [["User: other\nAssistant: ok"]]
        index.gate.set()
        await bench.drained()
        assert bench.held == {row_id: 2, other: 1}


async def test_an_index_that_goes_away_gives_back_what_was_prepared_meanwhile_unmarked(tmp_path: Path) -> None:
    async with make_bench(tmp_path, batch_size=4, max_backoff_s=300) as bench:
        await add_many(bench, 12)
        bench.index.before_upsert = asyncio.Event()
        bench.start()
        await bench.index.upsert_began.wait()
        async with asyncio.timeout(10):
            while len(bench.embedder.document_calls) < 2:
                await asyncio.sleep(0)
        bench.index.down = True
        bench.index.before_upsert.set()
        async with asyncio.timeout(10):
            while bench.worker.status().pending < 12:
                await asyncio.sleep(0)
        rows = bench.store.peek(list_outbox, ListOutbox()).items
        assert {(row.state, row.attempts, row.not_before) for row in rows} == {("pending", 0, 0)}
        assert bench.worker.index_breaker.failures == 1
        bench.index.down = False
        bench.worker.index_up()
        await bench.drained()
        assert bench.held == await bench.rows()


async def change(bench: Bench, row_id: int) -> None:
    await bench.store.write(update_episode, UpdateEpisode(id=row_id, user_message="changed"), NOW_MS)

"""The worker when something refuses: what it gives back comes again, at the right pace, and never twice at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes.clock import ManualClock
from fakes.embedder import FakeEmbedder
from fakes.index import FakeIndex
from harness.outbox_bench import NOW_MS, Bench, make_bench

from nexusd.embedding.embedder import EmbedderDied, Vector
from nexusd.errors import BadContent, DiskFull
from nexusd.index.index import IndexDied, Point
from nexusd.store.episodes import delete_episode
from nexusd.store.outbox import bury, finish_batch, requeue_collection
from nexusd.sync import worker as worker_module

pytestmark = pytest.mark.anyio


class Highest(random.Random):
    """Every pause is as long as it may be."""

    def uniform(self, _low: float, high: float) -> float:
        return high


async def until(met: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not met():
            await asyncio.sleep(0)


def refuse_writes(bench: Bench, monkeypatch: pytest.MonkeyPatch, which: Callable[[Any], bool]) -> list[Any]:
    """From now on the disk is full for these functions; what was refused."""
    write, refused = bench.store.write, list[Any]()

    async def writing(function: Any, *args: Any, **kwargs: Any) -> Any:
        if which(function):
            refused.append(function)
            raise DiskFull
        return await write(function, *args, **kwargs)

    monkeypatch.setattr(bench.store, "write", writing)
    return refused


async def test_what_arrived_is_struck_off_although_the_store_refuses_a_later_row_of_the_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Particular(FakeIndex):
        async def upsert(self, collection: str, points: Sequence[Point]) -> None:
            if collection.startswith("vectors"):
                raise BadContent("no")
            await super().upsert(collection, points)
            sent.extend(point.id for point in points)

    sent: list[int] = []
    async with make_bench(tmp_path, index=Particular(), batch_size=512) as bench:
        for n in range(20):
            await bench.entity(f"entity {n}")
        await bench.text("key", "nobody wants it")
        for n in range(20):
            await bench.add(f"exchange {n}")
        refused = refuse_writes(bench, monkeypatch, lambda function: function is bury and len(refused) < 3)
        bench.start()
        await bench.drained()
        assert len(refused) == 3
        assert len(sent) == 40


async def test_what_could_not_be_struck_off_goes_again_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_bench(tmp_path) as bench:
        row_id = await bench.add("tea")
        refused = refuse_writes(bench, monkeypatch, lambda function: function is finish_batch)
        bench.start()
        await until(lambda: len(refused) > 1)  # it was claimed anew: the first claim had been given up
        assert bench.held == {row_id: 1}
        assert bench.worker.status().pending + bench.worker.status().inflight == 1
        monkeypatch.undo()
        await bench.drained()
        assert bench.held == {row_id: 1}


async def test_nothing_is_under_way_any_more_when_the_rows_of_a_full_disk_are_claimed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Watching(FakeIndex):
        def __init__(self) -> None:
            super().__init__()
            self.under_way: list[int] = []
            self.gate = asyncio.Event()

        async def upsert(self, collection: str, points: Sequence[Point]) -> None:
            ids = [point.id for point in points]
            assert not set(ids) & set(self.under_way)
            self.under_way += ids
            try:
                await self.gate.wait()
                await super().upsert(collection, points)
            finally:
                self.under_way = [each for each in self.under_way if each not in ids]

    index = Watching()
    async with make_bench(tmp_path, index=index, batch_size=2) as bench:
        for n in range(2):
            await bench.add(f"text {n}")
        bench.start()
        await until(lambda: index.under_way)
        refused = refuse_writes(bench, monkeypatch, lambda function: getattr(function, "__name__", "") == "_save")
        before = bench.worker.turns
        await bench.add("another")  # its vector cannot be kept
        await until(lambda: refused)
        monkeypatch.undo()
        await until(lambda: bench.worker.turns > before + 2)
        index.gate.set()
        await bench.drained()
        assert bench.held == await bench.rows()


async def test_all_that_was_given_back_is_hastened_a_slice_a_turn_also_where_no_commit_wakes_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "HASTENED", 4)
    async with make_bench(tmp_path, max_backoff_s=300, batch_size=64) as bench:
        bench.embedder.unavailable, bench.embedder.retry_after_ms = "busy", 250_000
        for n in range(14):
            await bench.add(f"text {n}")
        await bench.entity("Ada")
        bench.start()
        await until(lambda: bench.worker.embedder_breaker.failures and not bench.worker.status().inflight)
        await bench.worker.drain(0)
        monkeypatch.setattr(bench.worker, "wake", lambda: None)  # commits tell nothing any more
        bench.embedder.unavailable = ""
        bench.worker.embedder_up()
        await bench.drained()
        assert bench.held == await bench.rows()
        assert bench.holds("entities") == {1: 1}


async def test_while_the_model_is_away_what_needs_no_model_goes_on_at_full_pace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_sleep, slept = asyncio.sleep, list[float]()

    async def sleep(delay: float, result: object = None) -> object:
        if delay:
            slept.append(delay)
        return await real_sleep(0, result)

    async with make_bench(tmp_path, chance=Highest(), max_backoff_s=300, batch_size=1) as bench:
        for n in range(30):
            await bench.add(f"text {n}")
        bench.start()
        await bench.drained()
        await bench.stop()
        bench.embedder.unavailable, bench.embedder.retry_after_ms = "down", 250_000
        monkeypatch.setattr(asyncio, "sleep", sleep)
        bench.start()
        await bench.add("new")
        async with asyncio.timeout(10):
            while bench.worker.embedder_breaker.failures == 0:
                await real_sleep(0)
        bench.index.upserts.clear()
        await bench.store.write(requeue_collection, "episodes", NOW_MS)  # their vectors are stored
        async with asyncio.timeout(10):
            while sum(map(len, bench.index.upserts)) < 30:
                await real_sleep(0)
        await bench.stop()
        assert len(slept) <= 3  # one for each turn in which the new row was met


async def test_rows_that_go_alone_are_not_given_back_for_the_time_that_it_takes(tmp_path: Path) -> None:
    """Rows of a claim as small as configured always have their turn: else the last of them might never come."""
    clock = ManualClock()

    class Slow(FakeEmbedder):
        died = False

        async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
            if not self.died:
                self.died = True
                raise EmbedderDied("died")
            clock.advance(5)
            return await super().embed_documents(texts)

    steps: list[str] = []
    async with make_bench(
        tmp_path, clock=clock, embedder=Slow(), batch_size=4, max_backoff_s=0.11, reached=steps.append
    ) as bench:
        for n in range(4):
            await bench.add(f"text {n}")
        bench.start()
        await until(lambda: bench.worker.embedder_breaker.failures)
        for _ in range(100):
            clock.advance(1)  # past every pause
            bench.worker.wake()
            await asyncio.sleep(0.001)
        await bench.drained()
        assert bench.held == await bench.rows()
        assert steps.count("embedded") == 4  # each alone
        assert "released" not in steps
        assert not bench.worker._setbacks._suspects  # nobody is remembered who got through


async def test_two_slices_that_fail_together_are_one_failure_of_the_index(tmp_path: Path) -> None:
    class Away(FakeIndex):
        """It takes a moment to find out."""

        async def upsert(self, collection: str, points: Sequence[Point]) -> None:
            await asyncio.sleep(0.001)
            await super().upsert(collection, points)

        async def delete(self, collection: str, ids: Sequence[int]) -> None:
            await asyncio.sleep(0.001)
            await super().delete(collection, ids)

    async with make_bench(tmp_path, index=Away(), chance=Highest(), max_backoff_s=300) as bench:
        bench.start()
        gone = await bench.add("gone")
        await bench.drained()
        await bench.worker.drain(5)
        async with asyncio.TaskGroup() as together:
            together.create_task(bench.store.write(delete_episode, gone))
            together.create_task(bench.add("new"))
            bench.index.down = True
        await until(lambda: bench.worker.index_breaker.failures and not bench.worker.status().inflight)
        assert bench.worker.index_breaker.failures == 1
        bench.index.down = False
        bench.worker.index_up()
        await bench.drained()
        assert bench.held == await bench.rows()


async def test_of_a_claim_over_which_the_index_dies_only_the_slices_under_way_are_suspected(tmp_path: Path) -> None:
    class Mortal(FakeIndex):
        dead = False

        async def upsert(self, collection: str, points: Sequence[Point]) -> None:
            if self.dead:
                self.dead = False
                await asyncio.sleep(0)
                raise IndexDied("died")
            await super().upsert(collection, points)

    index = Mortal()
    async with make_bench(tmp_path, index=index, batch_size=4, max_backoff_s=0.11) as bench:
        for n in range(200):
            await bench.add(f"text {n}")
        bench.start()
        await bench.drained()
        await bench.store.write(requeue_collection, "episodes", NOW_MS)  # claims are large by now
        index.dead = True
        index.upserts.clear()
        await bench.drained()
        assert bench.held == await bench.rows()
        alone = sum(1 for upsert in index.upserts if len(upsert) == 1)
        assert 4 <= alone <= 2 * 4 + 4  # those of two slices, and an odd one out


async def test_a_few_slices_of_a_load_are_under_way_at_a_time(tmp_path: Path) -> None:
    class Counting(FakeIndex):
        under_way = most = 0

        async def upsert(self, collection: str, points: Sequence[Point]) -> None:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            await asyncio.sleep(0.001)
            await super().upsert(collection, points)
            self.under_way -= 1

    index = Counting()
    async with make_bench(tmp_path, index=index, batch_size=4) as bench:
        for n in range(100):
            await bench.add(f"text {n}")
        bench.start()
        await bench.drained()
        await bench.store.write(requeue_collection, "episodes", NOW_MS)
        await bench.drained()
        assert index.most == 2


async def test_a_pause_begins_when_nothing_is_under_way_any_more(tmp_path: Path) -> None:
    """Whoever changes the model finds nothing claimed, nothing being sent, and nothing begun meanwhile."""
    async with make_bench(tmp_path) as bench:
        bench.index.before_upsert = asyncio.Event()
        await bench.add("tea")
        bench.start()
        await bench.index.upsert_began.wait()
        entered = asyncio.Event()

        async def pause() -> None:
            async with bench.worker.paused():
                entered.set()
                assert bench.held == await bench.rows()
                await bench.add("more")
                for _ in range(50):
                    await asyncio.sleep(0.001)
                assert len(bench.held) == 1

        pausing = asyncio.create_task(pause())
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert not entered.is_set()
        bench.index.before_upsert.set()
        await pausing
        await bench.drained()
        assert bench.held == await bench.rows()

"""The outbox worker over an index that answers everything but takes nothing, as one does that is full, or busy."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from fakes.index import FakeIndex
from harness.outbox_bench import make_bench

from nexusd.errors import IndexUnavailable
from nexusd.index.index import Point

pytestmark = pytest.mark.anyio


class FullIndex(FakeIndex):
    """`full`: it takes no point."""

    def __init__(self) -> None:
        super().__init__()
        self.full = True
        self.retry_after_ms: int | None = None
        self.refusals = 0
        self.refused_often = asyncio.Event()

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        if self.full:
            self.refusals += 1
            if self.refusals == 4:
                self.refused_often.set()
            raise IndexUnavailable("the disk is full", retry_after_ms=self.retry_after_ms)
        await super().upsert(collection, points)


async def test_it_is_asked_ever_more_rarely_and_filled_when_there_is_room(tmp_path: Path) -> None:
    async with make_bench(tmp_path, index=(index := FullIndex()), max_backoff_s=0.2) as bench:
        for n in range(5):
            await bench.add(f"text {n}")
        bench.start()
        async with asyncio.timeout(20):
            await index.refused_often.wait()
        breaker = bench.worker.index_breaker
        assert breaker.failures >= 3  # that it answers otherwise is no success
        assert breaker.last_error == "the disk is full"
        index.full = False
        await bench.drained()
        assert breaker.state == "closed"
        assert bench.held == await bench.rows()


async def test_it_is_left_alone_for_as_long_as_it_asks(tmp_path: Path) -> None:
    async with make_bench(tmp_path, index=(index := FullIndex()), max_backoff_s=0.2) as bench:
        index.retry_after_ms = 3_600_000
        await bench.add("text")
        bench.start()
        async with asyncio.timeout(20):
            while not index.refusals:
                await asyncio.sleep(0)
        await bench.add("another")
        assert (await bench.worker.wait_for(None, [], 0.3)).pending == 2
        assert index.refusals == 1
        assert 3500 < bench.worker.index_breaker.pause_left_s <= 3600


async def test_an_index_that_is_owed_nothing_is_well_as_soon_as_it_answers(tmp_path: Path) -> None:
    async with make_bench(tmp_path) as bench:
        bench.index.down = True
        bench.start()
        breaker = bench.worker.index_breaker
        async with asyncio.timeout(20):
            while not breaker.failures:
                await asyncio.sleep(0)
            bench.index.down = False
            bench.worker.index_up()
            while breaker.failures:
                await asyncio.sleep(0)
        assert bench.worker.complete

"""The end of a daemon: what is due is delivered first, but nobody waits for a part that is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from harness.outbox_bench import Bench, make_bench

from nexusd.errors import DiskFull

pytestmark = pytest.mark.anyio
LONG_S = 60


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with make_bench(tmp_path, batch_size=4, max_backoff_s=300) as made:
        yield made


async def drain(bench: Bench, timeout_s: float) -> float:
    """How long it took."""
    began_s = time.monotonic()
    await bench.worker.drain(timeout_s)
    return time.monotonic() - began_s


async def test_all_that_is_due_is_delivered_however_many_claims_it_takes(bench: Bench) -> None:
    for n in range(50):
        await bench.add(f"text {n}")
    bench.start()
    assert await drain(bench, LONG_S) < LONG_S / 2
    assert bench.held == await bench.rows()
    assert len(bench.held) == 50
    assert bench.worker.status().pending + bench.worker.status().inflight == 0


async def test_what_is_being_sent_is_waited_for(bench: Bench) -> None:
    bench.index.before_upsert = asyncio.Event()
    await bench.add("tea")
    bench.start()
    await bench.index.upsert_began.wait()
    draining = asyncio.create_task(bench.worker.drain(LONG_S))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not draining.done()
    bench.index.before_upsert.set()
    await asyncio.wait_for(draining, 10)
    assert bench.held == await bench.rows()
    assert bench.worker.status().inflight == 0


async def test_an_empty_outbox_is_drained_at_once(bench: Bench) -> None:
    bench.start()
    assert await drain(bench, LONG_S) < 5
    assert await drain(bench, LONG_S) < 5  # also when the worker rests already


async def test_a_row_that_was_postponed_is_not_waited_for(bench: Bench) -> None:
    bench.embedder.unavailable, bench.embedder.retry_after_ms = "busy", 250_000
    await bench.add("tea")
    bench.start()
    async with asyncio.timeout(10):
        while bench.worker.embedder_breaker.failures == 0 or bench.worker.status().inflight:
            await asyncio.sleep(0)
    bench.worker.embedder_breaker.succeeded()  # it answered a search, say
    assert await drain(bench, LONG_S) < 5
    assert bench.worker.status().pending == 1


@pytest.mark.parametrize("part", ["index", "embedder"])
@pytest.mark.parametrize("when", ["before", "already", "while"])
async def test_nobody_waits_for_a_part_that_is_away(bench: Bench, part: str, when: str) -> None:
    for n in range(50):
        await bench.add(f"text {n}")
    if part == "index":
        bench.index.down = True
    else:
        bench.embedder.unavailable, bench.embedder.retry_after_ms = "down", 250_000
    breaker = bench.worker.index_breaker if part == "index" else bench.worker.embedder_breaker
    if when != "while":
        for _ in range(20):
            breaker.failed("down")
    bench.start()
    if when == "already":
        await asyncio.wait_for(bench.worker._resting.wait(), 10)
    assert await drain(bench, LONG_S) < 5
    assert bench.worker.status().pending + bench.worker.status().inflight == 50


async def test_when_the_time_is_up_the_rest_stays_in_the_outbox(bench: Bench) -> None:
    bench.embedder.gate = asyncio.Event()
    for n in range(10):
        await bench.add(f"text {n}")
    bench.start()
    assert 0.04 < await drain(bench, 0.05) < 5
    await bench.stop()
    status = bench.worker.status()
    assert status.pending + status.inflight == 10
    bench.embedder.gate = None
    bench.start()
    await bench.drained()
    assert bench.held == await bench.rows()


async def test_no_time_at_all_is_no_error(bench: Bench) -> None:
    bench.embedder.gate = asyncio.Event()
    await bench.add("tea")
    bench.start()
    assert await drain(bench, 0) < 5


async def test_a_store_that_takes_no_writes_is_not_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.add("tea")

    async def refuse(*_: object, **__: object) -> None:
        raise DiskFull

    monkeypatch.setattr(bench.store, "write", refuse)
    bench.start()
    assert await drain(bench, LONG_S) < 5
    await bench.stop()

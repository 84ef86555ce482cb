"""outbox.status and outbox.retry, called as dispatch calls them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes.clock import ManualClock
from harness.outbox_bench import NOW_MS, Bench, make_bench

from nexusd.api import outbox as outbox_module
from nexusd.api.outbox import OutboxApi
from nexusd.errors import IdempotencyMismatch, OutboxRowNotFound
from nexusd.store.connection import Connection
from nexusd.store.outbox import bury, claim_batch
from nexusd.sync.erasing import Erasing
from nexusd.wire.methods import Call, Principal

pytestmark = pytest.mark.anyio
CALL = Call(Principal("uid:1", "admin"), "request-1")
BEGIN_NEXT = """
INSERT INTO models (key, state, provider, model, dimension, since_ms) VALUES ('k', 'next', 'p', 'm', 8, 1)"""


@dataclass
class Methods:
    """The methods, and what is behind them. Nothing is delivered unless the bench is started."""

    bench: Bench
    clock: ManualClock
    api: OutboxApi

    async def call(self, name: str, **params: Any) -> Any:
        """The result as a client reads it."""
        (method,) = (each for each in self.api.methods() if each.name == name)
        given = msgspec.convert(params, method.params)
        return msgspec.json.decode(msgspec.json.encode(await method.handler(CALL, given)))

    async def die(self, count: int) -> list[int]:
        """Make dead letters of so many exchanges; their seqs."""
        for n in range(count):
            await self.bench.add(f"text {n}")
        return sorted(await self.bench.store.write(_bury_all))


def _bury_all(db: Connection) -> list[int]:
    entries = claim_batch(db, 1000, NOW_MS, 1000, ["episodes"])
    for entry in entries:
        bury(db, entry, "bad_content", "no")
    return [entry.seq for entry in entries]


@pytest.fixture
async def methods(tmp_path: Path) -> AsyncIterator[Methods]:
    clock = ManualClock(NOW_MS)
    async with make_bench(tmp_path, clock=clock) as bench:
        api = OutboxApi(bench.store, bench.worker, bench.collections.logical, clock, Erasing([]))
        yield Methods(bench, clock, api)


async def test_an_empty_outbox_says_so(methods: Methods) -> None:
    closed = {"state": "closed", "failures": 0, "lastError": None, "retryInMs": None}
    assert await methods.call("outbox.status") == {
        "pending": 0, "inflight": 0, "dead": 0, "oldestAgeMs": None, "rowsPerSecond": 0.0, "drainEstimateMs": 0,
        "embedder": "closed", "index": "closed", "embedderBreaker": closed, "indexBreaker": closed,
        "collections": [], "next": None,
    }  # fmt: skip


async def test_each_collection_says_what_it_waits_for_and_since_when(methods: Methods) -> None:
    await methods.die(1)
    for n in range(3):
        await methods.bench.add(f"more {n}")
    await methods.bench.entity("Ada")
    methods.clock.advance(7)
    status = await methods.call("outbox.status")
    assert (status["pending"], status["dead"], status["oldestAgeMs"]) == (4, 1, 7000)
    assert status["drainEstimateMs"] is None  # nothing was delivered lately: nobody knows
    assert status["collections"] == [
        {"collection": "entities", "pending": 1, "inflight": 0, "dead": 0, "oldestAgeMs": 7000},
        {"collection": "episodes", "pending": 3, "inflight": 0, "dead": 1, "oldestAgeMs": 7000},
    ]


async def test_the_rate_and_the_time_to_drain_are_those_of_what_was_delivered(methods: Methods) -> None:
    for n in range(20):
        await methods.bench.add(f"text {n}")
    methods.bench.start()
    await methods.bench.drained()
    await methods.bench.stop()
    methods.clock.advance(10)
    for n in range(6):
        await methods.bench.add(f"more {n}")
    status = await methods.call("outbox.status")
    assert (status["rowsPerSecond"], status["drainEstimateMs"]) == (2.0, 3000)


async def test_a_breaker_says_what_happened_and_when_it_lets_the_next_try_through(methods: Methods) -> None:
    breaker = methods.bench.worker.embedder_breaker
    breaker.failed("no answer", at_least_s=30)
    status = await methods.call("outbox.status")
    assert status["embedder"] == "open"
    assert status["embedderBreaker"] == {
        "state": "open", "failures": 1, "lastError": "no answer", "retryInMs": 30_000,
    }  # fmt: skip
    methods.clock.advance(31)
    report = (await methods.call("outbox.status"))["embedderBreaker"]
    assert (report["state"], report["lastError"], report["retryInMs"]) == ("half_open", "no answer", None)
    methods.bench.worker.index_breaker.failed("gone")
    assert (await methods.call("outbox.status"))["indexBreaker"]["lastError"] == "gone"


async def test_what_a_next_model_still_lacks_is_told_while_it_is_filled(methods: Methods) -> None:
    await methods.bench.store.write(lambda db: db.execute(BEGIN_NEXT).fetchall())
    assert (await methods.call("outbox.status"))["next"] == {
        "pending": 0, "inflight": 0, "dead": 0, "oldestAgeMs": None,
    }  # fmt: skip
    await methods.bench.add("tea")
    methods.clock.advance(2)
    assert (await methods.call("outbox.status"))["next"] == {
        "pending": 1, "inflight": 0, "dead": 0, "oldestAgeMs": 2000,
    }  # fmt: skip


async def test_one_some_or_all_dead_letters_get_another_chance(methods: Methods) -> None:
    seqs = await methods.die(10)
    assert await methods.call("outbox.retry", seqs=seqs[:1]) == {"retried": 1}
    assert (await methods.call("outbox.status"))["dead"] == 9
    assert await methods.call("outbox.retry", seqs=seqs[:4]) == {"retried": 3}  # the first one is none any more
    with pytest.raises(OutboxRowNotFound):
        await methods.call("outbox.retry", seqs=seqs[:4])
    assert await methods.call("outbox.retry") == {"retried": 6}
    assert await methods.call("outbox.retry") == {"retried": 0}
    methods.bench.start()
    await methods.bench.drained()
    assert methods.bench.held == await methods.bench.rows()
    assert len(methods.bench.held) == 10


async def test_all_are_retried_a_few_at_a_time_and_each_once(
    methods: Methods, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "RETRIED", 4)
    seqs = await methods.die(10)
    writes = methods.bench.store.progress().writes
    assert await methods.call("outbox.retry", idempotencyKey="k") == {"retried": 10}
    assert methods.bench.store.progress().writes - writes == 4  # three slices, and the reply that is kept
    assert sorted(await methods.bench.store.write(_bury_all)) == seqs
    assert await methods.call("outbox.retry", idempotencyKey="k") == {"retried": 10}  # the kept reply
    assert (await methods.call("outbox.status"))["dead"] == 10  # and nothing was done
    with pytest.raises(IdempotencyMismatch):
        await methods.call("outbox.retry", idempotencyKey="k", seqs=seqs[:1])
    assert (await methods.call("outbox.status"))["dead"] == 10

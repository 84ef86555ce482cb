"""An hour without the embedding service, or without the index server: all of its writes are made up for, exactly.

And a wall clock that is set a year forward and back meanwhile. The whole daemon in a thread of the test's process, so
that its time is the test's to move; both services are HTTP servers, as in a house.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.qdrant_server import InThread
from harness.house import House
from harness.household import Household
from harness.services import Services, until
from harness.whole_daemon import SETTINGS, WalkingClock, whole_daemon

from nexusd.clock import SystemClock

MINUTE_MS = 60_000
YEAR_MS = 365 * 24 * 60 * MINUTE_MS
PATIENT = {"NEXUSD_OUTBOX__MAX_BACKOFF_S": "300"}  # as it is by default


class SetClock(SystemClock):
    """The machine's, until somebody sets it."""

    def __init__(self) -> None:
        self._set_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self._set_ms

    def jump(self, milliseconds: int) -> None:
        """Somebody sets the wall clock."""
        self._set_ms += milliseconds


class Inside:
    """The whole daemon in a thread, asked by a test that blocks."""

    def __init__(self, data: Path, clock: WalkingClock | SetClock, environ: dict[str, str]) -> None:
        self.data = data
        self._thread = InThread()
        self._parts = contextlib.AsyncExitStack()
        started = whole_daemon(data, embedder=None, clock=clock, environ=environ)
        self._daemon = self._thread.run(self._parts.enter_async_context(started))

    def call(self, method: str, **params: Any) -> Any:
        """The result of a call that must work."""
        return self._thread.run(self._daemon.get(method, **params))

    def close(self) -> None:
        """Stop it."""
        self._thread.run(self._parts.aclose())
        self._thread.close()


@contextlib.contextmanager
def housed(data: Path, clock: WalkingClock | SetClock, **more: str) -> Iterator[House]:
    with Services() as services, contextlib.closing(Inside(data, clock, SETTINGS | services.settings | more)) as daemon:
        yield House(services, daemon, daemon, Household(daemon.call), itertools.count())


def away(services: Services, which: str) -> None:
    services.do((services.to_embedding if which == "embedder" else services.to_qdrant).stop())


@pytest.mark.parametrize(
    ("burst", "each_minute", "settings"),
    [(300, 5, {}), pytest.param(17_000, 100, PATIENT, marks=[pytest.mark.long, pytest.mark.timeout(1800)])],
)
@pytest.mark.parametrize("which", ["embedder", "index"])
def test_the_writes_of_an_hour_long_outage_are_made_up_for_exactly(
    tmp_path: Path, which: str, burst: int, each_minute: int, settings: dict[str, str]
) -> None:
    clock = WalkingClock()
    with housed(tmp_path / "data", clock, **settings) as house:
        household = house.household
        household.live(100)
        house.settled()
        away(house.services, which)
        for minute in range(60):
            household.live(each_minute)
            if minute == 30:  # a file of old exchanges is imported
                household.say_many(burst)
            clock.advance(MINUTE_MS)
        assert house.search(household.last)["items"]
        until(lambda: house.search()["degraded"] == [which], house.reasons)
        owed = house.client.call("outbox.status")
        assert owed["dead"] == 0
        assert owed["oldestAgeMs"] > 50 * MINUTE_MS
        assert not house.client.call("outbox.list", limit=500)["items"][0]["attempts"]

        began_s = time.monotonic()
        house.services.heal()
        until(lambda: house.client.call("outbox.wait", timeoutMs=10_000)["done"], house.reasons, within_s=600)
        took_s = time.monotonic() - began_s
        assert house.differing() == {}
        house.settled()
        assert house.strange() == set()
        rows = owed["pending"] + owed["inflight"]
        print(f"{which} away: {rows} rows owed after {len(household.took_s)} writes, made up for in {took_s:.1f} s, "
              f"{rows / took_s:.0f} rows/s")


def test_a_clock_that_is_set_a_year_forward_and_back_delays_nothing(tmp_path: Path) -> None:
    clock = SetClock()
    with housed(tmp_path / "data", clock, NEXUSD_OUTBOX__MAX_ATTEMPTS="100000") as house:
        services, household = house.services, house.household
        for jump_ms in (YEAR_MS, -2 * YEAR_MS):
            for which in ("embedder", "index"):
                # one row that is postponed by itself, and others that an outage holds up
                services.embedding.gate = gate = services.make_gate()   # or it is embedded before it is marked
                services.embedding.crashing = {household.say()}
                services.embedding.gate = None
                services.call(gate.set)
                until(
                    lambda: any(row["attempts"] > 1 for row in house.client.call("outbox.list")["items"]), house.reasons
                )
                away(services, which)
                household.live(20)
                until(lambda which=which: house.search()["degraded"] == [which], house.reasons)
                clock.jump(jump_ms)  # what was postponed is now due long since, or in a year
                household.live(20)
                assert house.search(household.last)["items"]
                assert house.client.call("outbox.status")["oldestAgeMs"] >= 0
                services.heal()
                house.settled()

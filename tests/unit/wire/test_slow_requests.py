"""Slow requests in the log: the first of a period, and how many more there were."""

from __future__ import annotations

import structlog
from fakes.clock import ManualClock

from nexusd.wire.slow_requests import PERIOD_S, SHOWN, SlowRequests


def test_of_many_slow_requests_some_are_shown_and_the_rest_is_counted() -> None:
    clock = ManualClock()
    with structlog.testing.capture_logs() as entries:
        slow = SlowRequests(structlog.get_logger("nexusd.wire"), clock)
        for n in range(3 * SHOWN):
            slow.note("episodes.create", f"id-{n}", "uid:7", 1.25)
        assert [entry["request_id"] for entry in entries] == [f"id-{n}" for n in range(SHOWN)]
        clock.advance(PERIOD_S)
        slow.note("episodes.get", "late", "uid:7", 2.0)
    *_, more, shown = entries
    assert (more["event"], more["count"]) == ("more slow requests", 2 * SHOWN)
    assert (shown["event"], shown["request_id"], shown["duration_ms"]) == ("slow request", "late", 2000.0)


def test_where_few_are_slow_each_is_shown_and_none_is_counted() -> None:
    clock = ManualClock()
    with structlog.testing.capture_logs() as entries:
        slow = SlowRequests(structlog.get_logger("nexusd.wire"), clock)
        for n in range(3 * SHOWN):
            slow.note("episodes.create", f"id-{n}", "uid:7", 1.25)
            clock.advance(PERIOD_S / SHOWN)
    assert [entry["event"] for entry in entries] == ["slow request"] * 3 * SHOWN

"""Rows a second over the last half minute."""

from __future__ import annotations

from fakes.clock import ManualClock

from nexusd.sync.throughput import Throughput


def test_nothing_delivered_is_no_rate() -> None:
    assert Throughput(ManualClock()).per_second() == 0.0


def test_rows_count_over_the_time_since_the_first_of_them() -> None:
    clock = ManualClock()
    rate = Throughput(clock)
    rate.add(100)
    assert rate.per_second() == 100.0  # a burst is not more than what a second holds of it
    clock.advance(10)
    rate.add(100)
    assert rate.per_second() == 20.0


def test_what_is_older_than_the_window_is_forgotten() -> None:
    clock = ManualClock()
    rate = Throughput(clock)
    rate.add(1000)
    clock.advance(29)
    rate.add(10)
    clock.advance(2)
    assert rate.per_second() == 5.0
    clock.advance(60)
    assert rate.per_second() == 0.0

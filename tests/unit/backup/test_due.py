"""When a backup is due: after an interval, soon after a start that missed one, and whatever a clock does, neither
often nor never."""

from __future__ import annotations

import random

import pytest
from fakes.clock import ManualClock
from hypothesis import given
from hypothesis import strategies as st

from nexusd.backup.due import AFTER_FAILURE_S, BETWEEN_S, Due

DAY_S = 86_400.0
DAY_MS = 86_400_000


def due(clock: ManualClock, last_ms: int | None, interval_s: float = DAY_S, seed: int = 1) -> Due:
    return Due(clock, random.Random(seed), interval_s, last_ms)


def test_after_an_interval_one_is_due() -> None:
    clock = ManualClock()
    one = due(clock, clock.now_ms() - DAY_MS // 4)
    assert one.in_s(DAY_S) == pytest.approx(0.75 * DAY_S)
    clock.advance(0.75 * DAY_S)
    assert one.in_s(DAY_S) == 0
    one.made(DAY_S)
    assert one.in_s(DAY_S) == DAY_S


@pytest.mark.parametrize("last_days_ago", [None, 1.1, 400])
def test_what_was_missed_is_made_up_soon_after_the_start_but_not_by_all_at_once(last_days_ago: float | None) -> None:
    clock = ManualClock()
    last_ms = None if last_days_ago is None else clock.now_ms() - int(last_days_ago * DAY_MS)
    waits = {due(clock, last_ms, seed=seed).in_s(DAY_S) for seed in range(50)}
    assert len(waits) > 40
    assert 60 <= min(waits) < max(waits) <= 300


def test_an_interval_that_is_short_is_not_made_long_by_the_wait_after_a_start() -> None:
    clock = ManualClock()
    assert 30 <= due(clock, None, interval_s=60).in_s(60) <= 36


def test_a_failure_is_tried_again_and_not_at_once() -> None:
    clock = ManualClock()
    one = due(clock, None)
    clock.advance(300)
    assert one.in_s(DAY_S) == 0
    one.failed(DAY_S)
    assert one.in_s(DAY_S) == AFTER_FAILURE_S


def test_a_clock_set_forward_again_and_again_makes_at_most_one_an_hour() -> None:
    clock = ManualClock()
    one = due(clock, clock.now_ms())
    made = 0
    for _ in range(6 * 60):
        clock.advance(60)
        clock.jump(days=2)
        if one.in_s(DAY_S) == 0:
            one.made(DAY_S)
            made += 1
    assert made <= 6 * 3600 / BETWEEN_S


def test_a_last_one_in_the_future_counts_as_now() -> None:
    clock = ManualClock()
    one = due(clock, clock.now_ms() + 300 * DAY_MS)
    assert one.in_s(DAY_S) == DAY_S
    assert one.last_ms == clock.now_ms()    # and that is what is to be remembered


def test_a_clock_set_back_again_and_again_does_not_keep_the_next_one_away() -> None:
    clock = ManualClock()
    one = due(clock, clock.now_ms())
    for _ in range(24):
        clock.advance(3600)
        clock.jump(days=-0.5)
        one.in_s(DAY_S)
    assert one.in_s(DAY_S) == 0


@given(
    st.lists(st.tuples(st.floats(1, 7200), st.floats(-30, 30)), min_size=1, max_size=200),
    st.one_of(st.none(), st.integers(-100, 100)),
)
def test_whatever_the_wall_clock_does_two_are_an_hour_apart_and_none_is_a_day_late(
    steps: list[tuple[float, float]], last_days_ago: int | None
) -> None:
    clock = ManualClock(now_ms=10**13)
    one = due(clock, None if last_days_ago is None else clock.now_ms() - last_days_ago * DAY_MS)
    began_s = last_s = clock.monotonic_s()
    for seconds, days in steps:
        clock.advance(seconds)
        clock.jump(days=days)
        now_s = clock.monotonic_s()
        if one.in_s(DAY_S) == 0:
            assert last_s == began_s or now_s - last_s >= BETWEEN_S
            one.made(DAY_S)
            last_s = now_s
        assert now_s - last_s < DAY_S

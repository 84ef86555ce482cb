"""The circuit breaker and its pauses."""

from __future__ import annotations

import itertools
import random

from fakes.clock import ManualClock
from hypothesis import given
from hypothesis import strategies as st

from nexusd.sync.breaker import FLOOR_S, Breaker, backoff_s


def make(clock: ManualClock, seed: int = 1) -> Breaker:
    return Breaker("index", max_pause_s=300, clock=clock, chance=random.Random(seed))


def test_closed_until_something_fails() -> None:
    breaker = make(ManualClock())
    assert (breaker.state, breaker.pause_left_s) == ("closed", 0.0)


def test_open_for_its_pause_then_half_open_then_closed_by_a_success() -> None:
    clock = ManualClock()
    breaker = make(clock)
    pause_s = breaker.failed("no answer")
    assert breaker.state == "open"
    assert breaker.last_error == "no answer"
    clock.advance(pause_s / 2)
    assert breaker.state == "open"
    assert 0 < breaker.pause_left_s <= pause_s / 2 + 1e-9
    clock.advance(pause_s)
    assert (breaker.state, breaker.pause_left_s) == ("half_open", 0.0)
    assert breaker.succeeded()
    assert breaker.state == "closed"
    assert not breaker.succeeded()  # it was closed already: nothing recovered


def test_a_wall_clock_that_jumps_moves_no_pause() -> None:
    clock = ManualClock()
    breaker = make(clock)
    breaker.failed("x")
    left = breaker.pause_left_s
    clock.jump(days=400)
    assert breaker.pause_left_s == left


def test_a_pause_is_at_least_what_the_part_asked_for_whatever_the_limit() -> None:
    clock = ManualClock()
    breaker = make(clock)
    assert breaker.failed("come back in ten minutes", at_least_s=600) == 600
    clock.advance(599)
    assert breaker.state == "open"
    clock.advance(1)
    assert breaker.state == "half_open"
    assert breaker.failed("down") < 1


@given(st.integers(1, 1000), st.floats(0.2, 300), st.integers())
def test_a_pause_stays_between_the_floor_and_the_limit(attempt: int, limit_s: float, seed: int) -> None:
    pause_s = backoff_s(attempt, limit_s, random.Random(seed))
    assert FLOOR_S <= pause_s <= max(FLOOR_S, limit_s)


def test_the_ceiling_doubles() -> None:
    longest = [max(backoff_s(n, 300, random.Random(seed)) for seed in range(500)) for n in (1, 2, 3, 4)]
    for shorter, longer in itertools.pairwise(longest):
        assert 1.7 < longer / shorter < 2.3


def test_a_shorter_longest_pause_cuts_the_present_one_and_bounds_the_next() -> None:
    clock = ManualClock()
    breaker = make(clock)
    breaker.failed("no answer", at_least_s=200)
    breaker.set_max_pause(1.0)
    assert breaker.pause_left_s == 1.0
    assert all(breaker.failed("no answer") <= 1.0 for _ in range(100))
    breaker.set_max_pause(300)
    assert max(breaker.failed("no answer") for _ in range(100)) > 1.0

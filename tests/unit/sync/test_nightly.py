from __future__ import annotations

import datetime
import time
from collections.abc import Iterator

import pytest
from fakes.clock import ManualClock
from hypothesis import given
from hypothesis import strategies as st

from nexusd.sync.nightly import AFTER_FAILURE_S, AFTER_START_S, BETWEEN_S, Nightly

DAY_S = 86_400.0
MINUTE_S = 60.0


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def at(text: str) -> int:
    """Milliseconds of a local time."""
    return int(time.mktime(datetime.datetime.fromisoformat(text).timetuple())) * 1000


def nightly(clock: ManualClock, last: str | None = None, of_day: str = "03:30") -> Nightly:
    return Nightly(of_day, clock, None if last is None else at(last))


def test_it_is_due_at_the_time_of_day_and_not_before() -> None:
    clock = ManualClock(at("2026-05-04 22:00"))
    night = nightly(clock, "2026-05-04 03:30")
    assert night.due_in_s() == 5.5 * 3600
    clock.advance(5.5 * 3600 - 1)
    assert night.due_in_s() == 1
    clock.advance(1)
    assert night.due_in_s() == 0
    night.ran(through=True)
    assert night.due_in_s() == DAY_S


def test_nothing_was_missed_before_the_first_start() -> None:
    clock = ManualClock(at("2026-05-04 22:00"))
    night = nightly(clock)
    assert night.last_ms == at("2026-05-04 22:00")
    assert night.due_in_s() == 5.5 * 3600


def test_a_missed_night_is_made_up_when_the_start_is_over() -> None:
    clock = ManualClock(at("2026-05-07 12:00"))
    night = nightly(clock, "2026-05-04 03:31")
    assert night.due_in_s() == AFTER_START_S
    clock.advance(AFTER_START_S)
    assert night.due_in_s() == 0
    night.ran(through=True)
    assert night.due_in_s() == 15.5 * 3600 - AFTER_START_S


def test_one_that_failed_is_tried_again_a_little_later() -> None:
    clock = ManualClock(at("2026-05-04 03:30"))
    night = nightly(clock, "2026-05-03 03:30")
    clock.advance(AFTER_START_S)
    night.ran(through=False)
    assert night.due_in_s() == AFTER_FAILURE_S
    assert night.last_ms == at("2026-05-03 03:30")


def test_never_is_never() -> None:
    clock = ManualClock(at("2026-05-04 03:30"))
    night = nightly(clock, "2020-01-01 00:00", of_day="")
    clock.advance(3 * DAY_S)
    assert night.due_in_s() is None


@pytest.mark.parametrize(("day", "hours"), [("2026-03-28", 23), ("2026-10-24", 25)])
def test_the_days_on_which_clocks_are_changed_have_one_run(day: str, hours: int) -> None:
    clock = ManualClock(at(f"{day} 03:30"))
    night = nightly(clock, f"{day} 03:30")
    assert night.due_in_s() == hours * 3600
    clock.advance(hours * 3600)
    night.ran(through=True)
    assert night.due_in_s() == DAY_S


@pytest.mark.parametrize("days", [365.0, -365.0])
def test_a_clock_that_jumps_a_year_and_back_makes_one_run_at_most_and_the_next_night_has_one(days: float) -> None:
    clock = ManualClock(at("2026-05-04 12:00"))
    night = nightly(clock, "2026-05-04 03:30")
    clock.advance(AFTER_START_S)
    clock.jump(days=days)
    runs = 0
    for minute in range(20):
        if minute == 10:
            clock.jump(days=-days)
        if night.due_in_s() == 0:
            runs += 1
            night.ran(through=True)
        clock.advance(MINUTE_S)
    assert runs == 1  # the day that was jumped into, or out of, is over
    assert 0 < (night.due_in_s() or 0) <= DAY_S
    clock.advance(DAY_S)
    assert night.due_in_s() == 0


@given(
    st.lists(st.tuples(st.floats(-400, 400), st.floats(0, 1)), max_size=30),
    st.integers(0, 23), st.integers(0, 59),
)
def test_whatever_the_clock_does_runs_are_apart_and_each_quiet_day_has_one(
    jumps: list[tuple[float, float]], hour: int, minute: int
) -> None:
    clock = ManualClock(at("2026-05-04 12:00"))
    night = nightly(clock, None, of_day=f"{hour:02}:{minute:02}")
    began_s, last_run_s = clock.monotonic_s(), None
    for days, rest in jumps:
        clock.jump(days=days)
        clock.advance(rest * DAY_S / 10)
        if night.due_in_s() == 0:
            assert clock.monotonic_s() - began_s >= AFTER_START_S
            assert last_run_s is None or clock.monotonic_s() - last_run_s >= BETWEEN_S
            last_run_s = clock.monotonic_s()
            night.ran(through=True)
    wait_s = night.due_in_s()
    assert wait_s is not None
    assert wait_s <= DAY_S + 3600

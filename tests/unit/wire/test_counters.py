"""The figures of the methods."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusd.wire.counters import DURATION_BUCKETS_S, Counters, MethodCount


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [(0.0, 0), (0.0001, 0), (0.000101, 1), (0.0003, 1), (0.004, 4), (10.0, 10), (10.1, 11), (float("inf"), 11)],
)
def test_an_answer_falls_into_the_first_bucket_whose_bound_it_does_not_pass(seconds: float, bucket: int) -> None:
    count = MethodCount()
    count.answered(seconds)
    assert [place for place, answers in enumerate(count.buckets) if answers] == [bucket]


@given(st.lists(st.floats(0, 100)))
def test_every_answer_is_counted_once(durations: list[float]) -> None:
    count = MethodCount()
    for seconds in durations:
        count.answered(seconds)
    assert count.count == sum(count.buckets) == len(durations)
    assert count.seconds == pytest.approx(sum(durations))
    for place, bound in enumerate(DURATION_BUCKETS_S):
        assert sum(count.buckets[: place + 1]) == sum(1 for seconds in durations if seconds <= bound)


def test_bounds_grow() -> None:
    assert all(below < above for below, above in pairwise(DURATION_BUCKETS_S))


def test_only_methods_that_were_called_are_told_in_the_order_of_their_names() -> None:
    counters = Counters()
    for name in ("b", "a", "never"):
        counters.of(name)
    counters.of("b").answered(0.5)
    counters.of("a").answered(0.25)
    assert [name for name, _ in counters.called()] == ["a", "b"]
    assert counters.snapshot()["b"] == {"count": 1, "errors": {}, "totalMs": 500.0}
    assert counters.total == 2

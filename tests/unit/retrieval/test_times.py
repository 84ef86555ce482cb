from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusd.retrieval.times import MAX_SPANS, Span, spoken_times, time_fit

NOW_MS = int(datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp() * 1000)     # a Sunday
DAY_MS = 86_400_000


def said(query: str, now_ms: int = NOW_MS) -> list[str]:
    """The times of a query as `first..last` days."""
    def day(time_ms: int) -> str:
        return datetime.fromtimestamp(time_ms / 1000, UTC).date().isoformat()

    return [f"{day(span.start_ms)}..{day(span.end_ms - 1)}" for span in spoken_times(query, now_ms)]


@pytest.mark.parametrize(
    ("query", "days"),
    [
        ("What did Ann cook on 9 November, 2022?", "2022-11-09..2022-11-09"),
        ("the dinner of May 3, 2023", "2023-05-03..2023-05-03"),
        ("on December 1,2023", "2023-12-01..2023-12-01"),
        ("on 8th December, 2023", "2023-12-08..2023-12-08"),
        ("the log of 2023-05-09", "2023-05-09..2023-05-09"),
        ("all of 2023-05", "2023-05-01..2023-05-31"),
        ("die Rechnung vom 9.5.2023", "2023-05-09..2023-05-09"),
        ("am 3. Mai 2021", "2021-05-03..2021-05-03"),
        ("la réunion en février 2024", "2024-02-01..2024-02-29"),
        ("in August 2023", "2023-08-01..2023-08-31"),
        ("what happened in 2023?", "2023-01-01..2023-12-31"),
        ("in summer 2021", "2021-06-01..2021-08-31"),
        ("last May", "2026-05-01..2026-05-31"),
        ("last November", "2025-11-01..2025-11-30"),
        ("last spring", "2026-03-01..2026-05-31"),
        ("last winter", "2025-12-01..2026-02-28"),
        ("last week", "2026-11-09..2026-11-15"),
        ("last month", "2026-10-01..2026-10-31"),
        ("this year", "2026-01-01..2026-12-31"),
        ("two weeks ago", "2026-11-02..2026-11-08"),
        ("3 days ago", "2026-11-19..2026-11-19"),
        ("a year ago", "2025-01-01..2025-12-31"),
        ("yesterday", "2026-11-21..2026-11-21"),
        ("on Friday", "2026-11-20..2026-11-20"),
        ("last Sunday", "2026-11-15..2026-11-15"),
    ],
)
def test_time_is_read_as_people_write_it(query: str, days: str) -> None:
    assert said(query) == [days]


@pytest.mark.parametrize(
    "query",
    [
        "may I ask you something", "we march on", "an august gathering", "room 2023", "version 1.2.2023.4",
        "31 June 2023", "2048 is a game", "who won", "day after day", "99999 years ago", "on 45 May", "", "1899-01-01",
    ],
)  # fmt: skip
def test_what_is_no_time_is_not_read_as_one(query: str) -> None:
    assert said(query) == []


def test_month_without_a_year_is_that_of_any_year_and_the_last_one_first() -> None:
    assert said("the trip in June")[:2] == ["2026-06-01..2026-06-30", "2025-06-01..2025-06-30"]
    assert said("the trip in December")[0] == "2025-12-01..2025-12-31"
    assert said("on 29 February")[0] == "2024-02-29..2024-02-29"


def test_two_times_are_two() -> None:
    assert sorted(said("between 11 August 2023 and 15 August 2023")) == [
        "2023-08-11..2023-08-11", "2023-08-15..2023-08-15",
    ]  # fmt: skip


def test_fit_is_whole_within_and_fades_outside_sooner_before_than_after() -> None:
    may = Span(100 * DAY_MS, 131 * DAY_MS)
    assert [may.fit(time * DAY_MS) for time in (100, 130)] == [1.0, 1.0]
    assert 0 < may.fit(90 * DAY_MS) < may.fit(141 * DAY_MS) < 1
    day = Span(100 * DAY_MS, 101 * DAY_MS)
    assert day.fit(111 * DAY_MS) < 0.05
    assert time_fit([], 5) == 0
    assert time_fit([day, may], 120 * DAY_MS) == 1


@given(st.text(max_size=60) | st.text("0123456789 .,-/mayjunelst", max_size=60), st.integers(0, 2**53))
def test_no_text_and_no_clock_is_too_much(query: str, now_ms: int) -> None:
    spans = spoken_times(query, now_ms)
    assert len(spans) <= MAX_SPANS
    assert all(span.start_ms < span.end_ms for span in spans)

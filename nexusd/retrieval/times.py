"""The times that a query speaks of, as people write them: "on 9 May 2023", "in 2023", "last May", "two weeks ago".

Owns the wording that is understood and how well a moment fits it. Pure: what time it is comes from the caller. Nothing
here excludes anything: a time in a query is a preference, since what happened in May may be told in June. Days
are UTC's, as everywhere; a season is the northern one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

MS_PER_DAY = 86_400_000
MAX_SPANS = 16      # of one query: each is a condition in SQL
YEARS_BACK = 10     # a month without a year is that of each of so many years
MIN_YEAR, MAX_YEAR = 1970, 2199

# Things are told a little after they happened, and planned a little before: outside its span a time still counts,
# less and less, over a while that goes with the span's own length. What a day means is within days, what a
# year means within weeks.
LEAST_FADING_DAYS = 3.0
MOST_FADING_DAYS = 30.0
BEFORE = 0.5        # the fading before a span, as a share of the fading after it

MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "january jan januar janvier enero", "february feb februar février fevrier febrero",
            "march mar märz maerz mars marzo", "april apr avril abril", "may mai mayo", "june jun juni juin junio",
            "july jul juli juillet julio", "august aug août aout agosto", "september sep sept septembre septiembre",
            "october oct oktober octobre octubre", "november nov novembre noviembre",
            "december dec dezember décembre decembre diciembre",
        ),
        start=1,
    )
    for name in names.split()
}
# Words of their own beside the month: these need a day, a year or a word like "in" beside them.
AMBIGUOUS = frozenset({"may", "march", "mar", "mars", "mai", "jan", "jun", "dec", "sep", "sept", "nov", "august"})
SEASONS = {"spring": 3, "summer": 6, "autumn": 9, "fall": 9, "winter": 12}
_DAYS = "monday tuesday wednesday thursday friday saturday sunday"
WEEKDAYS = {name: number for number, name in enumerate(_DAYS.split(" "))}
_COUNTS = "one two three four five six seven eight nine ten eleven twelve"
NUMBERS = {name: number for number, name in enumerate(_COUNTS.split(" "), start=1)} | {
    "a": 1, "an": 1, "couple": 2, "few": 3,
}

_MONTH = "(?P<month>" + "|".join(sorted(MONTHS, key=len, reverse=True)) + r")\b\.?"
_DAY = r"(?P<day>3[01]|[12]\d|0?[1-9])(?:st|nd|rd|th|\.)?"
_YEAR = r"(?P<year>(?:19|20|21)\d\d)\b"
_BEFORE_MONTH = r"(?P<lead>in|during|since|until|by|of|last|this|early|late|mid|im|letzten|en)"

# From the most exact to the loosest: what one has read, a later one does not read again.
_PATTERNS: tuple[re.Pattern[str], ...] = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?<!\d)" + _YEAR + r"-(?P<number>1[0-2]|0[1-9])-" + r"(?P<day>3[01]|[12]\d|0[1-9])(?!\d)",
        r"(?<![\d.])" + r"(?P<day>3[01]|[12]\d|0?[1-9])\.\s?(?P<number>1[0-2]|0?[1-9])\.\s?" + _YEAR + r"(?!\.\d)",
        r"\b" + _DAY + r"\s*(?:of|de)?\s*" + _MONTH + r"(?:\s*,)?\s*(?:of|de)?\s*" + _YEAR,
        r"\b" + _MONTH + r"\s*" + _DAY + r"(?:\s*,\s*|\s+)" + _YEAR,
        r"\b" + _MONTH + r"(?:\s*,)?\s*(?:of|de)?\s*" + _YEAR,
        r"(?<!\d)" + _YEAR + r"-(?P<number>1[0-2]|0[1-9])(?!\d|-)",
        r"\b(?P<season>spring|summer|autumn|fall|winter)\s+(?:of\s+|in\s+)?" + _YEAR,
        r"\b" + _DAY + r"\s*(?:of\s+)?" + _MONTH,
        r"\b" + _MONTH + r"\s*" + _DAY + r"\b",
        r"\b" + _BEFORE_MONTH + r"[\s-]+" + _MONTH,
        r"\b" + _MONTH,
        r"\b(?P<lead>last|this)\s+(?P<season>spring|summer|autumn|fall|winter)\b",
        r"\b(?P<lead>last|this)\s+(?P<unit>week|weekend|month|year)\b(?!\s+before)",
        r"\b(?P<count>\d{1,3}|" + "|".join(NUMBERS) + r")(?:\s+of)?\s+(?P<unit>day|week|month|year)s?\s+ago\b",
        r"\b(?:last|on)\s+(?P<weekday>" + "|".join(WEEKDAYS) + r")\b",
        r"\b(?P<today>today|yesterday|last\s+night)\b",
        r"\b(?:in|during|since|of|from|year|im\s+jahr|en)\s+" + _YEAR,
    )
)


@dataclass(frozen=True, slots=True)
class Span:
    """From a moment to another, in milliseconds; the end is not in it."""

    start_ms: int
    end_ms: int

    def fit(self, time_ms: int) -> float:
        """1 within it, less and less outside."""
        if self.start_ms <= time_ms < self.end_ms:
            return 1.0
        fading = min(max((self.end_ms - self.start_ms) / MS_PER_DAY, LEAST_FADING_DAYS), MOST_FADING_DAYS)
        if time_ms < self.start_ms:
            days, fading = (self.start_ms - time_ms) / MS_PER_DAY, fading * BEFORE
        else:
            days = (time_ms - self.end_ms) / MS_PER_DAY
        return math.exp(-days / fading)


def time_fit(spans: Sequence[Span], time_ms: int) -> float:
    """How well a moment fits any of the times: 1 if it lies within one, 0 if there is none."""
    return max((span.fit(time_ms) for span in spans), default=0.0)


def spoken_times(query: str, now_ms: int) -> tuple[Span, ...]:
    """The times that the query names, at most MAX_SPANS; none if it names none."""
    try:
        today = datetime.fromtimestamp(now_ms / 1000, UTC).date()
    except (OverflowError, ValueError, OSError):     # a clock that is set past the year 9999
        return ()
    spans: list[Span] = []
    rest = query
    for pattern in _PATTERNS:
        while len(spans) < MAX_SPANS and (found := pattern.search(rest)) is not None:
            rest = rest[: found.start()] + "|" * (found.end() - found.start()) + rest[found.end() :]
            spans += _spans(found, today)
    return tuple(dict.fromkeys(spans))[:MAX_SPANS]


def _spans(found: re.Match[str], today: date) -> Iterator[Span]:
    said = {name: value.casefold() for name, value in found.groupdict().items() if value is not None}
    try:
        for first, last in _days(said, today):
            yield Span(_ms(first), _ms(last + timedelta(days=1)))
    except (ValueError, OverflowError):     # the 30th of February; longer ago than there are days
        return


def _days(said: dict[str, str], today: date) -> Iterator[tuple[date, date]]:
    """The first and the last day of each time that one match says."""
    lead = said.get("lead", "")
    if "season" in said:
        yield _season(SEASONS[said["season"]], int(said["year"]) if "year" in said else None, lead, today)
    elif "month" in said or "number" in said:
        month = MONTHS[said["month"]] if "month" in said else int(said["number"])
        if "year" in said:
            yield _month(int(said["year"]), month, said.get("day"))
        elif "day" in said or lead or said["month"] not in AMBIGUOUS:
            yield from _months(month, said.get("day"), lead, today)
    elif "unit" in said:
        yield _unit(said["unit"], lead, said.get("count"), today)
    elif "weekday" in said:
        day = today - timedelta(days=(today.weekday() - WEEKDAYS[said["weekday"]] - 1) % 7 + 1)
        yield day, day
    elif "today" in said:
        day = today if said["today"] == "today" else today - timedelta(days=1)
        yield day, day
    else:
        year = int(said["year"])
        yield date(year, 1, 1), date(year, 12, 31)


def _month(year: int, month: int, day: str | None) -> tuple[date, date]:
    if day is not None:
        return date(year, month, int(day)), date(year, month, int(day))
    return date(year, month, 1), _month_end(year, month)


def _months(month: int, day: str | None, lead: str, today: date) -> Iterator[tuple[date, date]]:
    """A month or a day without its year: the last one, or that of any year."""
    this_year = today.year if (today.year, month) <= (today.year, today.month) else today.year - 1
    if lead in {"last", "letzten"} and month == today.month:
        this_year -= 1
    years = 1 if lead in {"last", "letzten", "this"} else YEARS_BACK
    for year in range(this_year, max(this_year - years, MIN_YEAR - 1), -1):
        try:
            yield _month(year, month, day)
        except ValueError:      # 29 February of a year that has none
            continue


def _season(month: int, year: int | None, lead: str, today: date) -> tuple[date, date]:
    if year is None:
        year = today.year if today >= date(today.year, month, 1) else today.year - 1
        over = _month_end(year + (month == 12), (month + 1) % 12 + 1) < today
        if lead == "last" and not over:
            year -= 1
    return date(year, month, 1), _month_end(year + (month == 12), (month + 1) % 12 + 1)


def _unit(unit: str, lead: str, count: str | None, today: date) -> tuple[date, date]:
    back = 0 if lead == "this" else 1
    if count is not None:
        back = NUMBERS[count] if count in NUMBERS else int(count)
    if unit == "day":
        return today - timedelta(days=back), today - timedelta(days=back)
    if unit in {"week", "weekend"}:
        monday = today - timedelta(days=today.weekday() + 7 * back)
        return monday + timedelta(days=5 if unit == "weekend" else 0), monday + timedelta(days=6)
    if unit == "year":
        return date(today.year - back, 1, 1), date(today.year - back, 12, 31)
    years, month = divmod(today.year * 12 + today.month - 1 - back, 12)
    return date(years, month + 1, 1), _month_end(years, month + 1)


def _month_end(year: int, month: int) -> date:
    return date(year + month // 12, month % 12 + 1, 1) - timedelta(days=1)


def _ms(day: date) -> int:
    return (day - date(1970, 1, 1)).days * MS_PER_DAY

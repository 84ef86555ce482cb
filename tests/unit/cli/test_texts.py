from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusd.cli.texts import age, count, excerpt, highlights, safe, size, words

SECOND, MINUTE, HOUR, DAY = 1000, 60_000, 3_600_000, 86_400_000


@pytest.mark.parametrize(
    ("ago_ms", "text"),
    [
        (0, "just now"), (4 * SECOND, "just now"), (59 * SECOND, "59 s ago"), (60 * SECOND, "1 min ago"),
        (59 * MINUTE, "59 min ago"), (HOUR, "1 h ago"), (23 * HOUR, "23 h ago"), (DAY, "1 day ago"),
        (3 * DAY, "3 days ago"), (29 * DAY, "29 days ago"), (30 * DAY, "1 month ago"),
        (400 * DAY, "13 months ago"), (800 * DAY, "2 years ago"), (-2 * SECOND, "just now"),
        (-3 * HOUR, "in 3 h"),
    ],
)  # fmt: skip
def test_age_is_in_one_unit(ago_ms: int, text: str) -> None:
    now_ms = 1_700_000_000_000
    assert age(now_ms - ago_ms, now_ms) == text


@pytest.mark.parametrize(
    ("bytes_", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (48_123_456, "48.1 MB"), (3e12, "3.0 TB")],
)
def test_size_is_in_one_unit(bytes_: float, text: str) -> None:
    assert size(bytes_) == text


def test_count_agrees_with_its_noun() -> None:
    assert [count(n, "row") for n in (0, 1, 2, 12_345)] == ["0 rows", "1 row", "2 rows", "12,345 rows"]


@given(st.text())
def test_safe_text_has_no_control_characters_but_line_ends_and_tabs(text: str) -> None:
    cleaned = safe(text)
    assert all(c in "\n\t" or (c >= " " and not "\x7f" <= c <= "\x9f") for c in cleaned)
    assert len(cleaned) == len(text)


@given(st.text(), st.text(max_size=20), st.integers(10, 200))
def test_excerpt_is_short_and_on_one_line(text: str, query: str, length: int) -> None:
    short = excerpt(text, highlights(words(query)), length)
    assert "\n" not in short
    assert len(short) <= length + 4  # the two marks of what was left out


def test_excerpt_shows_the_match_that_lies_far_behind() -> None:
    text = "nothing to see here " * 50 + "the spare key hangs in the cellar " + "nor here " * 50
    short = excerpt(text, highlights(["key"]), 100)
    assert "spare key hangs" in short
    assert short.startswith("… ")
    assert short.endswith(" …")


def test_short_text_is_not_cut() -> None:
    assert excerpt("Under\n the mat.", highlights(["mat"]), 100) == "Under the mat."


def test_question_words_are_not_highlighted_unless_there_is_nothing_else() -> None:
    assert words("Where is the key?") == ["key"]
    assert words("What is that?") == ["what", "is", "that"]


def test_highlight_finds_other_endings_but_not_other_words() -> None:
    pattern = highlights(["tomatoes", "plant"])
    assert pattern is not None
    assert pattern.findall("Tomato seeds planted near eggplants") == ["Tomato", "planted"]


def test_nothing_to_highlight_is_none() -> None:
    assert highlights([]) is None

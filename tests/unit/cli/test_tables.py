from __future__ import annotations

import io
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from nexusd.cli.tables import result

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), inner, max_size=5),
    max_leaves=12,
)  # fmt: skip


def drawn(answer: Any, width: int = 80) -> str:
    output = io.StringIO()
    Console(file=output, width=width, force_terminal=False, highlight=False).print(result(msgspec.json.encode(answer)))
    return output.getvalue()


def lines(answer: Any, width: int = 80) -> list[str]:
    return [line.rstrip() for line in drawn(answer, width).splitlines()]


def test_a_list_of_records_is_a_table() -> None:
    items = [{"id": 7, "name": "Hall", "icon": None}, {"id": 12, "name": "Kitchen", "icon": None}]
    assert lines({"items": items, "nextCursor": None}) == ["id  name", " 7  Hall", "12  Kitchen", "2 rows"]


def test_the_cursor_of_the_next_page_is_shown_as_it_is_typed() -> None:
    assert lines({"items": [{"id": 1}], "nextCursor": "abc"})[-1] == "There is more: cursor=abc"


def test_no_records_are_said_to_be_none() -> None:
    assert lines({"items": [], "nextCursor": None}) == ["Nothing."]


def test_what_has_no_room_is_named_and_lesser_things_go_first() -> None:
    items = [{"id": 1, "version": 3, "userMessage": "what " * 20, "aiResponse": "that " * 20, "metadata": {"a": 1}}]
    head, row, note, *_ = lines({"items": items}, 40)
    assert head.split() == ["id", "userMessage", "aiResponse"]
    assert row.count("…") == 2
    assert note.startswith("No room for version, metadata")


def test_a_hit_shows_what_was_found_beside_its_score() -> None:
    head, row, *_ = lines({"items": [{"score": 0.123456789, "record": {"id": 5, "name": "Hall"}}]})
    assert head.split() == ["score", "id", "name"]
    assert row.split() == ["0.1235", "5", "Hall"]


def test_one_record_is_names_and_values_and_the_record_in_it_too() -> None:
    assert lines({"id": 5, "health": {"status": "ok"}, "gone": None}) == ["id      5", "health  status  ok", "gone"]


def test_times_are_shown_as_a_clock_does() -> None:
    assert "2023-11-1" in drawn({"createdAt": 1_700_000_000_000})
    assert "createdAt  5" in drawn({"createdAt": 5})  # no time of this daemon's
    assert "9007199254740991" in drawn({"createdAt": 9007199254740991})  # a year that no calendar has


@pytest.mark.parametrize(("answer", "shown"), [(None, ""), (True, "true"), ([1, 2], "[1,2]"), ({}, "{}"), ("x", "x")])
def test_what_is_no_record_is_shown_as_it_is(answer: Any, shown: str) -> None:
    assert lines(answer) == [shown]


@given(json_values, st.integers(10, 120))
def test_whatever_is_answered_is_drawn_within_the_width_and_without_control_characters(answer: Any, width: int) -> None:
    for shape in (answer, {"items": [{"id": 1, "it": answer}, {"id": 2}]}):
        page = drawn(shape, width)
        assert not {character for character in page if ord(character) < 32} - {"\n"}
        assert "\x1b" not in page


@given(st.lists(st.dictionaries(st.sampled_from(["id", "name", "notes", "createdAt", "score"]),
                                st.none() | st.integers(0, 10**15) | st.text("ab cd", max_size=300)),
                min_size=1, max_size=4), st.integers(12, 120))  # fmt: skip
def test_no_row_is_wider_than_the_terminal(items: list[dict[str, Any]], width: int) -> None:
    assert max(map(len, drawn({"items": items}, width).splitlines())) <= width

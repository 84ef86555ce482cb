"""Rows go to the daemon in messages that it takes, in their order, and none is taken for its neighbour."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusd.cli.import_rows import MAX_BYTES, MAX_ROWS, Answer, RowSender, answered
from nexusd.errors import BadName, Conflict, RpcError, TooLarge
from nexusd.model.imports import LastIds


@dataclass
class ARow:
    fields: dict[str, Any]


@dataclass
class Daemon:
    """Takes messages of at most so many rows; a row's id is what was sent as its number."""

    most: int = MAX_ROWS
    sizes: list[int] = field(default_factory=list)

    def execute(self, request: Any, *, timeout_s: float | None = None) -> Any:
        if request.method == "imports.lastIds":
            return LastIds({}, "m")
        items = request.params["items"]
        if len(items) > self.most or any(item.get("tooLarge") for item in items):
            raise TooLarge("Too much.")
        self.sizes.append(len(items))
        return request.result([Answer(item.get("n"), "inserted") for item in items])


def sender(daemon: Daemon) -> RowSender:
    made = RowSender(daemon)  # type: ignore[arg-type]  # all that is asked of it
    made.begin()
    return made


@given(st.lists(st.integers(1, 3 * MAX_BYTES // 4), max_size=8))
def test_no_message_is_larger_than_it_may_be_unless_one_row_is(sizes: list[int]) -> None:
    rows = [ARow({"text": "x" * size}) for size in sizes]
    batches = list(sender(Daemon()).batches("users", rows))
    assert [row for batch in batches for row in batch] == rows
    assert all(len(batch) == 1 or sum(len(row.fields["text"]) for row in batch) <= MAX_BYTES for batch in batches)


def test_no_message_has_more_rows_than_the_method_takes() -> None:
    batches = list(sender(Daemon()).batches("users", (ARow({"n": n}) for n in range(2 * MAX_ROWS + 1))))
    assert [len(batch) for batch in batches] == [MAX_ROWS, MAX_ROWS, 1]


def test_what_is_too_much_for_a_message_is_sent_in_halves_and_what_is_too_much_alone_is_told() -> None:
    daemon = Daemon(most=3)
    rows = [ARow({"n": n, "tooLarge": n == 5}) for n in range(8)]
    answers = sender(daemon).sent("users", rows)
    assert [answer.id for answer in answers] == [0, 1, 2, 3, 4, None, 6, 7]
    assert answers[5].error is not None
    assert answers[5].error.message == "Too much."
    assert max(daemon.sizes) <= 3


def test_of_equal_rows_each_is_counted_and_knows_how_many_came_before_it_in_its_place() -> None:
    to = sender(Daemon())
    said = [(1, "a"), (1, "a"), (2, "a"), (1, "b"), (1, "a")]
    rows = [
        ARow({"sessionId": session, "createdAt": 7, "userMessage": text, "aiResponse": ""}) for session, text in said
    ]
    for first in (rows[:3], rows[3:]):
        for batch in to.batches("episodes", first):
            for row in batch:
                to.settle("episodes", row.fields, Answer(1, "inserted"))
    assert [row.fields["occurrence"] for row in rows] == [0, 1, 0, 0, 2]
    assert [row.fields["takenBefore"] for row in rows] == [0, 0, 0, 2, 2]
    to.begin()
    (again,) = next(to.batches("episodes", [ARow({"sessionId": 1, "createdAt": 7, "userMessage": "a"})]))
    assert (again.fields["occurrence"], again.fields["takenBefore"]) == (0, 0)


def test_a_refusal_of_one_file_is_its_answer_and_any_other_ends_the_import() -> None:
    def refuse(error: RpcError) -> Answer:
        raise error

    refused = answered(refuse, BadName("No such name."))
    assert refused.error is not None
    assert (refused.id, refused.error.message) == (None, "No such name.")
    with pytest.raises(Conflict):
        answered(refuse, Conflict("Something else."))

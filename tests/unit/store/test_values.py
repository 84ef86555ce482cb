from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nexusd.store.values import MAX_ROWS, in_powers_of_two, placeholders


@given(st.lists(st.integers(), max_size=300))
def test_runs_hold_every_row_in_order_and_few_lengths(rows: list[int]) -> None:
    runs = list(in_powers_of_two(rows))
    assert [row for run in runs for row in run] == rows
    assert {len(run) for run in runs} <= {1, 2, 4, 8, 16, 32, 64}
    assert sum(len(run) < MAX_ROWS for run in runs) <= 6


def test_placeholders_are_rows_of_question_marks() -> None:
    assert placeholders(2, 3) == "(?, ?, ?), (?, ?, ?)"

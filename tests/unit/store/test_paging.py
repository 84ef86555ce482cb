from __future__ import annotations

import pytest

from nexusd.store.paging import take_page
from nexusd.store.text_budget import MAX_ANSWER_TEXT


def page(rows: list[tuple[int, str | None]], limit: int) -> tuple[list[int], bool]:
    return take_page(rows, limit, lambda row: row[0], (1,))


@pytest.mark.parametrize(
    ("count", "ids", "more"), [(0, [], False), (2, [0, 1], False), (3, [0, 1, 2], False), (4, [0, 1, 2], True)]
)
def test_a_page_ends_at_its_limit_and_says_whether_there_is_more(count: int, ids: list[int], more: bool) -> None:
    assert page([(i, None) for i in range(count)], 3) == (ids, more)


def test_a_page_ends_before_its_texts_are_too_much_but_is_never_empty() -> None:
    half = "x" * (MAX_ANSWER_TEXT // 2)
    assert page([(0, half), (1, half), (2, "x"), (3, None)], 10) == ([0, 1], True)
    assert page([(0, half + half + "x"), (1, "")], 10) == ([0], True)

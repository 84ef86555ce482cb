"""The rows of a query as one page of a list.

Owns where a page ends: at its limit, or before its texts are more than one answer may hold. Knows no table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from nexusd.store.text_budget import TextBudget

R = TypeVar("R")

# Places before and after every row, for pages that begin at an end: (time, id).
BEFORE_ALL = (-(2**63), -(2**63))
AFTER_ALL = (2**63 - 1, 2**63 - 1)


def take_page(
    rows: Iterable[tuple[Any, ...]], limit: int, record: Callable[[tuple[Any, ...]], R], texts: Sequence[int]
) -> tuple[list[R], bool]:
    """The records of one page, and whether there are more; `texts` are the columns that may be long.

    The query must ask for one row more than the limit.
    """
    budget, records = TextBudget(), list[R]()
    for row in rows:
        if len(records) == limit or not budget.take(*(row[place] or "" for place in texts)):
            return records, True
        records.append(record(row))
    return records, False

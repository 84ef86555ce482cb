"""Many rows in one statement.

One statement for many rows is one step of SQLite: it gives the interpreter's lock away once, not once a
row, and the full-text index is written once. Owns the shape of such statements; knows no table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import TypeVar

T = TypeVar("T")

MAX_ROWS = 64  # past this a statement gains little more, and undoing it for one bad row costs more


@cache
def placeholders(rows: int, columns: int) -> str:
    """`(?, ?), (?, ?)`: what follows VALUES for so many rows."""
    row = f"({', '.join('?' * columns)})"
    return ", ".join([row] * rows)


def in_powers_of_two(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut the rows into runs of 64, 32, 16 ... 1, so that few different statements have to be prepared."""
    start = 0
    size = MAX_ROWS
    while start < len(rows):
        while size > len(rows) - start:
            size //= 2
        yield rows[start : start + size]
        start += size

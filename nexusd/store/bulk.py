"""Many items of one request in one transaction, each standing or falling by itself.

Owns the savepoint of an item. Knows no table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Concatenate, ParamSpec, TypeVar

from nexusd.errors import RpcError
from nexusd.store.connection import Connection

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

OPEN_SAVEPOINT = "SAVEPOINT item"
UNDO_SAVEPOINT = "ROLLBACK TO item"
CLOSE_SAVEPOINT = "RELEASE item"


def write_one_by_one(
    db: Connection,
    items: Sequence[T],
    function: Callable[Concatenate[Connection, T, P], R],
    *args: P.args,
    **kwargs: P.kwargs,
) -> list[R | RpcError]:
    """Call the function for each item, in order; an item that is refused is undone alone, and is its error.

    Any other error undoes all: it says nothing of the item, and SQLite may have given the transaction up.
    """
    results: list[R | RpcError] = []
    for item in items:
        db.execute(OPEN_SAVEPOINT)
        try:
            results.append(function(db, item, *args, **kwargs))
        except RpcError as error:
            db.execute(UNDO_SAVEPOINT)
            results.append(error)
        db.execute(CLOSE_SAVEPOINT)
    return results

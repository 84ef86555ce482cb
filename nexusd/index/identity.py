"""What names a collection and a point, the same in every backend. Knows no backend."""

from __future__ import annotations

import re

from nexusd.errors import BadContent, BadName, DimensionMismatch
from nexusd.index.index import CollectionSpec

MAX_ID = 2**63 - 1  # the engine takes one bit more; SQLite's ids do not have it
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")  # becomes a directory; a dot marks those set aside


def check_name(name: str) -> None:
    """Raises BadName if this cannot name a collection."""
    if not _NAME.fullmatch(name):
        raise BadName(f"not a name for a collection: {name!r}")


def check_spec(known: CollectionSpec | None, asked: CollectionSpec) -> None:
    """Raises DimensionMismatch if the collection is known with another dimension or distance."""
    if known is not None and known != asked:
        raise DimensionMismatch(
            f"{asked.name} has {known.dimension} dimensions under {known.distance},"
            f" not {asked.dimension} under {asked.distance}"
        )


def checked_id(id_: int) -> int:
    """The id, if a point can have it.

    Raises:
        BadContent: it cannot.
    """
    if not 0 <= id_ <= MAX_ID:
        raise BadContent(f"not an id of a point: {id_}")
    return id_

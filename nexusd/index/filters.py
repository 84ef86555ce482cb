"""Filter conditions over a point's payload and id, as a small tree that every backend can translate.

The shape and the names are Qdrant's own (must, should, must_not with match, range, has_id). Equality is
JSON's: a boolean equals no number, 1 equals 1.0, and a list in the payload matches by any of its elements.
"""

from __future__ import annotations

from dataclasses import dataclass

Scalar = str | int | bool


@dataclass(frozen=True, slots=True)
class Match:
    """The payload entry at `key` (a path, see `path`) equals one of the values."""

    key: str
    any_of: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """The number at `key` lies within the bounds that are given."""

    key: str
    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None


@dataclass(frozen=True, slots=True)
class HasId:
    """The point's id is one of these."""

    ids: tuple[int, ...]


Condition = Match | Range | HasId


@dataclass(frozen=True, slots=True)
class Filter:
    """All of `must`, at least one of `should` (when there are any), none of `must_not`."""

    must: tuple[Condition, ...] = ()
    should: tuple[Condition, ...] = ()
    must_not: tuple[Condition, ...] = ()


def path(*keys: str) -> str:
    """The path to an entry inside of objects, for keys that may hold anything.

    Plain keys are joined by dots (`metadata.topic`); one that is empty or holds a dot or a quote is put in
    quotes, its own quotes doubled (`metadata."a.b"`).
    """
    return ".".join(_quoted(key) if not key or "." in key or '"' in key else key for key in keys)


def _quoted(key: str) -> str:
    return '"' + key.replace('"', '""') + '"'

"""Filter conditions over a point's payload and id, as a small tree that every backend can translate.

The shape and the names are Qdrant's own (must, should, must_not with match, range, has_id).
"""

from __future__ import annotations

from dataclasses import dataclass

Scalar = str | int | bool


@dataclass(frozen=True, slots=True)
class Match:
    """The payload entry at `key` (dots reach into objects) equals one of the values."""

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

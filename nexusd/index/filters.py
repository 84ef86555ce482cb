"""Filter conditions over a point's payload and id, as a small tree that every backend can translate.

Owns the tree, the paths in it, and its meaning in plain Python, for what no index holds yet. The shape and the
names are Qdrant's own (must, should, must_not with match, range, has_id). Equality is JSON's: a boolean equals
no number, 1 equals 1.0, and a list in the payload matches by any of its elements.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Scalar = str | int | bool
_PATH_PART = re.compile(r'"((?:[^"]|"")*)"|([^".]+)')
_PATH = re.compile(rf"(?:{_PATH_PART.pattern})(?:\.(?:{_PATH_PART.pattern}))*")


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


@dataclass(frozen=True, slots=True)
class Filter:
    """All of `must`, at least one of `should` (when there are any), none of `must_not`; itself a condition."""

    must: tuple[Condition, ...] = ()
    should: tuple[Condition, ...] = ()
    must_not: tuple[Condition, ...] = ()


Condition = Match | Range | HasId | Filter


def path(*keys: str) -> str:
    """The path to an entry inside of objects, for keys that may hold anything.

    Plain keys are joined by dots (`metadata.topic`); one that is empty or holds a dot or a quote is put in
    quotes, its own quotes doubled (`metadata."a.b"`).
    """
    return ".".join(_quoted(key) if not key or "." in key or '"' in key else key for key in keys)


def _quoted(key: str) -> str:
    return '"' + key.replace('"', '""') + '"'


def parsed(key: str) -> tuple[str, ...]:
    """The keys in a path as `path` writes it.

    Raises:
        ValueError: it is no such path.
    """
    if not _PATH.fullmatch(key):
        raise ValueError(f"not a path into a payload: {key!r}")
    return tuple(
        part[2] if part[2] is not None else part[1].replace('""', '"') for part in _PATH_PART.finditer(key)
    )


def passes(where: Filter, id_: int, payload: Mapping[str, Any]) -> bool:
    """Whether a point of this id and payload passes the filter."""
    return (
        all(_holds(each, id_, payload) for each in where.must)
        and (not where.should or any(_holds(each, id_, payload) for each in where.should))
        and not any(_holds(each, id_, payload) for each in where.must_not)
    )


def _holds(condition: Condition, id_: int, payload: Mapping[str, Any]) -> bool:
    if isinstance(condition, Filter):
        return passes(condition, id_, payload)
    if isinstance(condition, HasId):
        return id_ in condition.ids
    entry: Any = payload
    for key in parsed(condition.key):
        entry = entry.get(key) if isinstance(entry, Mapping) else None
    values = entry if isinstance(entry, list) else [entry]
    if isinstance(condition, Match):
        return any(_equal(value, wanted) for value in values for wanted in condition.any_of)
    return any(_within(condition, value) for value in values)


def _equal(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _within(bounds: Range, value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return (
        (bounds.gt is None or value > bounds.gt)
        and (bounds.gte is None or value >= bounds.gte)
        and (bounds.lt is None or value < bounds.lt)
        and (bounds.lte is None or value <= bounds.lte)
    )

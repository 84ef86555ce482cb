"""Qdrant's JSON for filters -> the tree that every index backend translates.

Owns the grammar and its limits. What the tree cannot say exactly (geo, nested objects, text matches, ...) is refused
by name with its place; nothing is ever dropped in silence. A key that the collection's payloads never have is
refused too: such a filter would find nothing, for ever.

    {"must": [...], "should": [...], "must_not": [...]}     each a list of conditions, or one condition
    {"key": "metadata.topic", "match": {"value": "tea"}}    or {"any": ["tea", "coffee"]}
    {"key": "createdAt", "range": {"gte": 0, "lt": 9}}      gt, gte, lt, lte
    {"has_id": [1, 2]}
    {"must": [...], ...}                                    a filter is a condition too
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

from nexusd.errors import InvalidParams
from nexusd.field_errors import FieldError
from nexusd.index.filters import Condition, Filter, HasId, Match, Range, Scalar, path
from nexusd.model.fields import MAX_SAFE_INTEGER, IndexedCollection

# What the payloads of each collection have. In `vectors`, `id` is the caller's own, and what has_id means.
KEYS: dict[IndexedCollection, tuple[str, ...]] = {
    "episodes": ("createdAt", "metadata", "projectId", "sessionId"),
    "entities": ("createdAt", "metadata", "name", "type"),
    "summaries": ("createdAt", "metadata", "projectId", "sessionId"),
    "messages": ("conversationId", "createdAt", "metadata", "role"),
    "vectors": ("createdAt", "id", "metadata"),
}
CLAUSES = ("must", "should", "must_not")
BOUNDS = ("gt", "gte", "lt", "lte")
MAX_CONDITIONS = 256  # in all; a search holds up every other while it runs
MAX_VALUES = 4096  # in all, of match and has_id
MAX_PATH = 4096  # characters: a path is taken apart on the event loop
MAX_PATH_KEYS = 64  # nothing that a message can bring is nested deeper
MAX_NAME_SHOWN = 64
MAX_FAULTS = 50  # told; the first few are enough to understand the rest, so reading ends there
# A part of Qdrant's paths: a key, quoted if it has unusual characters, and whether a list is meant or a place in it.
_PART = re.compile(r'(?:"((?:[^"]|"")+)"|([^".\[\]]+))((?:\[\d*\])*)')
_NOT_KNOWN = "nothing else than must, should and must_not, or one of key, has_id"
_EXCEPT = "no except: it leaves out points without the key; use must_not with match any"


def parse_filter(given: dict[str, Any] | None, collection: IndexedCollection) -> Filter | None:
    """The tree; None if there is no filter.

    Raises:
        InvalidParams: it is none, or says what cannot be said; with the place of every fault.
    """
    if given is None:
        return None
    reading = _Reading(KEYS[collection], "id" if collection == "vectors" else None)
    try:
        read = reading.filter(given, "filter")
    except _EnoughFaults:
        pass
    if reading.faults:
        raise InvalidParams(fields=tuple(reading.faults))
    return read


class _EnoughFaults(Exception):
    """A message may hold millions of faults; what was found suffices."""


class _Reading:
    """One filter on its way. A condition that is faulty is left out; its fault is kept, up to MAX_FAULTS.

    `id_key`: the payload's entry that has_id means, where callers have ids of their own; else has_id means points.
    """

    def __init__(self, keys: Collection[str], id_key: str | None) -> None:
        self.faults: list[FieldError] = []
        self._keys = keys
        self._id_key = id_key
        self._conditions = 0
        self._values = 0

    def filter(self, given: dict[str, Any], place: str) -> Filter:
        for name in given:
            if name not in CLAUSES:
                self._note(FieldError(f"{place}.{_shown(name)}", _NOT_KNOWN))
        must, should, must_not = (tuple(self._clause(given.get(name), f"{place}.{name}")) for name in CLAUSES)
        return Filter(must, should, must_not)

    def _clause(self, given: Any, place: str) -> Iterator[Condition]:
        alone = isinstance(given, dict)
        if not (alone or given is None or isinstance(given, list)):
            self._note(FieldError(place, "a condition or a list of conditions"))
            return
        for number, each in enumerate([given] if alone else given or ()):
            self._conditions += 1
            if self._conditions > MAX_CONDITIONS:
                self._note(FieldError("filter", f"at most {MAX_CONDITIONS} conditions in all"))
                raise _EnoughFaults
            try:
                yield self._condition(each, place if alone else f"{place}[{number}]")
            except InvalidParams as error:
                for fault in error.fields:
                    self._note(fault)

    def _note(self, fault: FieldError) -> None:
        if fault not in self.faults:
            self.faults.append(fault)
        if len(self.faults) == MAX_FAULTS:
            raise _EnoughFaults

    def _condition(self, given: Any, place: str) -> Condition:
        if not isinstance(given, dict):
            raise _fault(place, "a condition: an object with key, has_id, or must, should and must_not")
        if "key" in given:
            return self._field(given, place)
        if "has_id" in given:
            _only(given, ("has_id",), place)
            return self._has_id(given["has_id"], f"{place}.has_id")
        return self.filter(given, place)

    def _field(self, given: dict[str, Any], place: str) -> Condition:
        _only(given, ("key", "match", "range"), place)
        key = self._path(given["key"], f"{place}.key")
        match, bounds = given.get("match"), given.get("range")
        if (match is None) == (bounds is None):
            raise _fault(place, "one of match and range beside key")
        if match is not None:
            return self._match(key, match, f"{place}.match")
        return _range(key, bounds, f"{place}.range")

    def _match(self, key: str, given: Any, place: str) -> Match:
        if not isinstance(given, dict) or len(given) != 1:
            raise _fault(place, "one of value and any")
        ((kind, wanted),) = given.items()
        place = f"{place}.{_shown(kind)}"
        if kind == "value":
            return Match(key, self._scalars([wanted], place))
        if kind != "any":
            raise _fault(place, _EXCEPT if kind == "except" else "value or any")
        if not isinstance(wanted, list):
            raise _fault(place, "a list of values")
        return Match(key, self._scalars(wanted, place))

    def _scalars(self, values: list[Any], place: str) -> tuple[Scalar, ...]:
        self._count(values)
        whole = [int(each) if isinstance(each, float) and each.is_integer() else each for each in values]
        if not all(isinstance(each, str | int) for each in whole):
            raise _fault(place, "a text, a whole number, true or false; for fractions use range")
        return tuple(whole)

    def _has_id(self, given: Any, place: str) -> Condition:
        if not isinstance(given, list):
            raise _fault(place, "a list of ids")
        if self._id_key is not None:
            return Match(self._id_key, self._scalars(given, place))
        self._count(given)
        if not all(type(each) is int and 1 <= each <= MAX_SAFE_INTEGER for each in given):
            raise _fault(place, "ids of rows")
        return HasId(tuple(given))

    def _path(self, given: Any, place: str) -> str:
        """The path in our own writing."""
        if isinstance(given, str) and len(given) > MAX_PATH:
            raise _fault(place, f"a path of at most {MAX_PATH} characters")
        keys: list[str] = []
        end, length = 0, len(given) if isinstance(given, str) else 0
        while end < length and (part := _PART.match(given, end)):
            keys.append(part[2] or part[1].replace('""', '"'))
            end = part.end()
            if len(keys) > MAX_PATH_KEYS:
                raise _fault(place, f"a path of at most {MAX_PATH_KEYS} keys")
            if part[3] and (part[3] != "[]" or end < length):
                raise _fault(place, "no place in a list, and [] at the end only: an element is found by its value")
            if end < length:
                if given[end] != "." or end + 1 == length:
                    break
                end += 1
        if not keys or end < length:
            raise _fault(place, 'a path such as createdAt, metadata.topic or metadata."a b"')
        if keys[0] not in self._keys:
            raise _fault(place, f"a path that begins with one of {', '.join(self._keys)}")
        return path(*keys)

    def _count(self, values: list[Any]) -> None:
        self._values += len(values)
        if self._values > MAX_VALUES:
            raise _fault("filter", f"at most {MAX_VALUES} values in all")


def _range(key: str, given: Any, place: str) -> Range:
    if not isinstance(given, dict):
        raise _fault(place, "an object with some of gt, gte, lt and lte")
    _only(given, BOUNDS, place)
    bounds = {name: bound for name, bound in given.items() if bound is not None}
    for name, bound in bounds.items():
        if isinstance(bound, bool) or not isinstance(bound, int | float):
            raise _fault(f"{place}.{name}", "a number")
    return Range(key, **bounds)


def _only(given: dict[str, Any], names: Collection[str], place: str) -> None:
    for name in given:
        if name not in names:
            raise _fault(f"{place}.{_shown(name)}", f"nothing else than {', '.join(names)}")


def _fault(place: str, expected: str) -> InvalidParams:
    return InvalidParams(fields=(FieldError(place, expected),))


def _shown(name: str) -> str:
    return name if len(name) <= MAX_NAME_SHOWN else name[:MAX_NAME_SHOWN] + "..."

"""How filters are asked in the embedded engine. Runs in the index's child only.

Owns the engine's indexes over what `nexusd.index.stored_payload` keeps, and the translation of a filter.
"""

from __future__ import annotations

from typing import Any

import qdrant_edge as edge

from nexusd.index.filters import parsed
from nexusd.index.stored_payload import CREATED_AT, INDEXED_RANGES, TERMS, one_bound_a_side, range_key, term

INDEXED = {
    # Only the kind of question that is asked: every index costs flush time. Mapped rather than built up in
    # memory: loading a shard holds everybody up, and this halves it.
    TERMS: edge.IntegerIndexParams(lookup=True, range=False, memory=edge.Memory.Cached),
    CREATED_AT: edge.IntegerIndexParams(lookup=False, range=True, memory=edge.Memory.Cached),
}


def edge_filter(where: dict[str, Any]) -> edge.Filter:
    """The engine's filter for one that came over the pipe.

    There a condition is a map of its fields (see `nexusd.index.filters`); which one it is shows in them.

    Raises:
        ValueError: a key is no path.
    """
    return edge.Filter(
        must=[_condition(each) for each in where["must"]] or None,
        should=[_condition(each) for each in where["should"]] or None,
        must_not=[_condition(each) for each in where["must_not"]] or None,
    )


def needs_scan(where: dict[str, Any]) -> bool:
    """Whether the filter asks for a range that no index covers: only a scan answers that in full."""
    conditions = [each for kind in ("must", "should", "must_not") for each in where[kind]]
    return any(
        needs_scan(each) if "must" in each else "gt" in each and range_key(parsed(each["key"])) not in INDEXED_RANGES
        for each in conditions
    )


def _condition(fields: dict[str, Any]) -> Any:
    if "must" in fields:
        return edge_filter(fields)
    if "ids" in fields:
        return edge.HasIdCondition({id_ for id_ in fields["ids"] if id_ >= 0})
    path = parsed(fields["key"])
    if "any_of" in fields:
        if not fields["any_of"]:
            return edge.HasIdCondition(set())  # one of none: nothing passes
        terms = [term(path, value) for value in fields["any_of"]]
        return edge.FieldCondition(key=TERMS, match=edge.MatchAny(any=terms))
    return _range(range_key(path), fields)


def _range(key: str, bounds: dict[str, float | None]) -> Any:
    tightest = one_bound_a_side(*(bounds[name] for name in ("gt", "gte", "lt", "lte")))
    if tightest is None:
        return edge.HasIdCondition(set())  # nothing lies in it
    return edge.FieldCondition(key=key, range=edge.RangeFloat(**tightest))

"""How filters are asked of a Qdrant server: over what `nexusd.index.stored_payload` keeps.

Owns the translation into the client library's models, and the guard that a write carries against older ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from qdrant_client import models

from nexusd.index.filters import Condition, Filter, HasId, Match, Range, parsed
from nexusd.index.stored_payload import (
    INDEXED_RANGES,
    TERMS,
    one_bound_a_side,
    range_key,
    term,
    within_64_bits,
)

STAMP = "stamp"


def server_filter(where: Filter) -> models.Filter:
    """The server's filter.

    Raises:
        ValueError: a key is no path.
    """
    return models.Filter(
        must=[_condition(each) for each in where.must] or None,
        should=[_condition(each) for each in where.should] or None,
        must_not=[_condition(each) for each in where.must_not] or None,
    )


def needs_scan(where: Filter) -> bool:
    """Whether the filter asks for a range that no index covers: only a scan answers that in full."""
    return any(
        needs_scan(each)
        if isinstance(each, Filter)
        else isinstance(each, Range) and range_key(parsed(each.key)) not in INDEXED_RANGES
        for each in (*where.must, *where.should, *where.must_not)
    )


def not_newer(stamp: int, ids: Sequence[int] | None = None) -> models.Filter:
    """Points, of these ids or any, that no write with this stamp or a higher one has made."""
    newer = models.FieldCondition(key=STAMP, range=models.Range(gte=stamp))
    return models.Filter(
        must=None if ids is None else [models.HasIdCondition(has_id=list(ids))], must_not=[newer]
    )


def _condition(condition: Condition) -> models.Condition:
    if isinstance(condition, Filter):
        return server_filter(condition)
    if isinstance(condition, HasId):
        return models.HasIdCondition(has_id=[id_ for id_ in condition.ids if id_ >= 0])
    path = parsed(condition.key)
    if isinstance(condition, Match):
        if not condition.any_of:
            return _nothing()  # one of none
        terms = [term(path, value) for value in within_64_bits(condition.any_of) if value is not None]
        return models.FieldCondition(key=TERMS, match=models.MatchAny(any=terms))
    bounds = one_bound_a_side(condition.gt, condition.gte, condition.lt, condition.lte)
    return _nothing() if bounds is None else models.FieldCondition(key=range_key(path), range=models.Range(**bounds))


def _nothing() -> models.Condition:
    return models.HasIdCondition(has_id=[])

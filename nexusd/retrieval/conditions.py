"""A search's filter as conditions over the index's payload; the counterpart of the store's SQL."""

from __future__ import annotations

from collections.abc import Sequence

from nexusd.index.filters import Condition, Filter, Match, Range, path
from nexusd.model.memory import MemoryFilter, MessageFilter
from nexusd.retrieval.times import Span


def index_filter(where: MemoryFilter) -> Filter | None:
    """The filter over points; None if everything passes."""
    must: list[Condition] = []
    if where.session_id is not None:
        must.append(Match("sessionId", (where.session_id,)))
    if where.project_id is not None:
        must.append(Match("projectId", (where.project_id,)))
    if isinstance(where, MessageFilter) and where.conversation_id is not None:
        must.append(Match("conversationId", (where.conversation_id,)))
    if where.since is not None or where.until is not None:
        must.append(Range("createdAt", gte=where.since, lt=where.until))
    must += (Match(path("metadata", key), (value,)) for key, value in where.metadata.items())
    return Filter(must=tuple(must)) if must else None


def within_spans(where: Filter | None, spans: Sequence[Span]) -> Filter:
    """The filter, and created within any of the spans."""
    then = Filter(should=tuple(Range("createdAt", gte=span.start_ms, lt=span.end_ms) for span in spans))
    return Filter(must=(*(where.must if where is not None else ()), then))

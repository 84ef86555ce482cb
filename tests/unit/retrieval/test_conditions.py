from __future__ import annotations

from nexusd.index.filters import Filter, Match, Range
from nexusd.model.memory import MemoryFilter, MessageFilter
from nexusd.retrieval.conditions import index_filter


def test_no_filter_asks_for_no_condition() -> None:
    assert index_filter(MemoryFilter()) is None


def test_every_part_of_a_filter_becomes_a_condition() -> None:
    metadata: dict[str, str | int | bool] = {"room": "hall", "a.b": True}
    where = MemoryFilter(session_id=3, project_id=4, since=0, until=900, metadata=metadata)
    assert index_filter(where) == Filter(
        must=(
            Match("sessionId", (3,)),
            Match("projectId", (4,)),
            Range("createdAt", gte=0, lt=900),
            Match("metadata.room", ("hall",)),
            Match('metadata."a.b"', (True,)),
        )
    )


def test_one_bound_of_time_is_enough() -> None:
    assert index_filter(MemoryFilter(until=5)) == Filter(must=(Range("createdAt", lt=5),))


def test_messages_are_asked_for_by_their_conversation() -> None:
    assert index_filter(MessageFilter(conversation_id=7)) == Filter(must=(Match("conversationId", (7,)),))
    assert index_filter(MessageFilter()) is None

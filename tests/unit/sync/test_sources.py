"""What the index is told of a row."""

from __future__ import annotations

from typing import Any

import pytest

from nexusd.store.sources import EntitySource, MessageSource, SummarySource, VectorSource
from nexusd.sync.sources import (
    MAX_FILTERABLE,
    Document,
    entity_document,
    message_document,
    summary_document,
    vector_document,
)


def entity(notes: str | None = None, metadata: dict[str, Any] | None = None) -> Document:
    return entity_document(EntitySource(1, 2, "Ada", "person", notes, metadata or {}, 9), "e")


@pytest.mark.parametrize(
    ("notes", "text"), [(None, "Ada (person)"), ("", "Ada (person)"), ("likes tea", "Ada (person)\nlikes tea")]
)
def test_an_entity_is_its_name_its_type_and_what_is_noted_of_it(notes: str | None, text: str) -> None:
    assert entity(notes).text == text
    assert entity().payload == {"name": "Ada", "type": "person", "createdAt": 9, "epoch": "e", "metadata": {}}


def test_a_message_says_who_speaks() -> None:
    document = message_document(MessageSource(1, 2, 7, "assistant", "more tea?", {"n": 1}, 9), "e")
    assert (document.text, document.blank) == ("assistant: more tea?", False)
    assert document.payload == {
        "conversationId": 7, "role": "assistant", "createdAt": 9, "epoch": "e", "metadata": {"n": 1},
    }


@pytest.mark.parametrize("content", ["", " ", "\n\t", "\u00a0\u2003"])
def test_a_message_of_white_space_is_blank_whoever_speaks(content: str) -> None:
    assert message_document(MessageSource(1, 2, 7, "user", content, {}, 9), "e").blank
    assert summary_document(SummarySource(1, 2, 7, None, content, {}, 9), "e").blank


def test_a_text_brings_its_own_vector_and_id() -> None:
    document = vector_document(VectorSource(1, 2, "key", "", b"1234", "a model", {}, 9), "e")
    assert (document.vector, document.payload["id"], document.blank) == (b"1234", "key", True)


def test_metadata_keeps_what_a_filter_can_ask_for() -> None:
    metadata = {
        "text": "a", "whole": 1.0, "part": 0.5, "yes": True, "none": None,
        "list": ["a", 2.0, None, {"deep": 1}, [1]], "in": {"room": "hall", "deeper": {"n": 1}},
    }
    assert entity(metadata=metadata).payload["metadata"] == {
        "text": "a", "whole": 1, "part": 0.5, "yes": True,
        "list": ["a", 2], "in": {"room": "hall", "deeper": {"n": 1}},
    }
    assert isinstance(entity(metadata=metadata).payload["metadata"]["whole"], int)


def test_swollen_metadata_keeps_its_outermost_entries() -> None:
    metadata = {"deep": {str(n): n for n in range(5000)}, "list": list(range(MAX_FILTERABLE - 10)), "topic": "tea"}
    kept = entity(metadata=metadata).payload["metadata"]
    assert kept["topic"] == "tea"
    assert len(kept["list"]) == MAX_FILTERABLE - 10
    assert len(kept["deep"]) == 9

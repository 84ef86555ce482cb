"""What the index needs of the rows of entities, summaries, messages and vectors: their texts and what filters ask.

Owns these four reads and no table. Rows that are gone are left out, in no order. Knows neither the wording of
the texts nor the keys of the payloads: `sync/sources` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from nexusd.store.connection import Connection

# entities to be embedded
SELECT_ENTITY_SOURCES = """
SELECT id, version, name, type, notes, metadata, created_at FROM entities
WHERE id IN (SELECT value FROM json_each(?))"""

# summaries to be embedded, with the project that their points carry
SELECT_SUMMARY_SOURCES = """
SELECT m.id, m.version, m.session_id, s.project_id, m.content, m.metadata, m.created_at
FROM summaries m JOIN sessions s ON s.id = m.session_id
WHERE m.id IN (SELECT value FROM json_each(?))"""

# messages to be embedded
SELECT_MESSAGE_SOURCES = """
SELECT id, version, conversation_id, role, content, metadata, created_at FROM messages
WHERE id IN (SELECT value FROM json_each(?))"""

# texts to be embedded, or with the caller's own embedding
SELECT_VECTOR_SOURCES = """
SELECT id, version, key, text, embedding, embedding_model, metadata, created_at FROM vectors
WHERE id IN (SELECT value FROM json_each(?))"""


@dataclass(frozen=True, slots=True)
class EntitySource:
    """An entity as the index needs it."""

    id: int
    version: int
    name: str
    type: str
    notes: str | None
    metadata: dict[str, Any]
    created_at: int


@dataclass(frozen=True, slots=True)
class SummarySource:
    """A summary as the index needs it."""

    id: int
    version: int
    session_id: int
    project_id: int | None
    content: str
    metadata: dict[str, Any]
    created_at: int


@dataclass(frozen=True, slots=True)
class MessageSource:
    """A message as the index needs it."""

    id: int
    version: int
    conversation_id: int
    role: str
    content: str
    metadata: dict[str, Any]
    created_at: int


@dataclass(frozen=True, slots=True)
class VectorSource:
    """A text under a caller's own id, as the index needs it. `embedding`: float32, the caller's own for one model."""

    id: int
    version: int
    key: str | int
    text: str
    embedding: bytes | None
    embedding_model: str | None
    metadata: dict[str, Any]
    created_at: int


def select_entity_sources(db: Connection, ids: Sequence[int]) -> list[EntitySource]:
    """Those of the entities that are there."""
    return [
        EntitySource(row_id, version, name, type_, notes, msgspec.json.decode(metadata), created_at)
        for row_id, version, name, type_, notes, metadata, created_at
        in db.execute(SELECT_ENTITY_SOURCES, (_json(ids),))
    ]


def select_summary_sources(db: Connection, ids: Sequence[int]) -> list[SummarySource]:
    """Those of the summaries that are there."""
    return [
        SummarySource(row_id, version, session_id, project_id, content, msgspec.json.decode(metadata), created_at)
        for row_id, version, session_id, project_id, content, metadata, created_at
        in db.execute(SELECT_SUMMARY_SOURCES, (_json(ids),))
    ]


def select_message_sources(db: Connection, ids: Sequence[int]) -> list[MessageSource]:
    """Those of the messages that are there."""
    return [
        MessageSource(row_id, version, conversation_id, role, content, msgspec.json.decode(metadata), created_at)
        for row_id, version, conversation_id, role, content, metadata, created_at
        in db.execute(SELECT_MESSAGE_SOURCES, (_json(ids),))
    ]


def select_vector_sources(db: Connection, ids: Sequence[int]) -> list[VectorSource]:
    """Those of the texts that are there."""
    return [
        VectorSource(row_id, version, key, text, embedding, model, msgspec.json.decode(metadata), created_at)
        for row_id, version, key, text, embedding, model, metadata, created_at
        in db.execute(SELECT_VECTOR_SOURCES, (_json(ids),))
    ]


def _json(ids: Sequence[int]) -> str:
    return msgspec.json.encode(ids).decode()

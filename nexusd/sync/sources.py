"""How a row becomes what the index holds of it: the text that is embedded, and the payload.

Owns the wording of the texts and the payload's keys. Knows neither the embedder nor the index's backend.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import apsw

from nexusd.store.episodes import EpisodeSource, select_episode_sources
from nexusd.store.sources import (
    EntitySource,
    MessageSource,
    SummarySource,
    VectorSource,
    select_entity_sources,
    select_message_sources,
    select_summary_sources,
    select_vector_sources,
)

CONTENT_HASH_BYTES = 16  # 128 bits: two texts that collide would share a vector
MAX_FILTERABLE = 1024  # entries of one row's metadata that a filter can ask for: the index finds no more either


@dataclass(frozen=True, slots=True)
class Document:
    """A row as the index will hold it. `vector` is the caller's own, and means something to `vector_model` alone."""

    id: int
    version: int
    text: str
    payload: dict[str, Any]
    vector: bytes | None = None
    vector_model: str | None = None

    @property
    def content_hash(self) -> bytes:
        """Tells whether a stored vector still belongs to the text."""
        return content_hash(self.text)

    @property
    def blank(self) -> bool:
        """Whether there is nothing to embed: every blank text would be as near to all questions as any other."""
        return is_blank(self.text)


DocumentLoader = Callable[[apsw.Connection, Sequence[int], str], list[Document]]


def content_hash(text: str) -> bytes:
    """What a stored vector keeps of the text that it is of."""
    return hashlib.blake2b(text.encode(), digest_size=CONTENT_HASH_BYTES).digest()


def is_blank(text: str) -> bool:
    """Whether there is nothing in it to embed."""
    return not text.strip()


def episode_text(user_message: str, ai_response: str) -> str:
    """What is embedded of an exchange."""
    return f"User: {user_message}\nAssistant: {ai_response}"


def entity_text(name: str, type_: str, notes: str | None) -> str:
    """What is embedded of an entity."""
    heading = f"{name} ({type_})"
    return f"{heading}\n{notes}" if notes else heading


def message_text(role: str, content: str) -> str:
    """What is embedded of a message; one of white space has no text."""
    return f"{role}: {content}" if content.strip() else ""


def plain_text(text: str) -> str:
    """What is embedded of a row that is a text and nothing else."""
    return text


def load_episode_documents(db: apsw.Connection, ids: Sequence[int], epoch: str) -> list[Document]:
    """The exchanges of these ids that exist now."""
    return [episode_document(source, epoch) for source in select_episode_sources(db, ids)]


def load_entity_documents(db: apsw.Connection, ids: Sequence[int], epoch: str) -> list[Document]:
    """The entities of these ids that exist now."""
    return [entity_document(source, epoch) for source in select_entity_sources(db, ids)]


def load_summary_documents(db: apsw.Connection, ids: Sequence[int], epoch: str) -> list[Document]:
    """The summaries of these ids that exist now."""
    return [summary_document(source, epoch) for source in select_summary_sources(db, ids)]


def load_message_documents(db: apsw.Connection, ids: Sequence[int], epoch: str) -> list[Document]:
    """The messages of these ids that exist now."""
    return [message_document(source, epoch) for source in select_message_sources(db, ids)]


def load_vector_documents(db: apsw.Connection, ids: Sequence[int], epoch: str) -> list[Document]:
    """The stored texts of these ids (the rows', not the callers') that exist now."""
    return [vector_document(source, epoch) for source in select_vector_sources(db, ids)]


def episode_document(source: EpisodeSource, epoch: str) -> Document:
    """An exchange: both sides in one text; in the payload what searches filter by."""
    return Document(
        id=source.id,
        version=source.version,
        text=episode_text(source.user_message, source.ai_response),
        payload={
            "sessionId": source.session_id,
            "projectId": source.project_id,
            "createdAt": source.created_at,
            "epoch": epoch,
            "metadata": _filterable(source.metadata),
        },
    )


def entity_document(source: EntitySource, epoch: str) -> Document:
    """An entity: its name and what kind of thing it is, and the notes on it."""
    return Document(
        id=source.id,
        version=source.version,
        text=entity_text(source.name, source.type, source.notes),
        payload={
            "name": source.name,
            "type": source.type,
            "createdAt": source.created_at,
            "epoch": epoch,
            "metadata": _filterable(source.metadata),
        },
    )


def summary_document(source: SummarySource, epoch: str) -> Document:
    """A summary: its content, under the session and project that it belongs to."""
    return Document(
        id=source.id,
        version=source.version,
        text=source.content,
        payload={
            "sessionId": source.session_id,
            "projectId": source.project_id,
            "createdAt": source.created_at,
            "epoch": epoch,
            "metadata": _filterable(source.metadata),
        },
    )


def message_document(source: MessageSource, epoch: str) -> Document:
    """A message: who speaks is part of the text, as in an exchange; a message of white space has no text."""
    return Document(
        id=source.id,
        version=source.version,
        text=message_text(source.role, source.content),
        payload={
            "conversationId": source.conversation_id,
            "role": source.role,
            "createdAt": source.created_at,
            "epoch": epoch,
            "metadata": _filterable(source.metadata),
        },
    )


def vector_document(source: VectorSource, epoch: str) -> Document:
    """A text under a caller's own id, which is in the payload too: points are numbered by rows."""
    return Document(
        id=source.id,
        version=source.version,
        text=source.text,
        payload={
            "id": source.key,
            "createdAt": source.created_at,
            "epoch": epoch,
            "metadata": _filterable(source.metadata),
        },
        vector=source.embedding,
        vector_model=source.embedding_model,
    )


def _filterable(metadata: dict[str, Any]) -> dict[str, Any]:
    """What a filter can ask for: texts, numbers and booleans, in objects and lists too, the outermost first.

    1.0 is 1, as in SQL and JSON.
    """
    kept: dict[str, Any] = {}
    room = MAX_FILTERABLE
    waiting: deque[tuple[dict[str, Any], dict[str, Any]]] = deque([(metadata, kept)])
    while waiting and room > 0:
        entries, found = waiting.popleft()
        for key, value in entries.items():
            if room <= 0:
                break
            if isinstance(value, dict):
                waiting.append((value, found.setdefault(key, {})))
            elif isinstance(value, list):
                found[key] = [_scalar(each) for each in value[:room] if isinstance(each, str | int | float)]
                room -= len(found[key])
            elif isinstance(value, str | int | float):
                found[key] = _scalar(value)
                room -= 1
    return kept


def _scalar(value: str | float) -> str | float:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# Every collection that is kept in the index, by its logical name.
LOADERS: dict[str, DocumentLoader] = {
    "episodes": load_episode_documents,
    "entities": load_entity_documents,
    "summaries": load_summary_documents,
    "messages": load_message_documents,
    "vectors": load_vector_documents,
}


# What is embedded, from the columns that `store/verifying` reads of a row.
TEXTS: dict[str, Callable[..., str]] = {
    "episodes": episode_text,
    "entities": entity_text,
    "summaries": plain_text,
    "messages": message_text,
    "vectors": plain_text,
}


def current_payloads(db: apsw.Connection, collection: str, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """The payloads that the rows of these ids will have in the index, as they are now."""
    return {document.id: document.payload for document in LOADERS[collection](db, ids, "")}

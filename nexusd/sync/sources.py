"""How a row becomes what the index holds of it: the text that is embedded, and the payload.

Owns the wording of the texts and the payload's keys. Knows neither the embedder nor the index's backend.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import apsw

from nexusd.store.episodes import EpisodeSource, select_episode_sources

CONTENT_HASH_BYTES = 16  # 128 bits: two texts that collide would share a vector


@dataclass(frozen=True, slots=True)
class Document:
    """A row as the index will hold it."""

    id: int
    version: int
    text: str
    payload: dict[str, Any]

    @property
    def content_hash(self) -> bytes:
        """Tells whether a stored vector still belongs to the text."""
        return hashlib.blake2b(self.text.encode(), digest_size=CONTENT_HASH_BYTES).digest()


DocumentLoader = Callable[[apsw.Connection, Sequence[int], str], list[Document]]


def load_episode_documents(db: apsw.Connection, ids: Sequence[int], epoch: str) -> list[Document]:
    """The exchanges of these ids that exist now."""
    return [episode_document(source, epoch) for source in select_episode_sources(db, ids)]


def episode_document(source: EpisodeSource, epoch: str) -> Document:
    """An exchange: both sides in one text; in the payload what searches filter by."""
    return Document(
        id=source.id,
        version=source.version,
        text=f"User: {source.user_message}\nAssistant: {source.ai_response}",
        payload={
            "sessionId": source.session_id,
            "projectId": source.project_id,
            "createdAt": source.created_at,
            "epoch": epoch,
            "metadata": _filterable(source.metadata),
        },
    )


def _filterable(metadata: dict[str, Any]) -> dict[str, str | int | bool]:
    """What a filter can ask for: equality of top-level strings, integers (1.0 is 1, as in SQL) and booleans."""
    found = {}
    for key, value in metadata.items():
        if isinstance(value, str | int):
            found[key] = value
        elif isinstance(value, float) and value.is_integer():
            found[key] = int(value)
    return found


# Every collection that is kept in the index, by its logical name.
LOADERS: dict[str, DocumentLoader] = {"episodes": load_episode_documents}

"""What the rest of the daemon asks of an embedding model or service.

Owns the protocol, and what of a text can be sent at all. A vector is `bytes`: float32, little-endian, of unit
length where the model normalises.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from nexusd.errors import BadContent, EmbedderUnavailable

if TYPE_CHECKING:
    from nexusd.embedding.query_cache import QueryCache

Vector = bytes


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What makes vectors comparable: two with equal fingerprints may be searched together."""

    provider: str
    model: str
    dimension: int
    prefix: str = ""

    @property
    def short(self) -> str:
        """Twelve hex digits that name physical collections and key stored vectors."""
        text = f"{self.provider}\n{self.model}\n{self.dimension}\n{self.prefix}"
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class RejectedText(BadContent):
    """The model will never embed this text. `position` is its place in the batch."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


class EmbedderDied(EmbedderUnavailable):
    """The model's process ended while it had these very texts: one of them may be why."""


@dataclass(frozen=True, slots=True)
class EmbedderHealth:
    """Whether the embedder answers, why not; `loaded` is false until the first text was asked for."""

    state: Literal["idle", "ready", "unavailable"]
    detail: str
    restarts: int = 0
    process_ids: tuple[int, ...] = ()


class Embedder(Protocol):
    """An embedding model. Both embed methods raise EmbedderUnavailable when it cannot answer now."""

    @property
    def fingerprint(self) -> Fingerprint:
        """Known before the model is loaded."""

    @property
    def queries(self) -> QueryCache:
        """The vectors of recent queries."""

    async def start(self) -> None:
        """Begin; does not load the model and does not fail because a service is down."""

    async def close(self) -> None:
        """Stop."""

    async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        """One vector a text, in order. Background work: it yields to queries.

        Raises:
            RejectedText: one text can never be embedded; the others were not embedded either.
        """

    async def embed_query(self, text: str) -> Vector:
        """The vector of a search query; overtakes documents, and repeated queries cost nothing."""

    def health(self) -> EmbedderHealth:
        """The state as last seen; never waits."""


@runtime_checkable
class TokenTeller(Protocol):
    """An embedder that tells what words cost in its model's own tokens. Not every one can: a service tells nobody."""

    async def count_tokens(self, words: Sequence[str]) -> list[int]:
        """What each word costs; 0 for one that the model's tokenizer does not know.

        Raises:
            EmbedderUnavailable: it cannot tell now.
        """


def cut_text(text: str, limit: int, position: int = 0) -> str:
    """As much of a text as a model may read; `position` is its place in the batch.

    Raises:
        RejectedText: half a surrogate pair, which no encoding carries.
    """
    cut = text[:limit]
    try:
        cut.encode()
    except UnicodeEncodeError:
        raise RejectedText("the text is not valid Unicode", position) from None
    return cut

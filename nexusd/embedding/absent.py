"""An embedding model that cannot be asked: what it was is known, and why it is not there.

Owns nothing but those words. It stands in for the model that serves, so that everything else goes on as with a model
that is away: words are searched, rows wait.
"""

from __future__ import annotations

from collections.abc import Sequence

from nexusd.embedding.embedder import EmbedderHealth, Fingerprint, Vector
from nexusd.embedding.query_cache import QueryCache
from nexusd.errors import EmbedderUnavailable


class AbsentEmbedder:
    """An `Embedder` that never answers."""

    def __init__(self, fingerprint: Fingerprint, reason: str) -> None:
        self._fingerprint = fingerprint
        self._reason = reason
        self.queries = QueryCache(0, self.embed_query)

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the model that is not there."""
        return self._fingerprint

    async def start(self) -> None:
        """Nothing to start."""

    async def close(self) -> None:
        """Nothing to stop."""

    async def embed_documents(self, _texts: Sequence[str]) -> list[Vector]:
        """Never.

        Raises:
            EmbedderUnavailable: always.
        """
        raise EmbedderUnavailable(self._reason)

    async def embed_query(self, _text: str) -> Vector:
        """Never.

        Raises:
            EmbedderUnavailable: always.
        """
        raise EmbedderUnavailable(self._reason)

    def health(self) -> EmbedderHealth:
        """Why not."""
        return EmbedderHealth("unavailable", self._reason)

"""An honest embedding model for tests: no process, no weights, the same protocol.

Words are hashed to random directions that are added up and normalised, so texts that share words are near and
equal texts are equal. It passes the contract tests that the real one passes.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

from nexusd.embedding.embedder import EmbedderHealth, Fingerprint, RejectedText, Vector
from nexusd.embedding.query_cache import QueryCache
from nexusd.errors import EmbedderUnavailable

_WORD = re.compile(r"\w+")


class FakeEmbedder:
    """Switches: `unavailable` (a reason, or "") with `retry_after_ms`, `rejected` (texts), `gate` (an Event that
    calls wait for).

    `document_calls` and `query_calls` record what reached the model, which a cached query does not.
    """

    def __init__(self, dimension: int = 32, *, rejected: Iterable[str] = (), model: str = "fake") -> None:
        self._fingerprint = Fingerprint("fake", model, dimension)
        self.rejected = set(rejected)
        self.unavailable = ""
        self.retry_after_ms: int | None = None
        self.gate: asyncio.Event | None = None
        self.document_calls: list[list[str]] = []
        self.query_calls: list[str] = []
        self.started = False
        self.closed = False
        self._queries: dict[str, Vector] = {}
        self.queries = QueryCache(0, self.embed_query)  # for the figures alone

    @property
    def fingerprint(self) -> Fingerprint:
        return self._fingerprint

    async def start(self) -> None:
        self.started = True

    async def close(self) -> None:
        self.closed = True

    async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        self.document_calls.append(list(texts))
        await self._answerable()
        return [self._vector(text, position) for position, text in enumerate(texts)]

    async def embed_query(self, text: str) -> Vector:
        if text not in self._queries:
            self.query_calls.append(text)
            await self._answerable()
            self._queries[text] = self._vector(text, 0)
        return self._queries[text]

    def health(self) -> EmbedderHealth:
        if self.closed:
            return EmbedderHealth("unavailable", "stopped")
        if self.unavailable:
            return EmbedderHealth("unavailable", self.unavailable)
        if not (self.document_calls or self.query_calls):
            return EmbedderHealth("idle", "not asked yet")
        return EmbedderHealth("ready", "")

    async def _answerable(self) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.closed or self.unavailable:
            raise EmbedderUnavailable(
                self.unavailable or "the embedding model is stopping", retry_after_ms=self.retry_after_ms
            )

    def vector_of(self, text: str) -> Vector:
        """The vector of a text, whatever switches are set."""
        return struct.pack(f"<{self._fingerprint.dimension}f", *text_vector(text, self._fingerprint.dimension))

    def _vector(self, text: str, position: int) -> Vector:
        if text in self.rejected or any("\ud800" <= character <= "\udfff" for character in text):
            raise RejectedText("the model refuses this text", position)
        return self.vector_of(text)


def text_vector(text: str, dimension: int) -> list[float]:
    """The vector of a text, of unit length."""
    # the empty word gives every text a direction, an empty one too
    words = Counter(["", *_WORD.findall(text.lower())])
    total = [0.0] * dimension
    for word, times in words.items():
        weight = float(times) if word else 0.01
        for axis, value in enumerate(_direction(word, dimension)):
            total[axis] += weight * value
    length = math.sqrt(sum(value * value for value in total))
    return [value / length for value in total]


@lru_cache(maxsize=4096)
def _direction(word: str, dimension: int) -> list[float]:
    """A word's own direction; two words' are nearly at a right angle."""
    seed = hashlib.shake_256(word.encode()).digest(2 * dimension)
    return [number / 32768 for (number,) in struct.iter_unpack("<h", seed)]


class TellingEmbedder(FakeEmbedder):
    """One that tells what words cost: a token for three letters begun; 0, not known, for those of `unknown`.

    `asked` records the words of each call.
    """

    def __init__(self, *, unknown: Iterable[str] = (), model: str = "fake") -> None:
        super().__init__(model=model)
        self.unknown = set(unknown)
        self.asked: list[list[str]] = []

    async def count_tokens(self, words: Sequence[str]) -> list[int]:
        self.asked.append(list(words))
        await self._answerable()
        return [0 if word in self.unknown else -(-len(word) // 3) for word in words]

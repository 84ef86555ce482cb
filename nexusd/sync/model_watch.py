"""Whether the embedding model still is the one that it was.

Owns a sentence whose vector is noted in the store when the model is first asked for it, and the comparison with what
the model answers later. A service that serves other weights under the same name changes no fingerprint, and its vectors
mean nothing beside the older ones. Knows no part that embeds for another reason.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
from array import array

import structlog

from nexusd.embedding.serving import KeyedModel, Serving
from nexusd.errors import BadContent, EmbedderUnavailable
from nexusd.store.database import Database
from nexusd.store.meta import get_meta, set_meta

SENTENCE = "The kettle sings on the stove while the cat sleeps in the sun, and someone is late for the train."
PATIENCE_S = 60.0  # the built-in model may have to be loaded first; nobody waits for this but a verification
# The same weights on another processor or runtime answer 0.99 and more, quantised anew 0.97, others anything.
ALIKE = 0.95


def _noted(key: str) -> str:
    return f"sentence.{key}"


class ModelWatch:
    """Looks at the model that serves, and remembers what it saw last."""

    def __init__(self, store: Database, serving: Serving) -> None:
        self._store = store
        self._serving = serving
        self._looked: tuple[KeyedModel, float] | None = None
        self._log = structlog.get_logger("nexusd.embedding")

    @property
    def similarity(self) -> float | None:
        """How alike the last vector was to the noted one, 1 for the same; None before this model was asked."""
        if self._looked is None or self._looked[0] is not self._serving.model:
            return None
        return self._looked[1]

    @property
    def changed(self) -> bool:
        """Whether another model answers under the name of the one that embedded the rows."""
        return self.similarity is not None and self.similarity < ALIKE

    async def look(self) -> float | None:
        """Ask the model for the sentence, and compare; None if it does not answer.

        Raises:
            Busy, DiskFull, ReadOnly: the store takes nothing now.
        """
        model = self._serving.model
        try:
            async with asyncio.timeout(PATIENCE_S):
                (vector,) = await model.embedder.embed_documents([SENTENCE])
        except (EmbedderUnavailable, BadContent, TimeoutError):
            return None
        noted = _read(await self._store.read(get_meta, _noted(model.key)))
        if len(noted) != len(vector):  # none, or not readable
            await self._store.write(set_meta, _noted(model.key), base64.b64encode(vector).decode())
            noted = vector
        before = self.changed
        self._looked = (model, round(cosine(noted, vector), 4))
        if self.changed and not before:
            self._log.error(
                "the embedding model answers with other vectors than before; embed everything again: "
                "nexusctl index reembed --force",
                model=model.embedder.fingerprint.model, similarity=self._looked[1],
            )
        return self._looked[1]


def cosine(one: bytes, other: bytes) -> float:
    """The cosine of the angle between two vectors of one dimension; 0 for one of no length."""
    left, right = array("f", one), array("f", other)
    lengths = math.hypot(*left) * math.hypot(*right)
    if not lengths or not math.isfinite(lengths):
        return 0.0
    return sum(a * b for a, b in zip(left, right, strict=True)) / lengths


def _read(noted: str | None) -> bytes:
    try:
        return base64.b64decode(noted or "", validate=True)
    except binascii.Error:
        return b""

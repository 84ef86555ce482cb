"""Which embedding model answers searches now, and what its vectors are kept under.

Owns the pair of a model and its key, and the one place that says which pair serves. The key names the physical
collections of the index and the stored vectors, so vectors of two models never meet: whoever embeds a query takes the
pair once and asks the collections of that very pair, whatever begins to serve meanwhile. Knows no store and no index.
"""

from __future__ import annotations

from dataclasses import dataclass

from nexusd.embedding.embedder import Embedder


@dataclass(frozen=True, slots=True)
class KeyedModel:
    """An embedder, and the key that its vectors are kept under: the fingerprint's short form, or one made of it."""

    key: str
    embedder: Embedder

    def physical(self, collection: str) -> str:
        """The collection of the index that holds this model's vectors of a logical one."""
        return f"{collection}-{self.key}"


class Serving:
    """The model that serves. It changes when another has everything that this one has."""

    def __init__(self, model: KeyedModel) -> None:
        self._model = model

    @property
    def model(self) -> KeyedModel:
        """Take it once for each question."""
        return self._model

    def adopt(self, model: KeyedModel) -> None:
        """Questions asked from now on go to this one."""
        self._model = model

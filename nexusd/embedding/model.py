"""What the child process asks of a model that it has loaded. Owns the protocol and its two ways to fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from nexusd.embedding.embedder import Vector
from nexusd.errors import NexusError


class ModelUnavailable(NexusError):
    """The model cannot be loaded or does not run; the message says why and what to do."""


class TextRefused(NexusError):
    """The model cannot embed the text at `position`, though it can embed others."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.position = position


class Model(Protocol):
    """A loaded model. Several threads may call `embed` at once; each call computes in its caller's."""

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """One vector a text, in order.

        Raises:
            TextRefused: one text cannot be embedded.
            ModelUnavailable: none can, at the moment.
        """

    def count_tokens(self, words: Sequence[str]) -> list[int]:
        """What each word costs in the model's own tokens; 0 for one that its tokenizer does not know."""

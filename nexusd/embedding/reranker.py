"""What a search asks of a reranker: a model that reads the query and a text together and says how well they fit.

Owns the protocol, its one way to fail, and which reranker the settings choose. Imports the HTTP client only where it is
wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from nexusd.clock import Clock
from nexusd.config_sections import RerankConfig
from nexusd.errors import NexusError


class RerankerUnavailable(NexusError):
    """It cannot say anything now; the first order serves."""


@dataclass(frozen=True, slots=True)
class RerankerHealth:
    """How it was when last seen; `idle`: nobody asked it yet."""

    state: Literal["idle", "loading", "ready", "unavailable"]
    detail: str
    restarts: int = 0
    process_ids: tuple[int, ...] = ()


class Reranker(Protocol):
    """A second opinion on the best hits. It has no state that a search could wait for: it answers in time or not."""

    async def start(self) -> None:
        """Begin to load, where there is something to load; does not fail."""

    async def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """How well each text fits the query, in order; higher is better. May be cancelled at any time.

        Raises:
            RerankerUnavailable: it cannot.
        """

    def health(self) -> RerankerHealth:
        """The state as last seen; never waits."""

    async def close(self) -> None:
        """Stop."""


def make_reranker(config: RerankConfig, clock: Clock) -> Reranker | None:
    """The reranker of `search.rerank`, not started; None where it is off."""
    if config.provider == "onnx":
        from nexusd.embedding.local_reranker import LocalReranker  # noqa: PLC0415  off by default

        return LocalReranker(config, clock)
    if config.provider == "http":
        from nexusd.embedding.http_reranker import HttpReranker  # noqa: PLC0415

        return HttpReranker(config)
    return None

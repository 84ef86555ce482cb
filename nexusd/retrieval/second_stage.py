"""The second stage of a search: a reranker reads the best hits, if it is quick enough.

Owns the deadline, and that a reranker which is late or away changes nothing but `degraded`. Knows no model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from nexusd.embedding.reranker import Reranker, RerankerUnavailable
from nexusd.model.entities import Entity
from nexusd.model.episodes import Episode
from nexusd.model.memory import MemoryHit, MemoryRecord


class SecondStage:
    """A reranker with its deadline. `candidates` is how many of the best hits it reads."""

    def __init__(self, reranker: Reranker, *, candidates: int, deadline_s: float) -> None:
        self.candidates = candidates
        self._reranker = reranker
        self._deadline_s = deadline_s

    async def reorder(self, query: str, hits: Sequence[MemoryHit]) -> tuple[list[MemoryHit], bool]:
        """The hits as the reranker orders them, each with its score; as they were, and False, where it is late.

        Equal ones keep their order.
        """
        if not hits:
            return [], True
        try:
            async with asyncio.timeout(self._deadline_s):
                scores = await self._reranker.score(query, [text_of(hit.record) for hit in hits])
        except (RerankerUnavailable, TimeoutError):
            return list(hits), False
        ordered = sorted(zip(scores, hits, strict=True), key=lambda pair: -pair[0])
        return [_with_score(hit, score) for score, hit in ordered], True


def text_of(record: MemoryRecord) -> str:
    """What a memory says, in plain."""
    if isinstance(record, Episode):
        return f"{record.user_message}\n{record.ai_response}"
    if isinstance(record, Entity):
        return f"{record.name} ({record.type}) {record.notes or ''}"
    return record.content


def _with_score(hit: MemoryHit, score: float) -> MemoryHit:
    explain = None if hit.explain is None else msgspec.structs.replace(hit.explain, reranked=score)
    return msgspec.structs.replace(hit, score=score, explain=explain)

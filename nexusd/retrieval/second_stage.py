"""The second stage of a search: a reranker reads the best hits, if it is quick enough.

Owns the deadline, that a reranker which is late or away changes nothing but `degraded`, and the count of how often that
happens. Knows no model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from nexusd.clock import Clock
from nexusd.embedding.reranker import Reranker, RerankerHealth, RerankerUnavailable
from nexusd.model.entities import Entity
from nexusd.model.episodes import Episode
from nexusd.model.memory import MemoryHit, MemoryRecord

ALWAYS_LATE = 5     # searches one after the other: fewer are a machine that had much to do


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong, and when."""

    detail: str
    at_ms: int


class SecondStage:
    """A reranker with its deadline. `candidates` is how many of the best hits it reads.

    What became of the searches that it was asked for is in `in_time`, `late` and `failed`.
    """

    def __init__(self, reranker: Reranker, clock: Clock, *, candidates: int, deadline_s: float) -> None:
        self.candidates = candidates
        self.deadline_s = deadline_s
        self.in_time = 0
        self.late = 0
        self.failed = 0
        self.last_failure: Failure | None = None
        self._late_in_a_row = 0
        self._reranker = reranker
        self._clock = clock

    async def reorder(self, query: str, hits: Sequence[MemoryHit]) -> tuple[list[MemoryHit], bool]:
        """The hits as the reranker orders them, each with its score; as they were, and False, where it is late.

        Equal ones keep their order.
        """
        if not hits:
            return [], True
        try:
            async with asyncio.timeout(self.deadline_s):
                scores = await self._reranker.score(query, [text_of(hit.record) for hit in hits])
        except TimeoutError:
            self.late += 1
            self._late_in_a_row += 1
            return list(hits), False
        except RerankerUnavailable as error:
            self.failed += 1
            self._late_in_a_row = 0
            self.last_failure = Failure(error.message, self._clock.now_ms())
            return list(hits), False
        self.in_time += 1
        self._late_in_a_row = 0
        ordered = sorted(zip(scores, hits, strict=True), key=lambda pair: -pair[0])
        return [_with_score(hit, score) for score, hit in ordered], True

    async def probe(self) -> float:
        """Have it read as many short texts as a search may have; the seconds that it took. Waits as long as it takes.

        Raises:
            RerankerUnavailable: it cannot.
        """
        began_s = self._clock.monotonic_s()
        await self._reranker.score("Does it answer?", [f"Text {n} of a check." for n in range(self.candidates)])
        return self._clock.monotonic_s() - began_s

    def health(self) -> RerankerHealth:
        """How the reranker was when last seen."""
        return self._reranker.health()

    @property
    def always_late(self) -> bool:
        """Whether no search got anything of it lately, though it does not fail."""
        return self._late_in_a_row >= ALWAYS_LATE


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

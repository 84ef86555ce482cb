"""The semantic engine: the query's vector, and the nearest rows of every kind of memory.

Owns how long the embedder and the index may take, and what an answer says when one of them could not help. Knows no
SQL and no words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from nexusd.clock import Clock
from nexusd.embedding.serving import KeyedModel, Serving
from nexusd.errors import BadContent, DimensionMismatch, EmbedderUnavailable, IndexUnavailable
from nexusd.index.filters import Filter
from nexusd.index.index import Index, Vector
from nexusd.model.memory import Collection, Part
from nexusd.retrieval.conditions import index_filter, within_spans
from nexusd.retrieval.question import Question
from nexusd.store.recall import Key

# A part that hangs must not hold a search: past this the words alone answer. A model that was never asked
# before is loaded first, which takes a second or two and happens once.
SEMANTIC_DEADLINE_S = 2.0
LOADING_DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class SemanticAnswer:
    """What the meaning found, or which part could not help. Times in seconds."""

    scores: Mapping[Key, float] = field(default_factory=dict)
    cut_off: frozenset[Collection] = frozenset()
    degraded: tuple[Part, ...] = ()
    embed_s: float = 0.0
    search_s: float = 0.0


class SemanticEngine:
    """The embedder and the index as one engine. `complete` tells whether the index holds all that it should."""

    def __init__(
        self,
        index: Index,
        serving: Serving,
        clock: Clock,
        *,
        complete: Callable[[], bool],
        deadline_s: float = SEMANTIC_DEADLINE_S,
    ) -> None:
        self._index = index
        self._serving = serving
        self._clock = clock
        self._complete = complete
        self._deadline_s = deadline_s

    async def find(self, question: Question, depths: Mapping[Collection, int]) -> SemanticAnswer:
        """The nearest rows of each collection, and again so many of the times that the query speaks of."""
        began_s = self._clock.monotonic_s()
        model = self._serving.model  # once: a query's vector means something among this model's alone
        until_s = asyncio.get_running_loop().time() + self._patience_s(model)
        try:
            async with asyncio.timeout_at(until_s):
                vector = await model.embedder.embed_query(question.query)
        except (EmbedderUnavailable, DimensionMismatch, BadContent, TimeoutError):
            return SemanticAnswer(degraded=("embedder",))
        embedded_s = self._clock.monotonic_s()
        scores: dict[Key, float] = {}
        cut_off, complete = set[Collection](), self._complete()
        everything = index_filter(question.where)
        asked = [(name, depth, everything) for name, depth in depths.items()]
        if question.weighing.spans:
            then = within_spans(everything, question.weighing.spans)
            asked += [(name, depth, then) for name, depth in depths.items()]
        answers = await asyncio.gather(
            *(self._nearest(model.physical(name), vector, depth, where, until_s) for name, depth, where in asked)
        )
        for (collection, depth, where), answer in zip(asked, answers, strict=True):
            if answer is None:
                complete = False
                continue
            if len(answer) == depth and where is everything:
                cut_off.add(collection)
            scores |= {(collection, id_): score for id_, score in answer.items()}
        return SemanticAnswer(
            scores,
            cut_off=frozenset(cut_off),
            # also asked afterwards: what was lost meanwhile answers with nothing
            degraded=() if complete and self._complete() else ("index",),
            embed_s=embedded_s - began_s,
            search_s=self._clock.monotonic_s() - embedded_s,
        )

    async def _nearest(
        self, physical: str, vector: Vector, depth: int, where: Filter | None, until_s: float
    ) -> dict[int, float] | None:
        """Scores by id of the nearest points; None if the index does not answer for this collection."""
        try:
            async with asyncio.timeout_at(until_s):
                hits = await self._index.search(physical, vector, depth, where)
        except (IndexUnavailable, DimensionMismatch, BadContent, TimeoutError):
            return None
        return {hit.id: hit.score for hit in hits}

    def _patience_s(self, model: KeyedModel) -> float:
        loading = model.embedder.health().state == "idle"
        return max(LOADING_DEADLINE_S, self._deadline_s) if loading else self._deadline_s

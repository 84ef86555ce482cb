"""memory.search: both engines side by side, one answer.

Owns the course of a search: how deep the engines look, what happens when one of them is down or late, and
that every hit is a live row which passes the filter. A search never writes. Knows no SQL, no vector and no
wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from nexusd.clock import Clock
from nexusd.embedding.embedder import Embedder
from nexusd.errors import BadContent, DimensionMismatch, EmbedderUnavailable, IndexUnavailable
from nexusd.index.index import Index
from nexusd.model.memory import (
    HitExplanation,
    MemoryHit,
    MemoryHits,
    Part,
    SearchExplanation,
    SearchMemory,
)
from nexusd.retrieval.conditions import index_filter
from nexusd.retrieval.fusion import Candidates, Ranked, rank
from nexusd.retrieval.keyword import KeywordAnswer, find_by_words
from nexusd.retrieval.terms import ChosenTerms
from nexusd.store.database import Database
from nexusd.store.episode_search import place_episodes
from nexusd.store.episodes import select_episodes
from nexusd.store.text_budget import TextBudget

# Candidates of each engine: enough for the fusion to see what stands out (100 find half a point more than 50,
# and 200 no more), and five times what is asked for, since each engine alone is often wrong.
MIN_DEPTH = 100
DEPTH_PER_HIT = 5

# Where too many candidates turn out to be gone or filtered out, look this many times as deep again, up to the
# last.
DEEPER = 4
MAX_DEPTH = 10_000

# A part that hangs must not hold a search: past this the words alone answer. A model that was never asked
# before is loaded first, which takes a second or two and happens once.
SEMANTIC_DEADLINE_S = 2.0
LOADING_DEADLINE_S = 10.0

US_PER_S = 1_000_000
_NO_WORDS = KeywordAnswer(Candidates({}), ChosenTerms((), ()), cut_off=False)


@dataclass(frozen=True, slots=True)
class SemanticAnswer:
    """What the meaning found, or which part could not help. Times in seconds."""

    candidates: Candidates
    cut_off: bool = False
    degraded: tuple[Part, ...] = ()
    embed_s: float = 0.0
    search_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Found:
    """Both engines' answers at one depth, the order made of them, and how long the words took."""

    keyword: KeywordAnswer
    semantic: SemanticAnswer
    ranked: list[Ranked]
    keyword_s: float

    @property
    def cut_off(self) -> bool:
        """Whether looking deeper may find more."""
        return self.keyword.cut_off or self.semantic.cut_off

    @property
    def gone(self) -> int:
        """Candidates whose row is not there any more."""
        united = self.keyword.candidates.scores.keys() | self.semantic.candidates.scores.keys()
        return len(united) - len(self.ranked)


class MemorySearch:
    """Search over all memories.

    `physical` names the index's collection behind a logical one. `complete` tells whether the index
    holds all that the outbox does not owe it: where not, the answer says so. `semantic_deadline_s` is how long the
    embedder and the index may take together.
    """

    def __init__(
        self,
        store: Database,
        index: Index,
        embedder: Embedder,
        physical: Callable[[str], str],
        clock: Clock,
        *,
        complete: Callable[[], bool] = lambda: True,
        semantic_deadline_s: float = SEMANTIC_DEADLINE_S,
    ) -> None:
        self._complete = complete
        self._store = store
        self._index = index
        self._embedder = embedder
        self._physical = physical
        self._clock = clock
        self._semantic_deadline_s = semantic_deadline_s

    async def search(self, params: SearchMemory) -> MemoryHits:
        """The best hits, best first: at most `limit`, and that many whenever enough rows pass the filter.

        A part that is down is named in `degraded`, and the rest serves.

        Raises:
            Busy: the store is too slow.
        """
        began_s = self._clock.monotonic_s()
        depth = max(MIN_DEPTH, DEPTH_PER_HIT * params.limit)
        while True:
            found = await self._look(params, depth)
            budget = TextBudget()
            items, filtered_out = await self._live_hits(found.ranked, params, budget)
            if len(items) == params.limit or budget.exhausted or not found.cut_off or depth >= MAX_DEPTH:
                break
            depth = min(DEEPER * depth, MAX_DEPTH)
        return MemoryHits(
            items=items,
            degraded=list(found.semantic.degraded),
            truncated=budget.exhausted and len(items) < params.limit,
            explain=self._explanation(found, filtered_out, began_s) if params.explain else None,
        )

    async def _look(self, params: SearchMemory, depth: int) -> Found:
        """Ask the engines at the same time and bring their candidates into one order."""
        semantic_side = asyncio.create_task(self._by_meaning(params, depth), name="search:semantic")
        try:
            began_s = self._clock.monotonic_s()
            keyword = await self._by_words(params, depth)
            keyword_s = self._clock.monotonic_s() - began_s
            semantic = await semantic_side
        finally:
            semantic_side.cancel()  # the words failed or the caller went away; otherwise it is done
        ids = keyword.candidates.scores.keys() | semantic.candidates.scores.keys()
        places = await self._store.read(place_episodes, ids)
        return Found(keyword, semantic, rank(keyword.candidates, semantic.candidates, places), keyword_s)

    async def _by_words(self, params: SearchMemory, depth: int) -> KeywordAnswer:
        if params.mode == "semantic":
            return _NO_WORDS
        return await self._store.read(find_by_words, params.query, params.filter, depth)

    async def _by_meaning(self, params: SearchMemory, depth: int) -> SemanticAnswer:
        if params.mode == "keyword":
            return SemanticAnswer(Candidates({}))
        waiting_for: Part = "embedder"
        began_s = embedded_s = self._clock.monotonic_s()
        try:
            async with asyncio.timeout(self._patience_s()):
                vector = await self._embedder.embed_query(params.query)
                embedded_s = self._clock.monotonic_s()
                waiting_for = "index"
                collection = self._physical("episodes")
                hits = await self._index.search(collection, vector, depth, index_filter(params.filter))
        except (EmbedderUnavailable, IndexUnavailable, DimensionMismatch, BadContent, TimeoutError):
            return SemanticAnswer(Candidates({}), degraded=(waiting_for,))
        return SemanticAnswer(
            Candidates({hit.id: hit.score for hit in hits}),
            cut_off=len(hits) == depth,
            degraded=() if self._complete() else ("index",),
            embed_s=embedded_s - began_s,
            search_s=self._clock.monotonic_s() - embedded_s,
        )

    def _patience_s(self) -> float:
        loading = self._embedder.health().state == "idle"
        return max(LOADING_DEADLINE_S, self._semantic_deadline_s) if loading else self._semantic_deadline_s

    async def _live_hits(
        self, ranked: list[Ranked], params: SearchMemory, budget: TextBudget
    ) -> tuple[list[MemoryHit], int]:
        """The first hits whose rows are there and pass the filter, and how many were passed over.

        The index may lag behind a row that moved or changed; the row decides. A row that waits to be embedded
        anew stays a hit: it is the same memory.
        """
        items: list[MemoryHit] = []
        passed_over = 0
        for start in range(0, len(ranked), params.limit):
            page = ranked[start : start + params.limit]
            episodes = await self._store.read(select_episodes, [hit.id for hit in page], params.filter, budget)
            passed_over += 0 if budget.exhausted else len(page) - len(episodes)
            items += [
                MemoryHit(
                    collection="episodes",
                    id=hit.id,
                    score=hit.score,
                    record=episodes[hit.id],
                    explain=_parts(hit) if params.explain else None,
                )
                for hit in page
                if hit.id in episodes
            ]
            if len(items) >= params.limit or budget.exhausted:
                break
        return items[: params.limit], passed_over

    def _explanation(self, found: Found, filtered_out: int, began_s: float) -> SearchExplanation:
        return SearchExplanation(
            terms=list(found.keyword.terms.asked),
            dropped_terms=list(found.keyword.terms.dropped),
            keyword_candidates=len(found.keyword.candidates.scores),
            semantic_candidates=len(found.semantic.candidates.scores),
            stale_hits=found.gone + filtered_out,
            embed_us=_us(found.semantic.embed_s),
            keyword_us=_us(found.keyword_s),
            semantic_us=_us(found.semantic.search_s),
            total_us=_us(self._clock.monotonic_s() - began_s),
        )


def _parts(hit: Ranked) -> HitExplanation:
    return HitExplanation(keyword=hit.keyword, semantic=hit.semantic, neighbours=hit.lent)


def _us(seconds: float) -> int:
    return round(seconds * US_PER_S)

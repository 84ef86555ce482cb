"""memory.search: both engines side by side over every kind of memory, one answer.

Owns the course of a search: how deep the engines look, what happens when one of them is down or late, and
that every hit is a live row which passes the filter. A search never writes. Knows no SQL, no vector and no
wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass

from nexusd.clock import Clock
from nexusd.embedding.serving import Serving
from nexusd.index.index import Index
from nexusd.model.memory import (
    Collection,
    EntityHit,
    EpisodeHit,
    FoundMessage,
    FoundMessages,
    HitExplanation,
    MemoryHit,
    MemoryHits,
    MessageFilter,
    MessageHit,
    SearchExplanation,
    SearchMemory,
    SearchMessages,
    SummaryHit,
)
from nexusd.retrieval.diversity import POOL, diverse
from nexusd.retrieval.fusion import Meaning, Ranked, Weighing, Words, rank
from nexusd.retrieval.ghosts import OnDropped, nobody_minds
from nexusd.retrieval.keyword import KeywordAnswer, Parts, find_by_words, measure_words
from nexusd.retrieval.question import DEEPER, MAX_DEPTH, Question
from nexusd.retrieval.second_stage import SecondStage, text_of
from nexusd.retrieval.semantic import SEMANTIC_DEADLINE_S, SemanticAnswer, SemanticEngine
from nexusd.retrieval.times import spoken_times
from nexusd.store.connection import Connection
from nexusd.store.database import Database
from nexusd.store.recall import Key, Place, place_memories, select_memories, stocked
from nexusd.store.text_budget import TextBudget

US_PER_S = 1_000_000
MS_PER_DAY = 86_400_000

_MESSAGES: tuple[Collection, ...] = ("messages",)
# A filter by session or project finds nothing there.
WITHOUT_SESSION: frozenset[Collection] = frozenset({"entities", "messages"})
_HITS: dict[Collection, Callable[..., MemoryHit]] = {
    "episodes": EpisodeHit, "entities": EntityHit, "summaries": SummaryHit, "messages": MessageHit,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """Both engines' answers at some depth, the order made of them, and how long the words took.

    `gone` counts the candidates whose row is not there any more, `dropped` are those that the index found.
    """

    keyword: KeywordAnswer
    semantic: SemanticAnswer
    ranked: list[Ranked]
    dropped: list[Key]
    gone: int
    keyword_s: float

    @property
    def cut_off(self) -> frozenset[Collection]:
        """Where looking deeper may find more."""
        return self.keyword.cut_off | self.semantic.cut_off


class MemorySearch:
    """Search over all memories.

    `complete` tells whether the index holds all that the outbox does not owe it: where not, the answer says so.
    `on_dropped` is told of hits whose row is gone, `second` reads the best hits again. `semantic_deadline_s` is how
    long the embedder and the index may take together.
    """

    def __init__(
        self,
        store: Database,
        index: Index,
        serving: Serving,
        clock: Clock,
        *,
        complete: Callable[[], bool] = lambda: True,
        on_dropped: OnDropped = nobody_minds,
        semantic_deadline_s: float = SEMANTIC_DEADLINE_S,
        second: SecondStage | None = None,
    ) -> None:
        self._on_dropped = on_dropped
        self._second = second
        self._store = store
        self._clock = clock
        self._semantic = SemanticEngine(index, serving, clock, complete=complete, deadline_s=semantic_deadline_s)

    async def search(
        self, params: SearchMemory, besides: Mapping[Collection, int] | None = None, longest_text: int | None = None
    ) -> MemoryHits:
        """The best hits, best first: at most `limit`, and that many whenever enough rows pass the filter.

        A part that is down is named in `degraded`, and the rest serves. Of a collection in `besides` no more hits
        are answered than it says, but so many beyond `limit`, so that they take no place from others. Memories of more
        than `longest_text` characters are passed over, and `truncated` says that there were some.

        Raises:
            Busy: the store is too slow.
        """
        where = params.filter
        asked = set(params.collections)
        if where.session_id is not None or where.project_id is not None:
            asked -= WITHOUT_SESSION
        # A collection without rows has no hits, and nobody is asked for them.
        collections = self._store.peek(stocked, asked)
        at_most = {name: most for name, most in (besides or {}).items() if name in collections}
        return await self._answer(
            Question(
                query=params.query,
                mode=params.mode,
                collections=collections,
                limit=params.limit + sum(at_most.values()),
                where=where,
                weighing=self._weighing(params),
                diversity=params.diversity,
                explain=params.explain,
                at_most=at_most,
                longest_text=longest_text,
            )
        )

    async def search_messages(self, params: SearchMessages) -> FoundMessages:
        """The same over messages alone, and within a conversation.

        Raises:
            Busy: the store is too slow.
        """
        found = await self._answer(
            Question(
                query=params.query,
                mode=params.mode,
                collections=self._store.peek(stocked, _MESSAGES),
                limit=params.limit,
                where=MessageFilter(conversation_id=params.conversation_id),
                weighing=Weighing(spans=spoken_times(params.query, self._clock.now_ms())),
            )
        )
        return FoundMessages(
            items=[
                FoundMessage(message=hit.record, score=hit.score)
                for hit in found.items
                if isinstance(hit, MessageHit)
            ],
            degraded=found.degraded,
            truncated=found.truncated,
        )

    def _weighing(self, params: SearchMemory) -> Weighing:
        now_ms = self._clock.now_ms()
        days = params.recency_half_life_days
        return Weighing(
            spans=spoken_times(params.query, now_ms) if params.prefer_times else (),
            weights=params.weights,
            half_life_ms=None if days is None else days * MS_PER_DAY,
            now_ms=now_ms,
        )

    async def _answer(self, question: Question) -> MemoryHits:
        began_s = self._clock.monotonic_s()
        times = 1
        while True:
            depths = question.depths(times)
            found = await self._look(question, depths)
            budget = TextBudget(longest=question.longest_text)
            items, filtered_out = await self._live_hits(found.ranked, question, budget)
            enough = len(items) >= question.limit or budget.exhausted
            deeper = found.cut_off - _full(items, question.at_most)
            if enough or all(depths[collection] == MAX_DEPTH for collection in deeper):
                break
            times *= DEEPER
        self._tell_dropped(found.dropped)
        degraded = list(found.semantic.degraded)
        if self._second is not None:
            items, in_time = await self._second.reorder(question.query, items)
            degraded += [] if in_time else ["reranker"]
        if question.diversity:
            items = diverse(
                items, question.limit, question.diversity, lambda hit: hit.score, lambda hit: text_of(hit.record)
            )
        items = items[: question.limit]
        return MemoryHits(
            items=items,
            degraded=degraded,
            truncated=budget.passed_over > 0 or (budget.exhausted and len(items) < question.limit),
            explain=self._explanation(found, filtered_out, began_s) if question.explain else None,
        )

    async def _look(self, question: Question, depths: Mapping[Collection, int]) -> Found:
        """Ask the engines at the same time and bring their candidates into one order."""
        semantic_side = asyncio.create_task(self._by_meaning(question, depths), name="search:semantic")
        try:
            began_s = self._clock.monotonic_s()
            keyword = await self._by_words(question, depths)
            keyword_s = self._clock.monotonic_s() - began_s
            semantic = await semantic_side
        finally:
            semantic_side.cancel()  # the words failed or the caller went away; otherwise it is done
        candidates = keyword.found | semantic.scores.keys()
        places, ranked = await self._store.read(_look_closer, keyword, semantic, candidates, question.weighing)
        dropped = [key for key in semantic.scores if key not in places]
        return Found(keyword, semantic, ranked, dropped, len(candidates - places.keys()), keyword_s)

    def _tell_dropped(self, dropped: list[Key]) -> None:
        by_collection: dict[Collection, list[int]] = {}
        for collection, id_ in dropped:
            by_collection.setdefault(collection, []).append(id_)
        for collection, ids in by_collection.items():
            self._on_dropped(collection, ids)

    async def _by_words(self, question: Question, depths: Mapping[Collection, int]) -> KeywordAnswer:
        if question.mode == "semantic" or not depths:
            return KeywordAnswer()
        spans = question.weighing.spans
        return await self._store.read(find_by_words, question.query, depths, question.where, spans)

    async def _by_meaning(self, question: Question, depths: Mapping[Collection, int]) -> SemanticAnswer:
        if question.mode == "keyword" or not depths:
            return SemanticAnswer()
        return await self._semantic.find(question, depths)

    async def _live_hits(
        self, ranked: list[Ranked], question: Question, budget: TextBudget
    ) -> tuple[list[MemoryHit], int]:
        """The first hits whose rows are there and pass the filter, and how many were passed over.

        The index may lag behind a row that moved or changed; the row decides. A row that waits to be embedded
        anew stays a hit: it is the same memory.
        """
        items: list[MemoryHit] = []
        passed_over = 0
        wanted = _within(ranked, question.at_most)
        enough = max(
            question.limit * (POOL if question.diversity else 1), self._second.candidates if self._second else 0
        )
        for start in range(0, len(wanted), enough):
            page = wanted[start : start + enough]
            too_long = budget.passed_over
            records = await self._store.read(select_memories, [hit.key for hit in page], question.where, budget)
            too_long = budget.passed_over - too_long
            passed_over += 0 if budget.exhausted else len(page) - len(records) - too_long
            items += [
                _HITS[hit.key[0]](
                    id=hit.key[1],
                    score=hit.score,
                    record=records[hit.key],
                    explain=_parts(hit) if question.explain else None,
                )
                for hit in page
                if hit.key in records
            ]
            if len(items) >= enough or budget.exhausted:
                break
        return items[:enough], passed_over

    def _explanation(self, found: Found, filtered_out: int, began_s: float) -> SearchExplanation:
        return SearchExplanation(
            terms=list(found.keyword.chosen.asked),
            dropped_terms=list(found.keyword.chosen.dropped),
            keyword_candidates=len(found.keyword.found),
            semantic_candidates=len(found.semantic.scores),
            stale_hits=found.gone + filtered_out,
            embed_us=_us(found.semantic.embed_s),
            keyword_us=_us(found.keyword_s),
            semantic_us=_us(found.semantic.search_s),
            total_us=_us(self._clock.monotonic_s() - began_s),
        )


def _look_closer(
    db: Connection, keyword: KeywordAnswer, semantic: SemanticAnswer, candidates: Set[Key], weighing: Weighing
) -> tuple[dict[Key, Place], list[Ranked]]:
    """Where the candidates stand, and their order by what they and their neighbours hold of the query.

    The order, too, is made on the reader's thread: it takes milliseconds, which the loop has for nobody.
    Neighbours are no candidates themselves: that found 1.4 points more among the first ten where words alone answer,
    but a search by words then answers exchanges that hold none of them.
    """
    places = place_memories(db, candidates)
    parts: Parts = {}
    if keyword.terms:
        parts = measure_words(db, keyword, places.keys() | _around(places, places.keys()))
    words, meaning = Words(keyword.worths, parts), Meaning(semantic.scores, complete=not semantic.cut_off)
    return places, rank(places.keys(), words, meaning, places, weighing)


def _around(places: Mapping[Key, Place], keys: Iterable[Key]) -> set[Key]:
    found = [places[key] for key in keys if key in places]
    return {key for place in found for key in (place.previous, place.following) if key is not None}


def _within(ranked: list[Ranked], at_most: Mapping[Collection, int]) -> list[Ranked]:
    """Without those of a collection past the number of hits that it may have."""
    if not at_most:
        return ranked
    left = dict(at_most)
    kept = []
    for hit in ranked:
        collection = hit.key[0]
        if left.get(collection, 1) > 0:
            kept.append(hit)
            if collection in left:
                left[collection] -= 1
    return kept


def _full(items: list[MemoryHit], at_most: Mapping[Collection, int]) -> set[Collection]:
    """The collections that have as many hits as they may."""
    return {name for name, most in at_most.items() if sum(hit.collection == name for hit in items) >= most}


def _parts(hit: Ranked) -> HitExplanation:
    return HitExplanation(
        keyword=hit.keyword, semantic=hit.semantic, neighbours=hit.lent, session=hit.session, time=hit.time,
        weight=hit.weight, recency=hit.recency,
    )


def _us(seconds: float) -> int:
    return round(seconds * US_PER_S)

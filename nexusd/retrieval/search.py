"""memory.search: both engines side by side over every kind of memory, one answer.

Owns the course of a search: how deep the engines look, what happens when one of them is down or late, and
that every hit is a live row which passes the filter. A search never writes. Knows no SQL, no vector and no
wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from nexusd.clock import Clock
from nexusd.embedding.serving import KeyedModel, Serving
from nexusd.errors import BadContent, DimensionMismatch, EmbedderUnavailable, IndexUnavailable
from nexusd.index.index import Index, Vector
from nexusd.model.memory import (
    Collection,
    EntityHit,
    EpisodeHit,
    FoundMessage,
    FoundMessages,
    HitExplanation,
    MemoryFilter,
    MemoryHit,
    MemoryHits,
    MessageFilter,
    MessageHit,
    Mode,
    Part,
    SearchExplanation,
    SearchMemory,
    SearchMessages,
    SummaryHit,
)
from nexusd.retrieval.conditions import index_filter
from nexusd.retrieval.fusion import Candidates, Ranked, rank
from nexusd.retrieval.ghosts import OnDropped, nobody_minds
from nexusd.retrieval.keyword import KeywordAnswer, find_by_words
from nexusd.retrieval.terms import ChosenTerms
from nexusd.store.database import Database
from nexusd.store.recall import Key, place_memories, select_memories, stocked
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
_NO_WORDS = KeywordAnswer(Candidates({}), ChosenTerms((), ()), cut_off=frozenset())

_MESSAGES: tuple[Collection, ...] = ("messages",)
# A filter by session or project finds nothing there.
WITHOUT_SESSION: frozenset[Collection] = frozenset({"entities", "messages"})
_HITS: dict[Collection, Callable[..., MemoryHit]] = {
    "episodes": EpisodeHit, "entities": EntityHit, "summaries": SummaryHit, "messages": MessageHit,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Question:
    """What to look for. `at_most` holds back collections of which more than so many hits are not wanted."""

    query: str
    mode: Mode
    collections: tuple[Collection, ...]
    limit: int
    where: MemoryFilter
    explain: bool = False
    at_most: Mapping[Collection, int] = field(default_factory=dict)
    longest_text: int | None = None     # characters; a longer memory is no hit

    def depths(self, times: int) -> dict[Collection, int]:
        """How many candidates of each collection the engines are asked for, so many times deeper than at first."""
        others = self.limit - sum(self.at_most.values())
        return {
            name: min(times * max(MIN_DEPTH, DEPTH_PER_HIT * self.at_most.get(name, others)), MAX_DEPTH)
            for name in self.collections
        }


@dataclass(frozen=True, slots=True)
class SemanticAnswer:
    """What the meaning found, or which part could not help. Times in seconds."""

    candidates: Candidates
    cut_off: frozenset[Collection] = frozenset()
    degraded: tuple[Part, ...] = ()
    embed_s: float = 0.0
    search_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Found:
    """Both engines' answers at some depth, the order made of them, and how long the words took.

    `dropped` are the rows that the index should not have found any more: they are gone.
    """

    keyword: KeywordAnswer
    semantic: SemanticAnswer
    ranked: list[Ranked]
    dropped: list[Key]
    keyword_s: float

    @property
    def cut_off(self) -> frozenset[Collection]:
        """Where looking deeper may find more."""
        return self.keyword.cut_off | self.semantic.cut_off

    @property
    def gone(self) -> int:
        """Candidates whose row is not there any more."""
        united = self.keyword.candidates.scores.keys() | self.semantic.candidates.scores.keys()
        return len(united) - len(self.ranked)


class MemorySearch:
    """Search over all memories.

    `complete` tells whether the index holds all that the outbox does not owe it: where not, the answer says so.
    `on_dropped` is told of hits whose row is gone. `semantic_deadline_s` is how long the embedder and the index may
    take together.
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
    ) -> None:
        self._complete = complete
        self._on_dropped = on_dropped
        self._store = store
        self._index = index
        self._serving = serving
        self._clock = clock
        self._semantic_deadline_s = semantic_deadline_s

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

    async def _answer(self, question: Question) -> MemoryHits:
        began_s = self._clock.monotonic_s()
        times = 1
        while True:
            depths = question.depths(times)
            found = await self._look(question, depths)
            budget = TextBudget(longest=question.longest_text)
            items, filtered_out = await self._live_hits(found.ranked, question, budget)
            enough = len(items) == question.limit or budget.exhausted
            deeper = found.cut_off - _full(items, question.at_most)
            if enough or all(depths[collection] == MAX_DEPTH for collection in deeper):
                break
            times *= DEEPER
        self._tell_dropped(found.dropped)
        return MemoryHits(
            items=items,
            degraded=list(found.semantic.degraded),
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
        keys = keyword.candidates.scores.keys() | semantic.candidates.scores.keys()
        places = await self._store.read(place_memories, keys)
        dropped = [key for key in semantic.candidates.scores if key not in places]
        return Found(keyword, semantic, rank(keyword.candidates, semantic.candidates, places), dropped, keyword_s)

    def _tell_dropped(self, dropped: list[Key]) -> None:
        by_collection: dict[Collection, list[int]] = {}
        for collection, id_ in dropped:
            by_collection.setdefault(collection, []).append(id_)
        for collection, ids in by_collection.items():
            self._on_dropped(collection, ids)

    async def _by_words(self, question: Question, depths: Mapping[Collection, int]) -> KeywordAnswer:
        if question.mode == "semantic" or not depths:
            return _NO_WORDS
        return await self._store.read(find_by_words, question.query, depths, question.where)

    async def _by_meaning(self, question: Question, depths: Mapping[Collection, int]) -> SemanticAnswer:
        if question.mode == "keyword" or not depths:
            return SemanticAnswer(Candidates({}))
        began_s = self._clock.monotonic_s()
        model = self._serving.model  # once: a query's vector means something among this model's alone
        until_s = asyncio.get_running_loop().time() + self._patience_s(model)
        try:
            async with asyncio.timeout_at(until_s):
                vector = await model.embedder.embed_query(question.query)
        except (EmbedderUnavailable, DimensionMismatch, BadContent, TimeoutError):
            return SemanticAnswer(Candidates({}), degraded=("embedder",))
        embedded_s = self._clock.monotonic_s()
        scores: dict[Key, float] = {}
        cut_off, complete = set[Collection](), self._complete()
        answers = await asyncio.gather(
            *(
                self._nearest(model.physical(name), vector, depth, question.where, until_s)
                for name, depth in depths.items()
            )
        )
        for (collection, depth), answer in zip(depths.items(), answers, strict=True):
            if answer is None:
                complete = False
                continue
            if len(answer) == depth:
                cut_off.add(collection)
            scores |= {(collection, id_): score for id_, score in answer.items()}
        return SemanticAnswer(
            Candidates(scores),
            cut_off=frozenset(cut_off),
            # also asked afterwards: what was lost meanwhile answers with nothing
            degraded=() if complete and self._complete() else ("index",),
            embed_s=embedded_s - began_s,
            search_s=self._clock.monotonic_s() - embedded_s,
        )

    async def _nearest(
        self, physical: str, vector: Vector, depth: int, where: MemoryFilter, until_s: float
    ) -> dict[int, float] | None:
        """Scores by id of the nearest points; None if the index does not answer for this collection."""
        try:
            async with asyncio.timeout_at(until_s):
                hits = await self._index.search(physical, vector, depth, index_filter(where))
        except (IndexUnavailable, DimensionMismatch, BadContent, TimeoutError):
            return None
        return {hit.id: hit.score for hit in hits}

    def _patience_s(self, model: KeyedModel) -> float:
        loading = model.embedder.health().state == "idle"
        return max(LOADING_DEADLINE_S, self._semantic_deadline_s) if loading else self._semantic_deadline_s

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
        for start in range(0, len(wanted), question.limit):
            page = wanted[start : start + question.limit]
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
            if len(items) >= question.limit or budget.exhausted:
                break
        return items[: question.limit], passed_over

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
    return HitExplanation(keyword=hit.keyword, semantic=hit.semantic, neighbours=hit.lent)


def _us(seconds: float) -> int:
    return round(seconds * US_PER_S)

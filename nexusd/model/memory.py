"""Search over all memories, and the context package made from it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta, Struct

from nexusd.model.entities import Entity
from nexusd.model.episodes import Episode
from nexusd.model.fields import Id, Params, TimeMs
from nexusd.model.messages import Message
from nexusd.model.summaries import Summary

Collection = Literal["episodes", "entities", "summaries", "messages"]
COLLECTIONS: tuple[Collection, ...] = ("episodes", "entities", "summaries", "messages")
Mode = Literal["hybrid", "keyword", "semantic"]
Part = Literal["index", "embedder", "reranker"]
MAX_ENTRIES = 64  # of metadata in a filter: each is a condition in SQL, of which SQLite takes a thousand at most
Query = Annotated[str, Meta(min_length=1, max_length=8192, description="What to look for, in plain words.")]


class MemoryFilter(Params, frozen=True, kw_only=True):
    """What a hit must be; holds in both engines before the best are chosen, and again on the rows."""

    session_id: Annotated[
        Id | None,
        Meta(description="Only in this session: episodes and summaries. Entities and messages are in none."),
    ] = None
    project_id: Annotated[
        Id | None,
        Meta(description="Only in sessions of this project, likewise."),
    ] = None
    since: Annotated[TimeMs | None, Meta(description="Created at or after.")] = None
    until: Annotated[TimeMs | None, Meta(description="Created before.")] = None
    metadata: Annotated[
        dict[str, str | int | bool],
        Meta(max_length=MAX_ENTRIES, description="Top-level metadata entries that must be equal."),
    ] = msgspec.field(default_factory=dict)


class MessageFilter(MemoryFilter, frozen=True, kw_only=True):
    """What a message must be; a conversation is asked for by messages.search alone."""

    conversation_id: Id | None = None


class SearchMemory(Params, frozen=True, kw_only=True):
    """Parameters of memory.search."""

    query: Query
    mode: Annotated[Mode, Meta(description="Which engines look: both, words only, meaning only.")] = "hybrid"
    collections: Annotated[
        list[Collection],
        Meta(min_length=1, max_length=len(COLLECTIONS), description="Where to look; everywhere if not given."),
    ] = msgspec.field(default_factory=lambda: list(COLLECTIONS))
    limit: Annotated[int, Meta(ge=1, le=100, description="How many hits at most.")] = 10
    filter: Annotated[MemoryFilter, Meta(description="What a hit must be.")] = MemoryFilter()
    explain: Annotated[bool, Meta(description="Show every part of every score.")] = False
    prefer_times: Annotated[
        bool,
        Meta(description='A time in the query ("last May", "in 2023") counts for memories of then; it excludes none.'),
    ] = True
    weights: Annotated[
        dict[Collection, Annotated[float, Meta(ge=0, le=100)]],
        Meta(max_length=len(COLLECTIONS), description="What a collection's scores are multiplied by; 1 if not given."),
    ] = msgspec.field(default_factory=dict)
    recency_half_life_days: Annotated[
        Annotated[float, Meta(gt=0, le=36_525)] | None,
        Meta(description="A memory this old counts half, one twice as old a quarter. Null: age does not matter."),
    ] = None
    diversity: Annotated[
        float, Meta(ge=0, le=1, description="How much it counts that a hit says something else than those before it.")
    ] = 0.0


class EngineScore(Struct, frozen=True, kw_only=True, rename="camel"):
    """One engine's part in a hit: 1-based rank, its score, and what that adds to the hit's.

    Of words the score is the share of the query's worth that the row covers, rare words being worth more; of meaning
    it is the similarity, and adds more the nearer it comes from the worst one found to 1.
    """

    rank: int
    score: float
    normalised: float


class HitExplanation(Struct, frozen=True, kw_only=True, rename="camel"):
    """How a hit's score came about: the sum of both `normalised`, `neighbours`, `session` and `time`, times `weight`
    and `recency`. An engine that has nothing to say of it is null.

    `neighbours` is what the exchanges just before and after it in its session lent, `session` what the best of the
    session lends to all of it, `time` what fitting a time in the query is worth, `weight` is its collection's. Where a
    reranker has read it, `reranked` is its word, and the hit's score.
    """

    keyword: EngineScore | None
    semantic: EngineScore | None
    neighbours: float
    session: float
    time: float
    weight: float
    recency: float
    reranked: float | None = None


class _Hit(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, tag_field="collection"):
    id: Id
    score: float


class EpisodeHit(_Hit, frozen=True, kw_only=True, tag="episodes"):
    """An exchange found. `score` orders hits of one answer; it is not comparable between answers."""

    collection: ClassVar[Collection] = "episodes"
    record: Episode
    explain: HitExplanation | None = None


class EntityHit(_Hit, frozen=True, kw_only=True, tag="entities"):
    """An entity found."""

    collection: ClassVar[Collection] = "entities"
    record: Entity
    explain: HitExplanation | None = None


class SummaryHit(_Hit, frozen=True, kw_only=True, tag="summaries"):
    """A summary found."""

    collection: ClassVar[Collection] = "summaries"
    record: Summary
    explain: HitExplanation | None = None


class MessageHit(_Hit, frozen=True, kw_only=True, tag="messages"):
    """A message found."""

    collection: ClassVar[Collection] = "messages"
    record: Message
    explain: HitExplanation | None = None


# One memory found. A hit is told by its `collection`, which says what `record` is: that which X.get answers.
MemoryHit = EpisodeHit | EntityHit | SummaryHit | MessageHit
MemoryRecord = Episode | Entity | Summary | Message


class SearchExplanation(Struct, frozen=True, kw_only=True, rename="camel"):
    """What the search did: the terms it asked for, those it left out, and where the time went.

    `stale_hits` are candidates whose row is gone or no longer passes the filter.
    """

    terms: list[str]
    dropped_terms: list[str]
    keyword_candidates: int
    semantic_candidates: int
    stale_hits: int
    embed_us: int
    keyword_us: int
    semantic_us: int
    total_us: int


class MemoryHits(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What memory.search answers. `degraded` names the parts that could not help; [] when all did.

    `truncated` is there, and true, when further hits were left out because the answer would have become too long.
    """

    items: list[MemoryHit]
    degraded: list[Part]
    truncated: bool = False
    explain: SearchExplanation | None = None


class MemoryId(Params, frozen=True, kw_only=True):
    """One memory by its kind and id."""

    collection: Annotated[Collection, Meta(description="Its kind.")]
    id: Annotated[Id, Meta(description="Its id.")]


Share = Annotated[float, Meta(ge=0, le=1)]


class ContextShares(Params, frozen=True, kw_only=True):
    """Shares of a package's budget; what a section does not need goes to the others."""

    recent: Annotated[Share, Meta(description="The latest turns of the running session.")] = 0.5
    so_far: Annotated[Share, Meta(description="Summaries of the running session before those.")] = 0.2
    summaries: Annotated[Share, Meta(description="Summaries that were found.")] = 0.15
    known: Annotated[Share, Meta(description="Entities with their relationships.")] = 0.15


class BuildContext(Params, frozen=True, kw_only=True):
    """Parameters of memory.context."""

    query: Query
    token_budget: Annotated[int, Meta(ge=16, le=1_000_000, description="Tokens the text may take.")] = 2000
    session_id: Annotated[
        Id | None,
        Meta(description="The running session; its latest turns and summaries of what came before are in the package."),
    ] = None
    recent_turns: Annotated[int, Meta(ge=0, le=50, description="How many of its latest turns.")] = 4
    filter: Annotated[
        MemoryFilter, Meta(description="What a remembered hit must be; the session's own turns need not.")
    ] = MemoryFilter()
    exclude: Annotated[
        list[MemoryId],
        Meta(max_length=1000, description="Memories that are in the prompt already, as `items` names them."),
    ] = msgspec.field(default_factory=list)
    shares: Annotated[
        ContextShares, Meta(description="What each section may take of the budget before the others had their turn.")
    ] = msgspec.field(default_factory=ContextShares)


class ContextItem(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One piece of a context package and what it costs. The relationships of an entity are part of its piece.

    `trimmed` is there, and true, where only the beginning of the memory had room.

    `reason`: a turn of the running session, a summary of what came before them, a hit of the search (which has
    its score), or an entity that the hits touch.
    """

    collection: Collection
    id: Id
    reason: Literal["recent", "summary", "hit", "entity"]
    tokens: int
    score: float | None
    created_at: TimeMs
    trimmed: bool = False


class MemoryContext(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What memory.context answers: a text for a prompt, what it is made of, and what had no room.

    `counted` says whose tokens they are: "model" are those of the built-in embedding model's tokenizer; "estimate",
    where that cannot be asked, is a quarter of the UTF-8 bytes, and at least one a word.
    `truncated` is there, and true, when the search that it is made from was cut off, as in memory.search, or passed
    over memories that are much too long for the budget.
    """

    text: str
    tokens: int
    token_budget: int
    counted: str
    items: list[ContextItem]
    left_out: list[ContextItem]
    degraded: list[Part]
    truncated: bool = False


class SearchMessages(Params, frozen=True, kw_only=True):
    """Parameters of messages.search."""

    query: Query
    mode: Annotated[Mode, Meta(description="Which engines look: both, words only, meaning only.")] = "hybrid"
    conversation_id: Annotated[Id | None, Meta(description="Only in this conversation.")] = None
    limit: Annotated[int, Meta(ge=1, le=100, description="How many hits at most.")] = 10


class FoundMessage(Struct, frozen=True, kw_only=True, rename="camel"):
    """A message found; `score` orders those of one answer."""

    message: Message
    score: float


class FoundMessages(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What messages.search answers, best first; `degraded` and `truncated` as in memory.search."""

    items: list[FoundMessage]
    degraded: list[Part]
    truncated: bool = False

"""The collections of the vector index as such: one point put in, taken out, and the nearest to a question."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from nexusd.model.fields import Id, Mutation, Params, VectorState
from nexusd.model.memory import Collection, MemoryHit, Part
from nexusd.model.numbers import Numbers

MAX_TOP_K = 500

Where = Annotated[Collection, Meta(description="Which kind of memory.")]
Timeout = Annotated[
    int, Meta(ge=1, le=60_000, description="How long to wait for the index; then the reply says how things stand.")
]
# Free in form here: the parser names the place of every fault in it.
QdrantFilter = Annotated[
    dict[str, Any],
    Meta(description="What a hit must be, in Qdrant's JSON: must, should, must_not with match, range and has_id."),
]


class UpsertPoint(Mutation, frozen=True, kw_only=True):
    """Parameters of semantic.upsert: the row's own text is embedded anew, or the vector given takes its place."""

    collection: Where
    id: Annotated[Id, Meta(description="The row.")]
    vector: Annotated[
        Numbers | None, Meta(description="Of the embedding model's dimension; kept until the row's text changes.")
    ] = None
    timeout_ms: Timeout = 10_000


class PointState(Struct, frozen=True, kw_only=True, rename="camel"):
    """What semantic.upsert answers. `vector` is indexed when the index has it on disk."""

    collection: Collection
    id: Id
    vector: VectorState


class DeletePoint(Mutation, frozen=True, kw_only=True):
    """Parameters of semantic.delete: the row stays, its point goes until the row changes or is upserted again."""

    collection: Where
    id: Annotated[Id, Meta(description="The row.")]
    timeout_ms: Timeout = 10_000


class SearchPoints(Params, frozen=True, kw_only=True):
    """Parameters of semantic.search: the nearest to a text or to a vector."""

    collection: Where
    query: Annotated[
        Annotated[str, Meta(min_length=1, max_length=8192)] | None, Meta(description="A text to be near to.")
    ] = None
    vector: Annotated[Numbers | None, Meta(description="Or a vector to be near to.")] = None
    top_k: Annotated[int, Meta(ge=1, le=MAX_TOP_K, description="How many hits at most.")] = 10
    filter: QdrantFilter | None = None

    def __post_init__(self) -> None:
        """One question."""
        if (self.query is None) == (self.vector is None):
            raise ValueError("expected one of `query` and `vector`")


class SimilarMemories(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What semantic.search answers: live rows, the nearest first; `score` is the cosine of the angle.

    `degraded` is there, and names the index, while it does not hold all that it should; `truncated`, and is true,
    when further hits were left out because the answer would have become too long.
    """

    items: list[MemoryHit]
    degraded: list[Part] = []
    truncated: bool = False

"""Texts under the caller's own ids, found by what they mean or by the caller's own vectors."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from nexusd.model.bulk import Items
from nexusd.model.fields import Id, Key, Metadata, Mutation, Page, Params, Record, TimeMs, VectorState, Wait
from nexusd.model.memory import Part
from nexusd.model.numbers import Numbers
from nexusd.model.semantic import QdrantFilter

MAX_TEXT = 4 * 1024 * 1024  # characters, as of an exchange's sides

CallersId = Annotated[Key, Meta(description='The caller\'s own id: a text or a whole number; 5 and "5" are two.')]
Text = Annotated[str, Meta(max_length=MAX_TEXT, description="What is found again; embedded unless a vector is given.")]
OwnEmbedding = Annotated[
    Numbers | None,
    Meta(description="The caller's own vector, of the embedding model's dimension; then nothing is embedded."),
]
Kept = Annotated[Metadata, Meta(description="Anything the caller wants to keep with it.")]


class StoredText(Record, frozen=True, kw_only=True):
    """A text and its state in the index. `rowId` names it in the outbox, `id` everywhere else."""

    id: Key
    row_id: Id
    text: str
    metadata: Metadata
    version: int
    created_at: TimeMs
    updated_at: TimeMs
    vector: VectorState


class StoredVector(StoredText, frozen=True, kw_only=True):
    """A text with the caller's own vector, null where none was given: float32, in the shortest writing."""

    embedding: list[float] | None


class SimilarText(StoredText, frozen=True, kw_only=True):
    """A text found: `similarity` is the cosine of the angle, 1 for the same direction."""

    similarity: float


class NewVector(Params, frozen=True, kw_only=True):
    """A text as a caller gives it; also an item of vectors.storeMany."""

    id: CallersId
    text: Text
    embedding: OwnEmbedding = None
    metadata: Kept = {}


class StoreVector(Wait, frozen=True, kw_only=True):
    """Parameters of vectors.store: a new text, or in place of the one that has this id.

    The fields stand here again since a struct has one base, and by position they come before how to wait.
    """

    id: CallersId
    text: Text
    embedding: OwnEmbedding = None
    metadata: Kept = {}


class StoreVectors(Wait, frozen=True, kw_only=True):
    """Parameters of vectors.storeMany."""

    items: Items


class GetVector(Params, frozen=True, kw_only=True):
    """Parameters of vectors.get."""

    id: CallersId


class ListVectors(Page, frozen=True, kw_only=True):
    """Parameters of vectors.list: newest first."""


class DeleteVector(Mutation, frozen=True, kw_only=True):
    """Parameters of vectors.delete."""

    id: CallersId


class SearchVectors(Params, frozen=True, kw_only=True):
    """Parameters of vectors.search: the nearest to a vector or to a text."""

    query_embedding: Annotated[Numbers | None, Meta(description="A vector to be near to.")] = None
    limit: Annotated[int, Meta(ge=1, le=500, description="How many hits at most.")] = 5
    query: Annotated[
        Annotated[str, Meta(min_length=1, max_length=8192)] | None, Meta(description="Or a text to be near to.")
    ] = None
    filter: QdrantFilter | None = None

    def __post_init__(self) -> None:
        """One question."""
        if (self.query is None) == (self.query_embedding is None):
            raise ValueError("expected one of `query` and `queryEmbedding`")


class SimilarTexts(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What vectors.search answers: the nearest first.

    `pending` is there, and counts them, while texts wait to be indexed: they are stored, and not among the hits yet.
    `degraded` and `truncated` are as in semantic.search.
    """

    items: list[SimilarText]
    pending: int = 0
    degraded: list[Part] = []
    truncated: bool = False

"""Entities: named things that the system learns about, such as people, places and projects."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from nexusd.model.bulk import Items
from nexusd.model.fields import (
    UNSET,
    Id,
    Limit,
    Metadata,
    Mutation,
    Name,
    Page,
    Params,
    Record,
    TimeMs,
    UnsetType,
    VectorState,
    Wait,
)

MAX_NOTES = 1024 * 1024  # characters; what fits the longest message on TCP
EntityName = Annotated[Name, Meta(description="What it is called.")]
EntityType = Annotated[Name, Meta(description="What kind of thing it is: person, place, project, ...")]
# Bounded inside the union: a limit on a union of text and null binds to neither.
Notes = Annotated[str, Meta(max_length=MAX_NOTES, description="What is known of it; null takes them away.")]


class Entity(Record, frozen=True, kw_only=True):
    """A thing with a name; name and type together are unique. `vector` says whether the index holds this version."""

    id: Id
    name: str
    type: str
    notes: str | None
    metadata: Metadata
    version: int
    created_at: TimeMs
    updated_at: TimeMs
    vector: VectorState


class UpsertedEntity(Entity, frozen=True, kw_only=True):
    """What an upsert answers: the entity as it is now, and whether there was none before."""

    created: bool


class NewEntity(Params, frozen=True, kw_only=True):
    """An entity as a caller gives it; also an item of entities.upsertMany."""

    name: EntityName
    type: EntityType
    notes: Notes | UnsetType | None = UNSET
    metadata: Annotated[Metadata | UnsetType, Meta(description="Replaces the metadata, if given.")] = UNSET


class UpsertEntity(Wait, frozen=True, kw_only=True):
    """Parameters of entities.upsert: what is not given stays as it is."""

    name: EntityName
    type: EntityType
    notes: Notes | UnsetType | None = UNSET
    metadata: Annotated[Metadata | UnsetType, Meta(description="Replaces the metadata, if given.")] = UNSET


class UpsertEntities(Wait, frozen=True, kw_only=True):
    """Parameters of entities.upsertMany."""

    items: Items


class GetEntity(Params, frozen=True, kw_only=True):
    """Parameters of entities.get."""

    id: Id


class ListEntities(Page, frozen=True, kw_only=True):
    """Parameters of entities.list: newest first."""

    type: Annotated[EntityType | None, Meta(description="Only entities of this type.")] = None


class ListEntitiesByType(Page, frozen=True, kw_only=True):
    """Parameters of entities.listByType: by name."""

    type: EntityType


class SearchEntities(Params, frozen=True, kw_only=True):
    """Parameters of entities.search: entities that hold every word in name, type or notes, best first."""

    query: Annotated[str, Meta(min_length=1, max_length=8192, description="Words.")]
    type: Annotated[EntityType | None, Meta(description="Only entities of this type.")] = None
    limit: Limit = 10


class EntityMatch(Struct, frozen=True, kw_only=True, rename="camel"):
    """A keyword hit: the entity and its bm25 score (higher is better)."""

    entity: Entity
    score: float


class EntityMatches(Struct, frozen=True, kw_only=True, rename="camel"):
    """What entities.search answers. `truncated`: further matches were left out, for they would be too much text."""

    items: list[EntityMatch]
    next_cursor: str | None = None
    truncated: bool = False


class DeleteEntity(Mutation, frozen=True, kw_only=True):
    """Parameters of entities.delete."""

    id: Id

"""Relationships: directed, labelled links between entities."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from nexusd.model.bulk import Items
from nexusd.model.fields import UNSET, Id, Metadata, Mutation, Name, Page, Params, Record, TimeMs, UnsetType

Label = Annotated[Name, Meta(description="What the one is to the other: uses, lives in, parent of, ...")]
FromId = Annotated[Id, Meta(description="The entity where it begins.")]
ToId = Annotated[Id, Meta(description="The entity where it ends; may be the same.")]


class Relationship(Record, frozen=True, kw_only=True):
    """A link from one entity to another; both ends and the label together are unique."""

    id: Id
    from_id: Id
    to_id: Id
    label: str
    metadata: Metadata
    created_at: TimeMs
    updated_at: TimeMs


class UpsertedRelationship(Relationship, frozen=True, kw_only=True):
    """What an upsert answers: the relationship as it is now, and whether there was none before."""

    created: bool


class LinkedEntity(Record, frozen=True, kw_only=True):
    """The entity at the other end of a link, in short."""

    id: Id
    name: str
    type: str


class Link(Relationship, frozen=True, kw_only=True):
    """A relationship as seen from one of its ends, with the entity at the other."""

    entity: LinkedEntity


class NewRelationship(Params, frozen=True, kw_only=True):
    """A relationship as a caller gives it; also an item of relationships.upsertMany."""

    from_id: FromId
    to_id: ToId
    label: Label
    metadata: Annotated[Metadata | UnsetType, Meta(description="Replaces the metadata, if given.")] = UNSET


class UpsertRelationship(Mutation, frozen=True, kw_only=True):
    """Parameters of relationships.upsert."""

    from_id: FromId
    to_id: ToId
    label: Label
    metadata: Annotated[Metadata | UnsetType, Meta(description="Replaces the metadata, if given.")] = UNSET


class UpsertRelationships(Mutation, frozen=True, kw_only=True):
    """Parameters of relationships.upsertMany."""

    items: Items


class ListLinksFrom(Page, frozen=True, kw_only=True):
    """Parameters of relationships.listFrom: links that begin in an entity, by label."""

    from_id: FromId
    label: Annotated[Label | None, Meta(description="Only links of this label.")] = None


class ListLinksTo(Page, frozen=True, kw_only=True):
    """Parameters of relationships.listTo: links that end in an entity, by label."""

    to_id: ToId
    label: Annotated[Label | None, Meta(description="Only links of this label.")] = None


class DeleteRelationship(Mutation, frozen=True, kw_only=True):
    """Parameters of relationships.delete: the key, for people know no id of it."""

    from_id: FromId
    to_id: ToId
    label: Label

"""Groups: named configurations that conversations can belong to."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from nexusd.model.fields import UNSET, Id, Metadata, Mutation, Name, Page, Params, Record, TimeMs, UnsetType


class Group(Record, frozen=True, kw_only=True):
    """A group and its configuration."""

    id: Id
    name: str
    config: Metadata
    created_at: TimeMs
    updated_at: TimeMs


class CreateGroup(Mutation, frozen=True, kw_only=True):
    """Parameters of groups.create."""

    name: Annotated[Name, Meta(description="Name for people; need not be unique.")]
    config: Annotated[Metadata, Meta(description="The configuration, as a JSON object.")] = {}


class GetGroup(Params, frozen=True, kw_only=True):
    """Parameters of groups.get."""

    id: Id


class ListGroups(Page, frozen=True, kw_only=True):
    """Parameters of groups.list: the newest first."""


class UpdateGroup(Mutation, frozen=True, kw_only=True):
    """Parameters of groups.update: what is not given stays as it is."""

    id: Id
    name: Annotated[Name | UnsetType, Meta(description="New name; not empty.")] = UNSET
    config: Annotated[Metadata | UnsetType, Meta(description="Replaces the configuration.")] = UNSET

    def __post_init__(self) -> None:
        """Something to change."""
        super().__post_init__()
        if self.name is UNSET and self.config is UNSET:
            raise ValueError("expected at least one of `name` and `config`")


class DeleteGroup(Mutation, frozen=True, kw_only=True):
    """Parameters of groups.delete."""

    id: Id

"""Sessions: the top-level containers of conversations."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from nexusd.model.episodes import MAX_TEXT
from nexusd.model.fields import UNSET, Id, Metadata, Mutation, Name, Page, Params, Record, TimeMs, UnsetType

ExternalId = Annotated[Name, Meta(description="The caller's own id of the session; unique.")]


class Session(Record, frozen=True, kw_only=True):
    """A conversation's container."""

    id: Id
    external_id: str
    name: str | None
    project_id: Id | None
    metadata: Metadata
    created_at: TimeMs
    updated_at: TimeMs


class CreateSession(Mutation, frozen=True, kw_only=True):
    """Parameters of sessions.create."""

    external_id: ExternalId
    name: Annotated[Annotated[str, Meta(max_length=MAX_TEXT)] | None, Meta(description="Display name.")] = None
    project_id: Annotated[Id | None, Meta(description="The project it belongs to.")] = None
    metadata: Annotated[Metadata, Meta(description="Anything the caller wants to keep with it.")] = {}


class GetSession(Params, frozen=True, kw_only=True):
    """Parameters of sessions.get."""

    id: Id


class GetSessionByExternalId(Params, frozen=True, kw_only=True):
    """Parameters of sessions.getByExternalId."""

    external_id: ExternalId


class ListSessions(Page, frozen=True, kw_only=True):
    """Parameters of sessions.list: newest first."""

    project_id: Annotated[Id | None, Meta(description="Only the sessions of this project.")] = None


def _one_of(id_: int | None, external_id: str | None) -> None:
    if (id_ is None) == (external_id is None):
        raise ValueError("expected exactly one of `id` and `externalId`")


class UpdateSession(Mutation, frozen=True, kw_only=True):
    """Parameters of sessions.update: what is not given stays as it is."""

    id: Id | None = None
    external_id: ExternalId | None = None
    name: Annotated[Name | UnsetType, Meta(description="New display name; not empty.")] = UNSET
    project_id: Annotated[Id | UnsetType | None, Meta(description="New project; null takes it out.")] = UNSET
    metadata: Annotated[Metadata | UnsetType, Meta(description="Replaces the metadata.")] = UNSET

    def __post_init__(self) -> None:
        """Something to find it by, and something to change."""
        super().__post_init__()
        _one_of(self.id, self.external_id)
        if self.name is UNSET and self.project_id is UNSET and self.metadata is UNSET:
            raise ValueError("expected at least one of `name`, `projectId` and `metadata`")


class DeleteSession(Mutation, frozen=True, kw_only=True):
    """Parameters of sessions.delete."""

    id: Id | None = None
    external_id: ExternalId | None = None

    def __post_init__(self) -> None:
        """Something to find it by."""
        super().__post_init__()
        _one_of(self.id, self.external_id)

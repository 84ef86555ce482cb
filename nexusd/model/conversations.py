"""Conversations: chats of messages, each of a user and a group if the caller says so."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from nexusd.model.fields import UNSET, Id, Key, Metadata, Mutation, Name, Page, Params, Record, TimeMs, UnsetType


class Conversation(Record, frozen=True, kw_only=True):
    """A chat. `updatedAt` is when it was last changed or, if that is later, when its latest message was said."""

    id: Id
    title: str | None
    user_id: Key | None
    group_id: Id | None
    metadata: Metadata
    created_at: TimeMs
    updated_at: TimeMs


class CreateConversation(Mutation, frozen=True, kw_only=True):
    """Parameters of conversations.create."""

    title: Annotated[Name | None, Meta(description="What people call it.")] = None
    user_id: Annotated[
        Key | None, Meta(description="The caller's own id of the user; no settings need be kept for it.")
    ] = None
    group_id: Annotated[Id | None, Meta(description="The group it belongs to.")] = None
    metadata: Annotated[Metadata, Meta(description="Anything the caller wants to keep with it.")] = {}
    created_at: Annotated[TimeMs | None, Meta(description="When it began; now if not given.")] = None


class GetConversation(Params, frozen=True, kw_only=True):
    """Parameters of conversations.get."""

    id: Id


class ListConversations(Page, frozen=True, kw_only=True):
    """Parameters of conversations.list."""

    user_id: Annotated[Key | None, Meta(description="Only those of this user; 5 and \"5\" are two.")] = None
    group_id: Annotated[Id | None, Meta(description="Only those of this group.")] = None
    order: Annotated[
        Literal["newest", "active"],
        Meta(description='"newest" by createdAt, "active" by updatedAt; the latest first.'),
    ] = "newest"


class UpdateConversation(Mutation, frozen=True, kw_only=True):
    """Parameters of conversations.update: what is not given stays as it is."""

    id: Id
    title: Annotated[Name | UnsetType | None, Meta(description="New title; null takes it away.")] = UNSET
    user_id: Annotated[Key | UnsetType | None, Meta(description="New user; null takes it away.")] = UNSET
    group_id: Annotated[Id | UnsetType | None, Meta(description="New group; null takes it out.")] = UNSET
    metadata: Annotated[Metadata | UnsetType, Meta(description="Replaces the metadata.")] = UNSET

    def __post_init__(self) -> None:
        """Something to change."""
        super().__post_init__()
        if all(change is UNSET for change in (self.title, self.user_id, self.group_id, self.metadata)):
            raise ValueError("expected at least one of `title`, `userId`, `groupId` and `metadata`")


class DeleteConversation(Mutation, frozen=True, kw_only=True):
    """Parameters of conversations.delete."""

    id: Id

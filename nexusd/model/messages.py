"""Messages: what was said in a conversation, and by whom."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from nexusd.model.bulk import Items
from nexusd.model.episodes import MAX_TEXT
from nexusd.model.fields import Id, Metadata, Mutation, Page, Params, Record, TimeMs, VectorState, Wait

Role = Annotated[
    str, Meta(min_length=1, max_length=64, description="Who speaks: user, assistant, system, tool or any other.")
]
Content = Annotated[
    str,
    Meta(
        max_length=MAX_TEXT,
        description="What was said. It may be empty: that is kept, and the index holds nothing of it.",
    ),
]


class Message(Record, frozen=True, kw_only=True):
    """One message. `vector` says whether the index holds it; it comes to "none" where nothing was said."""

    id: Id
    conversation_id: Id
    role: str
    content: str
    metadata: Metadata
    version: int
    created_at: TimeMs
    updated_at: TimeMs
    vector: VectorState


class NewMessage(Params, frozen=True, kw_only=True):
    """A message as a caller gives it; also an item of messages.createMany."""

    conversation_id: Id
    role: Role
    content: Content
    metadata: Annotated[Metadata, Meta(description="Anything the caller wants to keep with it.")] = {}
    created_at: Annotated[TimeMs | None, Meta(description="When it was said; now if not given.")] = None


class CreateMessage(Wait, frozen=True, kw_only=True):
    """Parameters of messages.create: the fields of NewMessage, and how to wait.

    The fields stand here again since a struct has one base, and by position they come before how to wait.
    """

    conversation_id: Id
    role: Role
    content: Content
    metadata: Annotated[Metadata, Meta(description="Anything the caller wants to keep with it.")] = {}
    created_at: Annotated[TimeMs | None, Meta(description="When it was said; now if not given.")] = None


class CreateMessages(Wait, frozen=True, kw_only=True):
    """Parameters of messages.createMany."""

    items: Items


class GetMessage(Params, frozen=True, kw_only=True):
    """Parameters of messages.get."""

    id: Id


class ListMessages(Page, frozen=True, kw_only=True):
    """Parameters of messages.list: the messages of a conversation."""

    conversation_id: Id
    order: Annotated[Literal["asc", "desc"], Meta(description="By createdAt; oldest first by default.")] = "asc"


class DeleteMessage(Mutation, frozen=True, kw_only=True):
    """Parameters of messages.delete."""

    id: Id

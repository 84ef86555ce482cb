"""Rows of another store on their way into this one.

Owns what a row must hold to be taken in. `id` is the row's id where it comes from: kept where it was never used
here. All other ids are this store's own. `occurrence` counts rows of the file before this one that are the same in
all that tells rows apart, so that two equal rows stay two however often the file is read.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from nexusd.model.bulk import Items
from nexusd.model.episodes import MAX_TEXT
from nexusd.model.fields import Id, Key, Metadata, Mutation, Name, Params, TimeMs

ImportTable = Literal[
    "projects", "sessions", "episodes", "entities", "relationships", "summaries", "users", "groups",
    "conversations", "messages", "toolLogs", "vectors",
]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
FilledText = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]
Occurrence = Annotated[int, Meta(ge=0, le=2**31)]
Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]


class ImportRow(Params, frozen=True, kw_only=True):
    """Base of all rows."""

    id: Id | None = None
    created_at: TimeMs
    occurrence: Occurrence = 0


class ImportProject(ImportRow, frozen=True, kw_only=True):
    """A project; the same by name and time."""

    name: Name
    description: Text | None = None
    colour: Text | None = None
    icon: Text | None = None


class ImportSession(ImportRow, frozen=True, kw_only=True):
    """A session; the same by its externalId."""

    external_id: Name
    name: Text | None = None
    project_id: Id | None = None
    metadata: Metadata = {}


class ImportEpisode(ImportRow, frozen=True, kw_only=True):
    """An exchange; the same by session, time and both texts."""

    session_id: Id
    user_message: FilledText
    ai_response: Text
    token_count: Annotated[int, Meta(ge=0, le=2**31)] | None = None
    metadata: Metadata = {}


class ImportEntity(ImportRow, frozen=True, kw_only=True):
    """An entity; the same by name and type."""

    name: Name
    type: Name
    notes: Text | None = None
    metadata: Metadata = {}


class ImportRelationship(ImportRow, frozen=True, kw_only=True):
    """A link; the same by both ends and the label."""

    from_id: Id
    to_id: Id
    label: Name
    metadata: Metadata = {}


class ImportSummary(ImportRow, frozen=True, kw_only=True):
    """A summary; the same by session, time and text."""

    session_id: Id
    content: FilledText
    first_episode_id: Id | None = None
    last_episode_id: Id | None = None
    token_count: Annotated[int, Meta(ge=0, le=2**31)] | None = None
    metadata: Metadata = {}


class ImportUser(Params, frozen=True, kw_only=True):
    """A user's settings; the same by the id, which is the caller's own."""

    id: Key
    settings: dict[str, Any] = {}
    created_at: TimeMs


class ImportGroup(ImportRow, frozen=True, kw_only=True):
    """A group; the same by name and time."""

    name: Name
    config: dict[str, Any] = {}


class ImportConversation(ImportRow, frozen=True, kw_only=True):
    """A conversation; the same by time, title and user."""

    title: Text | None = None
    user_id: Key | None = None
    group_id: Id | None = None
    metadata: Metadata = {}


class ImportMessage(ImportRow, frozen=True, kw_only=True):
    """A message; the same by conversation, time, role and text."""

    conversation_id: Id
    role: Annotated[str, Meta(min_length=1, max_length=64)]
    content: Text
    metadata: Metadata = {}


class ImportToolLog(ImportRow, frozen=True, kw_only=True):
    """A tool's call; the same by tool, time, arguments, result and error."""

    tool: Name
    arguments: Any = None
    result: Any = None
    error: Text | None = None
    duration_ms: Count | None = None
    conversation_id: Id | None = None
    metadata: Metadata = {}


class ImportVector(Params, frozen=True, kw_only=True):
    """A text; the same by the id, which is the caller's own."""

    id: Key
    text: FilledText
    embedding: Annotated[list[float], Meta(min_length=1, max_length=65536)] | None = None
    metadata: Metadata = {}
    created_at: TimeMs


class StoreImports(Mutation, frozen=True, kw_only=True):
    """Parameters of imports.store."""

    table: Annotated[ImportTable, Meta(description="What kind of rows these are.")]
    items: Items


class ImportedRow(Struct, frozen=True, rename="camel"):
    """Where a row is now, and whether this call put it there."""

    id: Key
    outcome: Literal["inserted", "existing"]


class LastIds(Struct, frozen=True):
    """By table, the largest id that was ever used; a row with a larger one keeps its id."""

    tables: dict[str, int]

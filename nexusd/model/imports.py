"""Rows of another store on their way into this one.

Owns what a row must hold to be taken in. `id` is the row's id where it comes from: kept where it was never used
here. All other ids are this store's own. `occurrence` counts rows of the file before this one that are the same in
all that tells rows apart, so that two equal rows stay two however often the file is read. `takenBefore` counts the
rows of the same place and time that earlier calls of the same run took in: where no more than these are here, no other
can be the same, and none is looked at.
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
Numbers = Annotated[list[float], Meta(min_length=1, max_length=65536)]
# A vector that was made of the row: float32, little-endian, and the hash of the text that it was made of.
StoredVector = Annotated[str, Meta(min_length=4, max_length=4 * 65536 * 2, pattern=r"^[A-Za-z0-9+/]+={0,2}\Z")]
TextHash = Annotated[str, Meta(pattern=r"^([0-9a-f]{32}|[0-9a-f]{64})\Z")]
Rule = Literal["skip", "update", "fail"]


class ImportRow(Params, frozen=True, kw_only=True):
    """Base of all rows."""

    id: Id | None = None
    created_at: TimeMs
    updated_at: TimeMs | None = None    # createdAt if not given
    occurrence: Occurrence = 0
    taken_before: Count | None = None


class ImportIndexed(ImportRow, frozen=True, kw_only=True):
    """Base of rows that the vector index follows; a vector counts only with the hash and for the call's `model`."""

    vector: StoredVector | None = None
    text_hash: TextHash | None = None


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


class ImportEpisode(ImportIndexed, frozen=True, kw_only=True):
    """An exchange; the same by session, time and both texts."""

    session_id: Id
    user_message: FilledText
    ai_response: Text
    token_count: Annotated[int, Meta(ge=0, le=2**31)] | None = None
    metadata: Metadata = {}


class ImportEntity(ImportIndexed, frozen=True, kw_only=True):
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


class ImportSummary(ImportIndexed, frozen=True, kw_only=True):
    """A summary; the same by session, time and text."""

    session_id: Id
    content: FilledText
    first_episode_id: Id | None = None
    last_episode_id: Id | None = None
    first_episode_at: TimeMs | None = None  # where that exchange is gone and its time alone is known
    last_episode_at: TimeMs | None = None
    token_count: Annotated[int, Meta(ge=0, le=2**31)] | None = None
    metadata: Metadata = {}


class ImportUser(Params, frozen=True, kw_only=True):
    """A user's settings; the same by the id, which is the caller's own."""

    id: Key
    settings: dict[str, Any] = {}
    created_at: TimeMs
    updated_at: TimeMs | None = None


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


class ImportMessage(ImportIndexed, frozen=True, kw_only=True):
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
    """A text; the same by the id, which is the caller's own.

    `embedding` is the caller's own vector, of the model with the key `embeddingModel`, or of the one that serves.
    """

    id: Key
    text: Text
    embedding: Numbers | None = None
    embedding_model: Annotated[str, Meta(min_length=1, max_length=512)] | None = None
    metadata: Metadata = {}
    created_at: TimeMs
    updated_at: TimeMs | None = None
    vector: StoredVector | None = None
    text_hash: TextHash | None = None


class StoreImports(Mutation, frozen=True, kw_only=True):
    """Parameters of imports.store."""

    table: Annotated[ImportTable, Meta(description="What kind of rows these are.")]
    items: Items
    on_conflict: Annotated[
        Rule | None,
        Meta(description="What becomes of a row that is here and says something else; not given: nothing is compared."),
    ] = None
    model: Annotated[
        str | None, Meta(description="Key of the embedding model that the rows' vectors are of; see imports.lastIds.")
    ] = None


class CompareImports(Params, frozen=True, kw_only=True):
    """Parameters of imports.compare."""

    table: Annotated[ImportTable, Meta(description="What kind of rows these are.")]
    items: Items


class ImportedRow(Struct, frozen=True, rename="camel"):
    """Where a row is now, and what this call did.

    Existing: it was here already, and what it says was the same or was not compared. Updated: it said something else,
    and now says what the file does. Kept: it says something else, and was left so.
    """

    id: Key
    outcome: Literal["inserted", "existing", "updated", "kept"]


class ComparedRow(Struct, frozen=True, rename="camel"):
    """Where a row is, null if it is not here, and whether it says the same."""

    id: Key | None
    outcome: Literal["new", "same", "different"]


class LastIds(Struct, frozen=True):
    """By table, the largest id that was ever used; a row with a larger one keeps its id.

    `model` is the key of the embedding model that serves.
    """

    tables: dict[str, int]
    model: str

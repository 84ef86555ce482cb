"""Episodes: exchanges of a user's message and the system's answer, each in a session."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from nexusd.model.bulk import Items
from nexusd.model.fields import (
    UNSET,
    Id,
    Limit,
    Metadata,
    Mutation,
    Page,
    Params,
    Record,
    TimeMs,
    UnsetType,
    VectorState,
    Wait,
)

MAX_TEXT = 4 * 1024 * 1024  # characters; two of them still fit the longest message
UserMessage = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT, description="What the user said; not empty.")]
AiResponse = Annotated[str, Meta(max_length=MAX_TEXT, description="What the system answered; may be empty.")]
TokenCount = Annotated[int, Meta(ge=0, le=2**31, description="Tokens of the exchange.")]


class Episode(Record, frozen=True, kw_only=True):
    """One exchange. `vector` says whether the index holds this version of it."""

    id: Id
    session_id: Id
    user_message: str
    ai_response: str
    token_count: int | None
    metadata: Metadata
    version: int
    created_at: TimeMs
    updated_at: TimeMs
    vector: VectorState


class NewEpisode(Params, frozen=True, kw_only=True):
    """An exchange as a caller gives it; also an item of episodes.createMany."""

    session_id: Id
    user_message: UserMessage
    ai_response: AiResponse
    token_count: Annotated[TokenCount | None, Meta(description="Tokens of the exchange, if known.")] = None
    metadata: Annotated[Metadata, Meta(description="Anything the caller wants to keep with it.")] = {}
    created_at: Annotated[TimeMs | None, Meta(description="When it was said; now if not given.")] = None


class CreateEpisode(Wait, frozen=True, kw_only=True):
    """Parameters of episodes.create: the fields of NewEpisode, and how to wait.

    The fields stand here again since a struct has one base, and by position they come before how to wait.
    """

    session_id: Id
    user_message: UserMessage
    ai_response: AiResponse
    token_count: Annotated[TokenCount | None, Meta(description="Tokens of the exchange, if known.")] = None
    metadata: Annotated[Metadata, Meta(description="Anything the caller wants to keep with it.")] = {}
    created_at: Annotated[TimeMs | None, Meta(description="When it was said; now if not given.")] = None


class CreateEpisodes(Wait, frozen=True, kw_only=True):
    """Parameters of episodes.createMany."""

    items: Items


class GetEpisode(Params, frozen=True, kw_only=True):
    """Parameters of episodes.get."""

    id: Id


class ListEpisodes(Page, frozen=True, kw_only=True):
    """Parameters of episodes.list: the exchanges of a session."""

    session_id: Id
    order: Annotated[Literal["asc", "desc"], Meta(description="By createdAt; newest first by default.")] = "desc"


class UpdateEpisode(Wait, frozen=True, kw_only=True):
    """Parameters of episodes.update: what is not given stays as it is."""

    id: Id
    user_message: UserMessage | UnsetType = UNSET
    ai_response: AiResponse | UnsetType = UNSET
    token_count: TokenCount | UnsetType | None = UNSET
    metadata: Annotated[Metadata | UnsetType, Meta(description="Replaces the metadata.")] = UNSET

    def __post_init__(self) -> None:
        """Something to change."""
        super().__post_init__()
        changes = (self.user_message, self.ai_response, self.token_count, self.metadata)
        if all(change is UNSET for change in changes):
            raise ValueError(
                "expected at least one of `userMessage`, `aiResponse`, `tokenCount` and `metadata`"
            )


class DeleteEpisode(Mutation, frozen=True, kw_only=True):
    """Parameters of episodes.delete."""

    id: Id


class SearchEpisodes(Params, frozen=True, kw_only=True):
    """Parameters of episodes.search: exchanges that hold every word, best first."""

    query: Annotated[str, Meta(min_length=1, max_length=8192, description="Words, or FTS5 syntax.")]
    limit: Limit = 10
    session_id: Annotated[Id | None, Meta(description="Only in this session.")] = None
    syntax: Annotated[
        Literal["plain", "fts5"], Meta(description='"fts5" opens the full query language of SQLite FTS5.')
    ] = "plain"


class EpisodeMatch(Struct, frozen=True, kw_only=True, rename="camel"):
    """A keyword hit: the exchange and its bm25 score (higher is better)."""

    episode: Episode
    score: float


class EpisodeMatches(Struct, frozen=True, kw_only=True, rename="camel"):
    """What episodes.search answers. `truncated`: further matches were left out, for they would be too much text."""

    items: list[EpisodeMatch]
    next_cursor: str | None = None
    truncated: bool = False

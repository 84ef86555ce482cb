"""Summaries: condensed runs of a session's exchanges."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from nexusd.model.episodes import MAX_TEXT, TokenCount
from nexusd.model.fields import Id, Metadata, Mutation, Page, Params, Record, TimeMs, VectorState, Wait

# The pattern asks for one sign that is no white space: a blank text has nothing to embed.
Content = Annotated[
    str, Meta(min_length=1, max_length=MAX_TEXT, pattern=r"\S", description="The summary; not empty, not blank.")
]


class Summary(Record, frozen=True, kw_only=True):
    """A text that stands for a run of exchanges, named by the first and the last of it.

    `vector` says whether the index holds it. It outlives the exchanges that it condenses.
    """

    id: Id
    session_id: Id
    content: str
    first_episode_id: Id | None
    last_episode_id: Id | None
    token_count: int | None
    metadata: Metadata
    version: int
    created_at: TimeMs
    updated_at: TimeMs
    vector: VectorState


class CreateSummary(Wait, frozen=True, kw_only=True):
    """Parameters of summaries.create."""

    session_id: Id
    content: Content
    first_episode_id: Annotated[
        Id | None, Meta(description="Where the run begins; with lastEpisodeId, and of this session.")
    ] = None
    last_episode_id: Annotated[
        Id | None, Meta(description="Where the run ends: the same exchange or a later one, by createdAt.")
    ] = None
    token_count: Annotated[TokenCount | None, Meta(description="Tokens of the summary, if known.")] = None
    metadata: Annotated[Metadata, Meta(description="Anything the caller wants to keep with it.")] = {}
    created_at: Annotated[TimeMs | None, Meta(description="When it was made; now if not given.")] = None

    def __post_init__(self) -> None:
        """A run has two ends."""
        super().__post_init__()
        if (self.first_episode_id is None) != (self.last_episode_id is None):
            raise ValueError("expected both `firstEpisodeId` and `lastEpisodeId`, or neither")


class GetSummary(Params, frozen=True, kw_only=True):
    """Parameters of summaries.get."""

    id: Id


class ListSummaries(Page, frozen=True, kw_only=True):
    """Parameters of summaries.list: those of a session, newest first."""

    session_id: Id


class DeleteSummary(Mutation, frozen=True, kw_only=True):
    """Parameters of summaries.delete."""

    id: Id


class ListPendingSummaries(Page, frozen=True, kw_only=True):
    """Parameters of summaries.pending: sessions with exchanges that no summary covers, the longest waiting first."""

    min_episodes: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Only sessions with at least so many of them.")
    ] = 1


class PendingSummary(Record, frozen=True, kw_only=True):
    """A session with exchanges that no summary covers: how many, the first and the last of them.

    Between the first and the last there may be some that are covered.
    """

    session_id: Id
    external_id: str
    name: str | None
    pending_episodes: int
    first_episode_id: Id
    last_episode_id: Id
    oldest_at: TimeMs

"""Tool logs: which tool was called with what, and what came of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from nexusd.model.episodes import MAX_TEXT
from nexusd.model.fields import MAX_SAFE_INTEGER, Id, Metadata, Mutation, Name, Page, Params, Record, TimeMs

Status = Literal["ok", "error"]
Error = Annotated[str, Meta(max_length=MAX_TEXT)]
Milliseconds = Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)]
Count = Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)]


class ToolLog(Record, frozen=True, kw_only=True):
    """One call of a tool."""

    id: Id
    tool: str
    status: Status
    arguments: Any
    result: Any
    error: str | None
    duration_ms: int | None
    conversation_id: Id | None
    metadata: Metadata
    created_at: TimeMs


class AppendToolLog(Mutation, frozen=True, kw_only=True):
    """Parameters of toolLogs.append."""

    tool: Annotated[Name, Meta(description="The tool's name.")]
    arguments: Annotated[Any, Meta(description="What it was called with: any JSON.")] = None
    result: Annotated[Any, Meta(description="What it answered: any JSON.")] = None
    error: Annotated[Error | None, Meta(description='Why it failed; given, the status is "error", else "ok".')] = None
    duration_ms: Annotated[Milliseconds | None, Meta(description="How long it took.")] = None
    conversation_id: Annotated[Id | None, Meta(description="The conversation that it was called in.")] = None
    metadata: Annotated[Metadata, Meta(description="Anything the caller wants to keep with it.")] = {}
    created_at: Annotated[TimeMs | None, Meta(description="When it was called; now if not given.")] = None


class GetToolLog(Params, frozen=True, kw_only=True):
    """Parameters of toolLogs.get."""

    id: Id


class ListToolLogs(Page, frozen=True, kw_only=True):
    """Parameters of toolLogs.list: the newest first; what is given must all hold."""

    tool: Annotated[Name | None, Meta(description="Only calls of this tool.")] = None
    status: Annotated[Status | None, Meta(description="Only calls that went well, or that failed.")] = None
    conversation_id: Annotated[Id | None, Meta(description="Only calls in this conversation.")] = None
    since: Annotated[TimeMs | None, Meta(description="Called at or after.")] = None
    until: Annotated[TimeMs | None, Meta(description="Called before.")] = None


class PruneToolLogs(Mutation, frozen=True, kw_only=True):
    """Parameters of toolLogs.prune: what is too old goes, and what is too many."""

    older_than_ms: Annotated[
        Milliseconds | None, Meta(description="Calls longer ago than so many milliseconds go.")
    ] = None
    keep: Annotated[Count | None, Meta(description="Of the others, at most so many stay: the newest.")] = None

    def __post_init__(self) -> None:
        """A measure."""
        super().__post_init__()
        if self.older_than_ms is None and self.keep is None:
            raise ValueError("expected at least one of `olderThanMs` and `keep`")

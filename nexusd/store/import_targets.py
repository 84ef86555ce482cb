"""The tables that take rows of another store in: their columns, and what makes a row the same as one that is here.

Owns this table of tables. Writes nothing.
"""

from __future__ import annotations

import array
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from nexusd.model.fields import Params
from nexusd.model.imports import (
    ImportConversation,
    ImportEntity,
    ImportEpisode,
    ImportGroup,
    ImportMessage,
    ImportProject,
    ImportRelationship,
    ImportRow,
    ImportSession,
    ImportSummary,
    ImportTable,
    ImportToolLog,
    ImportUser,
    ImportVector,
)

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """A table that takes rows in.

    A row is the same as one that is here if all columns of `group` and `same` are. Of such there may be many where
    `group` is not None: those columns, of an index or none, say where to look. `changes` is what the same row may say
    otherwise. `key` is the column by which callers know the row.
    """

    table: str
    row: type[Params]
    values: Callable[[Any], Values]
    group: tuple[str, ...] | None
    same: tuple[str, ...]
    changes: tuple[str, ...]
    key: str = "id"
    versioned: bool = False     # the vector index follows it

    @property
    def keeps_ids(self) -> bool:
        """Whether a row may come with its id."""
        return issubclass(self.row, ImportRow)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _times(row: Any) -> Values:
    return {"created_at": row.created_at, "updated_at": row.created_at if row.updated_at is None else row.updated_at}


def _project(row: ImportProject) -> Values:
    return {"name": row.name, "description": row.description, "colour": row.colour, "icon": row.icon, **_times(row)}


def _session(row: ImportSession) -> Values:
    return {
        "external_id": row.external_id, "name": row.name, "project_id": row.project_id,
        "metadata": _json(row.metadata), **_times(row),
    }


def _episode(row: ImportEpisode) -> Values:
    return {
        "session_id": row.session_id, "user_message": row.user_message, "ai_response": row.ai_response,
        "token_count": row.token_count, "metadata": _json(row.metadata), **_times(row),
    }


def _entity(row: ImportEntity) -> Values:
    return {"name": row.name, "type": row.type, "notes": row.notes, "metadata": _json(row.metadata), **_times(row)}


def _relationship(row: ImportRelationship) -> Values:
    return {
        "from_id": row.from_id, "to_id": row.to_id, "label": row.label, "metadata": _json(row.metadata),
        **_times(row),
    }


def _summary(row: ImportSummary) -> Values:
    return {
        "session_id": row.session_id, "content": row.content, "first_episode_id": row.first_episode_id,
        "last_episode_id": row.last_episode_id, "token_count": row.token_count, "metadata": _json(row.metadata),
        "first_episode_at": row.first_episode_at, "last_episode_at": row.last_episode_at, **_times(row),
    }


def _user(row: ImportUser) -> Values:
    return {"id": row.id, "settings": _json(row.settings), **_times(row)}


def _group(row: ImportGroup) -> Values:
    return {"name": row.name, "config": _json(row.config), **_times(row)}


def _conversation(row: ImportConversation) -> Values:
    return {
        "title": row.title, "user_id": row.user_id, "group_id": row.group_id, "metadata": _json(row.metadata),
        **_times(row),
    }


def _message(row: ImportMessage) -> Values:
    return {
        "conversation_id": row.conversation_id, "role": row.role, "content": row.content,
        "metadata": _json(row.metadata), **_times(row),
    }


def _tool_log(row: ImportToolLog) -> Values:
    return {
        "tool": row.tool, "status": "ok" if row.error is None else "error", "arguments": _json(row.arguments),
        "result": _json(row.result), "error": row.error, "duration_ms": row.duration_ms,
        "conversation_id": row.conversation_id, "metadata": _json(row.metadata), "created_at": row.created_at,
    }


def _vector(row: ImportVector) -> Values:
    return {
        "key": row.id, "text": row.text, "metadata": _json(row.metadata),
        "embedding": None if row.embedding is None else _float32(row.embedding),
        "embedding_model": None if row.embedding is None else row.embedding_model, **_times(row),
    }


def _float32(numbers: Sequence[float]) -> bytes:
    packed = array.array("f", numbers)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


TARGETS: Mapping[ImportTable, Target] = {
    # names need not be unique
    "projects": Target("projects", ImportProject, _project, (), ("name", "created_at"),
                       ("description", "colour", "icon")),
    "sessions": Target("sessions", ImportSession, _session, None, ("external_id",),
                       ("name", "project_id", "metadata")),
    "episodes": Target("episodes", ImportEpisode, _episode, ("session_id", "created_at"),
                       ("user_message", "ai_response"), ("token_count", "metadata"), versioned=True),
    "entities": Target("entities", ImportEntity, _entity, None, ("name", "type"), ("notes", "metadata"),
                       versioned=True),
    "relationships": Target("relationships", ImportRelationship, _relationship, None, ("from_id", "to_id", "label"),
                            ("metadata",)),
    "summaries": Target("summaries", ImportSummary, _summary, ("session_id", "created_at"), ("content",),
                        ("token_count", "metadata"), versioned=True),
    "users": Target("users", ImportUser, _user, None, ("id",), ("settings",)),
    "groups": Target("groups", ImportGroup, _group, (), ("name", "created_at"), ("config",)),
    "conversations": Target("conversations", ImportConversation, _conversation, ("created_at",),
                            ("title", "user_id"), ("group_id", "metadata")),
    "messages": Target("messages", ImportMessage, _message, ("conversation_id", "created_at"), ("role", "content"),
                       ("metadata",), versioned=True),
    "toolLogs": Target("tool_logs", ImportToolLog, _tool_log, ("created_at",),
                       ("tool", "arguments", "result", "error"), ("duration_ms", "conversation_id", "metadata")),
    "vectors": Target("vectors", ImportVector, _vector, None, ("key",),
                      ("text", "metadata", "embedding", "embedding_model"), "key", versioned=True),
}

"""Rows that come from another store.

Owns how a row is recognised as one that is here already, and when it keeps its id. A row is looked for by what it
says, not by where it came from: the same file read twice, moved, or grown since adds only what is new. Knows no
file.
"""

from __future__ import annotations

import array
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apsw
import msgspec

from nexusd.errors import Conflict, RowNotFound, RpcError
from nexusd.model.fields import Params
from nexusd.model.imports import (
    ImportConversation,
    ImportedRow,
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
    LastIds,
)
from nexusd.store.connection import Connection, is_foreign_key

Values = dict[str, Any]

# An id past this is not kept: the ids after it would soon be more than a JavaScript client can tell apart.
LARGEST_KEPT_ID = 2**48

# the largest id that a table ever used
SELECT_LAST_ID = "SELECT seq FROM sqlite_sequence WHERE name = ?"

# one more row, with its id or null for the next one
INSERT_ROW = 'INSERT INTO "{table}" ({columns}) VALUES ({places}) RETURNING {answer}'

# rows after an id wait for the index since now, not since they were made elsewhere
WAIT_SINCE_NOW = """
UPDATE outbox SET created_ms = CAST(unixepoch('subsec') * 1000 AS INTEGER)
WHERE collection = ? AND row_id > ?"""


@dataclass(frozen=True, slots=True)
class Target:
    """A table that takes rows in. `find` looks for a row that is the same, the `:occurrence`-th of them."""

    table: str
    row: type[Params]
    values: Callable[[Any], Values]
    find: str
    key: str = "id"  # the column whose value callers know the row by


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _times(row: Any) -> Values:
    return {"created_at": row.created_at, "updated_at": row.created_at}


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
        **_times(row),
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
        "embedding": None if row.embedding is None else _float32(row.embedding), **_times(row),
    }


def _float32(numbers: Sequence[float]) -> bytes:
    packed = array.array("f", numbers)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


_AGAIN = " ORDER BY id LIMIT 1 OFFSET :occurrence"

TARGETS: Mapping[ImportTable, Target] = {
    # by name and time: names need not be unique
    "projects": Target("projects", ImportProject, _project,
        "SELECT id FROM projects WHERE name = :name AND created_at = :created_at" + _AGAIN),
    # by the caller's id
    "sessions": Target("sessions", ImportSession, _session,
        "SELECT id FROM sessions WHERE external_id = :external_id"),
    # by place and texts
    "episodes": Target("episodes", ImportEpisode, _episode,
        "SELECT id FROM episodes WHERE session_id = :session_id AND created_at = :created_at"
        " AND user_message = :user_message AND ai_response = :ai_response" + _AGAIN),
    # by what makes an entity one
    "entities": Target("entities", ImportEntity, _entity,
        "SELECT id FROM entities WHERE name = :name AND type = :type"),
    # by both ends and the label
    "relationships": Target("relationships", ImportRelationship, _relationship,
        "SELECT id FROM relationships WHERE from_id = :from_id AND to_id = :to_id AND label = :label"),
    # by place and text
    "summaries": Target("summaries", ImportSummary, _summary,
        "SELECT id FROM summaries WHERE session_id = :session_id AND created_at = :created_at"
        " AND content = :content" + _AGAIN),
    # by the caller's id
    "users": Target("users", ImportUser, _user, "SELECT id FROM users WHERE id = :id"),
    # by name and time
    "groups": Target("groups", ImportGroup, _group,
        'SELECT id FROM "groups" WHERE name = :name AND created_at = :created_at' + _AGAIN),
    # by time, title and user
    "conversations": Target("conversations", ImportConversation, _conversation,
        "SELECT id FROM conversations WHERE created_at = :created_at AND title IS :title AND user_id IS :user_id"
        + _AGAIN),
    # by place and text
    "messages": Target("messages", ImportMessage, _message,
        "SELECT id FROM messages WHERE conversation_id = :conversation_id AND created_at = :created_at"
        " AND role = :role AND content = :content" + _AGAIN),
    # by time and all that was said
    "toolLogs": Target("tool_logs", ImportToolLog, _tool_log,
        "SELECT id FROM tool_logs WHERE created_at = :created_at AND tool = :tool AND arguments = :arguments"
        " AND result = :result AND error IS :error" + _AGAIN),
    # by the caller's id
    "vectors": Target("vectors", ImportVector, _vector, "SELECT key FROM vectors WHERE key = :key", "key"),
}


def import_rows(db: Connection, rows: Sequence[Params], table: ImportTable, model: str) -> list[ImportedRow | RpcError]:
    """Take rows in, in order; each answers where it is now, or its own error while the others stand.

    A caller's own vector belongs to the embedding model with the key `model`.
    """
    target = TARGETS[table]
    last_before = last_id = _last_id(db, target.table)
    answers: list[ImportedRow | RpcError] = []
    for row in rows:
        values = target.values(row)
        found = db.execute(target.find, {**values, "occurrence": getattr(row, "occurrence", 0)}).get
        if found is not None:
            answers.append(ImportedRow(found, "existing"))
            continue
        if isinstance(row, ImportRow) and row.id is not None and last_id < row.id <= LARGEST_KEPT_ID:
            values["id"] = row.id
        if values.get("embedding") is not None:
            values["embedding_model"] = model
        answer = _insert(db, target, values)
        answers.append(answer)
        if isinstance(row, ImportRow) and isinstance(answer, ImportedRow):
            last_id = max(last_id, int(answer.id))
    db.execute(WAIT_SINCE_NOW, (target.table, last_before))
    return answers


def _insert(db: Connection, target: Target, values: Values) -> ImportedRow | RpcError:
    sql = INSERT_ROW.format(
        table=target.table, columns=", ".join(values), places=", ".join("?" * len(values)), answer=target.key
    )
    try:
        return ImportedRow(db.execute(sql, tuple(values.values())).get, "inserted")
    except apsw.ConstraintError as error:  # a failed statement undoes itself
        if is_foreign_key(error):
            return RowNotFound("A row that it belongs to is not there.")
        return Conflict(f"The row does not fit: {error}")


def _last_id(db: Connection, table: str) -> int:
    return db.execute(SELECT_LAST_ID, (table,)).get or 0


def last_ids(db: Connection) -> LastIds:
    """The largest id that each table ever used, of those that keep ids."""
    keeping = {name: target.table for name, target in TARGETS.items() if issubclass(target.row, ImportRow)}
    return LastIds({name: _last_id(db, table) for name, table in keeping.items()})

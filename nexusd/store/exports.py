"""The rows of the store on their way out: page by page, by id, up to where the tables ended when it began.

Owns the order of the tables (what others refer to comes first), the columns, and the cursor, which holds all there is
to know: nothing is kept between two pages, no read transaction stays open, and an export goes on over a restart.

What the pages hold together: every row that was there from beginning to end, as it was at some time between; none
that was made after it began. A row that changes or goes meanwhile is in it as it was before, as it is after, or, gone,
not at all. What a row refers to comes before it: ids are never used again, and a parent goes after its children.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from nexusd.errors import InvalidParams
from nexusd.field_errors import FieldError
from nexusd.model.exports import BeginExport
from nexusd.model.imports import ImportTable
from nexusd.model.numbers import unpacked
from nexusd.store.connection import Connection
from nexusd.store.cursors import decode_cursor, encode_cursor
from nexusd.store.text_budget import TextBudget

LISTING = "export"
MAX_PAGE_TEXT = 2 * 1024 * 1024     # characters: what a page costs in memory, on both sides and in the socket between

# rows after a place, up to the last one when the export began
READ_PAGE = """
SELECT {columns}{vector} FROM "{table}" t {join}
WHERE t."{place}" > :after AND t."{place}" <= :bound AND {scope}
ORDER BY t."{place}" LIMIT :limit"""

# the vector that the serving model made of a row
JOIN_VECTOR = """LEFT JOIN embeddings v ON v.collection = '{table}' AND v.row_id = t.id AND v.model = :model"""

# how many rows there are in a scope, and the last of them
MEASURE = 'SELECT count(*), coalesce(max(t."{place}"), 0) FROM "{table}" t WHERE {scope}'

# The exchanges of a session, or of a project's: found by the index of their sessions, and only then read.
_EPISODES_OF = """t.id IN (SELECT id FROM episodes WHERE session_id IN ({sessions})
    AND id > :after AND id <= :bound ORDER BY id LIMIT :limit)"""
_SESSIONS_OF_PROJECT = "SELECT id FROM sessions WHERE project_id = :scope"
_IN_PROJECT = f"t.session_id IN ({_SESSIONS_OF_PROJECT})"


@dataclass(frozen=True, slots=True)
class Source:
    """A table and how its rows are told. `columns`: wire name -> SQL; those in `json` hold JSON already.

    `of_session` and `of_project` are conditions; a table without them belongs to no session.
    """

    table: str
    columns: Mapping[str, str]
    json: frozenset[str] = frozenset({"metadata"})
    place: str = "id"
    of_session: str | None = None
    of_project: str | None = None
    indexed: bool = False


_TIMES = {"createdAt": "t.created_at", "updatedAt": "t.updated_at"}
_META = {"metadata": "t.metadata"}


def _end(which: str) -> dict[str, str]:
    """An end of a summary's run: its id while that exchange is there, its time alone when it is gone."""
    there = f"EXISTS (SELECT 1 FROM episodes e WHERE e.id = t.{which}_episode_id)"
    return {
        f"{which}EpisodeId": f"CASE WHEN {there} THEN t.{which}_episode_id END",
        f"{which}EpisodeAt": f"CASE WHEN NOT {there} THEN t.{which}_episode_at END",
    }


SOURCES: Mapping[ImportTable, Source] = {
    "projects": Source(
        "projects", {"id": "t.id", "name": "t.name", "description": "t.description", "colour": "t.colour",
                     "icon": "t.icon", **_TIMES},
        of_session="t.id = (SELECT project_id FROM sessions WHERE id = :scope)", of_project="t.id = :scope",
    ),
    "sessions": Source(
        # in a project that was made after the export began it is in none
        "sessions", {"id": "t.id", "externalId": "t.external_id", "name": "t.name",
                     "projectId": "CASE WHEN t.project_id <= :parents THEN t.project_id END", **_META, **_TIMES},
        of_session="t.id = :scope", of_project="t.project_id = :scope",
    ),
    "episodes": Source(
        "episodes", {"id": "t.id", "sessionId": "t.session_id", "userMessage": "t.user_message",
                     "aiResponse": "t.ai_response", "tokenCount": "t.token_count", **_META, **_TIMES},
        of_session=_EPISODES_OF.format(sessions=":scope"),
        of_project=_EPISODES_OF.format(sessions=_SESSIONS_OF_PROJECT), indexed=True,
    ),
    "summaries": Source(
        "summaries", {"id": "t.id", "sessionId": "t.session_id", "content": "t.content", **_end("first"),
                      **_end("last"), "tokenCount": "t.token_count", **_META, **_TIMES},
        of_session="t.session_id = :scope", of_project=_IN_PROJECT, indexed=True,
    ),
    "entities": Source(
        "entities", {"id": "t.id", "name": "t.name", "type": "t.type", "notes": "t.notes", **_META, **_TIMES},
        indexed=True,
    ),
    "relationships": Source(
        "relationships", {"id": "t.id", "fromId": "t.from_id", "toId": "t.to_id", "label": "t.label", **_META,
                          **_TIMES},
    ),
    "users": Source("users", {"id": "t.id", "settings": "t.settings", **_TIMES}, frozenset({"settings"}), "seq"),
    "groups": Source("groups", {"id": "t.id", "name": "t.name", "config": "t.config", **_TIMES},
                     frozenset({"config"})),
    "conversations": Source(
        "conversations", {"id": "t.id", "title": "t.title", "userId": "t.user_id",
                          "groupId": "CASE WHEN t.group_id <= :parents THEN t.group_id END", **_META, **_TIMES},
    ),
    "messages": Source(
        "messages", {"id": "t.id", "conversationId": "t.conversation_id", "role": "t.role", "content": "t.content",
                     **_META, **_TIMES},
        indexed=True,
    ),
    "toolLogs": Source(
        "tool_logs", {"id": "t.id", "tool": "t.tool", "arguments": "t.arguments", "result": "t.result",
                      "error": "t.error", "durationMs": "t.duration_ms", "conversationId": "t.conversation_id",
                      **_META, "createdAt": "t.created_at"},
        frozenset({"metadata", "arguments", "result"}),
    ),
    "vectors": Source(
        "vectors", {"id": "t.key", "text": "t.text", "embedding": "t.embedding",
                    "embeddingModel": "t.embedding_model", **_META, **_TIMES},
        indexed=True,
    ),
}
TABLES = tuple(SOURCES)
# the table whose bound holds for the references that may change
_PARENTS: Mapping[str, ImportTable] = {"sessions": "projects", "conversations": "groups"}
_OF_EVERYTHING, _OF_SESSION, _OF_PROJECT = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Place:
    """Where an export is; what its cursor holds."""

    table: int
    after: int
    of: int         # one of the three scopes
    scope: int      # the session's or the project's id
    vectors: bool
    bounds: tuple[int, ...]

    def encode(self) -> str:
        """As a cursor."""
        return encode_cursor(
            LISTING, self.table, self.after, self.of, self.scope, int(self.vectors), *self.bounds
        )


def _decode(cursor: str) -> Place:
    table, after, of, scope, vectors, *bounds = decode_cursor(LISTING, cursor, 5 + len(TABLES))
    if not (0 <= table < len(TABLES) and _OF_EVERYTHING <= of <= _OF_PROJECT):
        raise InvalidParams(fields=(FieldError("cursor", "nextCursor of the page before, as it was answered"),))
    return Place(table, after, of, scope, bool(vectors), tuple(bounds))


def begin_export(db: Connection, params: BeginExport) -> tuple[str, dict[str, int]]:
    """Where the export begins, as a cursor, and how many rows each table has. All seen at one moment."""
    of, scope = _OF_EVERYTHING, 0
    if params.session_id is not None:
        of, scope = _OF_SESSION, params.session_id
    elif params.project_id is not None:
        of, scope = _OF_PROJECT, params.project_id
    rows: dict[str, int] = {}
    bounds: list[int] = []
    for table, source in SOURCES.items():
        condition = _condition(source, of)
        bound = 0
        if condition is not None:
            sql = MEASURE.format(place=source.place, table=source.table, scope=condition)
            every = {"scope": scope, "after": 0, "bound": 2**63 - 1, "limit": -1}
            [(rows[table], bound)] = db.execute(sql, every)
        bounds.append(bound)
    return Place(0, 0, of, scope, params.vectors, tuple(bounds)).encode(), rows


def read_export(
    db: Connection, cursor: str, limit: int, model: str
) -> tuple[list[dict[str, Any]], str | None]:
    """The next rows, all of one table, and where they go on; with vectors that the model made, if it was begun so.

    Raises:
        InvalidParams: the cursor is none of an export.
    """
    at = _decode(cursor)
    while True:
        table = TABLES[at.table]
        rows, after, more = _page(db, table, at, limit, model)
        if more:
            next_place: Place | None = _moved(at, at.table, after)
        else:
            next_place = _moved(at, at.table + 1, 0) if at.table + 1 < len(TABLES) else None
        if rows or next_place is None:
            return rows, None if next_place is None else next_place.encode()
        at = next_place


def _moved(at: Place, table: int, after: int) -> Place:
    return Place(table, after, at.of, at.scope, at.vectors, at.bounds)


def _condition(source: Source, of: int) -> str | None:
    return ("TRUE", source.of_session, source.of_project)[of]


def _page(
    db: Connection, table: ImportTable, at: Place, limit: int, model: str
) -> tuple[list[dict[str, Any]], int, bool]:
    """Rows, the place of the last, and whether there are more."""
    source, bound = SOURCES[table], at.bounds[at.table]
    condition = _condition(source, at.of)
    if condition is None or at.after >= bound:
        return [], 0, False
    with_vector = at.vectors and source.indexed
    sql = READ_PAGE.format(
        columns=", ".join([f't."{source.place}"', *source.columns.values()]), table=source.table, place=source.place,
        vector=", v.content_hash, v.vector" if with_vector else "", scope=condition,
        join=JOIN_VECTOR.format(table=source.table) if with_vector else "",
    )
    values: dict[str, Any] = {"after": at.after, "bound": bound, "limit": limit + 1, "scope": at.scope}
    if table in _PARENTS:
        values["parents"] = at.bounds[TABLES.index(_PARENTS[table])]
    if with_vector:
        values["model"] = model
    tell = _teller(table, source)
    budget, rows, last = TextBudget(MAX_PAGE_TEXT), list[dict[str, Any]](), at.after
    for place, *columns in db.execute(sql, values):
        if len(rows) == limit or not budget.take(*(part for part in columns if isinstance(part, str | bytes))):
            return rows, last, True
        rows.append(tell(columns, with_vector))
        last = place
    return rows, last, False


def _teller(table: ImportTable, source: Source) -> Callable[[list[Any], bool], dict[str, Any]]:
    names = list(source.columns)
    json = [name in source.json for name in names]

    def tell(columns: list[Any], with_vector: bool) -> dict[str, Any]:  # noqa: FBT001 - for the loop above alone
        row: dict[str, Any] = {"table": table}
        for name, is_json, value in zip(names, json, columns, strict=False):
            if value is not None:
                row[name] = _raw(value) if is_json else value
        if "embedding" in row:
            row["embedding"] = unpacked(row["embedding"])
        if with_vector and columns[-1] is not None:
            row["textHash"] = columns[-2].hex()
            row["vector"] = base64.b64encode(columns[-1]).decode()
        return row

    return tell


def _raw(text: str) -> Any:
    """JSON as it is kept; on one line, which the sqlite3 shell does not promise."""
    return msgspec.json.decode(text) if "\n" in text else msgspec.Raw(text.encode())

"""The database file of one of the two older services, read as rows for `imports.store`.

Owns what is known of those files: their tables, the names that columns may have, and how their times and JSON are
written. Every column that no field is made of goes into the row's metadata (or settings, or config), so that nothing
is lost. Reads one snapshot and never writes. Knows no daemon: references to other rows are left as the file's own ids.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from nexusd.model.fields import MAX_SAFE_INTEGER

Kind = Literal["memory service", "storage core"]
Fields = dict[str, Any]

# Times below this are seconds: as milliseconds they would lie before March 1973.
FIRST_PLAUSIBLE_MS = 100_000_000_000


class OlderFileError(ValueError):
    """The file cannot be read as one of the older services' databases; the message says why."""


class RowError(ValueError):
    """A row that cannot be taken; the message says why."""


@dataclass(frozen=True, slots=True)
class OlderRow:
    """One row: its id in the file, and the parameters for the daemon with the file's ids still in them."""

    id: int | str
    fields: Fields


@dataclass(frozen=True, slots=True)
class OlderTable:
    """How a table of the file becomes rows of ours.

    `names` maps a field to the columns that may hold it, the first that is there wins. `references` maps a field to
    the table whose ids it holds. `rest` is the field that takes all other columns.
    """

    table: str
    target: str
    names: Mapping[str, tuple[str, ...]]
    required: tuple[str, ...]
    json: tuple[str, ...] = ()
    references: Mapping[str, str] = field(default_factory=dict)
    rest: str | None = "metadata"
    own_ids: bool = True


_CREATED = ("created_at", "createdAt", "timestamp", "created", "time")

MEMORY_SERVICE = (
    OlderTable("projects", "projects", {
        "name": ("name",), "description": ("description",), "colour": ("colour", "color"), "icon": ("icon",),
    }, ("name",), rest=None),
    OlderTable("sessions", "sessions", {
        "externalId": ("external_id", "externalId"), "name": ("name",), "projectId": ("project_id",),
        "metadata": ("metadata",),
    }, ("externalId",), ("metadata",), {"projectId": "projects"}),
    OlderTable("episodes", "episodes", {
        "sessionId": ("session_id",), "userMessage": ("user_message",), "aiResponse": ("ai_response",),
        "tokenCount": ("token_count",), "metadata": ("metadata",),
    }, ("sessionId", "userMessage"), ("metadata",), {"sessionId": "sessions"}),
    OlderTable("entities", "entities", {
        "name": ("name",), "type": ("type",), "notes": ("notes",), "metadata": ("metadata",),
    }, ("name", "type"), ("metadata",)),
    OlderTable("relationships", "relationships", {
        "fromId": ("from_id",), "toId": ("to_id",), "label": ("label",), "metadata": ("metadata",),
    }, ("fromId", "toId", "label"), ("metadata",), {"fromId": "entities", "toId": "entities"}),
    OlderTable("summaries", "summaries", {
        "sessionId": ("session_id",), "content": ("content", "summary", "text"),
        "firstEpisodeId": ("first_episode_id", "start_episode_id", "from_episode_id", "episode_start"),
        "lastEpisodeId": ("last_episode_id", "end_episode_id", "to_episode_id", "episode_end"),
        "tokenCount": ("token_count",), "metadata": ("metadata",),
    }, ("sessionId", "content"), ("metadata",),
        {"sessionId": "sessions", "firstEpisodeId": "episodes", "lastEpisodeId": "episodes"}),
)
STORAGE_CORE = (
    OlderTable("users", "users", {"settings": ("settings", "preferences")}, (), ("settings",), rest="settings",
        own_ids=False),
    OlderTable("groups", "groups", {
        "name": ("name", "title"), "config": ("config", "settings", "configuration"),
    }, ("name",), ("config",), rest="config"),
    OlderTable("conversations", "conversations", {
        "title": ("title", "name"), "userId": ("user_id", "userId"), "groupId": ("group_id", "groupId"),
        "metadata": ("metadata",),
    }, (), ("metadata",), {"groupId": "groups"}),
    OlderTable("messages", "messages", {
        "conversationId": ("conversation_id", "conversationId", "chat_id"), "role": ("role",),
        "content": ("content", "text"), "metadata": ("metadata",),
    }, ("role", "content"), ("metadata",), {"conversationId": "conversations"}),
    OlderTable("presets", "presets", {
        "name": ("name", "title"), "content": ("content", "config", "data", "settings"),
    }, ("name",), ("content",), rest="content", own_ids=False),
    OlderTable("tool_logs", "toolLogs", {
        "tool": ("tool", "tool_name", "name"), "arguments": ("arguments", "args", "input", "params"),
        "result": ("result", "output"), "error": ("error",), "durationMs": ("duration_ms", "duration"),
        "conversationId": ("conversation_id", "conversationId"), "metadata": ("metadata",),
    }, ("tool",), ("arguments", "result", "metadata"), {"conversationId": "conversations"}),
    OlderTable("vectors", "vectors", {
        "text": ("text", "content"), "embedding": ("embedding", "vector"), "metadata": ("metadata",),
    }, ("text",), ("embedding", "metadata"), own_ids=False),
)
KINDS: Mapping[Kind, tuple[OlderTable, ...]] = {"memory service": MEMORY_SERVICE, "storage core": STORAGE_CORE}

# Names of fields that hold a number or a text that may be missing; an older service kept 0 or '' there at times.
_INTEGERS = frozenset({"tokenCount", "durationMs"})
# Texts that the older services let be null.
_MAY_BE_EMPTY = frozenset({"aiResponse", "content"})


class OlderFile:
    """One database file, opened for reading in one transaction."""

    def __init__(self, path: Path) -> None:
        self._db = _open(path)
        try:
            self._db.execute("BEGIN")
            names = [row[0] for row in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        except sqlite3.Error as error:
            self._db.close()
            raise OlderFileError(f"{path} is not a SQLite database: {error}") from None
        self._names = set(names)
        kinds = [kind for kind, signature in (("memory service", "episodes"), ("storage core", "messages"))
                 if signature in self._names]
        if not kinds and self._names & {table.table for tables in KINDS.values() for table in tables}:
            kinds = ["storage core"] if "sessions" not in self._names else ["memory service"]
        if not kinds:
            self._db.close()
            found = ", ".join(sorted(self._names)) or "none"
            raise OlderFileError(
                f"{path} is neither a memory service's database (sessions, episodes ...) nor a storage core's "
                f"(conversations, messages ...); its tables: {found}"
            )
        if "outbox" in self._names:
            self._db.close()
            raise OlderFileError(f"{path} is nexusd's own database; start the daemon with it, or restore it")
        self.kinds = kinds

    def close(self) -> None:
        """Let the file go."""
        self._db.close()

    def tables(self) -> list[OlderTable]:
        """Those that are there, parents first."""
        return [table for kind in self.kinds for table in KINDS[kind] if table.table in self._names]  # type: ignore[index] # a Kind

    def count(self, table: OlderTable) -> int:
        """How many rows it has."""
        return int(self._db.execute(f'SELECT count(*) FROM "{table.table}"').fetchone()[0])  # noqa: S608 - a name of our own

    def rows(self, table: OlderTable, above_id: int | None = None) -> Iterator[OlderRow | tuple[object, RowError]]:
        """Its rows by id; in place of one that cannot be taken, its id and why.

        With `above_id`, those with larger ids come first: they may keep their ids as long as no other row
        was given one. A row without a time has that of the row before it, whichever comes first.
        """
        key = self._key(table)
        # Two walks in the order of the ids: one, sorted, would first be written to a temporary file as a whole.
        if above_id is None or key is None:
            yield from self._walk(table, key, "TRUE", (), None)
            return
        above, others = f"{key} > ?", f"({key} > ?) IS NOT TRUE"
        yield from self._walk(table, key, above, (above_id,), self._last_time(table, key, others, above_id))
        yield from self._walk(table, key, others, (above_id,), None)

    def _key(self, table: OlderTable) -> str | None:
        """The column that rows are known and ordered by; None where there is none."""
        if "id" in {row[1] for row in self._db.execute(f'PRAGMA table_info("{table.table}")')}:
            return "id"
        try:
            self._db.execute(f'SELECT rowid FROM "{table.table}" LIMIT 0')  # noqa: S608 - a name of our own
        except sqlite3.OperationalError:
            return None     # WITHOUT ROWID
        return "rowid"

    def _last_time(self, table: OlderTable, key: str, where: str, above_id: int) -> int | None:
        """The time of the last of these rows that has one: it is that of the rows after it that have none."""
        sql = f'SELECT * FROM "{table.table}" WHERE {where} ORDER BY {key} DESC'  # noqa: S608 - names of our own
        cursor = self._db.execute(sql, (above_id,))
        names = [column[0] for column in cursor.description]
        for values in cursor:
            with contextlib.suppress(RowError):
                created_ms = _created_ms(dict(zip(names, values, strict=True)))
                if created_ms is not None:
                    return created_ms
        return None

    def _walk(
        self, table: OlderTable, key: str | None, where: str, bound: tuple[int, ...], before_ms: int | None
    ) -> Iterator[OlderRow | tuple[object, RowError]]:
        order = "" if key is None else f"ORDER BY {key}"
        # table and column are names of our own
        sql = f'SELECT {key or "NULL"} AS "\x01id", * FROM "{table.table}" WHERE {where} {order}'  # noqa: S608
        cursor = self._db.execute(sql, bound)
        names = [column[0] for column in cursor.description]
        for place, values in enumerate(cursor, 1):
            row = dict(zip(names, values, strict=True))
            row_id = place if key is None else row["\x01id"]
            try:
                said_ms = _created_ms(row)
                before_ms = before_ms if said_ms is None else said_ms
                created_ms = _place_ms(row_id) if before_ms is None else before_ms
                fields = _identified(table, row_id, _fields(table, row) | {"createdAt": created_ms})
            except RowError as error:
                yield row_id, error
            else:
                yield OlderRow(row_id, fields)


def _identified(table: OlderTable, row_id: Any, fields: Fields) -> Fields:
    """The fields with the row's id, if it can be one here."""
    if not table.own_ids:
        return fields if table.target == "presets" else {**fields, "id": _callers_id(row_id)}  # presets: by their names
    if isinstance(row_id, int) and 0 < row_id <= MAX_SAFE_INTEGER:
        fields["id"] = row_id   # any other (a UUID, say) can be no id here: the row gets a new one
    return fields


def _open(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise OlderFileError(f"there is no file {path}")
    resolved = path.resolve().as_uri()
    # A directory that may not be written to has no room for what a reader of a WAL needs; nobody can be writing then.
    for options in ("mode=ro", "mode=ro&immutable=1"):
        try:
            db = sqlite3.connect(f"{resolved}?{options}", uri=True, isolation_level=None)
        except sqlite3.Error as error:
            failure = error
            continue
        try:
            db.text_factory = _text
            db.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.DatabaseError as error:
            db.close()
            failure = error
            continue
        return db
    raise OlderFileError(f"{path} cannot be read: {failure}")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")  # what was no UTF-8 was not readable before either


def _fields(table: OlderTable, row: Fields) -> Fields:
    """The row's columns as parameters.

    Raises:
        RowError: something that is needed is missing or is not what it should be.
    """
    fields: Fields = {}
    for name, columns in table.names.items():
        column = next((column for column in columns if column in row), None)
        value = row.pop(column) if column is not None else None
        if name in table.json:
            value = _json_value(value)
        elif name in _INTEGERS:
            value = _integer(value)
        elif isinstance(value, bytes):
            raise RowError(f"{column} holds bytes")
        elif name == "userId" and value is not None:
            value = _callers_id(value) if value != "" else None
        if value is None and name in _MAY_BE_EMPTY:
            value = ""
        if value is None:
            if name in table.required:
                raise RowError(f"{columns[0]} is missing")
            continue
        fields[name] = value
    if table.rest is not None:
        others = {key: value for key, value in row.items() if value is not None and key not in _NO_CONTENT}
        given = fields.get(table.rest)
        if table.rest in fields and not isinstance(given, dict):
            given = {table.rest: given}
        merged = {**{key: _plain(value) for key, value in others.items()}, **(given or {})}
        fields[table.rest] = merged
    for name in table.json:
        if name == "metadata" and name in fields and not isinstance(fields[name], dict):
            fields[name] = {"value": fields[name]}
    return fields


# JSON may hold halves of characters and integers of any length; a message to the daemon may not.
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")
_NO_INTEGER = 2**63
_MOST_DIGITS = 20
_NO_CONTENT = frozenset({"\x01id", "id", *_CREATED, "updated_at", "updatedAt"})


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _json_value(value: Any) -> Any:
    """JSON where it is JSON, else the value as it stands."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return _plain(value)
    if not value.strip():
        return None
    try:
        parsed = json.loads(value, parse_constant=lambda _name: None, parse_int=_json_integer)
        if _HALF_CHARACTER.search(value):   # written out and read again, what is no character is a question mark
            parsed = json.loads(json.dumps(parsed, ensure_ascii=False).encode(errors="replace"))
    except (ValueError, RecursionError):
        return value
    return parsed


def _json_integer(digits: str) -> int | str:
    """An integer; one of more than 64 bits stays the text that it is, since no message can hold it."""
    number = int(digits) if len(digits) <= _MOST_DIGITS else _NO_INTEGER
    return number if -_NO_INTEGER <= number < _NO_INTEGER else digits


def _callers_id(value: Any) -> int | str:
    """A caller's own id: a text or a number that every client can tell from its neighbours."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and abs(value) <= MAX_SAFE_INTEGER:
        return value
    return value if isinstance(value, str) else str(value)


def _integer(value: Any) -> int | None:
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        number = int(float(value))
        return number if number >= 0 else None
    return None


def _place_ms(row_id: object) -> int:
    """Where neither the row nor one before it has a time. All at one moment, each would be looked for among all."""
    return row_id if isinstance(row_id, int) and 0 <= row_id <= MAX_SAFE_INTEGER else 0


def _created_ms(row: Fields) -> int | None:
    """When the row was made, if the file says so."""
    column = next((column for column in _CREATED if row.get(column) is not None), None)
    if column is None:
        return None
    value = row[column]
    if isinstance(value, str):
        return _text_ms(value, column)
    if isinstance(value, int | float) and math.isfinite(value) and 0 <= value < 2**53:
        return int(value if value >= FIRST_PLAUSIBLE_MS else value * 1000)
    raise RowError(f"{column} is no time")


def _text_ms(text: str, column: str) -> int:
    """SQLite's own form (2024-05-01 12:00:00, UTC), ISO 8601, or a number as text."""
    with contextlib.suppress(ValueError):
        number = float(text)
        if math.isfinite(number) and 0 <= number < 2**53:
            return int(number if number >= FIRST_PLAUSIBLE_MS else number * 1000)
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        raise RowError(f"{column} is no time: {text[:40]!r}") from None
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    since = time - datetime(1970, 1, 1, tzinfo=UTC)
    milliseconds = since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000
    if milliseconds < 0:
        raise RowError(f"{column} lies before 1970")
    return milliseconds

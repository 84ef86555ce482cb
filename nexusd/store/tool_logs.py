"""Tool logs in SQLite."""

from __future__ import annotations

from typing import Any

import apsw
import msgspec

from nexusd.errors import ConversationNotFound, ToolLogNotFound
from nexusd.model.fields import Deletion, Listing
from nexusd.model.tool_logs import AppendToolLog, ListToolLogs, PruneToolLogs, ToolLog
from nexusd.store.connection import Connection, is_foreign_key
from nexusd.store.cursors import decode_cursor, encode_cursor
from nexusd.store.paging import AFTER_ALL, BEFORE_ALL, take_page

PRUNE_SLICE = 2_000     # rows of one write: some 20 ms, which other writes can wait for

_COLUMNS = "id, tool, status, arguments, result, error, duration_ms, conversation_id, metadata, created_at"
_TEXTS = (3, 4, 5, 8)
_LISTING = "toolLogs"

# one more call
INSERT_TOOL_LOG = f"""
INSERT INTO tool_logs
    (tool, status, arguments, result, error, duration_ms, conversation_id, metadata, created_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING {_COLUMNS}"""

# one call
SELECT_TOOL_LOG = f"SELECT {_COLUMNS} FROM tool_logs WHERE id = ?"

# the latest calls before a place, of those that pass the filters
LIST_TOOL_LOGS = f"""
SELECT {_COLUMNS} FROM tool_logs
WHERE (created_at, id) < (?, ?){{conditions}}
ORDER BY created_at DESC, id DESC LIMIT ? OFFSET ?"""

# only of this tool, in this conversation, since then; until when is a matter of the place
OF_TOOL = " AND tool = ?"
IN_CONVERSATION = " AND conversation_id = ?"
SINCE = " AND created_at >= ?"
# By status; written out, since an index of the errors alone can serve only a query that names them.
WITH_STATUS = {"ok": " AND status = 'ok'", "error": " AND status = 'error'"}

# the newest call that is one too many
SELECT_SURPLUS = "SELECT created_at, id FROM tool_logs ORDER BY created_at DESC, id DESC LIMIT 1 OFFSET ?"

# whether there are more calls up to a place than so many
SELECT_MORE = "SELECT 1 FROM tool_logs WHERE (created_at, id) <= (?, ?) LIMIT 1 OFFSET ?"

# the oldest calls up to a place, at most so many
DELETE_SLICE = """
DELETE FROM tool_logs WHERE id IN (
    SELECT id FROM tool_logs WHERE (created_at, id) <= (?, ?) ORDER BY created_at, id LIMIT ?)"""

Place = tuple[int, int]


class MoreToPruneError(Exception):
    """There is more to delete than one write should."""


def _tool_log(row: tuple[Any, ...]) -> ToolLog:
    return ToolLog(
        id=row[0],
        tool=row[1],
        status=row[2],
        arguments=msgspec.json.decode(row[3]),
        result=msgspec.json.decode(row[4]),
        error=row[5],
        duration_ms=row[6],
        conversation_id=row[7],
        metadata=msgspec.json.decode(row[8]),
        created_at=row[9],
    )


def insert_tool_log(db: Connection, new: AppendToolLog, now_ms: int) -> ToolLog:
    """Log a call.

    Raises:
        ConversationNotFound: the conversation does not exist.
    """
    values = (
        new.tool,
        "ok" if new.error is None else "error",
        msgspec.json.encode(new.arguments).decode(),
        msgspec.json.encode(new.result).decode(),
        new.error,
        new.duration_ms,
        new.conversation_id,
        msgspec.json.encode(new.metadata).decode(),
        now_ms if new.created_at is None else new.created_at,
    )
    try:
        return _tool_log(db.execute(INSERT_TOOL_LOG, values).fetchall()[0])
    except apsw.ConstraintError as error:
        if is_foreign_key(error):
            raise ConversationNotFound from None
        raise


def select_tool_log(db: Connection, log_id: int) -> ToolLog:
    """One call.

    Raises:
        ToolLogNotFound: there is none of this id.
    """
    row = db.execute(SELECT_TOOL_LOG, (log_id,)).fetchone()
    if row is None:
        raise ToolLogNotFound
    return _tool_log(row)


def tool_log_query(page: ListToolLogs) -> tuple[str, list[Any]]:
    """The query of a page and its values.

    Raises:
        InvalidParams: the cursor is none of this listing.
    """
    place = decode_cursor(_LISTING, page.cursor, 2) if page.cursor is not None else AFTER_ALL
    if page.until is not None:
        place = min(place, (page.until, BEFORE_ALL[1]))     # of two upper bounds SQLite would seek by one only
    conditions = "" if page.status is None else WITH_STATUS[page.status]
    values: list[Any] = [*place]
    filters = ((OF_TOOL, page.tool), (IN_CONVERSATION, page.conversation_id), (SINCE, page.since))
    for condition, value in filters:
        if value is not None:
            conditions += condition
            values.append(value)
    return LIST_TOOL_LOGS.format(conditions=conditions), [*values, page.limit + 1, page.offset or 0]


def list_tool_logs(db: Connection, page: ListToolLogs) -> Listing[ToolLog]:
    """A page of calls, newest first.

    Raises:
        InvalidParams: the cursor is none of this listing.
    """
    sql, values = tool_log_query(page)
    items, more = take_page(db.execute(sql, values), page.limit, _tool_log, _TEXTS)
    next_cursor = encode_cursor(_LISTING, items[-1].created_at, items[-1].id) if more else None
    return Listing(items=items, next_cursor=next_cursor)


def prune_bound(db: Connection, which: PruneToolLogs, now_ms: int) -> Place | None:
    """The newest place whose call goes, with all before it; None if none goes.

    Taken once for all slices of a prune: what is logged meanwhile moves nothing.
    """
    bounds: list[Place] = []
    if which.older_than_ms is not None:
        bounds.append((now_ms - which.older_than_ms - 1, AFTER_ALL[1]))
    if which.keep is not None:
        surplus = db.execute(SELECT_SURPLUS, (which.keep,)).fetchone()
        if surplus is not None:
            bounds.append((surplus[0], surplus[1]))
    return max(bounds, default=None)


def prune_slice(db: Connection, bound: Place | None) -> int:
    """Delete the oldest calls up to the bound, as many as one write should; answer how many went."""
    if bound is None:
        return 0
    db.execute(DELETE_SLICE, (*bound, PRUNE_SLICE))
    return db.changes()


def prune_rest(db: Connection, bound: Place | None, gone: int) -> Deletion:
    """The last slice of a prune; `gone` went with those before it.

    Raises:
        MoreToPruneError: it would not be the last one. Nothing was deleted.
    """
    if bound is not None and db.execute(SELECT_MORE, (*bound, PRUNE_SLICE)).fetchone() is not None:
        raise MoreToPruneError
    return Deletion(deleted={"toolLogs": gone + prune_slice(db, bound)}, points_queued=0)

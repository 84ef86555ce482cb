"""Summaries in SQLite. The full-text index and the outbox follow by triggers, in the same transaction.

Where a run begins and ends is kept by a trigger, too: its exchanges may be deleted, its place in the session stays.
"""

from __future__ import annotations

from typing import Any

import apsw
import msgspec

from nexusd.errors import InvalidParams, SessionNotFound, SummaryNotFound
from nexusd.field_errors import FieldError
from nexusd.model.fields import Deletion, Listing
from nexusd.model.summaries import CreateSummary, ListSummaries, Summary
from nexusd.store.connection import Connection, is_foreign_key
from nexusd.store.cursors import decode_cursor, encode_cursor
from nexusd.store.deletions import deletion
from nexusd.store.indexed import vector_column, vector_state
from nexusd.store.paging import AFTER_ALL, take_page

# The columns of a record of `summaries s`.
SUMMARY_COLUMNS = f"""
s.id, s.session_id, s.content, s.first_episode_id, s.last_episode_id, s.token_count, s.metadata, s.version,
s.created_at, s.updated_at, {vector_column('summaries', 's')}"""

# a new summary
INSERT_SUMMARY = """
INSERT INTO summaries
    (session_id, content, first_episode_id, last_episode_id, token_count, metadata, created_at, updated_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id"""

# where an exchange stands, if it is one of the session
SELECT_PLACE = "SELECT created_at, id FROM episodes WHERE id = ? AND session_id = ?"

# one summary
SELECT_SUMMARY = f"SELECT {SUMMARY_COLUMNS} FROM summaries s WHERE s.id = ?"

# a session's summaries, newest first, before a place
LIST_SUMMARIES = f"""
SELECT {SUMMARY_COLUMNS} FROM summaries s
WHERE s.session_id = ? AND (s.created_at, s.id) < (?, ?)
ORDER BY s.created_at DESC, s.id DESC LIMIT ? OFFSET ?"""

# whether there is such a session
SELECT_SESSION_EXISTS = "SELECT 1 FROM sessions WHERE id = ?"

# one summary; its point is queued for removal (trigger)
DELETE_SUMMARY = "DELETE FROM summaries WHERE id = ?"

_TEXTS = (2, 6)     # the columns that may be long
_LISTING = "summaries"


def summary_from_row(row: tuple[Any, ...]) -> Summary:
    """The record of a row of SUMMARY_COLUMNS."""
    return Summary(
        id=row[0],
        session_id=row[1],
        content=row[2],
        first_episode_id=row[3],
        last_episode_id=row[4],
        token_count=row[5],
        metadata=msgspec.json.decode(row[6]),
        version=row[7],
        created_at=row[8],
        updated_at=row[9],
        vector=vector_state(row[10]),
    )


def insert_summary(db: Connection, new: CreateSummary, now_ms: int) -> Summary:
    """Insert the summary and queue it for embedding. One transaction: both or neither.

    Raises:
        SessionNotFound: the session does not exist.
        InvalidParams: the ends of the run are not two exchanges of this session in their order.
    """
    if new.first_episode_id is not None and new.last_episode_id is not None:
        _hold_run(db, new.session_id, new.first_episode_id, new.last_episode_id)
    created_at = now_ms if new.created_at is None else new.created_at
    metadata = msgspec.json.encode(new.metadata).decode()
    values = (new.session_id, new.content, new.first_episode_id, new.last_episode_id, new.token_count, metadata)
    try:
        summary_id: int = db.execute(INSERT_SUMMARY, (*values, created_at, now_ms)).get
    except apsw.ConstraintError as error:
        if is_foreign_key(error):
            raise SessionNotFound from None
        raise
    return select_summary(db, summary_id)


def _hold_run(db: Connection, session_id: int, first_id: int, last_id: int) -> None:
    _hold_session(db, session_id)   # an exchange of no session would be the lesser mistake
    first = db.execute(SELECT_PLACE, (first_id, session_id)).fetchone()
    last = db.execute(SELECT_PLACE, (last_id, session_id)).fetchone()
    wrong = [
        FieldError(field, "an episode of this session")
        for field, place in (("firstEpisodeId", first), ("lastEpisodeId", last))
        if place is None
    ]
    if first is not None and last is not None and first > last:
        wrong = [FieldError("lastEpisodeId", "firstEpisodeId, or an episode that comes after it")]
    if wrong:
        raise InvalidParams(fields=tuple(wrong))


def _hold_session(db: Connection, session_id: int) -> None:
    if db.execute(SELECT_SESSION_EXISTS, (session_id,)).fetchone() is None:
        raise SessionNotFound


def select_summary(db: Connection, summary_id: int) -> Summary:
    """One summary.

    Raises:
        SummaryNotFound: there is none of this id.
    """
    row = db.execute(SELECT_SUMMARY, (summary_id,)).fetchone()
    if row is None:
        raise SummaryNotFound
    return summary_from_row(row)


def list_summaries(db: Connection, page: ListSummaries) -> Listing[Summary]:
    """A page of a session's summaries, newest first.

    Raises:
        SessionNotFound: there is no such session.
        InvalidParams: the cursor is none of this listing.
    """
    place = decode_cursor(_LISTING, page.cursor, 2) if page.cursor is not None else AFTER_ALL
    rows = db.execute(LIST_SUMMARIES, (page.session_id, *place, page.limit + 1, page.offset or 0))
    summaries, more = take_page(rows, page.limit, summary_from_row, _TEXTS)
    if not summaries:
        _hold_session(db, page.session_id)
    next_cursor = encode_cursor(_LISTING, summaries[-1].created_at, summaries[-1].id) if more else None
    return Listing(items=summaries, next_cursor=next_cursor)


def delete_summary(db: Connection, summary_id: int) -> Deletion:
    """Delete a summary; its point is queued for removal.

    Raises:
        SummaryNotFound: there is none of this id.
    """
    db.execute(DELETE_SUMMARY, (summary_id,))
    if db.changes() == 0:
        raise SummaryNotFound
    return deletion(db, 1, summaries=1)

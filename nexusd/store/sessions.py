"""Sessions in SQLite."""

from __future__ import annotations

from typing import Any

import apsw
import msgspec

from nexusd.errors import Conflict, ProjectNotFound, SessionNotFound
from nexusd.model.fields import UNSET, Deletion, Listing
from nexusd.model.sessions import CreateSession, DeleteSession, ListSessions, Session, UpdateSession
from nexusd.store.cascades import SESSION
from nexusd.store.connection import Connection, is_duplicate, is_foreign_key
from nexusd.store.cursors import decode_cursor, encode_cursor
from nexusd.store.same_json import same_json
from nexusd.store.slices import delete_whole
from nexusd.store.text_budget import TextBudget

_COLUMNS = "id, external_id, name, project_id, metadata, created_at, updated_at"
_LISTING = "sessions"

# a new session
INSERT_SESSION = f"""
INSERT INTO sessions (external_id, name, project_id, metadata, created_at, updated_at)
VALUES (?, ?, ?, ?, ?, ?) RETURNING {_COLUMNS}"""

# one session by its id
SELECT_SESSION = f"SELECT {_COLUMNS} FROM sessions WHERE id = ?"

# one session by its caller's id
SELECT_SESSION_BY_EXTERNAL_ID = f"SELECT {_COLUMNS} FROM sessions WHERE external_id = ?"

# the newest sessions before an id
LIST_SESSIONS = f"SELECT {_COLUMNS} FROM sessions WHERE id < ? ORDER BY id DESC LIMIT ? OFFSET ?"

# the same, of one project
LIST_PROJECT_SESSIONS = f"""
SELECT {_COLUMNS} FROM sessions WHERE project_id = ? AND id < ? ORDER BY id DESC LIMIT ? OFFSET ?"""

# change what may change; a new project queues the session's exchanges and summaries again (triggers)
UPDATE_SESSION = f"""
UPDATE sessions SET name = ?, project_id = ?, metadata = ?, updated_at = ? WHERE id = ?
RETURNING {_COLUMNS}"""

# how many sessions there are
COUNT_SESSIONS = "SELECT count(*) FROM sessions"

_LAST_ID = 2**63 - 1


def _session(row: tuple[Any, ...]) -> Session:
    return Session(
        id=row[0],
        external_id=row[1],
        name=row[2],
        project_id=row[3],
        metadata=msgspec.json.decode(row[4]),
        created_at=row[5],
        updated_at=row[6],
    )


def insert_session(db: Connection, new: CreateSession, now_ms: int) -> Session:
    """Make a session.

    Raises:
        Conflict: there is one with this externalId.
        ProjectNotFound: the project does not exist.
    """
    metadata = msgspec.json.encode(new.metadata).decode()
    values = (new.external_id, new.name, new.project_id, metadata, now_ms, now_ms)
    try:
        return _session(db.execute(INSERT_SESSION, values).fetchall()[0])
    except apsw.ConstraintError as error:
        if is_duplicate(error):
            raise Conflict("There is a session with this externalId already.") from None
        if is_foreign_key(error):
            raise ProjectNotFound from None
        raise


def select_session(db: Connection, session_id: int) -> Session:
    """One session.

    Raises:
        SessionNotFound: there is none of this id.
    """
    row = db.execute(SELECT_SESSION, (session_id,)).fetchone()
    if row is None:
        raise SessionNotFound
    return _session(row)


def select_session_by_external_id(db: Connection, external_id: str) -> Session:
    """One session by its caller's id.

    Raises:
        SessionNotFound: there is none of this externalId.
    """
    row = db.execute(SELECT_SESSION_BY_EXTERNAL_ID, (external_id,)).fetchone()
    if row is None:
        raise SessionNotFound("No session has this externalId.")
    return _session(row)


def list_sessions(db: Connection, page: ListSessions) -> Listing[Session]:
    """A page of sessions, newest first.

    Raises:
        InvalidParams: the cursor is none of this listing.
    """
    (before,) = decode_cursor(_LISTING, page.cursor, 1) if page.cursor is not None else (_LAST_ID,)
    reach = (before, page.limit + 1, page.offset or 0)
    if page.project_id is None:
        rows = db.execute(LIST_SESSIONS, reach)
    else:
        rows = db.execute(LIST_PROJECT_SESSIONS, (page.project_id, *reach))
    budget, sessions, more = TextBudget(), list[Session](), False
    for row in rows:
        more = len(sessions) == page.limit or not budget.take(row[4])
        if more:
            break
        sessions.append(_session(row))
    return Listing(items=sessions, next_cursor=encode_cursor(_LISTING, sessions[-1].id) if more else None)


def _find(db: Connection, session_id: int | None, external_id: str | None) -> Session:
    if session_id is not None:
        return select_session(db, session_id)
    if external_id is None:
        raise SessionNotFound
    return select_session_by_external_id(db, external_id)


def update_session(db: Connection, change: UpdateSession, now_ms: int) -> Session:
    """Change what is given. A new project queues the points of the session's exchanges and summaries again.

    Raises:
        SessionNotFound: there is no such session.
        ProjectNotFound: the new project does not exist.
    """
    old = _find(db, change.id, change.external_id)
    name = old.name if change.name is UNSET else change.name
    project_id = old.project_id if change.project_id is UNSET else change.project_id
    metadata = old.metadata if change.metadata is UNSET else change.metadata
    if (name, project_id) == (old.name, old.project_id) and same_json(metadata, old.metadata):
        return old
    values = (name, project_id, msgspec.json.encode(metadata).decode(), now_ms, old.id)
    try:
        return _session(db.execute(UPDATE_SESSION, values).fetchall()[0])
    except apsw.ConstraintError as error:
        if is_foreign_key(error):
            raise ProjectNotFound from None
        raise


def session_to_delete(which: DeleteSession, db: Connection) -> int:
    """The id of the session that is to go.

    Raises:
        SessionNotFound: there is no such session.
    """
    return _find(db, which.id, which.external_id).id


def delete_session(db: Connection, which: DeleteSession) -> Deletion:
    """Delete a session with its exchanges and summaries at once; the points of both are queued for removal.

    Raises:
        SessionNotFound: there is no such session.
    """
    return delete_whole(db, SESSION, session_to_delete(which, db))


def count_sessions(db: Connection) -> int:
    """How many sessions there are."""
    count: int = db.execute(COUNT_SESSIONS).get
    return count

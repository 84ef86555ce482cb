"""What goes with a row that others belong to, and in which order.

Owns the statements that delete what is below a session, a conversation, an entity or a project, a few rows at a time.
The foreign keys would do the same in one statement; a hundred thousand rows of it held up every other write for
seconds.
"""

from __future__ import annotations

from nexusd.errors import ConversationNotFound, EntityNotFound, ProjectNotFound, SessionNotFound
from nexusd.store.connection import Connection
from nexusd.store.slices import Cascade, Tally

# some exchanges and summaries of a session; their points are queued for removal (triggers)
DELETE_EPISODES = "DELETE FROM episodes WHERE id IN (SELECT id FROM episodes WHERE session_id = ? LIMIT ?)"
DELETE_SUMMARIES = "DELETE FROM summaries WHERE id IN (SELECT id FROM summaries WHERE session_id = ? LIMIT ?)"

# the session
DELETE_SESSION = "DELETE FROM sessions WHERE id = ?"

# some messages of a conversation; their points are queued for removal (triggers)
DELETE_MESSAGES = "DELETE FROM messages WHERE id IN (SELECT id FROM messages WHERE conversation_id = ? LIMIT ?)"

# what tools did in a conversation stays, without it
DETACH_TOOL_LOGS = """
UPDATE tool_logs SET conversation_id = NULL
WHERE id IN (SELECT id FROM tool_logs WHERE conversation_id = ? LIMIT ?)"""

# the conversation
DELETE_CONVERSATION = "DELETE FROM conversations WHERE id = ?"

# some links at either end of an entity
DELETE_LINKS_FROM = "DELETE FROM relationships WHERE id IN (SELECT id FROM relationships WHERE from_id = ? LIMIT ?)"
DELETE_LINKS_TO = "DELETE FROM relationships WHERE id IN (SELECT id FROM relationships WHERE to_id = ? LIMIT ?)"

# the entity; its point is queued for removal (trigger)
DELETE_ENTITY = "DELETE FROM entities WHERE id = ?"

# a session of a project
SELECT_SESSION = "SELECT id FROM sessions WHERE project_id = ? LIMIT 1"

# how many points carry the project of a session
COUNT_POINTS = """
SELECT (SELECT count(*) FROM episodes WHERE session_id = ?1) + (SELECT count(*) FROM summaries WHERE session_id = ?1)"""

# the session stays, without a project; its points are queued anew (triggers)
DETACH_SESSION = "UPDATE sessions SET project_id = NULL WHERE id = ?"

# the project
DELETE_PROJECT = "DELETE FROM projects WHERE id = ?"


def _some(
    db: Connection, sql: str, parent_id: int, tally: Tally, chunk: int, table: str, *, points: bool
) -> bool:
    db.execute(sql, (parent_id, chunk))
    rows = db.changes()
    tally.add(table, rows, rows if points else 0)
    return rows > 0


def _below_session(db: Connection, session_id: int, tally: Tally, chunk: int) -> bool:
    return _some(db, DELETE_EPISODES, session_id, tally, chunk, "episodes", points=True) or _some(
        db, DELETE_SUMMARIES, session_id, tally, chunk, "summaries", points=True
    )


def _below_conversation(db: Connection, conversation_id: int, tally: Tally, chunk: int) -> bool:
    if _some(db, DELETE_MESSAGES, conversation_id, tally, chunk, "messages", points=True):
        return True
    db.execute(DETACH_TOOL_LOGS, (conversation_id, chunk))
    return db.changes() > 0


def _below_entity(db: Connection, entity_id: int, tally: Tally, chunk: int) -> bool:
    return _some(db, DELETE_LINKS_FROM, entity_id, tally, chunk, "relationships", points=False) or _some(
        db, DELETE_LINKS_TO, entity_id, tally, chunk, "relationships", points=False
    )


def _contents_of_project(db: Connection, project_id: int, tally: Tally, chunk: int) -> bool:
    session_id: int | None = db.execute(SELECT_SESSION, (project_id,)).get
    if session_id is None:
        return False
    if not _below_session(db, session_id, tally, chunk):
        db.execute(DELETE_SESSION, (session_id,))
        tally.add("sessions", 1)
    return True


def _ties_of_project(db: Connection, project_id: int, tally: Tally, _chunk: int) -> bool:
    """Let go of one session. However many exchanges it has, they are queued with it: half of them would be wrong."""
    session_id: int | None = db.execute(SELECT_SESSION, (project_id,)).get
    if session_id is None:
        return False
    tally.points += db.execute(COUNT_POINTS, (session_id,)).get
    db.execute(DETACH_SESSION, (session_id,))
    return True


SESSION = Cascade(("sessions", "episodes", "summaries"), _below_session, DELETE_SESSION, SessionNotFound)
CONVERSATION = Cascade(("conversations", "messages"), _below_conversation, DELETE_CONVERSATION, ConversationNotFound)
ENTITY = Cascade(("entities", "relationships"), _below_entity, DELETE_ENTITY, EntityNotFound, points=1)
# the project alone, and with all that is in it
PROJECT = Cascade(("projects",), _ties_of_project, DELETE_PROJECT, ProjectNotFound)
PROJECT_WITH_CONTENTS = Cascade(
    ("projects", "sessions", "episodes", "summaries"), _contents_of_project, DELETE_PROJECT, ProjectNotFound
)

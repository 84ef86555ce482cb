"""Episodes in SQLite. The full-text index and the outbox follow by triggers, in the same transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import apsw
import msgspec

from nexusd.errors import EpisodeNotFound, RpcError, SessionNotFound
from nexusd.model.episodes import CreateEpisode, Episode, ListEpisodes, NewEpisode, UpdateEpisode
from nexusd.model.fields import UNSET, Deletion, Listing
from nexusd.model.memory import MemoryFilter
from nexusd.store.batch import Groupable
from nexusd.store.connection import Connection, is_foreign_key
from nexusd.store.cursors import decode_cursor, encode_cursor
from nexusd.store.deletions import deletion
from nexusd.store.full_text import EPISODES
from nexusd.store.indexed import vector_column, vector_state
from nexusd.store.memory_filter import filter_condition
from nexusd.store.same_json import same_json
from nexusd.store.text_budget import TextBudget
from nexusd.store.values import in_powers_of_two, placeholders

# The columns of a record of `episodes e`.
EPISODE_COLUMNS = f"""
e.id, e.session_id, e.user_message, e.ai_response, e.token_count, e.metadata, e.version, e.created_at,
e.updated_at, {vector_column('episodes', 'e')}"""

# a new exchange
INSERT_EPISODE = """
INSERT INTO episodes (session_id, user_message, ai_response, token_count, metadata, created_at, updated_at)
VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id"""

# the last id ever given
SELECT_LAST_ID = "SELECT seq FROM sqlite_sequence WHERE name = 'episodes'"

# new exchanges with ids that follow it: there is one writer, so they are free
INSERT_EPISODES = """
INSERT INTO episodes
    (id, session_id, user_message, ai_response, token_count, metadata, created_at, updated_at)
VALUES {rows}"""

# one exchange
SELECT_EPISODE = f"SELECT {EPISODE_COLUMNS} FROM episodes e WHERE e.id = ?"

# exchanges by their ids, as far as they pass a filter; CROSS JOIN keeps the order in which they were asked for
SELECT_EPISODES = f"""
SELECT {EPISODE_COLUMNS} FROM json_each(?) asked CROSS JOIN episodes e ON e.id = asked.value
WHERE {{conditions}}"""

# a session's exchanges, newest first, before a place
LIST_EPISODES_DOWN = f"""
SELECT {EPISODE_COLUMNS} FROM episodes e
WHERE e.session_id = ? AND (e.created_at, e.id) < (?, ?)
ORDER BY e.created_at DESC, e.id DESC LIMIT ? OFFSET ?"""

# a session's exchanges, oldest first, after a place
LIST_EPISODES_UP = f"""
SELECT {EPISODE_COLUMNS} FROM episodes e
WHERE e.session_id = ? AND (e.created_at, e.id) > (?, ?)
ORDER BY e.created_at, e.id LIMIT ? OFFSET ?"""

# whether there is such a session
SELECT_SESSION_EXISTS = "SELECT 1 FROM sessions WHERE id = ?"

# change an exchange; the new version queues it (trigger)
UPDATE_EPISODE = """
UPDATE episodes SET user_message = ?, ai_response = ?, token_count = ?, metadata = ?,
    version = version + 1, updated_at = ?
WHERE id = ?"""

# one exchange; its point is queued for removal (trigger)
DELETE_EPISODE = "DELETE FROM episodes WHERE id = ?"

# rows to be embedded, with the project that their points carry
SELECT_SOURCES = """
SELECT e.id, e.version, e.session_id, s.project_id, e.user_message, e.ai_response, e.metadata, e.created_at
FROM episodes e JOIN sessions s ON s.id = e.session_id
WHERE e.id IN (SELECT value FROM json_each(?))"""

# how many there are: as many points the index should hold in the end
COUNT_EPISODES = "SELECT count(*) FROM episodes"

_BEFORE_ALL = (-(2**63), -(2**63))
_AFTER_ALL = (2**63 - 1, 2**63 - 1)


@dataclass(frozen=True, slots=True)
class EpisodeSource:
    """An episode as the index needs it."""

    id: int
    version: int
    session_id: int
    project_id: int | None
    user_message: str
    ai_response: str
    metadata: dict[str, Any]
    created_at: int


def episode_from_row(row: tuple[Any, ...]) -> Episode:
    """The record of a row of EPISODE_COLUMNS."""
    return Episode(
        id=row[0],
        session_id=row[1],
        user_message=row[2],
        ai_response=row[3],
        token_count=row[4],
        metadata=msgspec.json.decode(row[5]),
        version=row[6],
        created_at=row[7],
        updated_at=row[8],
        vector=vector_state(row[9]),
    )


def _inserted(episode_id: int, new: NewEpisode | CreateEpisode, now_ms: int) -> Episode:
    return Episode(
        id=episode_id,
        session_id=new.session_id,
        user_message=new.user_message,
        ai_response=new.ai_response,
        token_count=new.token_count,
        metadata=new.metadata,
        version=1,
        created_at=now_ms if new.created_at is None else new.created_at,
        updated_at=now_ms,
        vector="pending",
    )


def _values(new: NewEpisode | CreateEpisode, now_ms: int) -> tuple[Any, ...]:
    return (
        new.session_id,
        new.user_message,
        new.ai_response,
        new.token_count,
        msgspec.json.encode(new.metadata).decode() if new.metadata else "{}",
        now_ms if new.created_at is None else new.created_at,
        now_ms,
    )


def _insert_one(db: Connection, new: NewEpisode | CreateEpisode, now_ms: int) -> Episode:
    """Insert the exchange and queue it for embedding. One transaction: both or neither.

    Raises:
        SessionNotFound: the session does not exist.
    """
    try:
        episode_id: int = db.execute(INSERT_EPISODE, _values(new, now_ms)).get
    except apsw.ConstraintError as error:
        if is_foreign_key(error):
            raise SessionNotFound from None
        raise
    return _inserted(episode_id, new, now_ms)


def _insert_all(db: Connection, calls: Sequence[tuple[Any, ...]]) -> list[Episode]:
    """Insert the exchanges of many callers, (new, now_ms) each; one that fails raises for all."""
    last_id: int = db.execute(SELECT_LAST_ID).get or 0
    episodes: list[Episode] = []
    for run in in_powers_of_two(calls):
        values: list[Any] = []
        for new, now_ms in run:
            last_id += 1
            values.append(last_id)
            values += _values(new, now_ms)
            episodes.append(_inserted(last_id, new, now_ms))
        db.execute(INSERT_EPISODES.format(rows=placeholders(len(run), 8)), values)
    return episodes


insert_episode = Groupable(_insert_one, _insert_all)


def insert_episodes(db: Connection, items: Sequence[NewEpisode], now_ms: int) -> list[Episode | RpcError]:
    """Insert the exchanges, in order; each answers its row, or its own error while the others stand."""
    results: list[Episode | RpcError] = []
    for run in in_powers_of_two(items):
        try:
            # a failed statement undoes itself, and a run of at most 64 rows is one statement
            results += _insert_all(db, [(new, now_ms) for new in run])
        except apsw.ConstraintError:
            results += [_insert_or_error(db, new, now_ms) for new in run]
    return results


def _insert_or_error(db: Connection, new: NewEpisode, now_ms: int) -> Episode | RpcError:
    try:
        return _insert_one(db, new, now_ms)
    except RpcError as error:
        return error


def select_episode(db: Connection, episode_id: int) -> Episode:
    """One exchange.

    Raises:
        EpisodeNotFound: there is none of this id.
    """
    row = db.execute(SELECT_EPISODE, (episode_id,)).fetchone()
    if row is None:
        raise EpisodeNotFound
    return episode_from_row(row)


def select_episodes(
    db: Connection, ids: Sequence[int], where: MemoryFilter, budget: TextBudget | None = None
) -> dict[int, Episode]:
    """Those of the exchanges that are there and pass the filter, by id; in order, as far as the budget goes."""
    budget = budget or TextBudget()
    condition = filter_condition(where, EPISODES)
    sql = SELECT_EPISODES.format(conditions=condition.sql if condition else "TRUE")
    values = condition.values if condition else ()
    found = {}
    for row in db.execute(sql, (msgspec.json.encode(ids).decode(), *values)):
        if not budget.take(row[2], row[3], row[5]):
            break
        found[row[0]] = episode_from_row(row)
    return found


def list_episodes(db: Connection, page: ListEpisodes) -> Listing[Episode]:
    """A page of a session's exchanges by createdAt.

    Raises:
        SessionNotFound: there is no such session.
        InvalidParams: the cursor is none of this listing.
    """
    listing = f"episodes.{page.order}"
    if page.cursor is not None:
        place = decode_cursor(listing, page.cursor, 2)
    else:
        place = _AFTER_ALL if page.order == "desc" else _BEFORE_ALL
    sql = LIST_EPISODES_DOWN if page.order == "desc" else LIST_EPISODES_UP
    budget, episodes, more = TextBudget(), list[Episode](), False
    for row in db.execute(sql, (page.session_id, *place, page.limit + 1, page.offset or 0)):
        more = len(episodes) == page.limit or not budget.take(row[2], row[3], row[5])
        if more:
            break
        episodes.append(episode_from_row(row))
    if not episodes and db.execute(SELECT_SESSION_EXISTS, (page.session_id,)).fetchone() is None:
        raise SessionNotFound
    next_cursor = None
    if more:
        next_cursor = encode_cursor(listing, episodes[-1].created_at, episodes[-1].id)
    return Listing(items=episodes, next_cursor=next_cursor)


def recent_episodes(db: Connection, session_id: int, count: int) -> list[Episode]:
    """The session's latest exchanges, as many as an answer may hold, oldest first; none if there is no session."""
    budget, newest_first = TextBudget(), list[Episode]()
    for row in db.execute(LIST_EPISODES_DOWN, (session_id, *_AFTER_ALL, count, 0)):
        if not budget.take(row[2], row[3], row[5]):
            break
        newest_first.append(episode_from_row(row))
    return newest_first[::-1]


def update_episode(db: Connection, change: UpdateEpisode, now_ms: int) -> Episode:
    """Change what is given. A change that changes nothing leaves the version as it is.

    Raises:
        EpisodeNotFound: there is none of this id.
    """
    old = select_episode(db, change.id)
    user_message = old.user_message if change.user_message is UNSET else change.user_message
    ai_response = old.ai_response if change.ai_response is UNSET else change.ai_response
    token_count = old.token_count if change.token_count is UNSET else change.token_count
    metadata = old.metadata if change.metadata is UNSET else change.metadata
    before = (old.user_message, old.ai_response, old.token_count)
    if (user_message, ai_response, token_count) == before and same_json(metadata, old.metadata):
        return old
    encoded = msgspec.json.encode(metadata).decode()
    db.execute(UPDATE_EPISODE, (user_message, ai_response, token_count, encoded, now_ms, old.id))
    return select_episode(db, old.id)


def delete_episode(db: Connection, episode_id: int) -> Deletion:
    """Delete an exchange; its point is queued for removal.

    Raises:
        EpisodeNotFound: there is none of this id.
    """
    db.execute(DELETE_EPISODE, (episode_id,))
    if db.changes() == 0:
        raise EpisodeNotFound
    return deletion(db, 1, episodes=1)


def select_episode_sources(db: Connection, ids: Sequence[int]) -> list[EpisodeSource]:
    """Those of the episodes that are there, in no order."""
    rows = db.execute(SELECT_SOURCES, (msgspec.json.encode(ids).decode(),))
    return [
        EpisodeSource(
            id=row[0],
            version=row[1],
            session_id=row[2],
            project_id=row[3],
            user_message=row[4],
            ai_response=row[5],
            metadata=msgspec.json.decode(row[6]),
            created_at=row[7],
        )
        for row in rows
    ]


def count_episodes(db: Connection) -> int:
    """How many episodes there are."""
    count: int = db.execute(COUNT_EPISODES).get
    return count

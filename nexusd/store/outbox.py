"""The outbox: what the index still owes to the rows.

Owns the table `outbox`; its rows are written by triggers, with the change that they are for. Every function
that a worker calls after a claim touches only rows that are as they were claimed: what changed meanwhile
is pending again, and stays so. The table `outbox_next` is a second queue of the same shape and rules, of what the
index owes to the rows under the next embedding model: every function that a worker calls takes the queue's name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any, Literal

import msgspec

from nexusd.errors import OutboxRowNotFound
from nexusd.model.fields import Listing
from nexusd.model.outbox import ListOutbox, OutboxRow, OutboxState
from nexusd.store.connection import Connection
from nexusd.store.cursors import decode_cursor, encode_cursor
from nexusd.store.indexed import table_of

Op = Literal["upsert", "delete"]
Place = tuple[int, int]  # among a collection's pending rows: the time from which one may be tried, and its seq
Queue = Literal["outbox", "outbox_next"]  # names of tables: they stand in SQL, and come from nowhere but here

ALL_DEAD = -1  # as a limit

_LISTING = "outbox"
_ENTRY_COLUMNS = "seq, collection, row_id, version, op, attempts, created_ms"
_ROW_COLUMNS = """
seq, collection, row_id, version, op, state, attempts, not_before_ms, error_kind, error, created_ms"""

# Of the claimed entries in a JSON array of [seq, version, op], those that nobody touched since. A seq is one
# row of one collection for ever; `inflight` because the same version can have been queued anew.
AS_CLAIMED = """
seq IN (
    SELECT o.seq FROM json_each(?) claimed JOIN {queue} o ON o.seq = claimed.value ->> 0
    WHERE o.version = claimed.value ->> 1 AND o.op = claimed.value ->> 2 AND o.state = 'inflight')"""

# A collection's pending rows lie in one index by the time from which they may be tried, and there by age: those that
# never waited (0) come first, and no query below looks at a row that it does not answer.
PENDING = "FROM {queue} INDEXED BY {queue}_due WHERE state = 'pending' AND collection ="

# by collection: the oldest and the newest that never waited, those whose time has come, and those that should wait
# longer than any backoff lasts: they were postponed before the wall clock was set back, and are due. Lists in JSON,
# since every row that SQLite hands over gives the interpreter away.
DUE = f"""
SELECT (SELECT json_group_array(seq) FROM (
            SELECT seq {PENDING} value AND not_before_ms = 0 ORDER BY seq LIMIT ?1)),
       (SELECT json_group_array(seq) FROM (
            SELECT seq {PENDING} value AND not_before_ms = 0 ORDER BY seq DESC LIMIT ?1)),
       (SELECT json_group_array(seq) FROM (
            SELECT seq {PENDING} value AND not_before_ms BETWEEN 1 AND ?2 ORDER BY not_before_ms, seq LIMIT ?1)),
       (SELECT json_group_array(seq) FROM (
            SELECT seq {PENDING} value AND not_before_ms > ?2 + ?3 ORDER BY not_before_ms, seq LIMIT ?1))
FROM json_each(?4)"""

# take these entries
CLAIM = "UPDATE {queue} SET state = 'inflight' WHERE seq IN (SELECT value FROM json_each(?))"
SELECT_CLAIMED = f"""
SELECT json_group_array(json_array({_ENTRY_COLUMNS})) FROM {{queue}} WHERE seq IN (SELECT value FROM json_each(?))"""

# by collection: from when on its first pending row may be tried, and from when on its last
EDGES = f"""
SELECT (SELECT not_before_ms {PENDING} value ORDER BY not_before_ms LIMIT 1),
       (SELECT not_before_ms {PENDING} value ORDER BY not_before_ms DESC LIMIT 1)
FROM json_each(?)"""

# done: the index holds it, or holds it no more
FINISH = f"DELETE FROM {{queue}} WHERE {AS_CLAIMED}"

# give back without a mark: the index or the embedder was not there
RELEASE = f"UPDATE {{queue}} SET state = 'pending', not_before_ms = ? WHERE {AS_CLAIMED}"

# a collection's pending rows that wait, from a place on
WAITING = f"""
SELECT json_group_array(json_array(not_before_ms, seq, attempts)) FROM (
    SELECT not_before_ms, seq, attempts {PENDING} ? AND (not_before_ms, seq) > (?, ?)
    ORDER BY not_before_ms, seq LIMIT ?)"""

# they are due
HASTEN = "UPDATE {queue} SET not_before_ms = 0 WHERE seq IN (SELECT value FROM json_each(?))"

# give back, to be tried again later
POSTPONE = f"""
UPDATE {{queue}} SET state = 'pending', attempts = attempts + 1, not_before_ms = ?, error_kind = ?, error = ?
WHERE {AS_CLAIMED}"""

# give up, visibly
BURY = f"""
UPDATE {{queue}} SET state = 'dead', attempts = attempts + 1, error_kind = ?, error = ? WHERE {AS_CLAIMED}"""

# what a daemon that died had claimed
RESET_INFLIGHT = "UPDATE {queue} SET state = 'pending' WHERE state = 'inflight'"

# rows by state: all are counted by the size of the table, the rare states by their own small indexes
COUNT_STATES = """
SELECT (SELECT count(*) FROM {queue}),
       (SELECT count(*) FROM {queue} WHERE state = 'inflight'),
       (SELECT count(*) FROM {queue} WHERE state = 'dead')"""

# since when the oldest living row waits; dead letters that are older are passed over one by one
OLDEST = "SELECT created_ms FROM {queue} WHERE state <> 'dead' ORDER BY seq LIMIT 1"

# rows after a place, oldest first
LIST_OUTBOX = f"""
SELECT {_ROW_COLUMNS} FROM {{queue}} WHERE seq > ? AND {{conditions}} ORDER BY seq LIMIT ? OFFSET ?"""

# dead letters that get another chance, with their history forgotten
RETRY_DEAD = """
UPDATE {queue} SET state = 'pending', attempts = 0, not_before_ms = 0, error_kind = NULL, error = NULL,
    created_ms = ?
WHERE state = 'dead' AND seq IN (SELECT value FROM json_each(?))"""

# the next dead letters after a place
NEXT_DEAD = """
SELECT json_group_array(seq) FROM (
    SELECT seq FROM {queue} INDEXED BY {queue}_dead WHERE state = 'dead' AND seq > ? ORDER BY seq LIMIT ?)"""

# which of the rows are not settled, and why
UNFINISHED = """
SELECT row_id, state FROM {queue} WHERE collection = ? AND row_id IN (SELECT value FROM json_each(?))"""

# every row of a collection, again, but those that are to stay out; a queued delete stays, since its row is gone
REQUEUE = """
INSERT INTO {queue} (collection, row_id, version, op, created_ms)
SELECT ?1, id, version, 'upsert', ?2 FROM {table}
WHERE id NOT IN (SELECT row_id FROM unindexed WHERE collection = ?1)
ON CONFLICT (collection, row_id) DO UPDATE SET
    version = excluded.version, op = excluded.op, state = 'pending',
    attempts = 0, not_before_ms = 0, error_kind = NULL, error = NULL"""


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """One row as it was claimed."""

    seq: int
    collection: str
    row_id: int
    version: int
    op: Op
    attempts: int
    created_ms: int


@dataclass(frozen=True, slots=True)
class OutboxCounts:
    """How much waits. `oldest_ms`: since when the oldest living row waits; None if none does."""

    pending: int
    inflight: int
    dead: int
    oldest_ms: int | None


def claimed(entries: Sequence[OutboxEntry]) -> str:
    """What AS_CLAIMED binds."""
    return msgspec.json.encode([(entry.seq, entry.version, entry.op) for entry in entries]).decode()


def claim_batch(
    db: Connection,
    limit: int,
    now_ms: int,
    max_backoff_ms: int,
    collections: Sequence[str],
    *,
    turn: int = 0,
    passed_over: Collection[int] = (),
    queue: Queue = "outbox",
) -> list[OutboxEntry]:
    """Claim up to `limit` entries that are due, in the order in which they are to be served: in turn of every
    collection that has some, and there in turn of its oldest, its newest and those that were postponed. A claim that
    is too small for all of them begins with another one each `turn`.

    `max_backoff_ms` is the longest that anything is ever postponed: what should wait longer still was
    postponed before the wall clock was set back, and is due. The seqs in `passed_over` are not taken.
    """
    values = (limit + len(passed_over), now_ms, max_backoff_ms, msgspec.json.encode(collections).decode())
    lists: list[Any] = db.execute(DUE.format(queue=queue), values).fetchall()
    due = [_in_turn([_numbers(each) for each in listed], turn) for listed in lists]
    fresh = (seq for seq in dict.fromkeys(_in_turn(due, turn)) if seq not in passed_over)
    wanted = list(islice(fresh, limit))
    if not wanted:
        return []
    seqs = msgspec.json.encode(wanted).decode()
    db.execute(CLAIM.format(queue=queue), (seqs,))
    rows: str = db.execute(SELECT_CLAIMED.format(queue=queue), (seqs,)).get
    entries = {row[0]: OutboxEntry(*row) for row in msgspec.json.decode(rows)}
    return [entries[seq] for seq in wanted]


def _in_turn(sources: Sequence[Iterable[int]], turn: int) -> Iterator[int]:
    """One of each source, again and again, until all are exhausted."""
    first = turn % len(sources)
    for round_ in zip_longest(*sources[first:], *sources[:first]):
        yield from (number for number in round_ if number is not None)


def _numbers(listed: str) -> list[int]:
    return msgspec.json.decode(listed, type=list[int])


def finish_batch(db: Connection, entries: Sequence[OutboxEntry], *, queue: Queue = "outbox") -> int:
    """Remove what is done; answer how many went. The others changed meanwhile and are pending again."""
    db.execute(FINISH.format(queue=queue), (claimed(entries),))
    return db.changes()


def release_batch(
    db: Connection, entries: Sequence[OutboxEntry], not_before_ms: int = 0, *, queue: Queue = "outbox"
) -> None:
    """Give entries back, due from `not_before_ms` on; no attempt is counted, an outage is not their fault."""
    db.execute(RELEASE.format(queue=queue), (not_before_ms, claimed(entries)))


def hasten(
    db: Connection, collection: str, after: Place, limit: int, *, queue: Queue = "outbox"
) -> Place | None:
    """Of the next `limit` rows of the collection that wait, let those be taken at once that were given back without
    a mark. Answers the place to go on from; None at the end.
    """
    listed: str = db.execute(WAITING.format(queue=queue), (collection, *after, limit)).get
    rows = msgspec.json.decode(listed, type=list[tuple[int, int, int]])
    unmarked = [seq for _, seq, attempts in rows if attempts == 0]
    db.execute(HASTEN.format(queue=queue), (msgspec.json.encode(unmarked).decode(),))
    return rows[-1][:2] if len(rows) == limit else None


def postpone(
    db: Connection,
    entries: Sequence[OutboxEntry],
    not_before_ms: int,
    error_kind: str,
    error: str,
    *,
    queue: Queue = "outbox",
) -> None:
    """Count a failed attempt; try again from `not_before_ms` on."""
    db.execute(POSTPONE.format(queue=queue), (not_before_ms, error_kind, error, claimed(entries)))


def bury(
    db: Connection, entry: OutboxEntry, error_kind: str, error: str, *, queue: Queue = "outbox"
) -> bool:
    """Make a dead letter of the entry: it waits for people. False if it changed meanwhile: then it is pending."""
    db.execute(BURY.format(queue=queue), (error_kind, error, claimed([entry])))
    return db.changes() > 0


def reset_inflight(db: Connection, *, queue: Queue = "outbox") -> int:
    """Make pending again what an earlier run had claimed; answer how many. For the start only."""
    db.execute(RESET_INFLIGHT.format(queue=queue))
    return db.changes()


def count_outbox(db: Connection, *, queue: Queue = "outbox") -> OutboxCounts:
    """The rows by state."""
    row: tuple[Any, ...] = db.execute(COUNT_STATES.format(queue=queue)).fetchall()[0]
    total, inflight, dead = row
    oldest_ms: int | None = db.execute(OLDEST.format(queue=queue)).get if total > dead else None
    return OutboxCounts(
        pending=total - inflight - dead, inflight=inflight, dead=dead, oldest_ms=oldest_ms
    )


def next_due_ms(
    db: Connection, now_ms: int, max_backoff_ms: int, collections: Sequence[str], *, queue: Queue = "outbox"
) -> int | None:
    """When the first pending entry may be claimed, ms since 1970; 0 if one may be now, None if none is pending.

    Cheap, however many wait.
    """
    times: list[int] = []
    values = (msgspec.json.encode(collections).decode(),)
    edges: list[Any] = db.execute(EDGES.format(queue=queue), values).fetchall()
    for first_ms, last_ms in edges:
        if first_ms is not None:
            due = first_ms <= now_ms or last_ms > now_ms + max_backoff_ms
            times.append(0 if due else first_ms)
    return min(times, default=None)


def list_outbox(db: Connection, page: ListOutbox, *, queue: Queue = "outbox") -> Listing[OutboxRow]:
    """A page of rows, oldest first.

    Raises:
        InvalidParams: the cursor is none of this listing.
    """
    (after,) = decode_cursor(_LISTING, page.cursor, 1) if page.cursor is not None else (0,)
    conditions, values = ["TRUE"], list[Any]()
    if page.state is not None:
        conditions.append("state = ?")
        values.append(page.state)
    if page.collection is not None:
        conditions.append("collection = ?")
        values.append(page.collection)
    sql = LIST_OUTBOX.format(queue=queue, conditions=" AND ".join(conditions))
    rows = db.execute(sql, (after, *values, page.limit + 1, page.offset or 0)).fetchall()
    items = [_outbox_row(row) for row in rows[: page.limit]]
    more = len(rows) > page.limit
    return Listing(items=items, next_cursor=encode_cursor(_LISTING, items[-1].seq) if more else None)


def _outbox_row(row: tuple[Any, ...]) -> OutboxRow:
    return OutboxRow(
        seq=row[0],
        collection=row[1],
        row_id=row[2],
        version=row[3],
        op=row[4],
        state=row[5],
        attempts=row[6],
        not_before=row[7],
        error_kind=row[8],
        error=row[9],
        created_at=row[10],
    )


def retry_dead(db: Connection, seqs: Sequence[int], now_ms: int, *, queue: Queue = "outbox") -> int:
    """Give the named dead letters another chance, or all if none is named; answer how many got one.

    Raises:
        OutboxRowNotFound: some are named, and none of them is a dead letter.
    """
    if not seqs:
        retried, _ = retry_next_dead(db, 0, ALL_DEAD, now_ms, queue=queue)
        return retried
    db.execute(RETRY_DEAD.format(queue=queue), (now_ms, msgspec.json.encode(seqs).decode()))
    if db.changes() == 0:
        raise OutboxRowNotFound("None of these rows is a dead letter.")
    return db.changes()


def retry_next_dead(
    db: Connection, after: int, limit: int, now_ms: int, *, queue: Queue = "outbox"
) -> tuple[int, int | None]:
    """Give up to `limit` dead letters of seqs greater than `after` another chance; answer how many, and the seq to go
    on from. None at the end.
    """
    listed: str = db.execute(NEXT_DEAD.format(queue=queue), (after, limit)).get
    db.execute(RETRY_DEAD.format(queue=queue), (now_ms, listed))
    seqs = _numbers(listed)
    return len(seqs), seqs[-1] if len(seqs) == limit else None


def unfinished(
    db: Connection, collection: str, row_ids: Sequence[int], *, queue: Queue = "outbox"
) -> dict[int, OutboxState]:
    """Row id -> state, for those of the rows that the outbox still holds."""
    values = (collection, msgspec.json.encode(row_ids).decode())
    rows: list[Any] = db.execute(UNFINISHED.format(queue=queue), values).fetchall()
    return dict(rows)


def requeue_collection(db: Connection, collection: str, now_ms: int, *, queue: Queue = "outbox") -> int:
    """Queue every row that the index is to hold, as after it was found wiped; answer how many."""
    db.execute(REQUEUE.format(queue=queue, table=table_of(collection)), (collection, now_ms))
    return db.changes()

"""Rows that the index does not hold and is not to hold: taken out on purpose, or without a text to embed.

Owns the table `unindexed`. A row leaves it when it changes (triggers), when it goes, or when it is asked for
again. While it is in it, nothing else puts its point back.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from nexusd.errors import RowNotFound
from nexusd.store.connection import Connection
from nexusd.store.indexed import table_of
from nexusd.store.outbox import AS_CLAIMED, OutboxEntry, Queue, claimed, finish_batch

# the version of a row, if it is there
SELECT_VERSION = "SELECT version FROM {table} WHERE id = ?"

# take a row out, unless it is
INSERT_UNINDEXED = "INSERT OR IGNORE INTO unindexed (collection, row_id) VALUES (?, ?)"

# what was claimed and has nothing to be indexed, unless it changed meanwhile
INSERT_CLAIMED = f"""
INSERT OR IGNORE INTO unindexed (collection, row_id) SELECT collection, row_id FROM {{queue}} WHERE {AS_CLAIMED}"""

# let a row in again
DELETE_UNINDEXED = "DELETE FROM unindexed WHERE collection = ? AND row_id = ?"

# whether it is out, and the index was told
SELECT_SETTLED = """
SELECT EXISTS (SELECT 1 FROM unindexed WHERE collection = ?1 AND row_id = ?2)
    AND NOT EXISTS (SELECT 1 FROM outbox WHERE collection = ?1 AND row_id = ?2)"""

# which of the rows are out
SELECT_UNINDEXED = """
SELECT row_id FROM unindexed WHERE collection = ? AND row_id IN (SELECT value FROM json_each(?))"""

# queue one row, whatever was queued for it before; its version stays, since the row did not change
QUEUE_ROW = """
INSERT INTO outbox (collection, row_id, version, op, created_ms) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (collection, row_id) DO UPDATE SET
    version = excluded.version, op = excluded.op, state = 'pending',
    attempts = 0, not_before_ms = 0, error_kind = NULL, error = NULL"""


def row_version(db: Connection, collection: str, row_id: int) -> int:
    """The version of a row.

    Raises:
        InvalidParams: there is no such collection.
        RowNotFound: it has no row of this id.
    """
    version: int | None = db.execute(SELECT_VERSION.format(table=table_of(collection)), (row_id,)).get
    if version is None:
        raise RowNotFound(f"There is no row {row_id} in {collection}.")
    return version


def take_out(db: Connection, collection: str, row_id: int, now_ms: int) -> int:
    """Queue the removal of the row's point and let nothing put it back; 0 where it is out already.

    Raises:
        RowNotFound: there is no such row.
    """
    version = row_version(db, collection, row_id)
    if db.execute(SELECT_SETTLED, (collection, row_id)).get:
        return 0
    db.execute(INSERT_UNINDEXED, (collection, row_id))
    db.execute(QUEUE_ROW, (collection, row_id, version, "delete", now_ms))
    return 1


def let_in(db: Connection, collection: str, row_id: int, now_ms: int) -> None:
    """Queue the row to be sent, whether or not it was taken out.

    Raises:
        RowNotFound: there is no such row.
    """
    version = row_version(db, collection, row_id)
    db.execute(DELETE_UNINDEXED, (collection, row_id))
    db.execute(QUEUE_ROW, (collection, row_id, version, "upsert", now_ms))


def finish_without_point(db: Connection, entries: Sequence[OutboxEntry], *, queue: Queue = "outbox") -> int:
    """Settle rows that have nothing to be indexed; answer how many. Those that changed meanwhile are pending again.

    Only what serves says which rows are out: one without a text may have a caller's own vector under the model that
    serves and none under the next, and would lose its point.
    """
    if queue == "outbox":
        db.execute(INSERT_CLAIMED.format(queue=queue), (claimed(entries),))
    return finish_batch(db, entries, queue=queue)


def select_unindexed(db: Connection, collection: str, row_ids: Sequence[int]) -> set[int]:
    """Those of the rows that are out."""
    rows = db.execute(SELECT_UNINDEXED, (collection, msgspec.json.encode(row_ids).decode()))
    return {row_id for (row_id,) in rows}

"""Queries for comparing the rows with the index, and for queueing what differs.

Owns no table: it reads the rows of a collection by id and version, and adds to the outbox. A row that
is queued already is left as it is: the index is visibly behind there, not wrong. A row that was taken out of
the index on purpose is, for the index, no row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nexusd.store.connection import Connection
from nexusd.store.indexed import TABLES
from nexusd.store.outbox import Queue

# Which rows the index should hold, in slices, and how many there are. Those in `unindexed` are to stay out.
VERSIONS = """
    SELECT id, version FROM {table}
    WHERE id > ?2 AND id NOT IN (SELECT row_id FROM unindexed WHERE collection = ?1) ORDER BY id LIMIT ?3
"""
COUNT_ROWS = """
    SELECT (SELECT count(*) FROM {table}) - (SELECT count(*) FROM unindexed WHERE collection = ?)
"""
COUNT_QUEUED = "SELECT count(*) FROM {queue} WHERE collection = ?"

# Rows that the index lacks or holds in another version; those deleted or taken out meanwhile are left out.
QUEUE_UPSERTS = """
    INSERT INTO {queue} (collection, row_id, version, op, created_ms)
    SELECT ?1, id, version, 'upsert', ?2 FROM {table}
    WHERE id IN (SELECT value FROM json_each(?3))
        AND id NOT IN (SELECT row_id FROM unindexed WHERE collection = ?1)
    ON CONFLICT (collection, row_id) DO NOTHING
    RETURNING row_id
"""

# Points without a row that the index should hold; those whose row appeared meanwhile are left out. No version:
# nothing is left to compare.
QUEUE_DELETES = """
    INSERT INTO {queue} (collection, row_id, version, op, created_ms)
    SELECT ?1, value, 0, 'delete', ?2 FROM json_each(?3)
    WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE id = value)
        OR EXISTS (SELECT 1 FROM unindexed WHERE collection = ?1 AND row_id = value)
    ON CONFLICT (collection, row_id) DO NOTHING
    RETURNING row_id
"""


@dataclass(frozen=True, slots=True)
class RowVersion:
    """A row and its version."""

    id: int
    version: int


def row_versions(db: Connection, collection: str, after_id: int, limit: int) -> list[RowVersion]:
    """Up to `limit` rows that the index should hold, with ids greater than `after_id`, ascending."""
    sql = VERSIONS.format(table=TABLES[collection])
    return [RowVersion(row_id, version) for row_id, version in db.execute(sql, (collection, after_id, limit))]


def count_rows(db: Connection, collection: str) -> int:
    """How many rows of the collection the index should hold."""
    return int(db.execute(COUNT_ROWS.format(table=TABLES[collection]), (collection,)).get)


def count_queued(db: Connection, collection: str, *, queue: Queue = "outbox") -> int:
    """How many of its rows stand in the outbox, in whatever state."""
    return int(db.execute(COUNT_QUEUED.format(queue=queue), (collection,)).get)


def queue_upserts(
    db: Connection, collection: str, ids: Sequence[int], now_ms: int, *, queue: Queue = "outbox"
) -> list[int]:
    """Queue these rows to be sent; the ids that were not queued already."""
    sql = QUEUE_UPSERTS.format(queue=queue, table=TABLES[collection])
    return [row_id for (row_id,) in db.execute(sql, (collection, now_ms, _json(ids)))]


def queue_deletes(
    db: Connection, collection: str, ids: Sequence[int], now_ms: int, *, queue: Queue = "outbox"
) -> list[int]:
    """Queue these points to be removed; the ids that were not queued already."""
    sql = QUEUE_DELETES.format(queue=queue, table=TABLES[collection])
    return [row_id for (row_id,) in db.execute(sql, (collection, now_ms, _json(ids)))]


def _json(ids: Sequence[int]) -> str:
    return f"[{','.join(map(str, ids))}]"

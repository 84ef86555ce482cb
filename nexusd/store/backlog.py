"""How much waits in the outbox, by collection and for the next model: for people and for metrics.

Owns no table. Reads through all of a queue's index, so for a reader's thread: 11 ms where 100,000 wait.
"""

from __future__ import annotations

from typing import Any

from nexusd.store.connection import Connection
from nexusd.store.outbox import PENDING, OutboxCounts, Queue, count_outbox

# rows by collection: all of them out of the unique index alone, the rare states by their own small indexes, which
# are named, or SQLite would take the large one and look at every row
COUNT_COLLECTIONS = "SELECT collection, count(*) FROM {queue} GROUP BY collection"
COUNT_COLLECTIONS_IN_STATE = """
SELECT collection, count(*) FROM {queue} INDEXED BY {queue}_{state} WHERE state = '{state}' GROUP BY collection"""

# whether a next model's collections are being filled
NEXT_MODEL = "SELECT EXISTS (SELECT 1 FROM models WHERE state = 'next')"

# since when a collection's oldest living row waits; of its pending rows, those that were postponed are looked at
OLDEST_OF_COLLECTION = f"""
SELECT min(created_ms) FROM (
    SELECT created_ms FROM (SELECT created_ms {PENDING} ?1 AND not_before_ms = 0 ORDER BY seq LIMIT 1)
    UNION ALL
    SELECT created_ms {PENDING} ?1 AND not_before_ms > 0
    UNION ALL
    SELECT created_ms FROM (
        SELECT created_ms FROM {{queue}} INDEXED BY {{queue}}_inflight
        WHERE state = 'inflight' AND collection = ?1 ORDER BY seq LIMIT 1))"""


def count_collections(db: Connection, *, queue: Queue = "outbox") -> dict[str, OutboxCounts]:
    """The rows by collection, of those that have any."""
    oldest = OLDEST_OF_COLLECTION.format(queue=queue)
    totals = _counts(db, COUNT_COLLECTIONS.format(queue=queue))
    inflight = _counts(db, COUNT_COLLECTIONS_IN_STATE.format(queue=queue, state="inflight"))
    dead = _counts(db, COUNT_COLLECTIONS_IN_STATE.format(queue=queue, state="dead"))
    return {
        name: OutboxCounts(
            pending=total - inflight.get(name, 0) - dead.get(name, 0),
            inflight=inflight.get(name, 0),
            dead=dead.get(name, 0),
            oldest_ms=db.execute(oldest, (name,)).get if total > dead.get(name, 0) else None,
        )
        for name, total in totals.items()
    }


def count_next(db: Connection) -> OutboxCounts | None:
    """The rows that are owed to the next model's collections, by state; None where none is being filled."""
    return count_outbox(db, queue="outbox_next") if db.execute(NEXT_MODEL).get else None


def _counts(db: Connection, sql: str) -> dict[str, int]:
    rows: list[Any] = db.execute(sql).fetchall()
    return dict(rows)

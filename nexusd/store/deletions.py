"""What a delete answers, and which deletes the index still owes.

Owns the outbox's end as a receipt tells it, and what is left of the deletes up to there: in the outbox of the model
that serves, and in that of the next one, whose numbers are its own.

Why waiting up to a number is enough: a delete is queued in the transaction of the rows that go. Either it gets the
next number, or it takes over the row that waits for the same point already, whose number is older; so after the
commit everything that the delete owes has a number up to the highest one ever given. A row leaves the outbox only
when the index has the delete on disk, and only if it did not change since it was claimed: an upsert that was under
way when its row was deleted finds its place taken by the delete, which is delivered after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nexusd.model.fields import Deletion
from nexusd.store.connection import Connection

# the highest number that was ever given; it outlives the rows
LAST_SEQ = "SELECT seq FROM sqlite_sequence WHERE name = 'outbox'"

# whether a delete is on its way still; the indexes are named, or SQLite might walk a backlog of other work
ANY_OWED = """
SELECT EXISTS (
        SELECT 1 FROM outbox INDEXED BY outbox_deletes WHERE op = 'delete' AND seq <= ?1 AND state <> 'dead')
    OR EXISTS (SELECT 1 FROM outbox_next INDEXED BY outbox_next_deletes WHERE op = 'delete' AND state <> 'dead')"""

# how many are, and how many were given up
COUNT_OWED = """
SELECT count(*) FILTER (WHERE state <> 'dead'), count(*) FILTER (WHERE state = 'dead') FROM (
    SELECT state FROM outbox INDEXED BY outbox_deletes WHERE op = 'delete' AND seq <= ?1
    UNION ALL
    SELECT state FROM outbox_next INDEXED BY outbox_next_deletes WHERE op = 'delete')"""


@dataclass(frozen=True, slots=True)
class OwedDeletes:
    """Deletes that the index has not done: those on their way, and those that were given up."""

    pending: int
    dead: int


def deletion(db: Connection, points_queued: int, **deleted: int) -> Deletion:
    """The receipt of a delete, made in its own transaction when all of it is done."""
    return Deletion(
        deleted=deleted,
        points_queued=points_queued,
        outbox_seq=last_seq(db) if points_queued else 0,
    )


def last_seq(db: Connection) -> int:
    """The highest number in the outbox, now or ever; 0 in a new database."""
    return db.execute(LAST_SEQ).get or 0


def any_owed(db: Connection, through_seq: int) -> bool:
    """Whether a delete that was queued up to this number is on its way still. Cheap, however many are."""
    return bool(db.execute(ANY_OWED, (through_seq,)).get)


def count_owed(db: Connection, through_seq: int) -> OwedDeletes:
    """How many deletes queued up to this number the index has not done. For a reader: it looks at each of them."""
    rows: list[Any] = db.execute(COUNT_OWED, (through_seq,)).fetchall()
    return OwedDeletes(*rows[0])

"""A delete of many rows, in slices that other writes get in between.

Owns the order (what is below goes first, the parent last), how long a slice may hold the writer, and what is kept
between two of them. A delete that fits in one slice is one transaction. A longer one that is cut off leaves the
parent with some of what was below it, and the same call again finishes it.

What a receipt counts: without a key, what the call that answers deleted itself. Under a key, all that was deleted under
that key: each slice keeps its count in its own transaction, so a call that is repeated after it was cut off goes on
counting where that one ended. Knows no table; see `nexusd.store.cascades`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from nexusd.errors import NotFound
from nexusd.model.fields import Deletion
from nexusd.store.connection import Connection
from nexusd.store.deletions import deletion
from nexusd.store.idempotency import Receipt, keep_reply, keep_unfinished, kept_reply, kept_unfinished

SLICE_S = 0.015     # of work; with its commit some 20 to 40 ms, which other writes can wait for
# Rows of one statement: the fewest, and the most. What full text does for a statement is written out with a later one,
# so its time cannot be told; where deletes are secure that is 15 ms for 8 rows.
MIN_CHUNK = 8
MAX_CHUNK = 256
MAX_SECURE_CHUNK = 8


@dataclass(slots=True)
class Tally:
    """What went so far: rows by table, and points that were queued."""

    rows: Counter[str] = field(default_factory=Counter)
    points: int = 0

    def add(self, table: str, rows: int, points: int = 0) -> None:
        """Some more."""
        self.rows[table] += rows
        self.points += points


# Deletes so many of the rows below the parent, about, and counts them; False when none was left.
Chunk = Callable[[Connection, int, Tally, int], bool]


@dataclass(frozen=True, slots=True)
class Cascade:
    """How a parent goes with all below it. `tables` are counted in the receipt, the parent's own first."""

    tables: tuple[str, ...]
    below: Chunk
    delete_parent: str
    missing: type[NotFound]
    points: int = 0     # that the parent itself has


@dataclass(frozen=True, slots=True)
class Slice:
    """What a slice came to: the count so far, or the kept reply to a call that was done already."""

    parent_id: int
    answer: Deletion | msgspec.Raw
    finished: bool


def delete_slice(
    db: Connection, cascade: Cascade, parent_id: int, so_far: Deletion | None, work_s: float, max_chunk: int = MAX_CHUNK
) -> tuple[Deletion, bool]:
    """Delete for so long, at least a chunk; the count with what went before, and whether that was the end.

    Raises:
        NotFound: there is no such parent.
    """
    tally = Tally()
    if so_far is not None:
        tally = Tally(Counter(so_far.deleted), so_far.points_queued)
    finished = not _delete_below(db, cascade, parent_id, tally, work_s, max_chunk)
    if finished:
        db.execute(cascade.delete_parent, (parent_id,))
        if db.changes() == 0:
            raise cascade.missing
        tally.add(cascade.tables[0], 1, cascade.points)
    return deletion(db, tally.points, **{table: tally.rows[table] for table in cascade.tables}), finished


def _delete_below(
    db: Connection, cascade: Cascade, parent_id: int, tally: Tally, work_s: float, max_chunk: int
) -> bool:
    """Delete for so long; whether there may be more. Large statements are cheaper by the row: it soon takes them."""
    now_s = began_s = time.perf_counter()
    ends_s = began_s + work_s
    before, chunk = tally.rows.total(), MIN_CHUNK
    while cascade.below(db, parent_id, tally, chunk):
        now_s = time.perf_counter()
        if now_s >= ends_s:
            return True
        half_of_what_fits = (tally.rows.total() - before) / (now_s - began_s) * (ends_s - now_s) / 2
        chunk = int(max(MIN_CHUNK, min(max_chunk, half_of_what_fits)))
    return False


def delete_whole(db: Connection, cascade: Cascade, parent_id: int) -> Deletion:
    """The same in one transaction, however long it takes.

    Raises:
        NotFound: there is no such parent.
    """
    answer, _ = delete_slice(db, cascade, parent_id, None, float("inf"))
    return answer


def delete_slice_once(
    db: Connection,
    receipt: Receipt | None,
    now_ms: int,
    cascade: Cascade,
    before: Slice | None,
    find: Callable[[Connection], int],
    *,
    secure: bool,
) -> Slice:
    """One slice with its receipt, or the kept reply. `before` is the slice before it in the same call.

    The parent is looked for once a call: its name may be given away between two slices.

    Raises:
        NotFound: there is no such parent.
        IdempotencyMismatch: the key was used for another call.
    """
    so_far = before.answer if before is not None and isinstance(before.answer, Deletion) else None
    if receipt is not None:
        if (kept := kept_reply(db, receipt, now_ms)) is not None:
            return Slice(0, kept, finished=True)
        unfinished = kept_unfinished(db, receipt, now_ms)
        so_far = None if unfinished is None else msgspec.json.decode(unfinished, type=Deletion)
    parent_id = find(db) if before is None else before.parent_id
    so_far, finished = delete_slice(
        db, cascade, parent_id, so_far, SLICE_S, MAX_SECURE_CHUNK if secure else MAX_CHUNK
    )
    if receipt is not None:
        if finished:
            keep_reply(db, receipt, now_ms, so_far)
        else:
            keep_unfinished(db, receipt, now_ms, msgspec.json.encode(so_far))
    return Slice(parent_id, so_far, finished)

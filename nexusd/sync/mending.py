"""Mending what a walk has found: exactly that, and nothing else.

Owns what each kind of difference asks for. Points are not touched here but for those that are there twice: they are
queued, and the outbox sends them with the vectors that are stored, or takes them away. Knows neither who asked nor
when.
"""

from __future__ import annotations

from dataclasses import dataclass

from nexusd.clock import Clock
from nexusd.index.index import Index
from nexusd.model.fields import IndexedCollection
from nexusd.store.connection import Connection
from nexusd.store.database import Database
from nexusd.store.mending import (
    forget_orphaned,
    forget_outdated,
    forget_unknown,
    insert_words,
    rebuild_words,
    requeue_rows,
)
from nexusd.store.reconciling import queue_deletes, queue_upserts
from nexusd.sync.findings import Kind, Tally
from nexusd.sync.walk import Seen

WORDS_AT_ONCE = 100  # rows put into a full-text index in one write: 5 ms

# What is queued to be sent again. A vector that is missing is made on the way.
SENT_AGAIN: tuple[Kind, ...] = ("missing", "stale", "foreign", "vectorsMissing", "vectorsOutdated")
TAKEN_AWAY: tuple[Kind, ...] = ("orphaned", "foreign")  # a point of another database may stand for no row of ours


@dataclass(frozen=True, slots=True)
class _Done:
    upserts: int
    deletes: int
    forgotten: int


class Mender:
    """Mends slice by slice, while the walk goes on."""

    def __init__(self, store: Database, index: Index, clock: Clock) -> None:
        self._store = store
        self._index = index
        self._clock = clock

    async def mend(self, collection: IndexedCollection, seen: Seen, tally: Tally) -> None:
        """Mend what differs in a slice.

        Raises:
            IndexUnavailable: of a point that is there twice.
            Busy, DiskFull, ReadOnly: not now.
        """
        difference = seen.difference
        if twice := difference.get("duplicated"):
            # One write cannot tell the two from each other. What was queued or is under way for the row may have been
            # taken away with them, so it is queued after them in any case.
            await self._index.delete(seen.model.physical(collection), twice)
            tally.add(upserts=await self._store.write(requeue_rows, collection, twice, self._clock.now_ms()))
        if any(ids for kind, ids in difference.items() if kind not in ("duplicated", "fullTextMissing")):
            done = await self._store.write(_mend, collection, seen, self._clock.now_ms())
            tally.add(upserts=done.upserts, deletes=done.deletes, vectors=done.forgotten)
        unworded = difference.get("fullTextMissing", [])
        for at in range(0, len(unworded), WORDS_AT_ONCE):
            ids = unworded[at : at + WORDS_AT_ONCE]
            tally.add(full_text_rows=await self._store.write(insert_words, collection, ids))

    async def rebuild_words(self, collection: IndexedCollection, tally: Tally) -> None:
        """Make the collection's full-text index anew; writes wait for it.

        Raises:
            Busy, DiskFull, ReadOnly: not now.
        """
        await self._store.write(rebuild_words, collection)
        tally.add(rebuilt=collection)


def _mend(db: Connection, collection: IndexedCollection, seen: Seen, now_ms: int) -> _Done:
    difference, model = seen.difference, seen.model.key
    forgotten = forget_outdated(db, collection, model, seen.outdated)
    forgotten += forget_orphaned(db, collection, difference.get("vectorsOrphaned", ()))
    forgotten += forget_unknown(db, collection, model, difference.get("vectorsWrongModel", ()))
    upserts = sorted({row_id for kind in SENT_AGAIN for row_id in difference.get(kind, ())})
    deletes = [row_id for kind in TAKEN_AWAY for row_id in difference.get(kind, ())]
    return _Done(
        upserts=len(queue_upserts(db, collection, upserts, now_ms)) if upserts else 0,
        deletes=len(queue_deletes(db, collection, deletes, now_ms)) if deletes else 0,
        forgotten=forgotten,
    )

"""The way of an update in the index's child: written to the journal, applied in slices, synced, answered.

Owns the update under way, those that wait for the disk, and when the engine itself is flushed. Each method is
one short piece of work. Knows no search and no rebuild.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

from nexusd.child_channel import ChildChannel
from nexusd.index.background import Background
from nexusd.index.durable import sync_tree
from nexusd.index.edge_collection import EdgeCollection
from nexusd.index.edge_shard import make_point
from nexusd.index.request import RefusedError, Request

SLICE = 64  # points applied in one piece: 1 to 2 ms at 384 dimensions
# The engine is flushed when nobody would wait for it, or when a crash would have much to do again.
FLUSH_WHEN_IDLE_S = 1.0
FLUSH_AFTER_S = 30.0
FLUSH_AFTER_OPERATIONS = 4096
FLUSH_AFTER_BYTES = 64 * 1024 * 1024
EXIT_STATE_UNKNOWN = 70


@dataclass(slots=True)
class Update:
    """An upsert or delete that is being applied."""

    request: Request
    collection: EdgeCollection
    apply: Callable[[list[Any]], None]
    slices: deque[list[Any]]


class Updates:
    """Everything between the request to change a collection and its answer."""

    def __init__(self, channel: ChildChannel, background: Background) -> None:
        self._channel = channel
        self._background = background
        self._under_way: Update | None = None
        self._applied: list[Update] = []
        self._syncing: list[Update] = []
        self._dirty_since_s: dict[EdgeCollection, float] = {}
        self._cleaning: EdgeCollection | None = None
        self._cleaned: EdgeCollection | None = None

    @property
    def applying(self) -> bool:
        """Whether an update has slices left to apply."""
        return self._under_way is not None

    def begin(self, request: Request, collection: EdgeCollection) -> None:
        """Write the update to the journal; `apply_slice` does the rest.

        Every point is made before anything is written: all of an upsert is taken or nothing.

        Raises:
            RefusedError: it cannot be taken.
        """
        items: list[Any]
        prepared: list[Any]
        apply: Callable[[list[Any]], None]
        if request.op == "upsert":
            items = request.payload["points"]
            apply = collection.upsert
            try:
                prepared = [make_point(*item) for item in items]
            except (ValueError, TypeError, OverflowError) as error:
                raise RefusedError("bad_content", str(error)) from error
        else:
            prepared = items = request.payload["ids"]
            apply = collection.delete
        try:
            collection.journal.append(request.op, items)
        except OSError as error:
            raise RefusedError("failed", f"the journal cannot be written: {error}") from error
        slices = deque(prepared[at : at + SLICE] for at in range(0, len(prepared), SLICE))
        self._dirty_since_s.setdefault(collection, time.monotonic())
        self._under_way = Update(request, collection, apply, slices)

    def apply_slice(self) -> None:
        """Apply a few items of the update under way."""
        update = self._under_way
        if update is None:
            return
        try:
            update.apply(update.slices.popleft())
        except Exception as error:  # noqa: BLE001  the engine knows no exception of its own
            self._channel.fail(update.request.id, "failed", str(error))
            self._end_in_doubt(f"update of {update.collection.name}: {error}")
        if not update.slices:
            self._under_way = None
            self._applied.append(update)

    def sync(self) -> None:
        """Put what was applied on disk, in a thread, and answer it then; one such at a time."""
        if self._syncing or not self._applied:
            return
        self._syncing, self._applied = self._applied, []
        journals = {update.collection: update.collection.journal for update in self._syncing}

        def work() -> None:
            for journal in journals.values():
                journal.sync()

        self._background.run(work, self._synced)

    def _synced(self, error: BaseException | None) -> None:
        if error is not None:
            self._end_in_doubt(f"journal: {error}")
        for update in self._syncing:
            self._channel.reply(update.request.id, None)
        self._syncing = []

    def due_in_s(self, last_asked_s: float) -> float | None:
        """Seconds until a flush is due, if nothing is asked meanwhile; None if there is nothing to flush."""
        if not self._dirty_since_s or self._cleaning is not None:
            return None
        return max(0.0, self._due_at_s(self._oldest(), last_asked_s) - time.monotonic())

    def _oldest(self) -> EdgeCollection:
        return next(iter(self._dirty_since_s))

    def _due_at_s(self, collection: EdgeCollection, last_asked_s: float) -> float:
        journal = collection.journal
        if journal.operations >= FLUSH_AFTER_OPERATIONS or journal.size >= FLUSH_AFTER_BYTES:
            return 0.0
        return min(self._dirty_since_s[collection] + FLUSH_AFTER_S, last_asked_s + FLUSH_WHEN_IDLE_S)

    def flush_if_due(self, last_asked_s: float) -> bool:
        """Flush a collection whose time has come; answers whether it did.

        Most of what a flush waits for is done first, in a thread: what its files have in memory goes to disk.
        """
        if self.applying:  # half of it would be flushed, and the whole of it taken out of the journal
            return False
        if self._cleaned is not None and not self._syncing:
            collection, self._cleaned = self._cleaned, None
            if collection in self._dirty_since_s:
                self.flush(collection)
                return True
        now_s = time.monotonic()
        due = (each for each in self._dirty_since_s if self._due_at_s(each, last_asked_s) <= now_s)
        if (first := next(due, None)) is not None:
            self._clean(first)
        return False

    def ready_to_flush(self, collection: EdgeCollection) -> bool:
        """Whether a flush of this collection would be short now; if not, begin to make it so."""
        if self.applying or self._syncing:
            return False
        if collection in self._dirty_since_s and self._cleaned is not collection:
            self._cleaned = None  # another's, which is not flushed before this one: waiting for that would never end
            self._clean(collection)
            return False
        return True

    def _clean(self, collection: EdgeCollection) -> None:
        if self._cleaning is None and self._cleaned is None:
            self._cleaning = collection
            self._background.run(partial(sync_tree, collection.place), self._after_cleaning)

    def _after_cleaning(self, _error: BaseException | None) -> None:
        """Whatever happened: the flush itself counts."""
        self._cleaned, self._cleaning = self._cleaning, None

    def flush(self, collection: EdgeCollection) -> None:
        """Flush the collection now; not while an update is being applied."""
        self.settle()
        self._dirty_since_s.pop(collection, None)
        if self._cleaned is collection:
            self._cleaned = None
        try:
            collection.flush()
        except Exception as error:  # noqa: BLE001  the engine knows no exception of its own
            self._end_in_doubt(f"flush of {collection.name}: {error}")

    def settle(self) -> None:
        """Wait until no journal is being synced, and answer those who waited for it."""
        while self._syncing:
            self._background.wait()
            self._background.finish()

    def answer_all(self) -> None:
        """Wait until everything that was applied is on disk and answered."""
        self.settle()
        self.sync()
        self.settle()

    def forget(self, collection: EdgeCollection) -> None:
        """The collection goes; its updates are answered first."""
        self.answer_all()
        self._dirty_since_s.pop(collection, None)
        if self._cleaned is collection:
            self._cleaned = None

    def finish(self, collections: Iterable[EdgeCollection]) -> None:
        """Before the end: everything goes to disk. What was not answered will be sent again."""
        self.settle()
        self._background.wait()
        for collection in collections:
            collection.close()

    def _end_in_doubt(self, reason: str) -> NoReturn:
        """After a failed write nobody knows what is on disk: say so, and begin again from the files."""
        for update in (*self._syncing, *self._applied):
            self._channel.fail(update.request.id, "failed", reason)
        print(f"index: {reason}", file=sys.stderr)  # noqa: T201  stderr goes where the daemon's does
        os._exit(EXIT_STATE_UNKNOWN)

"""Callers that wait until the index has their rows, or has them no more.

Owns who is woken when. The worker announces the end of every batch; whoever waits looks for itself whether that
was all it waited for. Knows nothing of how rows are delivered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from nexusd.model.outbox import WaitedOutbox
from nexusd.store.database import Database
from nexusd.store.deletions import any_owed, count_owed
from nexusd.store.outbox import Queue, count_outbox, unfinished


class Waiting:
    """Those who wait. `complete` tells whether what is not in the outbox is in the index."""

    def __init__(self, store: Database, complete: Callable[[], bool], queue: Queue = "outbox") -> None:
        self._store = store
        self._complete = complete
        self._queue: Queue = queue
        self._stopping = False
        self._progress = asyncio.Event()

    def announce(self) -> None:
        """Some rows were delivered, or given up: everybody looks."""
        self._progress.set()
        self._progress = asyncio.Event()

    def stop(self) -> None:
        """Who waits, now or later, is answered with how things stand."""
        self._stopping = True
        self.announce()

    async def wait_for(self, collection: str | None, row_ids: Sequence[int], timeout_s: float) -> WaitedOutbox:
        """Until none of the rows (or of all rows) is pending any more, or the time is up."""
        await self._until(lambda: self._look(collection, row_ids).pending == 0, timeout_s)
        return self._look(collection, row_ids)

    async def wait_for_deletes(self, through_seq: int, timeout_s: float) -> WaitedOutbox:
        """Until no delete that was queued up to this number is pending any more, or the time is up."""
        now_s = asyncio.get_running_loop().time
        ends_s = now_s() + timeout_s
        while True:
            await self._until(lambda: not self._store.peek(any_owed, through_seq), ends_s - now_s())
            owed = await self._store.read(count_owed, through_seq)  # there may be many: not on the loop
            gone = owed.pending == 0 and self._complete()  # the index may have gone away during the look
            if gone or self._stopping or now_s() >= ends_s:
                done = gone and owed.dead == 0
                return WaitedOutbox(done=done, pending=owed.pending, dead=owed.dead)

    async def _until(self, settled: Callable[[], bool], timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    progress = self._progress  # taken before the look: a batch that ends after it wakes us
                    if self._stopping or (settled() and self._complete()):
                        return
                    await progress.wait()
        except TimeoutError:
            return

    def _look(self, collection: str | None, row_ids: Sequence[int]) -> WaitedOutbox:
        if collection is None or not row_ids:
            counts = self._store.peek(count_outbox, queue=self._queue)
            pending, dead = counts.pending + counts.inflight, counts.dead
        else:
            states = self._store.peek(unfinished, collection, row_ids, queue=self._queue)
            dead = sum(1 for state in states.values() if state == "dead")
            pending = len(states) - dead
        return WaitedOutbox(done=pending == 0 and dead == 0 and self._complete(), pending=pending, dead=dead)

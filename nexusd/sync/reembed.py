"""Re-embedding: the next model's collections are made from the rows while the present model serves, then it serves.

Owns the order of that, and what is told of it:

    filling    every row is queued for the next model, in slices; whatever changes meanwhile is queued too (triggers)
    embedding  a second outbox worker carries that out; vectors that were stored under the model's key are used again
    comparing  rows and points side by side; what differs is queued, and it is compared again
    swapped    one transaction: the next model serves, its queue is the outbox; then everybody is told

Each step can be begun again: a crash between any two of them repeats work and loses none. The swap waits until the
next model holds every row that the present one holds, so that nothing that was found is not found any more. Knows no
wire and no SQL.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import structlog

from nexusd.clock import Clock
from nexusd.config_sections import OutboxConfig
from nexusd.embedding.serving import KeyedModel
from nexusd.errors import Busy, DiskFull, IndexUnavailable, ReadOnly
from nexusd.index.index import Index
from nexusd.model.events import Publish, tell_nobody
from nexusd.model.index import ReembedProgress
from nexusd.store.connection import Connection
from nexusd.store.database import Database
from nexusd.store.indexed import TABLES
from nexusd.store.models import any_postponed, count_behind, fill_next, serve_next
from nexusd.store.outbox import OutboxCounts, count_outbox
from nexusd.store.reconciling import count_rows
from nexusd.sync.breaker import backoff_s
from nexusd.sync.collections import Collections
from nexusd.sync.models import Models
from nexusd.sync.worker import OutboxWorker

FILL_ROWS = 2000  # queued in one transaction: a few milliseconds
LOOK_S = 0.1  # between two looks at how far it is: in between there may be a thousand commits
TELL_S = 5.0  # between two events
MAX_MOVED = 5000  # rows that may wait in the next queue at the swap: it is one transaction
MAX_PAUSE_S = 30.0  # after the store or the index refused something
FIRST_PATIENCE_S = 3.0  # how long fresh rows wait for a swap; doubles when it did not come about
MAX_PATIENCE_S = 60.0

Reached = Callable[[str], None]  # told each step, for tests that end the process there
Stage = Literal["idle", "filling", "embedding", "comparing", "swapped", "failed"]


@dataclass(frozen=True, slots=True)
class _Seen:
    """How far it was when it was last looked at."""

    stage: Stage = "idle"
    total: int = 0
    left: int = 0
    dead: int = 0


class Reembedding:
    """Fills the next model's collections whenever there is a next model. `run` is one supervised task."""

    def __init__(
        self,
        store: Database,
        index: Index,
        models: Models,
        worker: OutboxWorker,
        collections: Collections,
        config: OutboxConfig,
        clock: Clock,
        chance: random.Random,
        publish: Publish = tell_nobody,
        *,
        on_swapped: Callable[[], None] = lambda: None,
        reached: Reached = lambda _step: None,
    ) -> None:
        """`worker` and `collections` are those of the model that serves; they take the next model over."""
        self._store = store
        self._index = index
        self._models = models
        self._worker = worker
        self._collections = collections
        self._config = config
        self._clock = clock
        self._chance = chance
        self._publish = publish
        self._on_swapped = on_swapped
        self._reached = reached
        self._wanted = asyncio.Event()
        self._committed = asyncio.Event()
        self._next_worker: OutboxWorker | None = None
        self._seen = _Seen()
        self._told_s = 0.0
        self._log = structlog.get_logger("nexusd.reembed")

    # --- what others tell it ---

    def begin(self) -> None:
        """There may be a next model now."""
        self._wanted.set()

    def wake(self) -> None:
        """Something was committed; there may be work."""
        self._committed.set()
        if self._next_worker is not None:
            self._next_worker.wake()

    def index_up(self) -> None:
        """The index came up, with what it still holds."""
        if self._next_worker is not None:
            self._next_worker.index_up()

    def embedder_up(self) -> None:
        """The next model's embedder answers again."""
        if self._next_worker is not None:
            self._next_worker.embedder_up()

    def set_pace(self, config: OutboxConfig) -> None:
        """Work in batches of this size and try again as often and as soon as this says, from now on."""
        self._config = config
        if self._next_worker is not None:
            self._next_worker.set_pace(config)

    # --- the task ---

    async def run(self) -> None:
        """Work until cancelled."""
        refused = 0
        while True:
            self._wanted.clear()
            if (model := self._models.next) is None:
                await self._wanted.wait()
                continue
            try:
                await self._bring_in(model)
                refused = 0
            except (Busy, DiskFull, ReadOnly, IndexUnavailable) as error:
                refused += 1
                if refused == 1:
                    self._log.warning("re-embedding has to wait", reason=error.message)
                await asyncio.sleep(backoff_s(refused, MAX_PAUSE_S, self._chance))

    async def _bring_in(self, model: KeyedModel) -> None:
        """From the first row to the swap."""
        began_s = self._clock.monotonic_s()
        name = model.embedder.fingerprint.model
        self._log.info("re-embedding begins", model=name, key=model.key)
        self._told_s = -TELL_S  # so that the first look is told at once
        await self._look("filling")
        while await self._store.write(fill_next, FILL_ROWS, self._clock.now_ms()):
            self._reached("fill slice")
        self._reached("filled")
        collections = Collections(self._store, self._index, model, queue="outbox_next")
        worker = OutboxWorker(
            self._store, self._index, model, collections, self._config, self._clock, self._chance, queue="outbox_next"
        )
        working = asyncio.create_task(worker.run(), name="outbox:next")
        self._next_worker = worker
        try:
            await self._until_swapped(model, worker, collections, working)
        finally:
            self._next_worker = None
            working.cancel()
            await asyncio.wait([working])
        rows, seconds = self._seen.total, round(self._clock.monotonic_s() - began_s, 1)
        self._log.info("re-embedding done", model=name, rows=rows, dead=self._seen.dead, seconds=seconds)
        self._publish("index", {"state": "swapped", "model": name, "rows": rows, "dead": self._seen.dead})

    async def _until_swapped(
        self, model: KeyedModel, worker: OutboxWorker, collections: Collections, working: asyncio.Task[None]
    ) -> None:
        found, patience_s = -1, FIRST_PATIENCE_S
        while True:
            await self._caught_up(worker, working)
            before, found = found, await self._compare(worker, collections)
            # What is missing again was settled without a point: nothing of it can be embedded. Once the model serves
            # that is noted, so it is looked at again then.
            if found and found != before:
                continue
            self._reached("compared")
            while not await self._swap(model, worker, collections, patience_s):
                patience_s = min(2 * patience_s, MAX_PATIENCE_S)
                await self._caught_up(worker, working)
                if not worker.complete:
                    break
            else:
                await self._adopted(mend=found > 0)
                return

    async def _caught_up(self, worker: OutboxWorker, working: asyncio.Task[None]) -> None:
        """Until hardly more rows wait for the next model than for the one that serves."""
        while True:
            self._committed.clear()
            counts = await self._look("embedding")
            if worker.complete and counts.pending + counts.inflight <= self._close_enough() and self._in_reach(worker):
                return
            looking = asyncio.create_task(self._committed.wait())
            await asyncio.wait([working, looking], timeout=TELL_S, return_when=asyncio.FIRST_COMPLETED)
            looking.cancel()
            if working.done():
                working.result()  # it does not end but by an error: that is this task's too
            await asyncio.sleep(LOOK_S)

    def _close_enough(self) -> int:
        serving = self._store.peek(count_outbox)
        return min(MAX_MOVED, max(self._config.batch_size, serving.pending + serving.inflight))

    def _in_reach(self, worker: OutboxWorker) -> bool:
        """Whether what the next model is behind will be done soon: fresh rows wait for it in a swap, however little."""
        if not self._store.peek(count_behind):
            return True
        return worker.status().rows_per_second > 0 and not self._held_up()

    def _held_up(self) -> bool:
        return self.stuck or self._store.peek(any_postponed, self._clock.now_ms())

    async def _compare(self, worker: OutboxWorker, collections: Collections) -> int:
        """How many rows and points of the next model differ; they are queued."""
        differences = 0
        async with worker.paused():
            self._seen = replace(self._seen, stage="comparing")
            for collection in collections.logical:
                found = await collections.compare(collection, self._clock.now_ms())
                differences += found.missing + found.stale + found.orphaned
        return differences

    async def _swap(
        self, model: KeyedModel, worker: OutboxWorker, collections: Collections, patience_s: float
    ) -> bool:
        """Let the next model serve; false if it did not get as far as the present one in time."""
        async with self._worker.paused(), contextlib.AsyncExitStack() as also:
            # What it is behind does not grow from here on: whatever is queued is queued for both.
            try:
                async with asyncio.timeout(patience_s):
                    while self._store.peek(count_behind):
                        if self._held_up():
                            return False
                        self._committed.clear()
                        await self._committed.wait()
                    await also.enter_async_context(worker.paused())
            except TimeoutError:
                return False
            if not worker.complete:
                return False
            now_ms = self._clock.now_ms()
            rows = await self._store.write(serve_next, now_ms, self._models.keep_until_ms())
            if rows is None:
                return False
            self._reached("swapped")
            # From here on nothing is waited for: no question and no row meets one half of it.
            self._collections.adopt(collections)
            self._worker.adopt(model, self._collections, prepared=True)
            self._models.adopt(rows)
            self._on_swapped()  # now: what follows may fail, and the embedder of before would stay open
            self._seen = replace(self._seen, stage="swapped", left=0)
            self._reached("adopted")
        return True

    async def _adopted(self, *, mend: bool) -> None:
        names = {collection: self._collections.physical(collection) for collection in self._collections.logical}
        with contextlib.suppress(IndexUnavailable):  # they are made again when the index comes back
            await self._index.publish(names)
        self._reached("aliases")
        if mend:
            for collection in self._collections.logical:
                await self._collections.compare(collection, self._clock.now_ms())

    # --- what is told ---

    async def _look(self, stage: Stage) -> OutboxCounts:
        total, counts = await self._store.read(_counts)
        left = total if stage == "filling" else counts.pending + counts.inflight
        self._seen = _Seen(stage, total, min(left, total), counts.dead)
        now_s = self._clock.monotonic_s()
        if now_s - self._told_s >= TELL_S:
            self._told_s = now_s
            now = self.progress()
            name = "" if now.next is None else now.next.model
            self._publish("index", {"state": "reembedding", "model": name, "done": now.done, "total": total})
        return counts

    def progress(self) -> ReembedProgress:
        """How far it is."""
        seen, model, worker = self._seen, self._models.next, self._next_worker
        serving = self._models.info(self._models.serving.model)
        if model is None:
            ended = seen.stage == "swapped"
            return ReembedProgress(
                state="swapped" if ended else "idle", serving=serving, total=seen.total, done=seen.total - seen.dead,
                dead=seen.dead, estimate_ms=0 if ended else None, detail=f"{serving.model} serves",
            )  # fmt: skip
        rate = 0.0 if worker is None else worker.status().rows_per_second
        return ReembedProgress(
            state="filling" if seen.stage in {"idle", "swapped"} else seen.stage,
            serving=serving,
            next=self._models.info(model),
            total=seen.total,
            done=max(0, seen.total - seen.left - seen.dead),
            dead=seen.dead,
            rows_per_second=round(rate, 1),
            estimate_ms=int(seen.left / rate * 1000) if rate > 0 else None,
            detail=self._trouble() or f"{serving.model} serves meanwhile",
        )

    def _trouble(self) -> str:
        """What the next model waits for."""
        worker = self._next_worker
        if worker is None:
            return ""
        troubles = {"index": worker.index_trouble, "embedder": worker.embedder_breaker.last_error}
        return "; ".join(f"{name}: {trouble}" for name, trouble in troubles.items() if trouble)

    @property
    def stuck(self) -> bool:
        """Whether the next model waits for a part that is away."""
        return bool(self._trouble())

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Of the next model."""
        return () if self._models.next is None else self._models.next.embedder.health().process_ids

    def line(self) -> str:
        """One line for people; empty while nothing is under way."""
        if self._models.next is None:
            return ""
        now = self.progress()
        name = "" if now.next is None else now.next.model
        left = "" if now.estimate_ms is None else f", {_duration(now.estimate_ms)} left"
        waits = f", which waits for the {trouble}" if (trouble := self._trouble()) else ""
        return f"re-embedding {now.done:,} of {now.total:,} with {name}{left}{waits}"


def _counts(db: Connection) -> tuple[int, OutboxCounts]:
    """How many rows there are to embed, and how many of them wait for the next model."""
    return sum(count_rows(db, collection) for collection in TABLES), count_outbox(db, queue="outbox_next")


def _duration(milliseconds: int) -> str:
    seconds = milliseconds // 1000
    if seconds < 120:
        return f"{seconds} s"
    minutes = seconds // 60
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"

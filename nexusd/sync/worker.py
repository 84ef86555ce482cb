"""The outbox worker: takes what the rows owe the index, has it embedded and sent, and strikes it off.

Owns when rows are claimed, and what the worker waits for. Knows no wire, no SQL and no backend.

    claim -> read the rows -> vectors (given or stored ones first, the rest embedded and stored)
          -> upsert and delete in the index, durably -> strike off what has not changed meanwhile

The next claim is prepared (`nexusd.sync.preparing`) while those before are being sent (`nexusd.sync.sending`), one
after the other and in their order; no row is in two. Nothing is struck off before the index has it on disk, so a crash
at any step repeats work and loses none.
A row that changes while it is under way keeps its outbox row (the version differs) and goes again.
An outage costs no attempts: the rows go back and a breaker decides when to ask again. What can never
succeed (a text the model refuses, a vector the index refuses) is found by halving the batch and buried
with its reason; the rest of its batch gets through. Rows over which a process died are sent one by one from
then on, so that only the one to blame counts its attempts.

Steps that `reached` is told, each after what it names is on disk: claimed, read, embedded, vectors_saved, upserted,
deleted, finished, finished_without_point; and of rows that did not get through: released, given_back, postponed,
buried.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

import structlog

from nexusd.clock import Clock
from nexusd.config_sections import OutboxConfig
from nexusd.embedding.serving import KeyedModel
from nexusd.errors import Busy, DimensionMismatch, DiskFull, IndexUnavailable, ReadOnly
from nexusd.index.index import Index
from nexusd.model.events import Publish, tell_nobody
from nexusd.model.outbox import OutboxStatus, WaitedOutbox
from nexusd.store.database import Database
from nexusd.store.outbox import (
    Place,
    Queue,
    claim_batch,
    count_outbox,
    hasten,
    next_due_ms,
    reset_inflight,
)
from nexusd.sync.breaker import Breaker, backoff_s
from nexusd.sync.collections import Collections
from nexusd.sync.preparing import Load, Preparing
from nexusd.sync.sending import Done, Sending
from nexusd.sync.setbacks import Setbacks
from nexusd.sync.throughput import Throughput
from nexusd.sync.under_way import UnderWay
from nexusd.sync.waiting import Waiting

MAX_IDLE_S = 30.0  # the clock may be set: a row whose time has come is found by then in any case
MIN_IDLE_S = 0.01  # between "due now" and a claim that still found it too early
MAX_STORE_PAUSE_S = 5.0  # the store itself looks every second whether the disk has room again
EMBEDDER_PACE_S = 1.0  # while it is away, each turn takes rows and gives them back: three commits for nothing
# A claim grows while claims are quickly done, and is as small as configured when they are not: whoever is queued behind
# it waits for all of it.
LARGEST_CLAIM = 1024
QUICK_S = 0.25
SLOW_S = 0.5
REFUSED_AGAIN_S = 5.0  # a collection that cannot be used waits for people; whether they were there is seen by then
HASTENED = 1000  # rows a transaction: 10 ms


def tell_nothing(step: str) -> None:
    """Nobody follows the steps."""


class OutboxWorker:
    """Keeps the index up with the rows. `run` is one supervised task; everything else may be called beside it."""

    def __init__(
        self,
        store: Database,
        index: Index,
        model: KeyedModel,
        collections: Collections,
        config: OutboxConfig,
        clock: Clock,
        chance: random.Random,
        publish: Publish = tell_nobody,
        *,
        queue: Queue = "outbox",
        reached: Callable[[str], None] = tell_nothing,
    ) -> None:
        self.embedder_breaker = Breaker(
            "embedder", max_pause_s=config.max_backoff_s, clock=clock, chance=chance
        )
        self.index_breaker = Breaker("index", max_pause_s=config.max_backoff_s, clock=clock, chance=chance)
        self.turns = 0  # claims and rests so far: a sign of life, and whose turn it is goes by it
        self._store = store
        self._index = index
        self._config = config
        self._clock = clock
        self._chance = chance
        self._prepared = False
        self._refused_again_s = 0.0  # when to look at refused collections again, on the monotonic clock
        self._delivering = asyncio.Lock()  # held while rows are claimed; the model changes only when it is free
        self._setbacks = Setbacks(store, self.embedder_breaker, config, clock, chance, publish, queue, reached)
        self._behind = False  # something was claimed since the outbox was seen empty
        self._publish = publish
        self._queue: Queue = queue
        self._reached = reached
        self._index_up = asyncio.Event()
        self._embedder_up = False
        self._hastening: dict[str, Place] = {}  # collections whose rows need not wait any more: how far that is done
        self._work = asyncio.Event()
        self._resting = asyncio.Event()  # there is nothing that the worker could do now
        self._waiting = Waiting(store, lambda: self.complete, queue)
        self._throughput = Throughput(clock)
        self._claim_rows = config.batch_size
        self._under_way = UnderWay(self._work.set)
        self._at_index = asyncio.Lock()  # its waiters go in the order in which they came
        self._log = structlog.get_logger("nexusd.outbox")
        self._deliver_to(model, collections)

    def _deliver_to(self, model: KeyedModel, collections: Collections) -> None:
        self._model, self._collections = model, collections
        self._preparing = Preparing(
            self._store, model, self._setbacks, self.embedder_breaker, self._clock, self._config.batch_size,
            self._reached,
        )
        self._sending = Sending(
            self._store, self._index, collections.holders, model.key, self._setbacks, self._throughput,
            slice_rows=self._config.batch_size, queue=self._queue,
            answered=self._index_answers, failed=self._index_failed, reached=self._reached,
        )

    def set_pace(self, config: OutboxConfig) -> None:
        """Work in batches of this size and try again as often and as soon as this says, from now on."""
        self._config = config
        self._claim_rows = config.batch_size
        self._setbacks.set_pace(config)
        for breaker in (self.embedder_breaker, self.index_breaker):
            breaker.set_max_pause(config.max_backoff_s)
        self._deliver_to(self._model, self._collections)
        self._work.set()    # a shorter backoff makes rows due

    def wake(self) -> None:
        """Something was committed; there may be work."""
        self._work.set()

    def index_up(self) -> None:
        """The index came up, with what it still holds: look at it now, whatever the breaker says."""
        self.index_breaker.try_now()
        self._refused_again_s = 0.0
        self._index_up.set()
        self._work.set()

    def embedder_up(self) -> None:
        """The embedder answers again: what was given back meanwhile need not wait for the end of its pause."""
        self.embedder_breaker.try_now()
        self._embedder_up = True
        self._work.set()

    @contextlib.asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """While this is open nothing is claimed or under way."""
        async with self._delivering:
            await self._under_way.quiet()
            yield

    def adopt(self, model: KeyedModel, collections: Collections, *, prepared: bool = False) -> None:
        """Deliver to this model's collections from now on; only while `paused`. `prepared`: they are in order."""
        self._deliver_to(model, collections)
        self._prepared = prepared
        self.embedder_breaker.succeeded()  # what is known of the one before says nothing of this one
        self.wake()

    async def run(self) -> None:
        """Work until cancelled."""
        refused, left_over = 0, True  # claims of a run before this one, or of turns that could not write their end
        try:
            while True:
                self.turns += 1
                try:
                    if left_over:
                        await self._store.write(reset_inflight, queue=self._queue)
                        left_over = False
                    await self._turn()
                    refused = 0
                except (Busy, DiskFull, ReadOnly) as error:
                    await self._under_way.abandon()
                    left_over = True
                    refused += 1
                    if refused == 1:
                        self._log.warning("the store takes no writes; the outbox waits", reason=error.message)
                    self._resting.set()
                    await asyncio.sleep(backoff_s(refused, MAX_STORE_PAUSE_S, self._chance))
        finally:
            await self._under_way.abandon()

    async def _turn(self) -> None:
        """One claim, or one rest."""
        self._resting.clear()
        self._work.clear()  # before the claim: a commit after it must wake us
        self._index_up.clear()
        await self._under_way.look()
        if (pause_s := self.index_breaker.pause_left_s) > 0:
            await self._under_way.all_ended()
            await self._pause(pause_s, self._index_up)
            return
        if self._setbacks.gave_back:  # the embedder is away: what needs no embedding goes on, at an easy pace
            self._setbacks.gave_back = False
            if (pause_s := min(self.embedder_breaker.pause_left_s, EMBEDDER_PACE_S)) > 0:
                self._resting.set()
                await asyncio.sleep(pause_s)
        refused_due = self._collections.trouble and self._clock.monotonic_s() >= self._refused_again_s
        if refused_due or not (self._prepared and self._collections.intact()):
            await self._under_way.all_ended()
            if not await self._prepare():
                return
        await self._hasten()
        # Looked for before it is claimed: a claim is a commit, and every commit wakes us.
        now_ms = self._clock.now_ms()
        collections = self._collections.usable
        due_ms = self._store.peek(next_due_ms, now_ms, self._max_backoff_ms, collections, queue=self._queue)
        if due_ms == 0 and await self._claim(now_ms):
            return
        if self._under_way:
            if due_ms == 0:  # rows that changed while they are being sent
                await self._under_way.all_ended()
            await self._work.wait()  # for more to do meanwhile, or an end
            return
        self._index_answers()
        self._waiting.announce()  # who waits for rows that went with a claim that was cut short learns it here
        self._tell_drained()
        if not self._hastening:
            await self._rest(due_ms)

    async def _claim(self, now_ms: int) -> bool:
        """Take rows and prepare them while those before are being sent; then send these. False: all are under way."""
        async with self._delivering:
            self._behind = True
            entries = await self._store.write(
                claim_batch, self._claim_rows, now_ms, self._max_backoff_ms, self._collections.usable,
                turn=self.turns, passed_over=self._under_way.seqs, queue=self._queue,
            )
            if not entries:
                return False
            self._reached("claimed")
            began_s = self._clock.monotonic_s()
            loads = await self._preparing.prepare(entries)
            await self._under_way.begin(partial(self._send, loads), frozenset(entry.seq for entry in entries))
            whole = sum(len(load.entries) for load in loads) == len(entries)
            self._pace(len(entries), self._clock.monotonic_s() - began_s, whole=whole)
            return True

    def _pace(self, rows: int, took_s: float, *, whole: bool) -> None:
        """How many rows the next claim may take. `whole`: all of these could be prepared."""
        if took_s > SLOW_S or not whole:
            self._claim_rows = self._config.batch_size
        elif took_s < QUICK_S and rows == self._claim_rows:
            self._claim_rows = max(self._config.batch_size, min(2 * rows, LARGEST_CLAIM))

    async def _send(self, loads: Sequence[Load]) -> None:
        done = Done()
        async with self._at_index:
            if self.index_breaker.pause_left_s > 0 or not self._prepared:  # it went away while these were prepared
                await self._setbacks.release([entry for load in loads for entry in load.entries])
            else:
                try:
                    await self._sending.send(loads, done)
                except (Busy, DiskFull, ReadOnly):
                    await self._sending.strike_off(done)
                    raise
        await self._sending.strike_off(done)
        self._waiting.announce()

    async def _hasten(self) -> None:
        """Let some of the rows that were given back be taken at once, if what they waited for is there."""
        if self._embedder_up:
            self._embedder_up = False
            self._hastening = dict.fromkeys(self._collections.logical, (self._clock.now_ms(), 0))
        if self._hastening:
            collection, after = self._hastening.popitem()
            place = await self._store.write(hasten, collection, after, HASTENED, queue=self._queue)
            if place is not None:
                self._hastening[collection] = place

    async def drain(self, timeout_s: float) -> None:
        """Deliver what is due until nothing is, a part is away, or the time is up. What is left stays in the outbox."""
        if self.index_breaker.pause_left_s > 0 or self.embedder_breaker.pause_left_s > 0:
            return
        self._resting.clear()
        self._work.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._resting.wait()

    async def _prepare(self) -> bool:
        """Find the collections in order, at the start and after every outage: the index may come back empty."""
        try:
            await self._collections.prepare(self._clock.now_ms())
        except (IndexUnavailable, DimensionMismatch) as error:  # the latter needs people: health has its words
            self._index_failed(error)
            return False
        self._refused_again_s = self._clock.monotonic_s() + REFUSED_AGAIN_S
        self._prepared = True  # the breaker stays as it is: a full index answers this, and takes no row
        return True

    def _index_failed(self, error: IndexUnavailable | DimensionMismatch) -> None:
        self._prepared = False
        pause_s = self.index_breaker.failed(error.message, at_least_s=(error.retry_after_ms or 0) / 1000)
        self._log.warning("index unavailable", reason=error.message, retry_in_s=round(pause_s, 1))

    def _index_answers(self) -> None:
        if self.index_breaker.succeeded():
            self._log.info("index answers again")

    def _tell_drained(self) -> None:
        """Say so when the last row that was owed has gone."""
        if self._behind:
            counts = self._store.peek(count_outbox, queue=self._queue)
            if counts.pending + counts.inflight == 0:
                self._behind = False
                self._publish("outbox", {"state": "drained", "dead": counts.dead})

    async def _rest(self, due_ms: int | None) -> None:
        """Until something is committed, a postponed row is due, or a refused collection is to be looked at."""
        left_s = MAX_IDLE_S if due_ms is None else (due_ms - self._clock.now_ms()) / 1000
        if self._collections.trouble:
            left_s = min(left_s, self._refused_again_s - self._clock.monotonic_s())
        await self._pause(min(MAX_IDLE_S, max(MIN_IDLE_S, left_s)), self._work)

    async def _pause(self, seconds: float, sooner: asyncio.Event) -> None:
        self._resting.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await sooner.wait()

    @property
    def _max_backoff_ms(self) -> int:
        return int(self._config.max_backoff_s * 1000)

    @property
    def resting(self) -> bool:
        """Whether there is nothing that it could do now."""
        return self._resting.is_set()

    @property
    def complete(self) -> bool:
        """Whether what is not in the outbox is in the index: it was compared, and nothing was lost since."""
        return self._prepared and not self._collections.trouble and self._collections.intact()

    @property
    def index_trouble(self) -> str:
        """Why the index is not complete, where it is more than that it is being compared."""
        return self.index_breaker.last_error or self._collections.trouble

    def stop_waiting(self) -> None:
        """Who waits is answered with how things stand: the daemon stops."""
        self._waiting.stop()

    async def wait_for(self, collection: str | None, row_ids: Sequence[int], timeout_s: float) -> WaitedOutbox:
        """Until none of the rows (or of all rows) is pending any more, or the time is up."""
        return await self._waiting.wait_for(collection, row_ids, timeout_s)

    async def wait_for_deletes(self, through_seq: int, timeout_s: float) -> WaitedOutbox:
        """Until no delete that was queued up to this number is pending any more, or the time is up."""
        return await self._waiting.wait_for_deletes(through_seq, timeout_s)

    def status(self) -> OutboxStatus:
        """How far behind, and how fast."""
        counts = self._store.peek(count_outbox, queue=self._queue)
        rate = self._throughput.per_second()
        waiting = counts.pending + counts.inflight
        oldest = counts.oldest_ms
        return OutboxStatus(
            pending=counts.pending,
            inflight=counts.inflight,
            dead=counts.dead,
            oldest_age_ms=None if oldest is None else max(0, self._clock.now_ms() - oldest),
            rows_per_second=round(rate, 1),
            drain_estimate_ms=0 if not waiting else int(waiting / rate * 1000) if rate > 0 else None,
            embedder=self.embedder_breaker.state,
            index=self.index_breaker.state,
            embedder_breaker=self.embedder_breaker.report(),
            index_breaker=self.index_breaker.report(),
        )

"""The outbox worker: takes what the rows owe the index, embeds it, sends it, and strikes it off.

Owns the order of one delivery and what each failure means. Knows no wire, no SQL and no backend.

    claim -> read the rows -> vectors (given or stored ones first, the rest embedded and stored)
          -> upsert and delete in the index, durably -> strike off what has not changed meanwhile

Nothing is struck off before the index has it on disk, so a crash at any step repeats work and loses none.
A row that changes while it is under way keeps its outbox row (the version differs) and goes again.
An outage costs no attempts: the rows go back and a breaker decides when to ask again. What can never
succeed (a text the model refuses, a vector the index refuses) is found by halving the batch and buried
with its reason; the rest of its batch gets through. Rows over which a process died are sent one by one from
then on, so that only the one to blame counts its attempts.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence

import structlog

from nexusd.clock import Clock
from nexusd.config import OutboxConfig
from nexusd.embedding.embedder import EmbedderDied, RejectedText
from nexusd.embedding.serving import KeyedModel
from nexusd.errors import (
    BadContent,
    Busy,
    DimensionMismatch,
    DiskFull,
    EmbedderUnavailable,
    IndexUnavailable,
    ReadOnly,
    RpcError,
)
from nexusd.index.index import Index, IndexDied, Point, Vector
from nexusd.model.events import Publish, tell_nobody
from nexusd.model.outbox import OutboxStatus, WaitedOutbox
from nexusd.store.database import Database
from nexusd.store.embeddings import forget_vectors, save_vectors, select_vectors
from nexusd.store.meta import get_epoch
from nexusd.store.outbox import (
    OutboxEntry,
    Queue,
    any_due,
    claim_batch,
    count_outbox,
    finish_batch,
    hasten,
    next_due_ms,
    release_batch,
    reset_inflight,
)
from nexusd.store.unindexed import finish_without_point
from nexusd.sync.breaker import Breaker, backoff_s
from nexusd.sync.collections import Collections
from nexusd.sync.setbacks import Setbacks
from nexusd.sync.sources import LOADERS, Document
from nexusd.sync.throughput import Throughput
from nexusd.sync.waiting import Waiting

MAX_IDLE_S = 30.0  # the clock may be set: a row whose time has come is found by then in any case
MIN_IDLE_S = 0.01  # between "due now" and a claim that still found it too early
MAX_STORE_PAUSE_S = 5.0  # the store itself looks every second whether the disk has room again
EMBEDDER_PACE_S = 1.0  # while it is away, each turn takes rows and gives them back: three commits for nothing


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
    ) -> None:
        self.embedder_breaker = Breaker(
            "embedder", max_pause_s=config.max_backoff_s, clock=clock, chance=chance
        )
        self.index_breaker = Breaker("index", max_pause_s=config.max_backoff_s, clock=clock, chance=chance)
        self.turns = 0  # grows while the worker makes progress or rests; the watchdog looks at it
        self._store = store
        self._index = index
        self._model = model
        self._collections = collections
        self._config = config
        self._clock = clock
        self._chance = chance
        self._prepared = False
        self._claims_open = True
        self._delivering = asyncio.Lock()  # held while rows are claimed; the model changes only when it is free
        self._setbacks = Setbacks(store, self.embedder_breaker, config, clock, chance, publish, queue)
        self._behind = False  # something was claimed since the outbox was seen empty
        self._publish = publish
        self._queue: Queue = queue
        self._index_up = asyncio.Event()
        self._embedder_up = False
        self._epoch = ""
        self._work = asyncio.Event()
        self._waiting = Waiting(store, lambda: self.complete, queue)
        self._throughput = Throughput(clock)
        self._log = structlog.get_logger("nexusd.outbox")

    def set_pace(self, config: OutboxConfig) -> None:
        """Work in batches of this size and try again as often and as soon as this says, from now on."""
        self._config = config
        self._setbacks.set_pace(config)
        for breaker in (self.embedder_breaker, self.index_breaker):
            breaker.set_max_pause(config.max_backoff_s)
        self._work.set()    # a shorter backoff makes rows due

    def wake(self) -> None:
        """Something was committed; there may be work."""
        self._work.set()

    def index_up(self) -> None:
        """The index came up, with what it still holds: look at it now, whatever the breaker says."""
        self.index_breaker.try_now()
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
            yield

    def adopt(self, model: KeyedModel, collections: Collections) -> None:
        """Deliver to this model's collections from now on; only while `paused`."""
        self._model, self._collections = model, collections
        self._prepared = False
        self.wake()

    async def run(self) -> None:
        """Work until cancelled."""
        self._epoch = await self._store.read(get_epoch)
        refused = 0
        while True:
            self.turns += 1
            try:
                if self._claims_open:  # by a run before this one, or by a turn that could not write its end
                    await self._store.write(reset_inflight, queue=self._queue)
                    self._claims_open = False
                await self._turn()
                refused = 0
            except (Busy, DiskFull, ReadOnly) as error:
                refused += 1
                if refused == 1:
                    self._log.warning("the store takes no writes; the outbox waits", reason=error.message)
                await asyncio.sleep(backoff_s(refused, MAX_STORE_PAUSE_S, self._chance))

    async def _turn(self) -> None:
        """One batch, or one rest."""
        self._work.clear()  # before the claim: a commit after it must wake us
        self._index_up.clear()
        if (pause_s := self.index_breaker.pause_left_s) > 0:
            await self._pause(self._index_up, pause_s)
            return
        if self._setbacks.gave_back:  # the embedder is away: what needs no embedding goes on, at an easy pace
            self._setbacks.gave_back = False
            await asyncio.sleep(min(self.embedder_breaker.pause_left_s, EMBEDDER_PACE_S))
        if not (self._prepared and self._collections.intact()) and not await self._prepare():
            return
        if self._embedder_up:
            self._embedder_up = False
            await self._store.write(hasten, queue=self._queue)
        # Looked for before it is claimed: a claim is a commit, and every commit wakes us.
        now_ms = self._clock.now_ms()
        if not self._store.peek(any_due, now_ms, self._max_backoff_ms, self._collections.logical, queue=self._queue):
            self._index_answers()
            self._waiting.announce()  # who waits for rows that went with a batch that was cut short learns it here
            self._tell_drained()
            await self._rest()
            return
        async with self._delivering:
            self._claims_open = self._behind = True
            entries = await self._store.write(
                claim_batch, self._config.batch_size, now_ms, self._max_backoff_ms, self._collections.logical,
                queue=self._queue,
            )
            if entries:
                await self._deliver(entries)
            self._claims_open = False

    async def _prepare(self) -> bool:
        """Find the collections in order, at the start and after every outage: the index may come back empty."""
        try:
            await self._collections.prepare(self._clock.now_ms())
        except (IndexUnavailable, DimensionMismatch) as error:  # the latter needs people: health has its words
            self._index_failed(error)
            return False
        self._prepared = True  # the breaker stays as it is: a full index answers this, and takes no row
        return True

    def _index_failed(self, error: IndexUnavailable | DimensionMismatch) -> None:
        self._prepared = False
        pause_s = self.index_breaker.failed(error.message)
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

    async def _rest(self) -> None:
        """Until something is committed, or a postponed row is due."""
        now_ms = self._clock.now_ms()
        due_ms = await self._store.read(
            next_due_ms, now_ms, self._max_backoff_ms, self._collections.logical, queue=self._queue
        )
        pause_s = MAX_IDLE_S if due_ms is None else min(MAX_IDLE_S, max(MIN_IDLE_S, (due_ms - now_ms) / 1000))
        await self._pause(self._work, pause_s)

    @staticmethod
    async def _pause(sooner: asyncio.Event, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await sooner.wait()
        except TimeoutError:
            return

    @property
    def _max_backoff_ms(self) -> int:
        return int(self._config.max_backoff_s * 1000)

    async def _deliver(self, entries: list[OutboxEntry]) -> None:
        """One batch; every entry of it is struck off, given back, postponed or buried."""
        parts: dict[str | int, list[OutboxEntry]] = {}  # a collection's rows together, a suspect alone
        for entry in sorted(entries, key=self._setbacks.suspected):
            part = entry.seq if self._setbacks.suspected(entry) else entry.collection
            parts.setdefault(part, []).append(entry)
        waiting = deque(parts.values())
        while waiting:
            if not await self._deliver_part(waiting.popleft()):
                await self._store.write(
                    release_batch, [entry for part in waiting for entry in part], 0, queue=self._queue
                )
                break
        self._waiting.announce()

    async def _deliver_part(self, entries: list[OutboxEntry]) -> bool:
        """Some entries of one collection. False when the index is away: then the others need not try."""
        try:
            await self._deliver_collection(entries[0].collection, entries)
        except IndexDied as error:
            self._index_failed(error)
            await self._setbacks.suspect(entries, error.message)
            return False
        except IndexUnavailable as error:
            self._index_failed(error)
            await self._store.write(release_batch, entries, 0, queue=self._queue)
            return False
        except (Busy, DiskFull, ReadOnly):  # of the store
            raise
        except Exception as error:  # noqa: BLE001 - the top of a supervised task: logged, and the rows survive it
            self._log.exception("delivery failed")
            await self._setbacks.suspect(entries, type(error).__name__)
        return True

    async def _deliver_collection(self, collection: str, entries: list[OutboxEntry]) -> None:
        target = self._collections.physical(collection)
        gone = [entry for entry in entries if entry.op == "delete"]
        if gone:
            await self._index.delete(target, [entry.row_id for entry in gone])
        changed = {entry.row_id: entry for entry in entries if entry.op == "upsert"}
        documents = await self._store.read(LOADERS[collection], list(changed), self._epoch)
        vectors = await self._vectors(collection, documents, changed)
        points = [
            Point(d.id, d.version, vectors[d.id], {**d.payload, "version": d.version})
            for d in documents
            if d.id in vectors
        ]
        refused = await self._upsert(target, points)
        if gone or points:
            self._index_answers()
        if refused:  # their stored vectors are what was refused: a retry must not meet them again
            await self._store.write(forget_vectors, collection, list(refused), self._model.key)
        for row_id, error in refused.items():
            await self._setbacks.bury(changed[row_id], error.kind, error.message)
        await self._settle_blank(target, [changed[d.id] for d in documents if d.blank and d.id not in vectors])
        # A row without a document was deleted meanwhile: its outbox row is a delete by now and stays.
        sent = {point.id for point in points if point.id not in refused}
        done = [*gone, *(entry for row_id, entry in changed.items() if row_id in sent)]
        if done:
            self._setbacks.cleared(done)
            struck_off = await self._store.write(finish_batch, done, queue=self._queue)
            self._throughput.add(struck_off)

    async def _settle_blank(self, target: str, entries: list[OutboxEntry]) -> None:
        """Rows without a text: the index holds nothing of them, any more."""
        if entries:
            await self._index.delete(target, [entry.row_id for entry in entries])
            self._setbacks.cleared(entries)
            self._throughput.add(await self._store.write(finish_without_point, entries, queue=self._queue))

    async def _vectors(
        self, collection: str, documents: Sequence[Document], entries: Mapping[int, OutboxEntry]
    ) -> dict[int, Vector]:
        """A vector for every document that can have one now; the others are blank, given back or buried."""
        model, dimension = self._model, self._model.embedder.fingerprint.dimension
        stored = await self._store.read(select_vectors, collection, [d.id for d in documents], model.key)
        vectors: dict[int, Vector] = {}
        missing: list[Document] = []
        for document in documents:
            content_hash, vector = stored.get(document.id, (b"", b""))
            if document.vector is not None:  # the caller's own
                vectors[document.id] = document.vector
            elif content_hash == document.content_hash:
                vectors[document.id] = vector
            elif not document.blank:
                missing.append(document)
        while missing:
            if (pause_s := self.embedder_breaker.pause_left_s) > 0:
                await self._setbacks.give_back([entries[d.id] for d in missing], pause_s)
                break
            try:
                embedded = await model.embedder.embed_documents([d.text for d in missing])
            except EmbedderUnavailable as error:
                asked_for_s = (error.retry_after_ms or 0) / 1000
                pause_s = self.embedder_breaker.failed(error.message, at_least_s=asked_for_s)
                self._log.warning("embedder unavailable", reason=error.message, retry_in_s=round(pause_s, 1))
                rows = [entries[d.id] for d in missing]
                if isinstance(error, EmbedderDied):  # one of the texts may have killed it
                    await self._setbacks.suspect(rows, error.message)
                else:
                    await self._setbacks.give_back(rows, pause_s)
                break
            except RejectedText as error:
                await self._setbacks.bury(entries[missing.pop(error.position).id], error.kind, error.message)
                continue
            if self.embedder_breaker.succeeded():
                self._log.info("embedder answers again")
            fresh = [(d.id, d.version, d.content_hash, v) for d, v in zip(missing, embedded, strict=True)]
            await self._store.write(save_vectors, collection, model.key, dimension, fresh)
            vectors.update({row_id: vector for row_id, _, _, vector in fresh})
            break
        return vectors

    async def _upsert(self, target: str, points: list[Point]) -> dict[int, RpcError]:
        """Send the points; answers those that the index will never take, found by halving."""
        if not points:
            return {}
        try:
            await self._index.upsert(target, points)
        except (BadContent, DimensionMismatch) as error:
            if len(points) == 1:
                return {points[0].id: error}
            middle = len(points) // 2
            return await self._upsert(target, points[:middle]) | await self._upsert(target, points[middle:])
        return {}

    @property
    def complete(self) -> bool:
        """Whether what is not in the outbox is in the index: it was compared, and nothing was lost since."""
        return self._prepared and self._collections.intact()

    def stop_waiting(self) -> None:
        """Who waits is answered with how things stand: the daemon stops."""
        self._waiting.stop()

    async def wait_for(self, collection: str | None, row_ids: Sequence[int], timeout_s: float) -> WaitedOutbox:
        """Until none of the rows (or of all rows) is pending any more, or the time is up."""
        return await self._waiting.wait_for(collection, row_ids, timeout_s)

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
        )

"""When index and rows are compared: on demand, every night, after the server was away, and where a search met a ghost.

Owns the one job that runs at a time and those that wait for it, what is remembered of the last one, and the count of
hits that were dropped. `run` is one supervised task; cancelling it ends the job that runs. Knows neither how a
comparison is made nor how anything is mended.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import get_args

import msgspec
import structlog

from nexusd.clock import Clock
from nexusd.config_sections import IndexConfig
from nexusd.embedding.serving import Serving
from nexusd.errors import RpcError
from nexusd.index.index import Index
from nexusd.model.events import Publish, tell_nobody
from nexusd.model.fields import IndexedCollection
from nexusd.model.index import IndexReport
from nexusd.store.database import Database
from nexusd.store.meta import get_meta, set_meta
from nexusd.store.outbox import unfinished
from nexusd.sync.check_job import CheckJob, CheckRunner, JobKind
from nexusd.sync.model_watch import ModelWatch
from nexusd.sync.nightly import Nightly
from nexusd.sync.walk import Walk

COLLECTIONS: tuple[IndexedCollection, ...] = get_args(IndexedCollection)
LAST_CHECK, LAST_NIGHT = "verify.last", "verify.night"

BETWEEN_S = 600.0  # a part that comes and goes, or a search that is asked again and again, costs one walk in this time
SETTLING_S = 5.0  # after the server came back: what was lost is queued by then, and no difference
SUSPECT_AFTER_S = 30.0  # after a hit was dropped: more of them may follow, and one walk is for all
COMPLETE_AGAIN_S = 10.0  # an index that is down, or being filled, is not compared by itself
LOOK_AGAIN_S = 300.0  # the wall clock may be set: what is due is found by then in any case
MAX_SUSPECTS = 64  # ids kept of a collection


class _Remembered(msgspec.Struct, frozen=True):
    """What outlives a restart: the last report, and where index and rows were found to differ since it was mended."""

    report: IndexReport
    differing: list[str]


class Verifier:
    """Compares index and rows. `complete` tells whether the index holds all that the outbox does not owe it."""

    def __init__(
        self,
        store: Database,
        index: Index,
        serving: Serving,
        config: IndexConfig,
        clock: Clock,
        *,
        complete: Callable[[], bool],
        publish: Publish = tell_nobody,
    ) -> None:
        self.watch = ModelWatch(store, serving)
        self.last: IndexReport | None = None
        self.dropped_hits = 0
        self._differing: set[str] = set()  # collections, as of the last comparison of each
        self._store = store
        self._config = config
        self._clock = clock
        self._complete = complete
        self._publish = publish
        self._runner = CheckRunner(store, index, serving, self.watch, clock)
        self._walk = Walk(store, index, serving)
        self._nightly = Nightly("", clock, None)
        self._night_noted: int | None = None
        self._job: CheckJob | None = None
        self._waiting: deque[CheckJob] = deque()
        self._work = asyncio.Event()
        self._stopping = asyncio.Event()
        self._look_at_model = False
        self._was_away = False
        self._back_due_s: float | None = None
        self._suspects: dict[IndexedCollection, set[int]] = {}
        self._suspects_due_s: float | None = None
        self._by_itself_s: float | None = None  # when a job began that nobody asked for, but the night's
        self._log = structlog.get_logger("nexusd.verify")

    # --- what others tell ---

    async def check(
        self, kind: JobKind, collections: Sequence[IndexedCollection], timeout_s: float
    ) -> IndexReport:
        """Do this, or join who does it already; answers how it stands when the time is up."""
        wanted = tuple(name for name in COLLECTIONS if name in collections) or COLLECTIONS
        job = next((job for job in (self._job, *self._waiting) if job is not None and job.does(kind, wanted)), None)
        if job is None:
            job = CheckJob(kind, wanted, self._clock.now_ms(), ask_model=kind == "verify")
            self._waiting.append(job)
            self._work.set()
        waits = [asyncio.create_task(event.wait()) for event in (job.ended, self._stopping)]
        try:
            await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return job.report()

    def stop_waiting(self) -> None:
        """Who waits is answered with how things stand: the daemon stops."""
        self._stopping.set()

    def hits_dropped(self, collection: IndexedCollection, ids: Sequence[int]) -> None:
        """A search met points whose row is gone. Those whose removal is on its way are what is to be expected."""
        waiting = self._store.peek(unfinished, collection, ids)
        ghosts = [row_id for row_id in ids if row_id not in waiting]
        if not ghosts:
            return
        self.dropped_hits += len(ghosts)
        suspects = self._suspects.setdefault(collection, set())
        suspects.update(ghosts[: MAX_SUSPECTS - len(suspects)])
        if self._suspects_due_s is None:
            self._suspects_due_s = self._not_too_soon(SUSPECT_AFTER_S)
            self._work.set()

    def index_running(self, running: bool) -> None:  # noqa: FBT001  a callback that gets nothing else
        """The server came or went; one that was away may have lost what it had acknowledged."""
        if not running:
            self._was_away = True
        elif self._was_away:
            self._was_away = False
            self._back_due_s = self._not_too_soon(SETTLING_S)
            self._work.set()

    def embedder_answers(self) -> None:
        """The model is there: is it the one that it was?"""
        self._look_at_model = True
        self._work.set()

    # --- what others ask ---

    @property
    def job(self) -> IndexReport | None:
        """The one that runs."""
        return None if self._job is None else self._job.report()

    def troubles(self) -> list[str]:
        """What people should do something about."""
        troubles = []
        if self._differing:
            named = ", ".join(sorted(self._differing))
            troubles.append(f"index: differs from the rows in {named}; see `index.status`, and call `index.repair`")
        if self.watch.changed:
            troubles.append(
                f"embedder: answers with other vectors than before (similarity {self.watch.similarity:.2f});"
                " embed everything again: `nexusctl index reembed --force`"
            )
        return troubles

    # --- the task ---

    async def run(self) -> None:
        """Do what is asked for and what is due, until cancelled."""
        await self._remember()
        while True:
            self._work.clear()
            await self._note_night()
            if self._look_at_model:
                self._look_at_model = False
                await self._look()
            elif (job := await self._next()) is not None:
                await self._do(job)
            else:
                await self._pause()

    async def _remember(self) -> None:
        self._runner.sweep()
        noted = await self._store.read(get_meta, LAST_CHECK)
        if noted is not None and self.last is None:
            try:
                before = msgspec.json.decode(noted, type=_Remembered)
            except msgspec.MsgspecError:  # of another version: the next one is noted over it
                self._log.info("what was verified before cannot be read")
            else:
                self.last, self._differing = before.report, set(before.differing)
        night = await self._store.read(get_meta, LAST_NIGHT)
        self._night_noted = int(night) if night is not None and night.isdigit() else None
        self._nightly = Nightly(self._config.verify_at, self._clock, self._night_noted)

    async def _note_night(self) -> None:
        self._nightly.due_in_s()  # which sees where the clock was set back
        if self._nightly.last_ms != self._night_noted:
            self._night_noted = self._nightly.last_ms
            await self._note(LAST_NIGHT, str(self._night_noted))

    async def _note(self, key: str, value: str) -> None:
        try:
            await self._store.write(set_meta, key, value)
        except RpcError as error:  # the disk is full, say: what is remembered is of use, but not needed
            self._log.warning("what was verified cannot be noted", reason=error.message)

    async def _look(self) -> None:
        try:
            await self.watch.look()
        except RpcError as error:
            self._log.warning("the embedding model was not compared", reason=error.message)

    async def _next(self) -> CheckJob | None:
        """The job to be done now."""
        if self._waiting:
            return self._waiting.popleft()
        if not self._complete():
            return None
        now_s = self._clock.monotonic_s()
        if self._back_due_s is not None and self._back_due_s <= now_s:
            self._back_due_s = None
            return self._by_itself(COLLECTIONS)
        if self._suspects_due_s is not None and self._suspects_due_s <= now_s:
            self._suspects_due_s = None
            if haunted := await self._haunted():
                return self._by_itself(haunted)
        if self._nightly.due_in_s() == 0:
            return CheckJob(self._own_kind, COLLECTIONS, self._clock.now_ms(), ask_model=True)
        return None

    async def _haunted(self) -> list[IndexedCollection]:
        """The collections in which a point was met that should be gone, and is still there."""
        suspects, self._suspects = self._suspects, {}
        found = []
        for collection, ids in suspects.items():
            try:
                if await self._walk.orphans(collection, sorted(ids)):
                    found.append(collection)
            except RpcError:  # the night will see
                continue
        return found

    def _by_itself(self, collections: Sequence[IndexedCollection]) -> CheckJob:
        self._by_itself_s = self._clock.monotonic_s()
        return CheckJob(self._own_kind, collections, self._clock.now_ms(), ask_model=False)

    @property
    def _own_kind(self) -> JobKind:
        return "repair" if self._config.verify_repairs else "verify"

    def _not_too_soon(self, after_s: float) -> float:
        now_s = self._clock.monotonic_s()
        earliest_s = now_s if self._by_itself_s is None else self._by_itself_s + BETWEEN_S
        return max(now_s + after_s, earliest_s)

    async def _do(self, job: CheckJob) -> None:
        self._job = job
        self._publish("index", {"job": job.kind, "state": "running"})
        try:
            await self._runner.run(job)
        finally:
            self._job = None
            if job.state == "running":  # it never came to its end
                job.end("failed", self._clock.now_ms(), "the daemon stops")
            self.last = job.report()
            self._publish("index", {"job": job.kind, "state": job.state, "agrees": job.agrees})
        if job.state == "done":
            self._differing.difference_update(job.collections)
            self._differing.update(job.differing if job.kind == "verify" else ())
        if job.collections == COLLECTIONS and job.kind in (self._own_kind, "repair"):
            self._nightly.ran(through=job.state == "done")
        remembered = _Remembered(self.last, sorted(self._differing))
        await self._note(LAST_CHECK, msgspec.json.encode(remembered).decode())

    async def _pause(self) -> None:
        """Until something is asked for, told or due."""
        now_s = self._clock.monotonic_s()
        due = [due_s - now_s for due_s in (self._back_due_s, self._suspects_due_s) if due_s is not None]
        if (night_s := self._nightly.due_in_s()) is not None:
            due.append(night_s)
        wait_s = min(due, default=LOOK_AGAIN_S)
        if wait_s <= 0:  # due, and the index is not ready for it
            wait_s = COMPLETE_AGAIN_S
        try:
            async with asyncio.timeout(min(wait_s, LOOK_AGAIN_S)):
                await self._work.wait()
        except TimeoutError:
            return

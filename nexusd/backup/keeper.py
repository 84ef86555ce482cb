"""Backups as the daemon keeps them: made when asked for and when due, one at a time, watched over.

Owns the one run at a time, the thread that it is on, the timer, what is remembered of the last run, and the alarm.
Used on one event loop, but for `before_migration`, which is called before there is anything else to do. Knows not how
a backup is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec
import structlog

from nexusd.backup.course import Course, HaltedError, tell_nothing
from nexusd.backup.due import Due
from nexusd.backup.gathering import Gatherer
from nexusd.backup.making import Made, Maker
from nexusd.backup.manifest import Kind
from nexusd.backup.record import Record, later, read_record, write_record
from nexusd.backup.shelf import Shelf, Shelved
from nexusd.backup.verifying import sweep_scratch, verify
from nexusd.clock import Clock
from nexusd.config import Settings
from nexusd.config_sections import BackupsConfig
from nexusd.errors import (
    BackupBusy,
    BackupInvalid,
    DatabaseRefusedError,
    DiskFull,
    RpcError,
    Stopping,
    StoreUnavailableError,
)
from nexusd.model.backups import Backup, BackupRun, BackupStatus, BackupStep, Drill, VerifiedBackup
from nexusd.model.events import Publish, tell_nobody
from nexusd.store.connection import Connection
from nexusd.store.database import Database

T = TypeVar("T")

ALARM_INTERVALS = 2     # so old may the newest good one become
LOOK_AGAIN_S = 300.0    # the wall clock may be set, and files may go: both are found by then


class Backups:
    """The backups of one daemon. `reached` is told each step of each run."""

    def __init__(
        self,
        settings: Settings,
        store: Database,
        clock: Clock,
        chance: random.Random,
        publish: Publish = tell_nobody,
        *,
        reached: Callable[[str], None] = tell_nothing,
    ) -> None:
        config = settings.config
        self.shelf = Shelf(settings.backups_directory)
        self.drill: Drill | None = None     # the last rehearsal of a restore, told by who rehearses
        self._config = config.storage.backups
        self._scratch = settings.data_directory / ".backup-scratch"
        self._store = store
        self._clock = clock
        self._chance = chance
        self._publish = publish
        self._reached = reached
        gatherer = Gatherer(settings.files_directory, config.files.max_file_bytes, settings.config_path)
        self._maker = Maker(self.shelf, settings.database_path, gatherer, clock)
        self._course: Course | None = None
        self._task: asyncio.Task[Backup] | None = None
        self._stopping = False
        self._wake = asyncio.Event()
        self._shelved: list[Shelved] = []
        self._record = Record()
        self._due: Due | None = None    # none until the store was asked what it remembers
        self._log = structlog.get_logger("nexusd.backup")

    # --- what others tell ---

    def set_config(self, config: BackupsConfig) -> None:
        """Make them so often, and keep so many, from now on. The directory stays as it is."""
        self._config = config
        self._wake.set()

    def before_migration(self, _db: Connection, old_version: int) -> None:
        """Make a backup of a database that is about to be changed for good. Blocks.

        Raises:
            DatabaseRefusedError, StoreUnavailableError: there is none, so nothing may be changed.
        """
        if not self._config.enabled:
            self._log.warning("the schema is changed without a backup: storage.backups.enabled is false")
            return
        course = Course("copying", self._clock.now_ms(), self._reached)
        try:
            self.shelf.sweep()
            made = self._maker.make("migration", course, None)
        except RpcError as error:
            refused = StoreUnavailableError if isinstance(error, DiskFull) else DatabaseRefusedError
            raise refused(
                f"The database has schema version {old_version}, and before that is changed a backup is made. That "
                f"failed: {error.message} Mend that, or set storage.backups.directory to another place; or set "
                "storage.backups.enabled to false, and it is changed without a backup."
            ) from error
        self._log.info("backup made before the schema is changed", backup=made.name, schema=old_version)

    def found_invalid(self, name: str, reason: str) -> None:
        """This backup cannot be restored: it counts no more as a good one."""
        self._record = msgspec.structs.replace(self._record, invalid={**self._record.invalid, name: reason})
        self._log.error("a backup is not good", backup=name, reason=reason)

    def stop_waiting(self) -> None:
        """The daemon stops: what runs ends early, and nothing of it is left."""
        self._stopping = True
        if self._course is not None:
            self._course.halt()

    async def close(self) -> None:
        """End what runs, and wait until it has."""
        self.stop_waiting()
        if self._task is not None:
            await asyncio.wait([self._task])

    # --- what others ask ---

    async def create(self, kind: Kind, note: str | None = None) -> Backup:
        """Make one, prove it, and let go of those that are not kept any longer; it goes on if the caller goes away.

        Raises:
            BackupBusy: one is under way, or a restore is.
            DiskFull, ReadOnly, BackupInvalid, Busy: it failed, and left nothing behind.
            Stopping: the daemon stops.
        """
        self._refuse_if_busy()
        self._task = asyncio.create_task(self._create(kind, note))
        self._task.add_done_callback(_look_at_outcome)
        return await asyncio.shield(self._task)

    async def verify(self, name: str | None) -> VerifiedBackup:
        """Unpack a backup, the newest without a name, and look at all of it.

        Raises:
            NoSuchBackup: there is none.
            BackupInvalid: it is damaged, or not what its manifest says.
            BackupBusy, DiskFull, ReadOnly, Stopping: not now.
        """
        began_s = self._clock.monotonic_s()
        async with self.exclusive("proving") as course:
            shelved = await self.off_loop(self.shelf.find, name)
            try:
                checks = await self.off_loop(verify, shelved, self._scratch, course)
            except BackupInvalid as error:
                self.found_invalid(shelved.name, error.message)
                await self._note()
                raise
        took_ms = round((self._clock.monotonic_s() - began_s) * 1000)
        if shelved.name in self._record.invalid:    # the disk was at fault, then
            left = {name: why for name, why in self._record.invalid.items() if name != shelved.name}
            self._record = msgspec.structs.replace(self._record, invalid=left)
            await self._note()
        return VerifiedBackup(backup=shelved.shown(), checks=checks, took_ms=took_ms)

    async def list(self) -> list[Backup]:
        """Every backup, newest first."""
        await self.look()
        return [one.shown() for one in self._shelved]

    async def look(self) -> None:
        """See what lies in the directory now."""
        self._shelved = await asyncio.to_thread(self.shelf.list)    # not behind a run that takes long

    @contextlib.asynccontextmanager
    async def exclusive(self, step: BackupStep) -> AsyncIterator[Course]:
        """Nothing else is made, verified or restored meanwhile.

        Raises:
            BackupBusy: something is.
            Stopping: it was told to end early, since the daemon stops.
        """
        self._refuse_if_busy()
        async with self._held(step) as course:
            yield course

    @contextlib.asynccontextmanager
    async def _held(self, step: BackupStep) -> AsyncIterator[Course]:
        if self._stopping:
            raise Stopping
        course = self._course = Course(step, self._clock.now_ms(), self._reached)
        self._publish("backup", {"state": "running", "step": step})
        try:
            yield course
        except HaltedError:
            raise Stopping from None
        finally:
            self._course = None
            self._publish("backup", {"state": "idle"})
            self._wake.set()

    async def off_loop(self, function: Callable[..., T], *args: object) -> T:
        """Call it on a thread of its own, which may step back behind all others."""
        thread = ThreadPoolExecutor(1, "backup")
        running = asyncio.get_running_loop().run_in_executor(thread, function, *args)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            if self._course is not None:    # nobody waits any more, and the next one must not meet it
                self._course.halt()
            await asyncio.wait([running])
            raise
        finally:
            thread.shutdown(wait=False)

    def status(self) -> BackupStatus:
        """How things stand, as of the last look into the directory."""
        newest = self._newest()
        course = self._course
        return BackupStatus(
            enabled=self._config.enabled,
            directory=str(self.shelf.directory),
            running=None if course is None else BackupRun(step=course.step, done=course.done, since=course.since_ms),
            newest=None if newest is None else newest.shown(),
            newest_age_ms=None if newest is None else self._age_ms(newest.manifest.created_at),
            next_in_ms=self._next_in_ms(),
            last_tried_at=self._record.tried_at,
            last_took_ms=self._record.took_ms,
            last_error=self._record.error,
            alarm=self.alarm(),
            count=len(self._shelved),
            bytes=sum(one.bytes for one in self._shelved),
            drill=self.drill,
        )

    def alarm(self) -> str | None:
        """Why people should look after their backups; None if they need not."""
        newest = self._newest()
        if not self._config.enabled or self._due is None:
            return None
        since = newest.manifest.created_at if newest is not None else self._record.since
        if since is None or self._age_ms(since) <= ALARM_INTERVALS * self._config.interval:
            return self._newest_is_bad()
        says = "there is no good one" if newest is None else "the newest good one is too old"
        reason = f"; the last try failed: {self._record.error}" if self._record.error is not None else ""
        return f"{says}{reason}"

    def age_ms(self) -> int | None:
        """How old the newest good one is."""
        newest = self._newest()
        return None if newest is None else self._age_ms(newest.manifest.created_at)

    def _newest(self) -> Shelved | None:
        """The newest good one; those of the future are from before the clock was set back."""
        return next((one for one in self._shelved if one.name not in self._record.invalid), None)

    def _newest_is_bad(self) -> str | None:
        if not self._shelved or self._shelved[0].name not in self._record.invalid:
            return None
        name = self._shelved[0].name
        return f"{name} did not pass its verification: {self._record.invalid[name]}"

    def _age_ms(self, created_at: int) -> int:
        return max(0, self._clock.now_ms() - created_at)

    def _next_in_ms(self) -> int | None:
        if not self._config.enabled or self._due is None:
            return None
        return round(self._due.in_s(self._interval_s) * 1000)

    @property
    def _interval_s(self) -> float:
        return self._config.interval / 1000

    def _refuse_if_busy(self) -> None:
        if self._stopping:
            raise Stopping
        if self._course is not None or (self._task is not None and not self._task.done()):
            step = "copying" if self._course is None else self._course.step
            raise BackupBusy(f"A backup is being worked on already: {step}.")

    # --- the task ---

    async def run(self) -> None:
        """Make one whenever it is due, until cancelled."""
        await self._remember()
        while True:
            self._wake.clear()
            await self._note_clock()
            if self._is_due() and self._course is None:
                with contextlib.suppress(RpcError):     # it is in the log and in what is remembered
                    await self.create("scheduled")
                continue
            await self._pause()
            await self.look()

    async def _remember(self) -> None:
        try:
            await self.off_loop(self.shelf.sweep)
            await self.off_loop(sweep_scratch, self._scratch)
        except OSError as error:
            self._log.warning("what unfinished backups left cannot be removed", reason=error.strerror)
        await self.look()
        self._record = later(await read_record(self._store), self._record)     # one may have been asked for meanwhile
        if self._record.since is None:
            self._record = msgspec.structs.replace(self._record, since=self._clock.now_ms())
            await self._note()
        newest = self._newest()
        last_ms = None if newest is None else self._record.made_at or newest.manifest.created_at
        self._due = Due(self._clock, self._chance, self._interval_s, last_ms)

    async def _note_clock(self) -> None:
        """Where the clock was set back, remember it: else each start would wait for the future anew."""
        if self._due is None:
            return
        if self._newest() is None:
            self._due.lost()
        self._due.in_s(self._interval_s)
        if self._due.last_ms is not None and self._record.made_at is not None:
            changed = msgspec.structs.replace(self._record, made_at=self._due.last_ms)
            if changed != self._record:
                self._record = changed
                await self._note()

    def _is_due(self) -> bool:
        return self._config.enabled and self._due is not None and self._due.in_s(self._interval_s) == 0

    async def _pause(self) -> None:
        wait_s = LOOK_AGAIN_S
        if self._config.enabled and self._due is not None and self._course is None:
            wait_s = min(wait_s, self._due.in_s(self._interval_s))
        try:
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        except TimeoutError:
            return

    # --- one run ---

    async def _create(self, kind: Kind, note: str | None) -> Backup:
        began_ms, began_s = self._clock.now_ms(), self._clock.monotonic_s()
        made: Made | None = None
        error: RpcError | None = None
        try:
            async with self._held("copying") as course:
                made = await self.off_loop(self._maker.make, kind, course, self._config, note)
                await self.look()
        except RpcError as failure:
            error = failure
            raise
        finally:
            if not isinstance(error, Stopping):
                took_ms = round((self._clock.monotonic_s() - began_s) * 1000)
                await self._account(kind, made, error, began_ms, took_ms)
        return next(one.shown() for one in self._shelved if one.name == made.name)

    async def _account(
        self, kind: Kind, made: Made | None, error: RpcError | None, began_ms: int, took_ms: int
    ) -> None:
        """Remember what came of it, tell it, and reckon anew."""
        record = msgspec.structs.replace(self._record, tried_at=began_ms, took_ms=took_ms)
        if made is not None:
            there = {one.name for one in self._shelved}
            invalid = {name: why for name, why in record.invalid.items() if name in there}
            record = msgspec.structs.replace(record, made_at=began_ms, error=None, invalid=invalid)
            self._log.info("backup made", backup=made.name, kind=kind, took_ms=took_ms)
            self._publish("backup", {"state": "made", "name": made.name, "kind": kind})
            if self._due is not None:
                self._due.made(self._interval_s)
        else:
            reason = "it failed inside; the log has more" if error is None else error.message
            record = msgspec.structs.replace(record, error=reason)
            self._log.error("no backup was made", kind=kind, reason=reason)
            self._publish("backup", {"state": "failed", "kind": kind})
            if self._due is not None:
                self._due.failed(self._interval_s)
        self._record = record
        await self._note()

    async def _note(self) -> None:
        try:
            await write_record(self._store, self._record)
        except RpcError as error:   # the disk is full, say: what is remembered is of use, but not needed
            self._log.warning("what was done for backups cannot be noted", reason=error.message)


def _look_at_outcome(task: asyncio.Task[Backup]) -> None:
    """The caller may be gone: then nobody else asks what came of it, and it is in the log."""
    if not task.cancelled():
        task.exception()

"""The rehearsal of a restore: the newest backup is put up beside the data, opened, asked, counted, and taken down.

Owns when that is due and what is remembered of the last one. A backup that cannot be restored is found out on a quiet
day, not on the day when it is needed.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import apsw
import msgspec
import structlog

from nexusd.backup.course import Course
from nexusd.backup.keeper import Backups
from nexusd.backup.manifest import Manifest
from nexusd.backup.proof import prove
from nexusd.backup.restorer import to_the_end
from nexusd.backup.restoring import refuse_full, refuse_manifest
from nexusd.backup.shelf import Shelved
from nexusd.backup.unpacking import DATABASE_FILE, unpack, writing
from nexusd.clock import Clock
from nexusd.config_sections import StorageConfig
from nexusd.errors import BackupInvalid, NexusError, RpcError
from nexusd.model.backups import Drill
from nexusd.store.connection import Connection
from nexusd.store.database import Database
from nexusd.store.facts import full_text_indexes, read_facts, searched_row
from nexusd.store.meta import get_meta, set_meta

LAST_DRILL = "backup.drill"     # in the table meta
FIRST_AFTER_S = 3600.0          # of a daemon that has done none yet: not while it has just started
AGAIN_AFTER_S = 900.0           # where there was no backup, or another one was being made
LONGEST_SLEEP_S = 3600.0        # a clock that was set is noticed within it
# What a migration of an older schema may add rows to.
GROWING = frozenset({"meta", "models", "outbox", "outbox_next"})


class Drills:
    """Rehearsals, on a timer and when asked for. `scratch` is a directory of their own, made and removed each time."""

    def __init__(
        self, store: Database, backups: Backups, scratch: Path, interval_s: float, clock: Clock,
        *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._backups = backups
        self._scratch = scratch
        self._interval_s = interval_s
        self._clock = clock
        self._sleep = sleep
        self._log = structlog.get_logger("nexusd.backup")

    async def last(self) -> Drill | None:
        """The last one, if any was done."""
        noted = await self._store.read(get_meta, LAST_DRILL)
        return None if noted is None else msgspec.json.decode(noted, type=Drill)

    async def rehearse(self) -> Drill:
        """Do one now, with the newest backup. That it fails is its result, not an error.

        Raises:
            NoSuchBackup: there is no backup yet.
            BackupBusy: one is being made, or a restore is under way.
        """
        async with self._backups.exclusive("drilling") as course:
            shelved = await asyncio.to_thread(self._backups.shelf.find, None)
            at, began_s = self._clock.now_ms(), self._clock.monotonic_s()
            error: str | None = None
            try:
                await self._put_up(shelved, course)
            except BackupInvalid as failed:
                error = failed.message
                self._backups.found_invalid(shelved.name, error)
            except NexusError as failed:
                error = failed.message
            except apsw.Error as failed:
                error = f"The restored database fails: {failed}"
            finally:
                await asyncio.to_thread(self.sweep)
            took_ms = round((self._clock.monotonic_s() - began_s) * 1000)
            drill = self._backups.drill = Drill(at=at, backup=shelved.name, took_ms=took_ms, error=error)
        await self._store.write(set_meta, LAST_DRILL, msgspec.json.encode(drill).decode())
        if error is None:
            self._log.info("restore drill passed", backup=drill.backup, took_ms=took_ms)
        else:
            self._log.error("restore drill failed", backup=drill.backup, reason=error)
        return drill

    async def run(self) -> None:
        """Do one whenever it is due, for ever."""
        await asyncio.to_thread(self.sweep)
        self._backups.drill = await self.last()
        if not self._interval_s:
            await asyncio.Event().wait()    # they are turned off
        began_s = self._clock.monotonic_s()
        while True:
            wait_s = await self._due_in_s(began_s)
            if wait_s > 0:
                await self._sleep(min(wait_s, LONGEST_SLEEP_S))
                continue
            try:
                await self.rehearse()
            except RpcError as error:   # there is no backup, one is being made, or the disk does not take the result
                self._log.info("no restore drill now", reason=error.message)
                await self._sleep(AGAIN_AFTER_S)

    async def _due_in_s(self, began_s: float) -> float:
        last = await self.last()
        if last is None:
            return FIRST_AFTER_S - (self._clock.monotonic_s() - began_s)
        since_s = (self._clock.now_ms() - last.at) / 1000
        return self._interval_s - since_s if since_s >= 0 else 0.0  # the clock was set back: from now on, then

    def sweep(self) -> None:
        """Remove what one has left."""
        if self._scratch.is_symlink():
            self._scratch.unlink()
        elif self._scratch.exists():
            shutil.rmtree(self._scratch)

    async def _put_up(self, shelved: Shelved, course: Course) -> None:
        """Restore it into the scratch directory and look at it as a daemon would.

        Raises:
            NexusError: it cannot be restored; the message says why.
        """
        manifest = await to_the_end(course, lambda: self._unpacked(shelved, course))
        failures: list[Exception] = []
        store = Database(
            self._scratch / DATABASE_FILE, StorageConfig(readers=1, synchronous="NORMAL"), self._clock,
            on_fatal=failures.append,
        )
        await store.open()
        try:
            await store.read(_ask, manifest)
        finally:
            await store.close()
        if failures:
            raise BackupInvalid(f"The restored database failed: {failures[0]}")

    def _unpacked(self, shelved: Shelved, course: Course) -> Manifest:
        self.sweep()
        with writing():
            self._scratch.mkdir(mode=0o700, parents=True)
        refuse_manifest(shelved.manifest)
        refuse_full(self._scratch, shelved.manifest)
        manifest = unpack(shelved.path, self._scratch, progress=course.at)
        prove(self._scratch / DATABASE_FILE, manifest.database, course)
        return manifest


def _ask(db: Connection, manifest: Manifest) -> None:
    """Count the rows and search for one, in the database as the store has opened it.

    Raises:
        BackupInvalid: something is not there.
    """
    rows = read_facts(db).rows
    for name, count in manifest.database.rows.items():
        if rows.get(name) != count and not (name in GROWING and rows.get(name, 0) > count):
            raise BackupInvalid(f"{name} has {rows.get(name)} rows once it is opened, {count} in the manifest.")
    for name in full_text_indexes(db):
        found = searched_row(db, name)
        if found is not None and not found[1]:
            raise BackupInvalid(f"No word of row {found[0]} of {name} finds it.")

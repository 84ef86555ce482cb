"""A restore that the running daemon does: staged and noted while it serves, swapped in when it begins again.

Owns the course of one. How a daemon begins again is its caller's; it finishes what was noted before it opens the
database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TypeVar

import structlog

from nexusd.backup.course import Course
from nexusd.backup.places import Places
from nexusd.backup.planning import plan
from nexusd.backup.restoring import note, set_aside_name, stage
from nexusd.backup.shelf import Shelf, Shelved
from nexusd.clock import Clock
from nexusd.errors import BackupBusy, Busy, Stopping, StoreDamaged
from nexusd.model.backups import BackupStep, RestorePlan
from nexusd.store.connection import Connection
from nexusd.store.database import Database
from nexusd.store.facts import Facts, read_facts
from nexusd.store.followers import other_holders
from nexusd.store.idempotency import Receipt, keep_reply

T = TypeVar("T")

Exclusive = Callable[[BackupStep], AbstractAsyncContextManager[Course]]


class Restorer:
    """Restores of this daemon's own database. `reopen` is told the reason why it is to begin again."""

    def __init__(
        self, store: Database, places: Places, shelf: Shelf, clock: Clock, exclusive: Exclusive,
        reopen: Callable[[str], None],
    ) -> None:
        self._store = store
        self._places = places
        self._shelf = shelf
        self._clock = clock
        self._exclusive = exclusive
        self._reopen = reopen
        self._noted: list[str] = []     # the one backup, once there is no way back
        self._log = structlog.get_logger("nexusd.backup")

    async def try_out(self, name: str) -> RestorePlan:
        """Verify the backup and say what a restore of it would change.

        Raises:
            NoSuchBackup, BackupInvalid, BackupBusy, DiskFull, ReadOnly: as `restore`.
        """
        async with self._exclusive("restoring") as course:
            shelved = await self._staged(name, course)
            try:
                return await self._plan(shelved, set_aside_name(self._places, self._clock.now_ms()))
            finally:
                await asyncio.to_thread(self._places.sweep)

    async def restore(self, name: str, receipt: Receipt | None) -> RestorePlan:
        """Verify it and note that it takes the place of what is there; then the daemon is asked to begin again.

        The reply is kept in the restored database: no restore is done twice for a client that tries again.

        Raises:
            NoSuchBackup, BackupInvalid: there is none, or it is no good.
            BackupBusy: a backup, or another restore, is under way; or another program has the database open.
            Stopping: one was noted already.
            DiskFull, ReadOnly: the disk does not take it. Nothing was changed.
        """
        if self._noted:
            raise Stopping("A restore was begun a moment ago.")
        async with self._exclusive("restoring") as course:
            shelved = await self._staged(name, course)
            now_ms = self._clock.now_ms()
            set_aside = set_aside_name(self._places, now_ms)
            answer = await self._plan(shelved, set_aside, restoring=True)

            def remember(db: Connection) -> None:
                if receipt is not None:
                    keep_reply(db, receipt, now_ms, answer)

            def do() -> None:
                self._refuse_followers()
                note(shelved.manifest, self._places, set_aside, remember, reached=course.reached)
                self._noted.append(name)

            try:
                await to_the_end(course, do)
            finally:
                if self._noted:     # also where whoever asked is gone: from here on there is no way back
                    self._log.info("restoring", backup=name, set_aside=answer.set_aside)
                    self._reopen(f"restoring {name}")
            return answer

    def _refuse_followers(self) -> None:
        """Whoever goes on reading the file that is moved aside, beside the WAL of the new one, reads nonsense.

        Raises:
            BackupBusy: somebody would.
        """
        if holders := other_holders(self._places.database):
            shown = ", ".join(map(str, holders))
            raise BackupBusy(
                f"Another program has the database open (process {shown}), and would mix what was there with what "
                "comes: stop it first. Litestream is one; with its unit, stop nexusd and restore without it."
            )

    async def _staged(self, name: str, course: Course) -> Shelved:
        def do() -> Shelved:
            shelved = self._shelf.find(name)
            return replace(shelved, manifest=stage(shelved.path, self._places, course))

        return await to_the_end(course, do)

    async def _plan(self, shelved: Shelved, set_aside: str, *, restoring: bool = False) -> RestorePlan:
        now: Facts | None = None
        try:
            now = await self._store.read(read_facts)
        except Busy:  # many rows and a slow disk: the counts are not worth the wait
            self._log.info("rows not counted in time")
        except StoreDamaged:    # which may be why it is restored
            self._log.info("rows not counted: the database is damaged")
        return await asyncio.to_thread(
            plan, shelved, self._places, now, set_aside, restoring=restoring
        )


async def to_the_end(course: Course, function: Callable[[], T]) -> T:
    """Call it on a thread; whoever is cancelled meanwhile halts it and waits until it has taken back what it did."""
    working = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        course.halt()
        await asyncio.wait({working})
        raise

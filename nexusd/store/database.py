"""The database as the rest of the daemon uses it.

Owns the lock file, the order of opening and closing, and the ways in: `write`, `write_once`, `read` and
`peek`. Knows no table: callers bring functions of (connection, arguments) from the modules beside this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import apsw
import msgspec

from nexusd.clock import Clock
from nexusd.config_sections import StorageConfig
from nexusd.errors import DatabaseRefusedError, DataDirectoryError, StoreUnavailableError
from nexusd.model.fields import Deletion
from nexusd.store.connection import (
    NOT_NOW,
    Connection,
    leave_wal,
    open_reader,
    open_writer,
    refuse_foreign_file,
)
from nexusd.store.damage import damage_of
from nexusd.store.idempotency import Receipt, once
from nexusd.store.migrations import BeforeMigration, load_migrations, migrate
from nexusd.store.readers import Readers
from nexusd.store.secure_delete import apply_secure_delete
from nexusd.store.slices import Cascade, Slice, delete_slice_once
from nexusd.store.writer import Writer, WriterProgress

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoreStats:
    """How the store is doing."""

    writer: WriterProgress
    database_bytes: int
    schema_version: int


class Database:
    """One SQLite database with its writer and its readers. Used on one event loop."""

    def __init__(
        self,
        path: Path,
        config: StorageConfig,
        clock: Clock,
        *,
        on_commit: Callable[[], None] | None = None,
        on_fatal: Callable[[Exception], None],
        before_migration: BeforeMigration | None = None,
        vfs: str | None = None,
    ) -> None:
        self.path = path
        self._config = config
        self._clock = clock
        self._on_commit = on_commit
        self._on_fatal = on_fatal
        self._before_migration = before_migration
        self._vfs = vfs
        self._lock_fd: int | None = None
        self._connection: Connection | None = None
        self._peeking: Connection | None = None
        self._writer: Writer | None = None
        self._readers: Readers | None = None
        self._schema_version = 0
        self._identity: tuple[int, int] | None = None

    def set_limits(self, config: StorageConfig) -> None:
        """Let so many writes wait, and a read take so long, from now on. Nothing else changes while it is open."""
        self._config = config
        if self._writer is not None and self._readers is not None:
            self._writer.set_max_waiting(config.max_queued_writes)
            self._readers.set_timeout(config.read_timeout_s)

    async def open(self) -> None:
        """Lock, check, open, migrate; then take reads and writes.

        Raises:
            DataDirectoryError: the directory cannot be used, or another daemon holds the database.
            DatabaseRefusedError: the file is not ours, or is newer than this program. It was not touched.
        StoreUnavailableError: the disk is full or fails, or another program holds the database's lock.
        """
        try:
            # a migration may take long; the loop goes on answering "starting"
            await asyncio.get_running_loop().run_in_executor(None, self._open_files)
        except BaseException:
            self._close_files()
            raise
        assert self._connection is not None  # noqa: S101 - _open_files made it; for the type checker
        self._writer = Writer(
            self._connection,
            self._clock,
            max_waiting=self._config.max_queued_writes,
            followed=self._followed,
            on_commit=self._on_commit,
            on_fatal=self._on_fatal,
        )
        self._readers = Readers(self.path, self._config.readers, self._config.read_timeout_s, self._vfs)
        self._writer.start()

    def _open_files(self) -> None:
        self._lock_fd = _lock(self.path)
        migrations = load_migrations()
        refuse_foreign_file(self.path, len(migrations), self._vfs)
        try:
            self._connection = open_writer(self.path, self._config.synchronous, self._vfs)
            if self._followed:
                leave_wal(self._connection)
            migrate(self._connection, migrations, self._before_migration)
            apply_secure_delete(self._connection, self._note_deletion, secure=self.secure)
            self._schema_version = len(migrations)
            self._peeking = open_reader(self.path, self._vfs)
            self._identity = _identity(self.path)
        except NOT_NOW as error:
            raise StoreUnavailableError(f"{self.path} cannot be opened now: {error}") from error
        except apsw.Error as error:
            raise DatabaseRefusedError(f"{self.path} cannot be opened: {error}") from error

    async def close(self) -> None:
        """Write what was queued, let reads end, checkpoint, close, give the lock back."""
        if self._writer is not None:
            await self._writer.close()
        if self._readers is not None:
            await self._readers.close()
        self._close_files()
        self._writer = self._readers = None

    def _close_files(self) -> None:
        for connection in (self._peeking, self._connection):    # the writer last: its close ends the WAL
            if connection is not None:
                connection.close()
        self._peeking = self._connection = None
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    async def write(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call the function on the writer's connection; answer when its transaction is on disk.

        Once queued it is done, also if the caller is cancelled. An error of the function undoes its own work
        only.

        Raises:
            Busy: too many writes are waiting.
            DiskFull, ReadOnly, StoreDamaged, Stopping: nothing is written at the moment, or any more.
            OutcomeUnknown: the disk failed during the commit.
        """
        return await self._open_writer().submit(_bound(function, kwargs), args)  # type: ignore[no-any-return]

    async def write_once(
        self,
        receipt: Receipt | None,
        function: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T | msgspec.Raw:
        """As `write`; with a receipt, a call that was done already answers its kept reply, as JSON.

        Raises:
            IdempotencyMismatch: the key was used for another call.
        """
        if receipt is None:
            return await self.write(function, *args, **kwargs)
        function = _bound(function, kwargs)
        work = (receipt, self._clock.now_ms(), function, args)
        return await self._open_writer().submit(once(function), work)  # type: ignore[no-any-return]

    async def delete_in_slices(
        self, receipt: Receipt | None, cascade: Cascade, find: Callable[[Connection], int]
    ) -> Deletion | msgspec.Raw:
        """Delete the parent that `find` finds with all below it; other writes go on between the slices.

        Raises:
            NotFound: there is no such parent.
            IdempotencyMismatch: the key was used for another call.
            Busy, DiskFull, ReadOnly, Stopping, OutcomeUnknown: as `write`; the same call again goes on from there.
        """
        done: Slice | None = None
        while done is None or not done.finished:
            now_ms = self._clock.now_ms()
            done = await self.write(delete_slice_once, receipt, now_ms, cascade, done, find, secure=self.secure)
        return done.answer

    async def read(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call the function on a reader's connection, in one read transaction, on another thread.

        Raises:
            Busy: it took longer than `readTimeoutS`.
            StoreDamaged: it came upon a part of the file that is damaged.
        """
        if self._readers is None:
            raise RuntimeError("the database is not open")
        try:
            return await self._readers.read(function, *args, **kwargs)
        except apsw.Error as error:
            self._refuse_damage(error)
            raise

    def peek(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function here and now, on the loop's thread: for look-ups by key and short pages only.

        Raises:
            StoreDamaged: it came upon a part of the file that is damaged.
        """
        if self._peeking is None:
            raise RuntimeError("the database is not open")
        try:
            return function(self._peeking, *args, **kwargs)
        except apsw.Error as error:
            self._refuse_damage(error)
            raise

    def _refuse_damage(self, error: apsw.Error) -> None:
        """Where it tells of damage, nothing is written any more, and who asked is told why.

        Raises:
            StoreDamaged: it does.
        """
        damage = damage_of(error)
        if damage is not None:
            self._open_writer().note_damage(damage)
            raise damage from error

    @property
    def _followed(self) -> bool:
        """Whether another program follows the WAL, and checkpoints."""
        return self._config.checkpoints == "litestream"

    @property
    def secure(self) -> bool:
        """Whether deletes leave nothing behind."""
        return self._config.secure_delete

    async def erased(self) -> None:
        """Return when nothing that was deleted is left in the database's files; only where deletes are secure."""
        await self._open_writer().erased()

    def _note_deletion(self) -> None:
        self._open_writer().note_deletion()

    def in_place(self) -> bool:
        """Whether the path still names the file that is open. If not, writes go where nobody finds them again."""
        return _identity(self.path) == self._identity  # a stat opens nothing, so no lock is lost by it

    async def writer_ended(self) -> None:
        """Wait until nothing is written any more: after the close, or because the writer's thread died."""
        await self._open_writer().ended()

    def progress(self) -> WriterProgress:
        """How the writer is doing; cheap."""
        return self._open_writer().progress()

    def stats(self) -> StoreStats:
        """How the store is doing."""
        return StoreStats(
            writer=self.progress(),
            database_bytes=self.path.stat().st_size if self.in_place() else 0,
            schema_version=self._schema_version,
        )

    def _open_writer(self) -> Writer:
        if self._writer is None:
            raise RuntimeError("the database is not open")
        return self._writer


def _bound(function: Callable[..., T], kwargs: dict[str, Any]) -> Callable[..., T]:
    """The function with its keyword arguments; itself if there are none, so that it stays groupable."""
    if not kwargs:
        return function
    return lambda db, *args: function(db, *args, **kwargs)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file of a database that is not opened meanwhile.

    Raises:
        DataDirectoryError: it cannot be had, or a daemon holds it.
    """
    lock_fd = _lock(path)
    try:
        yield
    finally:
        os.close(lock_fd)


def _lock(path: Path) -> int:
    """Hold the lock file beside the database, so that a second daemon stays out."""
    lock_path = path.with_name(path.name + ".lock")
    try:
        lock_fd = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DataDirectoryError(f"{lock_path} cannot be opened: {error.strerror}") from None
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock_fd)
        raise DataDirectoryError(f"Another nexusd holds {path}.") from None
    return lock_fd

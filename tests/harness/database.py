"""A real database for tests: opened, and closed whatever happens."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from nexusd.clock import SystemClock
from nexusd.config_sections import StorageConfig
from nexusd.store.connection import Connection
from nexusd.store.database import Database
from nexusd.store.migrations import BeforeMigration


@contextlib.asynccontextmanager
async def open_database(
    path: Path,
    *,
    on_commit: Callable[[], None] | None = None,
    on_fatal: Callable[[Exception], None] | None = None,
    before_migration: BeforeMigration | None = None,
    vfs: str | None = None,
    **settings: object,
) -> AsyncIterator[Database]:
    """The database at `path`; `settings` are those of the section `storage`."""
    failures: list[Exception] = []
    database = Database(
        path,
        StorageConfig(**settings),
        SystemClock(),
        on_commit=on_commit,
        on_fatal=on_fatal or failures.append,
        before_migration=before_migration,
        vfs=vfs,
    )
    await database.open()
    try:
        yield database
    finally:
        await database.close()
    assert not failures


class Gate:
    """A write that stands still inside the writer's thread, so that others gather behind it."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, _db: Connection) -> None:
        self.entered.set()
        assert self.opened.wait(30)

"""Reads: a small pool of threads, each with a connection of its own.

Owns the threads, their connections and the deadline of a query. Knows no table.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from nexusd.errors import Busy
from nexusd.store.connection import Connection, deadline, open_reader

P = ParamSpec("P")
T = TypeVar("T")

# a reader sees one moment of the database, however many statements it takes
BEGIN = "BEGIN"
ROLLBACK = "ROLLBACK"


class Readers:
    """Reads, each in a transaction of its own, on one of `count` threads."""

    def __init__(self, path: Path, count: int, timeout_s: float, vfs: str | None = None) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._vfs = vfs
        self._local = threading.local()
        self._connections: list[Connection] = []
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="reader")

    def set_timeout(self, seconds: float) -> None:
        """Give reads that begin from now on this long."""
        self._timeout_s = seconds

    async def read(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call the function with a read connection. Its time runs from now on, also before a thread is free.

        Raises:
            Busy: it took longer than the deadline.
        """
        at_s = time.monotonic() + self._timeout_s
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._read, at_s, function, args, kwargs)

    def _read(
        self, at_s: float, function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> T:
        if time.monotonic() > at_s:
            raise Busy("The query waited too long for its turn.")
        db = self._connection()
        with deadline(db, at_s):
            db.execute(BEGIN)
            try:
                return function(db, *args, **kwargs)
            finally:
                db.set_progress_handler(None)   # past the deadline it would stop this, too
                db.execute(ROLLBACK)

    def _connection(self) -> Connection:
        """This thread's connection, opened at its first read."""
        db: Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = self._local.db = open_reader(self._path, self._vfs)
            self._connections.append(db)
        return db

    async def close(self) -> None:
        """Interrupt the queries, forget those that wait, close the connections."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for db in self._connections:
            db.interrupt()  # whoever asked was given the time of the drain
        await asyncio.get_running_loop().run_in_executor(None, self._pool.shutdown)
        for db in self._connections:
            db.close()
        self._connections.clear()

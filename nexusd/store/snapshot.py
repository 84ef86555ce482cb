"""A copy of the database as it was at one moment, while it is written on; and how such a copy is opened.

Owns the copying: SQLite's backup API, on a connection of its own, inside one read transaction. In WAL mode a writer
then waits for nothing and never makes the copy begin anew; what it writes meanwhile stays in the WAL. Everything here
blocks, and is called on a thread of its own. Knows neither how fast to go nor what is done with the copy.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw

from nexusd.store.connection import Connection, open_reader

# the moment whose state is read is that of the first read after it
BEGIN = "BEGIN"

# of a copy that nobody needs half of: what a crash leaves is thrown away
WITHOUT_CARE = "PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF"

# one file again, which needs no other beside it
END_WAL_MODE = "PRAGMA synchronous = OFF; PRAGMA journal_mode = DELETE"

# a full-text index is checked by a statement that writes, in form: nothing of it may reach a file
IN_MEMORY = "PRAGMA journal_mode = MEMORY; PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF"


@contextlib.contextmanager
def moment(path: Path, vfs: str | None = None) -> Iterator[Connection]:
    """A connection on which the database at `path`, which may be in use, stands still."""
    db = open_reader(path, vfs)
    try:
        db.execute(BEGIN).fetchall()
        yield db
    finally:
        db.close()


def copy_pages(reading: Connection, target: Path, step_bytes: int, on_step: Callable[[float], None]) -> None:
    """Copy what this connection reads to `target`, which must not be there, a step at a time.

    `on_step` is told after each how far it is, 0 to 1; it may wait, and it may raise.
    """
    pages = max(1, step_bytes // int(reading.pragma("page_size")))
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    copy = apsw.Connection(str(target), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        copy.execute(WITHOUT_CARE).fetchall()
        with copy.backup("main", reading, "main") as backup:
            while True:
                backup.step(pages)
                if backup.done:
                    break
                on_step(1 - backup.remaining / max(1, backup.page_count))
    finally:
        copy.close()
    again = apsw.Connection(str(target), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        again.execute(END_WAL_MODE).fetchall()
    finally:
        again.close()


@contextlib.contextmanager
def open_copy(path: Path) -> Iterator[Connection]:
    """A connection to a copy that nobody else has open; it can check everything, and leaves the file as it is."""
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        db.execute(IN_MEMORY).fetchall()
        yield db
    finally:
        db.close()

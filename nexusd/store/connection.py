"""How a connection to the database is opened: flags, pragmas, deadlines.

Owns the settings that every connection must have, and the check that a file is ours before SQLite may
write to it. Knows no table. Nothing but apsw ever opens the database in this process: closing any other
descriptor of the file would drop SQLite's locks.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import apsw

from nexusd.errors import Busy, DatabaseRefusedError, StoreUnavailableError

Connection = apsw.Connection

APPLICATION_ID = 0x4E585544     # "NXUD", in the file's header: says whose database it is
# What may be otherwise a moment later: the disk is full or fails, or another program holds the lock.
NOT_NOW = (apsw.FullError, apsw.IOError, apsw.CantOpenError, apsw.BusyError)
BUSY_TIMEOUT_MS = 5_000         # for a visitor such as the sqlite3 shell; the daemon itself has one writer
WRITER_CACHE_KIB = 16 * 1024    # holds the inner pages of every index at a million rows
READER_CACHE_KIB = 4 * 1024     # one a thread
STEPS_PER_CHECK = 10_000        # about a millisecond of SQLite's virtual machine between looks at the clock

_HEADER_BYTES = 100
_MAGIC = b"SQLite format 3\x00"
_USER_VERSION_AT = 60
_APPLICATION_ID_AT = 68


def open_writer(path: Path, synchronous: str, vfs: str | None = None) -> Connection:
    """Open the one connection that writes, making the file if there is none."""
    db = apsw.Connection(str(path), vfs=vfs)
    db.set_busy_timeout(BUSY_TIMEOUT_MS)
    _set(db, "journal_mode = WAL")
    _set(db, f"synchronous = {synchronous}")
    _set(db, "wal_autocheckpoint = 0")      # the writer does it between commits, not inside one
    _set(db, f"cache_size = -{WRITER_CACHE_KIB}")
    _set_common(db)
    return db


def leave_wal(db: Connection) -> None:
    """Let the WAL stay as it is when the connection is closed: another program has not read all of it."""
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)


def open_reader(path: Path, vfs: str | None = None) -> Connection:
    """Open a connection that only reads. It may be used by one thread at a time."""
    flags = apsw.SQLITE_OPEN_READWRITE      # a reader of a WAL must be able to write its shared memory
    db = apsw.Connection(str(path), flags=flags, vfs=vfs)
    db.set_busy_timeout(BUSY_TIMEOUT_MS)
    _set(db, f"cache_size = -{READER_CACHE_KIB}")
    _set_common(db)
    _set(db, "query_only = ON")
    return db


def _set_common(db: Connection) -> None:
    _set(db, "foreign_keys = ON")
    _set(db, "trusted_schema = OFF")
    _set(db, "temp_store = MEMORY")         # a full /tmp must not look like a failing disk


def _set(db: Connection, pragma: str) -> None:
    db.execute(f"PRAGMA {pragma}").fetchall()


@contextlib.contextmanager
def deadline(db: Connection, at_s: float) -> Iterator[None]:
    """Stop what the connection does when `time.monotonic()` passes `at_s`.

    Raises:
        Busy: it was stopped.
    """
    db.set_progress_handler(lambda: time.monotonic() > at_s, STEPS_PER_CHECK)
    try:
        yield
    except apsw.InterruptError:
        raise Busy("The query took too long and was stopped.") from None
    finally:
        db.set_progress_handler(None)


def is_foreign_key(error: apsw.ConstraintError) -> bool:
    """Whether the row that was to be referred to does not exist."""
    return error.extendedresult == apsw.SQLITE_CONSTRAINT_FOREIGNKEY  # type: ignore[attr-defined,no-any-return]


def is_duplicate(error: apsw.ConstraintError) -> bool:
    """Whether there is a row with these values already."""
    return error.extendedresult == apsw.SQLITE_CONSTRAINT_UNIQUE  # type: ignore[attr-defined,no-any-return]


def refuse_foreign_file(path: Path, newest_version: int, vfs: str | None = None) -> None:
    """Look at the file before anything may change it. A file that is missing or empty is welcome.

    Raises:
        DatabaseRefusedError: it is not a database, not ours, or newer than this program.
        StoreUnavailableError: it cannot be looked at now.
    """
    # The bare header first: a plain read leaves no trace, not even an empty -wal beside somebody's file.
    # The caller holds the lock file, so no connection of this process is open whose locks could be lost.
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except FileNotFoundError:
        return
    except OSError as error:
        raise DatabaseRefusedError(f"{path} cannot be read: {error.strerror}") from None
    if not header:
        return
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        raise DatabaseRefusedError(f"{path} is not an SQLite database; it was left as it is.")
    application_id = int.from_bytes(header[_APPLICATION_ID_AT : _APPLICATION_ID_AT + 4], "big")
    if application_id not in (0, APPLICATION_ID):
        raise _foreign(path)
    if application_id == APPLICATION_ID:
        version = int.from_bytes(header[_USER_VERSION_AT : _USER_VERSION_AT + 4], "big")
        _refuse_newer(path, version, newest_version)
    # What the header says may be older than what stands in the WAL: ask SQLite too.
    try:
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY, vfs=vfs)
        try:
            application_id = db.pragma("application_id")
            version = db.pragma("user_version")
            tables = db.execute("SELECT count(*) FROM sqlite_schema").get
        finally:
            db.close()
    except NOT_NOW as error:
        raise StoreUnavailableError(f"{path} cannot be opened now: {error}") from None
    except apsw.Error as error:
        raise DatabaseRefusedError(f"{path} cannot be read as a database: {error}") from None
    if application_id != APPLICATION_ID and (application_id or version or tables):
        raise _foreign(path)
    _refuse_newer(path, version, newest_version)


def _foreign(path: Path) -> DatabaseRefusedError:
    return DatabaseRefusedError(f"{path} is the database of another program; it was left as it is.")


def _refuse_newer(path: Path, version: int, newest_version: int) -> None:
    if version > newest_version:
        raise DatabaseRefusedError(
            f"{path} has schema version {version}, this program knows {newest_version} at most: "
            "it was written by a newer nexusd. It was left as it is."
        )

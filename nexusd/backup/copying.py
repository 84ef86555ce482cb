"""A copy of the live database, as it was at one moment, while it is written on.

Owns the copying: SQLite's backup API, on a connection of its own, inside one read transaction, in small steps with
pauses. In WAL mode a writer then waits for nothing and never makes the copy begin anew; what it writes meanwhile stays
in the WAL, so the time is bounded. Everything here blocks, and is called on a thread of its own. Knows not what is
done with the copy.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import apsw

from nexusd.backup.course import Course
from nexusd.backup.manifest import DatabaseFacts
from nexusd.errors import Busy
from nexusd.store.connection import open_reader
from nexusd.store.facts import read_facts

# A step holds the processor and the disk for some milliseconds; then it is the writers' turn for as long.
STEP_BYTES = 2 * 1024 * 1024
MIN_PAUSE_S = 0.004
MAX_PAUSE_S = 0.05
# Past this the WAL would have grown for an hour: something is very wrong with the disk that is copied to.
MAX_COPYING_S = 3600.0
CHUNK_BYTES = 1024 * 1024


def copy_database(source: Path, target: Path, course: Course, *, vfs: str | None = None) -> DatabaseFacts:
    """Copy the database at `source`, which may be in use, to `target`, which must not be there; what the copy is.

    The rows are counted in the source, in the transaction that is copied: whoever counts the copy compares the two.

    Raises:
        HaltedError: the course was halted.
        Busy: it took too long.
        apsw.Error, OSError: the disk is full or fails, or the source is damaged.
    """
    reading = open_reader(source, vfs)
    try:
        reading.execute("BEGIN").fetchall()
        with course.over(reading):
            facts = read_facts(reading)     # its first read is what fixes the moment
            _copy(reading, target, course)
    finally:
        reading.close()
    _end_wal_mode(target)
    size, digest = hash_file(target)
    return DatabaseFacts(
        bytes=size,
        sha256=digest,
        application_id=facts.application_id,
        schema_version=facts.schema_version,
        sqlite_version=apsw.sqlite_lib_version(),
        epoch=facts.epoch,
        model=facts.model,
        rows=facts.rows,
    )


def _copy(reading: apsw.Connection, target: Path, course: Course) -> None:
    deadline_s = time.monotonic() + MAX_COPYING_S
    pages = max(1, STEP_BYTES // int(reading.pragma("page_size")))
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    copy = apsw.Connection(str(target), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        # nobody needs half a copy: what a power cut leaves is swept
        copy.execute("PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF").fetchall()
        with copy.backup("main", reading, "main") as backup:
            while True:
                began_s = time.monotonic()
                backup.step(pages)
                if backup.done:
                    break
                took_s = time.monotonic() - began_s
                course.at(1 - backup.remaining / max(1, backup.page_count))
                if began_s > deadline_s:
                    raise Busy(f"The database could not be copied within {MAX_COPYING_S:.0f} s.")
                course.pause(min(max(took_s, MIN_PAUSE_S), MAX_PAUSE_S))
    finally:
        copy.close()


def _end_wal_mode(path: Path) -> None:
    """Make the copy one file that needs no other beside it."""
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        db.execute("PRAGMA synchronous = OFF; PRAGMA journal_mode = DELETE").fetchall()
    finally:
        db.close()


def hash_file(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of a file that is no live database."""
    size, digest = 0, hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()

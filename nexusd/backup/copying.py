"""A copy of the live database, made without getting in its way, with what must be found in it again.

Owns the pace: steps of some milliseconds with pauses as long, and an end to it, for as long as the copying lasts the
WAL grows. Everything here blocks, and is called on a thread of its own. Knows not what is done with the copy.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import apsw

from nexusd.backup.course import Course
from nexusd.backup.manifest import DatabaseFacts
from nexusd.errors import Busy
from nexusd.store.facts import read_facts
from nexusd.store.snapshot import copy_pages, moment

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
    pace = _Pace(course)
    with moment(source, vfs) as reading, course.over(reading):
        facts = read_facts(reading)
        copy_pages(reading, target, STEP_BYTES, pace.stepped)
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


class _Pace:
    """Waits after each step for about as long as the step took."""

    def __init__(self, course: Course) -> None:
        self._course = course
        self._stepped_s = time.monotonic()
        self._deadline_s = self._stepped_s + MAX_COPYING_S

    def stepped(self, done: float) -> None:
        """A step is done."""
        self._course.at(done)
        now_s = time.monotonic()
        if now_s > self._deadline_s:
            raise Busy(f"The database could not be copied within {MAX_COPYING_S:.0f} s.")
        self._course.pause(min(max(now_s - self._stepped_s, MIN_PAUSE_S), MAX_PAUSE_S))
        self._stepped_s = time.monotonic()


def hash_file(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of a file that is no live database."""
    size, digest = 0, hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()

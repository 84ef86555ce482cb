"""Whether a full-text index has exactly the words of its rows.

Owns a private copy, on which SQLite compares the two: FTS5's own check is an INSERT, and on the database itself it
would hold up every write until it is through (1.1 s for 100,000 exchanges). Of the copied tables only what the check
reads is taken, in one read transaction (0.2 s for the same; the WAL cannot begin anew meanwhile). Blocking, for a
thread of its own, to which the processor is given last. The copy holds texts of memories: it lies beside the database,
is readable for nobody else, and is removed whatever happens; one that a crash left is removed at the next start.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw

from nexusd.model.fields import IndexedCollection
from nexusd.store.connection import Connection
from nexusd.store.indexed import table_of
from nexusd.store.mending import FULL_TEXT_COLUMNS

SUFFIX = ".words"  # of the copy's name, after the database's
MIN_FREE_BYTES = 256 * 1024 * 1024  # what the copy leaves to everybody else
STEPS_PER_LOOK = 100_000  # of SQLite's virtual machine between looks whether to stop: some 10 ms
NICER = 5  # than the daemon: a quarter of its share, so that it ends on a busy machine too

# the rows, as far as their words go
COPY_TABLE = "CREATE TABLE main.{table} (id INTEGER PRIMARY KEY, {columns})"
COPY_ROWS = "INSERT INTO main.{table} SELECT id, {columns} FROM live.{table}"
# the full-text index is made as the original was; its own tables then get the original's content
SELECT_DEFINITION = "SELECT sql FROM live.sqlite_schema WHERE name = ?"
EMPTY_SHADOW = "DELETE FROM main.{table}_fts_{part}"
COPY_SHADOW = "INSERT INTO main.{table}_fts_{part} SELECT * FROM live.{table}_fts_{part}"
SHADOWS = ("data", "idx", "docsize", "config")
# the copy is of one moment
BEGIN = "BEGIN"
COMMIT = "COMMIT"
# compare words and rows
COMPARE = "INSERT INTO {table}_fts ({table}_fts, rank) VALUES ('integrity-check', 1)"


class WordCheck:
    """Checks of one database's full-text indexes, one at a time."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._copy = database.with_name(database.name + SUFFIX)
        self._stopped = threading.Event()

    def sweep(self) -> None:
        """Remove what a crash left behind."""
        self._copy.unlink(missing_ok=True)

    def sound(self, collection: IndexedCollection) -> bool | None:
        """Whether words and rows agree; None: it could not be looked at, for want of room or since it was stopped.

        Blocking; changes the priority of the thread that calls.
        """
        with contextlib.suppress(OSError):  # a sandbox may refuse; then it takes its share like everybody
            nice = os.getpriority(os.PRIO_PROCESS, os.getpid())
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice + NICER)
        free = shutil.disk_usage(self._database.parent).free
        if free < self._database.stat().st_size + MIN_FREE_BYTES:
            return None
        try:
            self._copy_out(collection)
            return None if self._stopped.is_set() else self._compare(collection)
        except (apsw.InterruptError, apsw.FullError, apsw.IOError, apsw.BusyError, apsw.CantOpenError):
            return None
        finally:
            self._copy.unlink(missing_ok=True)

    def stop(self) -> None:
        """End the check that is under way, and begin none any more. From any thread."""
        self._stopped.set()

    def _copy_out(self, collection: IndexedCollection) -> None:
        names = {"table": table_of(collection), "columns": FULL_TEXT_COLUMNS[collection]}
        self._copy.unlink(missing_ok=True)
        os.close(os.open(self._copy, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with self._opened() as db:
            db.execute("PRAGMA journal_mode = OFF").fetchall()
            db.execute("PRAGMA synchronous = OFF").fetchall()
            db.execute("ATTACH ? AS live", (str(self._database),))
            db.execute(BEGIN)  # and no rollback: without a journal there is none, and the copy goes in any case
            db.execute(COPY_TABLE.format(**names))
            db.execute(db.execute(SELECT_DEFINITION, (f"{names['table']}_fts",)).get)
            db.execute(COPY_ROWS.format(**names))
            for part in SHADOWS:
                db.execute(EMPTY_SHADOW.format(part=part, **names))
                db.execute(COPY_SHADOW.format(part=part, **names))
            db.execute(COMMIT)

    def _compare(self, collection: IndexedCollection) -> bool:
        with self._opened() as db:  # anew: FTS5 does not see what was written past it
            try:
                db.execute(COMPARE.format(table=table_of(collection)))
            except apsw.CorruptError:
                return False
            return True

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Connection]:
        db = apsw.Connection(str(self._copy))
        try:
            # not interrupt(), which ends what runs and not what is about to
            db.set_progress_handler(self._stopped.is_set, STEPS_PER_LOOK)
            yield db
        finally:
            db.close()

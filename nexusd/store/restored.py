"""A database that comes from a backup: whether it is one of ours, and what makes it the database of here and now.

Owns the new epoch and that nothing is believed of an index which another history filled. Opens files that no daemon has
open; they are left without a log beside them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw

from nexusd.errors import DatabaseRefusedError, DiskFull, ReadOnly
from nexusd.store.connection import NOT_NOW, Connection, open_writer, refuse_foreign_file
from nexusd.store.facts import Facts, read_facts
from nexusd.store.meta import EPOCH, set_meta
from nexusd.store.migrations import load_migrations

# Which incarnation of each collection was last found in order. Forgotten, every point there is is queued to be sent
# anew, from the stored vectors: versions prove nothing where rows of two histories had the same numbers.
FORGET_INCARNATIONS = "DELETE FROM meta WHERE key LIKE 'incarnation.%'"


def newest_schema() -> int:
    """The newest schema version that this program knows."""
    return len(load_migrations())


def refuse_unfit(path: Path) -> None:
    """Look whether it is a database of ours that this program can read.

    Raises:
        DatabaseRefusedError: it is none.
    """
    if not path.stat().st_size:  # which a start takes for a new one
        raise DatabaseRefusedError(f"{path} is empty.")
    refuse_foreign_file(path, newest_schema())


def begin_anew(path: Path, also: Callable[[Connection], object]) -> None:
    """Give the database a new epoch, in one transaction with what `also` writes; then it is one whole file.

    Raises:
        DiskFull, ReadOnly: the disk does not take it.
    """
    try:
        with closing(open_writer(path, "FULL")) as db:
            with db:
                set_meta(db, EPOCH, secrets.token_hex(16))
                db.execute(FORGET_INCARNATIONS)
                also(db)
            db.execute("PRAGMA journal_mode = DELETE").fetchall()  # the log goes with it; a start turns it on again
    except apsw.FullError as error:
        raise DiskFull("The disk is full; nothing was changed.") from error
    except NOT_NOW as error:
        raise ReadOnly(f"{path} cannot be written: {error}") from error


def look(path: Path) -> Facts | None:
    """What a database holds that nobody has open, which is left as it is; None where there is none to be read."""
    if not path.exists():
        return None
    try:
        with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as db:
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            return read_facts(db)
    except (apsw.Error, LookupError):  # what is there may be what a restore is wanted for
        return None

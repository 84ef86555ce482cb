"""A database that was put back by other means than our own restore: `nexusd --adopt`.

Owns what makes it a database of its own. It goes on from an earlier moment, and gives ids and versions once more that
an index, which was not put back with it, has seen with other texts: by those alone the two would seem to agree. So it
gets a new epoch, and the index counts as filled by somebody else: the next start sends every row anew, with the vectors
that are kept, and takes out what has no row.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from nexusd.clock import SystemClock
from nexusd.config_sections import StorageConfig
from nexusd.errors import DatabaseRefusedError
from nexusd.store.connection import Connection
from nexusd.store.database import Database
from nexusd.store.meta import get_epoch

# as the first migration makes it
RENEW_EPOCH = "UPDATE meta SET value = lower(hex(randomblob(16))) WHERE key = 'epoch'"

# what was last found of the index
FORGET_INCARNATIONS = "DELETE FROM meta WHERE key GLOB 'incarnation.*'"


def renew_epoch(db: Connection) -> str:
    """Make it a database that no index has seen; answers its new epoch."""
    db.execute(RENEW_EPOCH)
    db.execute(FORGET_INCARNATIONS)
    return get_epoch(db)


def adopt(path: Path, config: StorageConfig) -> str:
    """Renew the epoch of the database at `path`, which no daemon may hold; answers the new one.

    Raises:
        DataDirectoryError: a daemon holds it.
        DatabaseRefusedError: it is not there, not ours, or newer than this program.
        StoreUnavailableError: the disk is full or fails, or another program holds the database's lock.
    """
    if not path.exists():
        raise DatabaseRefusedError(f"{path} is not there: nothing was put back.")
    return asyncio.run(_adopt(path, config))


async def _adopt(path: Path, config: StorageConfig) -> str:
    failures: list[Exception] = []  # what fails, the write raises as well
    database = Database(path, config, SystemClock(), on_fatal=failures.append)
    await database.open()
    try:
        return await database.write(renew_epoch)
    finally:
        await database.close()

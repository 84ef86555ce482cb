"""When the WAL goes back into the database.

Owns the count of WAL pages and the sizes at which to act. Runs on the writer's thread, between commits.
Knows nothing of requests.
"""

from __future__ import annotations

import apsw

from nexusd.store.connection import BUSY_TIMEOUT_MS, Connection

PASSIVE_BYTES = 4 * 1024 * 1024     # long enough that pages written again and again are copied once
TRUNCATE_BYTES = 64 * 1024 * 1024   # readers kept a passive checkpoint from finishing: insist a little
TRUNCATE_WAIT_MS = 50               # how long writes may wait for readers then


class Checkpointer:
    """Checkpoints of one connection. Every method may raise apsw.FullError or apsw.IOError."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection
        self._page_size: int = connection.pragma("page_size")
        self._pages = 0                 # in the WAL after the last commit
        self._pages_at_checkpoint = 0
        self._truncated = False
        connection.set_wal_hook(self._committed)

    def _committed(self, _connection: Connection, _name: str, pages: int) -> int:
        if pages < self._pages:         # the WAL began anew
            self._pages_at_checkpoint = 0
        self._pages = pages
        self._truncated = False
        return apsw.SQLITE_OK

    @property
    def wal_bytes(self) -> int:
        """What the WAL holds, as of the last commit."""
        return self._pages * self._page_size

    def when_due(self) -> None:
        """After a commit: copy what is there if it has grown enough since the last time."""
        grown = (self._pages - self._pages_at_checkpoint) * self._page_size
        if grown < PASSIVE_BYTES:
            return
        if self.wal_bytes >= TRUNCATE_BYTES:
            self.truncate()
        else:
            self._checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)

    def when_idle(self) -> None:
        """With nothing to write: leave an empty WAL, so that a start has nothing to recover."""
        if not self._truncated:
            self.truncate()

    def truncate(self) -> None:
        """Copy everything and cut the WAL to nothing, unless readers are in the way for too long."""
        self._db.set_busy_timeout(TRUNCATE_WAIT_MS)
        try:
            self._checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)
            self._pages = self._pages_at_checkpoint = 0
            self._truncated = True
        except apsw.BusyError:          # a reader is long at it; the next turn tries again
            self._pages_at_checkpoint = self._pages
        finally:
            self._db.set_busy_timeout(BUSY_TIMEOUT_MS)

    def _checkpoint(self, mode: int) -> None:
        self._db.wal_checkpoint(mode=mode)
        self._pages_at_checkpoint = self._pages

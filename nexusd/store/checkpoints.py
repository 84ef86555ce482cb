"""When the WAL goes back into the database.

Owns the count of WAL pages, the sizes at which to act, and how soon a secure delete leaves the WAL. Runs on the
writer's thread, between commits. Knows nothing of requests.

Where another program follows the WAL to copy what is new in it (`storage.checkpoints: litestream`), that program
checkpoints, and this one lets it: what is cut while it looks away it has to copy anew, all of it. Only a WAL that has
grown past all measure is cut even so, since then nobody follows it any more.
"""

from __future__ import annotations

import time

import apsw

from nexusd.store.connection import BUSY_TIMEOUT_MS, Connection

PASSIVE_BYTES = 4 * 1024 * 1024     # long enough that pages written again and again are copied once
TRUNCATE_BYTES = 64 * 1024 * 1024   # readers kept a passive checkpoint from finishing: insist a little
TRUNCATE_WAIT_MS = 50               # how long writes may wait for readers then
ABANDONED_BYTES = 256 * 1024 * 1024  # Litestream folds it in at 4 MB: it is away, and the disk counts for more
ERASE_WITHIN_S = 0.5                # deletes that follow one another share a checkpoint


class Checkpointer:
    """Checkpoints of one connection. Every method may raise apsw.FullError or apsw.IOError.

    `followed`: another program checkpoints.
    """

    def __init__(self, connection: Connection, *, followed: bool = False) -> None:
        self._db = connection
        self._followed = followed
        self._page_size: int = connection.pragma("page_size")
        self._pages = 0                 # in the WAL after the last commit
        self._pages_at_checkpoint = 0
        self._insist_bytes = TRUNCATE_BYTES     # the WAL at which to do so the next time
        self._truncated = False
        self._deleted_s = 0.0           # since when the WAL may hold something that was deleted for good; 0: nothing
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

    @property
    def erasing(self) -> bool:
        """Whether something is left in the WAL, or will be with the next commit, that was deleted for good."""
        return self._deleted_s > 0

    def note_deletion(self) -> None:
        """Something is being deleted for good: cut the WAL soon after its commit."""
        self._deleted_s = self._deleted_s or time.monotonic()

    def when_due(self) -> None:
        """After a commit: copy what is there if it has grown enough since the last time."""
        if self.erasing and time.monotonic() >= self._deleted_s + ERASE_WITHIN_S:
            self.truncate()
            return
        grown = (self._pages - self._pages_at_checkpoint) * self._page_size
        if grown < PASSIVE_BYTES:
            return
        if self.wal_bytes >= (ABANDONED_BYTES if self._followed else self._insist_bytes):
            self.truncate()
        elif not self._followed:
            self._checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)

    def when_idle(self) -> None:
        """With nothing to write: leave an empty WAL, so that a start has nothing to recover."""
        if self.erasing or not (self._truncated or self._followed):
            self.truncate()

    def at_end(self) -> None:
        """After the last commit: as when idle, and once more where a reader was in the way."""
        if not self._followed:
            self.truncate()

    def truncate(self) -> None:
        """Copy everything and cut the WAL to nothing, unless readers are in the way for too long."""
        self._db.set_busy_timeout(TRUNCATE_WAIT_MS)
        try:
            self._checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)
            self._pages = self._pages_at_checkpoint = 0
            self._insist_bytes = TRUNCATE_BYTES
            self._truncated = True
            self._deleted_s = 0.0
        except apsw.BusyError:          # a reader is long at it, such as a backup: not at every turn
            self._insist_bytes = self.wal_bytes + TRUNCATE_BYTES
            self._pages_at_checkpoint = self._pages
            if self.erasing:
                self._deleted_s = time.monotonic()  # not with every commit until then
        finally:
            self._db.set_busy_timeout(BUSY_TIMEOUT_MS)

    def _checkpoint(self, mode: int) -> None:
        self._db.wal_checkpoint(mode=mode)
        self._pages_at_checkpoint = self._pages

"""What SQLite says where the database's file itself is damaged.

Owns which of its errors mean that, and the words for it. Knows nothing of who asked, nor of what is done about it.
"""

from __future__ import annotations

import apsw

from nexusd.errors import StoreDamaged, WordsDamaged

# A read that the disk refuses, or answers with less or with other than was written: the sector is lost, and is so
# after a restart too. Errors of a write or a sync are not among them: nobody knows what those left on the disk.
_LOST_READS = frozenset({
    apsw.SQLITE_IOERR_READ, apsw.SQLITE_IOERR_SHORT_READ, apsw.SQLITE_IOERR_CORRUPTFS, apsw.SQLITE_IOERR_DATA,
})


def damage_of(error: Exception) -> StoreDamaged | None:
    """The damage that this error tells of; None where it tells of something else."""
    if isinstance(error, StoreDamaged):
        return error
    code = getattr(error, "extendedresult", 0)  # apsw's types do not know it
    if isinstance(error, apsw.CorruptError) and code == apsw.SQLITE_CORRUPT_VTAB:
        return WordsDamaged()
    lost = isinstance(error, apsw.IOError) and code in _LOST_READS
    if lost or isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return StoreDamaged(f"{StoreDamaged.__doc__} SQLite says: {error}")
    return None


def lasts(damage: StoreDamaged) -> bool:
    """Whether the rows themselves are concerned. If not, writes go on: the repair is one of them."""
    return not isinstance(damage, WordsDamaged)

"""Which other processes have the database open: who follows its WAL, such as Litestream, and who must not be surprised.

Owns the reading of the kernel's list of locks. Opens nothing: closing the database's files would drop SQLite's locks.
"""

from __future__ import annotations

import os
from pathlib import Path

LOCKS = Path("/proc/locks")


def other_holders(database: Path) -> list[int]:
    """The other processes that have a connection to it: each holds a lock in the shared memory of its WAL.

    Empty also where the system does not tell.
    """
    try:
        status = database.with_name(f"{database.name}-shm").stat()
        lines = LOCKS.read_text(encoding="ascii").splitlines()
    except OSError:     # nobody has it open, or another system than Linux
        return []
    name = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    held = [fields for line in lines if name in (fields := line.split()) and fields[1] == "POSIX"]
    return sorted({int(fields[4]) for fields in held} - {os.getpid()})

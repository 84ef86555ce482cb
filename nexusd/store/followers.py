"""Which other processes have the database open: who follows its WAL, such as Litestream, and who must not be surprised.

Owns the reading of the kernel's list of locks. Opens nothing: closing the database's files would drop SQLite's locks.
"""

from __future__ import annotations

import os
from pathlib import Path

LOCKS = Path("/proc/locks")
IN_USE = "128"      # the byte of the shared memory that every connection holds a lock on


def other_holders(database: Path) -> list[int]:
    """The other processes that have a connection to it: each holds a lock in the shared memory of its WAL.

    Empty also where the system does not tell.
    """
    try:
        status = database.with_name(f"{database.name}-shm").stat()
        lines = LOCKS.read_text(encoding="ascii").splitlines()
    except OSError:     # nobody has it open, or another system than Linux
        return []
    pids = set()
    for line in lines:      # 3: POSIX  ADVISORY  READ 314 00:2a:1023 128 128
        match line.split():
            # Not by the device: btrfs and overlays show another one there than to stat.
            case [_, "POSIX", _, _, pid, file, first, last] if file.endswith(f":{status.st_ino}"):
                if first == last == IN_USE:
                    pids.add(int(pid))
    return sorted(pids - {os.getpid()})

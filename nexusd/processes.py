"""What the system tells of memory and of a process: what it holds, and the processor time that it took.

Owns the reading of /proc. Knows no part of the daemon.
"""

from __future__ import annotations

import os
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_USER_TICKS, _SYSTEM_TICKS = 11, 12     # fields of /proc/PID/stat after the name, which may hold spaces


def machine_memory() -> tuple[int, int] | None:
    """The memory of this machine, and what of it can still be had; None where /proc does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if rest}
        return kib["MemTotal"] * 1024, kib["MemAvailable"] * 1024
    except (OSError, LookupError, ValueError):
        return None


def resident_bytes(pid: int) -> int | None:
    """The memory that a process holds, or None when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return None


def cpu_seconds(pid: int) -> float | None:
    """The processor time that a process took since its start, or None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return (int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS])) / TICKS_A_SECOND
    except (OSError, IndexError, ValueError):
        return None

"""A backup verified in depth: unpacked, opened, looked at and compared, and nothing of it left.

Owns the scratch directory that this takes. Everything here blocks.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from nexusd.backup.course import Course
from nexusd.backup.proof import prove
from nexusd.backup.shelf import Shelved
from nexusd.backup.unpacking import DATABASE_FILE, unpack
from nexusd.errors import DiskFull, ReadOnly


def verify(shelved: Shelved, scratch: Path, course: Course) -> list[str]:
    """Whether everything in it is as its manifest says; what was looked at, a line each.

    Raises:
        BackupInvalid: it is not.
        DiskFull, ReadOnly: there is no place to unpack it in.
        HaltedError: the course was halted.
    """
    try:
        sweep_scratch(scratch)
        scratch.mkdir(0o700)
        free = shutil.disk_usage(scratch).free
    except OSError as error:
        raise ReadOnly(f"{scratch} cannot be used to unpack the backup: {error.strerror}.") from error
    try:
        needed = shelved.manifest.database.bytes
        if free < needed:
            says = f"{needed // 2**20:,} MiB in {scratch.parent}; {free // 2**20:,} are free"
            raise DiskFull(f"To unpack the backup takes {says}.")
        manifest = unpack(shelved.path, scratch, progress=course.at)
        unpacked = f"checksums: {len(manifest.members)} members, and the database unpacked, as the manifest says"
        course.begin("checking")
        return [unpacked, *prove(scratch / DATABASE_FILE, manifest.database, course)]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def sweep_scratch(scratch: Path) -> None:
    """Remove what a verification left that was cut off; what somebody planted there is no directory, and stays."""
    if scratch.is_dir() and not scratch.is_symlink():
        shutil.rmtree(scratch)

"""One backup, from the first page to its place in the list.

Owns the order of the steps, and what is left when one fails: nothing. Until the last but one everything lies in
`NAME.unfinished` inside the directory of backups, so that the rename that makes a backup of it is one step of the
file system; whatever a crash leaves has that ending, and is swept. Everything here blocks.

Steps that `reached` is told, in this order: staged, copied, files_read, checked, packed, synced, proven, named, listed,
tidied, removed_one (of each that is rotated away), rotated.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import apsw
import structlog

from nexusd import __version__
from nexusd.backup.copying import copy_database
from nexusd.backup.course import Course
from nexusd.backup.gathering import Gatherer
from nexusd.backup.manifest import FORMAT, SUFFIX, UNFINISHED_SUFFIX, Kind, Manifest
from nexusd.backup.packing import pack, read_back
from nexusd.backup.proof import prove
from nexusd.backup.shelf import Shelf, sync_directory
from nexusd.clock import Clock
from nexusd.config_sections import BackupsConfig
from nexusd.errors import BackupInvalid, DiskFull, ReadOnly

DIRECTORY_MODE = 0o700
RESERVE_BYTES = 16 * 1024 * 1024    # left to others where the copy would just fit: the store may be on the same disk
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class Made:
    """A backup that was made and proven; of a database that is in a backup already, that one."""

    name: str
    removed: tuple[str, ...] = ()


class Maker:
    """Makes backups of one database on one shelf, one at a time."""

    def __init__(self, shelf: Shelf, database: Path, gatherer: Gatherer, clock: Clock, vfs: str | None = None) -> None:
        self.shelf = shelf
        self._database = database
        self._gatherer = gatherer
        self._clock = clock
        self._vfs = vfs
        self._log = structlog.get_logger("nexusd.backup")

    def make(self, kind: Kind, course: Course, retention: BackupsConfig | None, note: str | None = None) -> Made:
        """Make one; then remove those that `retention` does not keep, if it is given.

        Raises:
            HaltedError: the course was halted.
            DiskFull, ReadOnly: the directory does not take it.
            BackupInvalid: the database, or what was written, is damaged.
            Busy: copying took too long.
        """
        with self._told():
            self._make_directory()
            self._refuse_without_room()
            now_ms = self._clock.now_ms()
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_ms / 1000))
            name = self.shelf.free_name(f"nexusd-{stamp}-{kind}")
            stage = self.shelf.directory / f"{name}{UNFINISHED_SUFFIX}"
            stage.mkdir(DIRECTORY_MODE)
            try:
                name = self._stage(name, stage, kind, now_ms, course, note)
            finally:
                shutil.rmtree(stage, ignore_errors=True)
            course.reached("tidied")
            removed = [] if retention is None else self._rotate(retention, name, course)
            return Made(name, tuple(removed))

    def _stage(
        self, name: str, stage: Path, kind: Kind, now_ms: int, course: Course, note: str | None
    ) -> str:
        course.reached("staged")
        copy, packed = stage / "nexus.db", stage / f"{name}{SUFFIX}"
        facts = copy_database(self._database, copy, course, vfs=self._vfs)
        course.reached("copied")
        course.step_back()  # not before: as long as the copying lasts the WAL grows
        if kind == "migration" and (same := self._with(facts.sha256)) is not None:
            return same     # a start that failed is tried again: its backup is there already
        course.begin("files")
        extras = self._gatherer.gather(stage, course)
        course.reached("files_read")
        course.begin("checking")
        prove(copy, facts, course)
        course.reached("checked")
        course.begin("packing")
        manifest = Manifest(
            format=FORMAT, name=name, kind=kind, created_at=now_ms, program=__version__, database=facts, members=[],
            note=note,
        )
        manifest = pack(packed, copy, manifest, extras, course)
        course.reached("synced")
        copy.unlink()
        course.begin("proving")
        read_back(packed, manifest, course)
        course.reached("proven")
        packed.rename(self.shelf.directory / packed.name)
        course.reached("named")
        sync_directory(self.shelf.directory)
        course.reached("listed")
        return name

    def _with(self, digest: str) -> str | None:
        """A backup of exactly this database."""
        return next((one.name for one in self.shelf.list() if one.manifest.database.sha256 == digest), None)

    def _rotate(self, retention: BackupsConfig, name: str, course: Course) -> list[str]:
        course.begin("rotating")
        removed = self.shelf.rotate(retention, name, self._clock.now_ms(), course.reached)
        course.reached("rotated")
        return list(removed)

    def _make_directory(self) -> None:
        directory = self.shelf.directory
        if not directory.is_dir():
            directory.mkdir(DIRECTORY_MODE, parents=True, exist_ok=True)
            sync_directory(directory.parent)

    def _refuse_without_room(self) -> None:
        wal = self._database.with_name(f"{self._database.name}-wal")
        size = self._database.stat().st_size + (wal.stat().st_size if wal.exists() else 0)
        newest = next(iter(self.shelf.list()), None)
        ratio = 1.0 if newest is None else min(1.0, 1.2 * newest.bytes / max(1, newest.manifest.database.bytes))
        needed = int(size * (1 + ratio)) + RESERVE_BYTES
        free = shutil.disk_usage(self.shelf.directory).free
        if free < needed:
            raise DiskFull(
                f"A backup needs {needed // 2**20:,} MiB in {self.shelf.directory} while it is made; "
                f"{free // 2**20:,} are free. Nothing was changed."
            )

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What disk and database say, as ours."""
        directory = self.shelf.directory
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise self._full() from error
            raise ReadOnly(f"{directory} takes no backup: {error.strerror}.") from error
        except apsw.FullError as error:
            raise self._full() from error
        except (apsw.CorruptError, apsw.NotADBError) as error:
            raise BackupInvalid(f"The database itself is damaged: {error}") from error
        except apsw.Error as error:
            raise ReadOnly(f"The database could not be copied to {directory}: {error}") from error

    def _full(self) -> DiskFull:
        return DiskFull(
            f"The disk of {self.shelf.directory} is full; the unfinished backup was removed, "
            "the others are as they were."
        )

"""The directory in which backups lie.

Owns what counts as a backup there: a plain file whose manifest can be read and names it. Links are never followed and
never removed, and neither is anything else that is not ours. Owns which backups are kept, too. Everything here blocks.
Knows not how a backup is made.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from nexusd.backup.course import tell_nothing
from nexusd.backup.manifest import FILES_PREFIX, SUFFIX, UNFINISHED_SUFFIX, Manifest
from nexusd.backup.packing import read_head
from nexusd.config_sections import BackupsConfig
from nexusd.errors import BackupInvalid, NoSuchBackup
from nexusd.model.backups import Backup

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Shelved:
    """One backup as it lies there."""

    path: Path
    manifest: Manifest
    bytes: int

    @property
    def name(self) -> str:
        """Its name."""
        return self.manifest.name

    def shown(self) -> Backup:
        """As callers see it."""
        manifest, database = self.manifest, self.manifest.database
        return Backup(
            name=manifest.name,
            kind=manifest.kind,
            created_at=manifest.created_at,
            bytes=self.bytes,
            database_bytes=database.bytes,
            schema_version=database.schema_version,
            program=manifest.program,
            model=database.model,
            rows=database.rows,
            note=manifest.note,
            files=sum(member.name.startswith(FILES_PREFIX) for member in manifest.members),
        )


class Shelf:
    """The backups of one directory, which may not be there yet."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._known: dict[str, tuple[tuple[int, int, int], Manifest | None]] = {}  # by file name and stamp
        self._log = structlog.get_logger("nexusd.backup")

    def list(self) -> list[Shelved]:
        """Every backup, newest first. What lies there and is none is left alone, and told once in the log."""
        found = []
        seen = {}
        for entry in self._entries(SUFFIX):
            shelved = self._look(entry)
            seen[entry.name] = self._known.get(entry.name)
            if shelved is not None:
                found.append(shelved)
        self._known = {name: known for name, known in seen.items() if known is not None}
        return sorted(found, key=lambda one: (one.manifest.created_at, one.name), reverse=True)

    def find(self, name: str | None) -> Shelved:
        """The backup of this name, or the newest.

        Raises:
            NoSuchBackup: there is none.
        """
        for one in self.list():
            if name is None or one.name == name:
                return one
        raise NoSuchBackup if name is not None else NoSuchBackup("There is no backup yet.")

    def free_name(self, wanted: str) -> str:
        """This name, or one made from it, that no file and no unfinished backup here has."""
        names = [wanted, *(f"{wanted}-{number}" for number in range(2, 1000))]
        taken = {entry.name for entry in self._entries("")}
        return next(name for name in names if not {f"{name}{SUFFIX}", f"{name}{UNFINISHED_SUFFIX}"} & taken)

    def sweep(self) -> int:
        """Remove what was being written when the program ended; how many that were."""
        count = 0
        for entry in self._entries(UNFINISHED_SUFFIX):
            if entry.is_symlink():
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)   # which does not follow links inside it
            else:
                Path(entry.path).unlink()
            count += 1
        if count:
            self._log.info("removed what unfinished backups left", backups=count)
        return count

    def rotate(
        self, config: BackupsConfig, new: str, now_ms: int, reached: Callable[[str], None] = tell_nothing
    ) -> Sequence[str]:
        """Remove the backups that nothing keeps; their names. `new` was proven a moment ago, and stays.

        Raises:
            OSError: the directory does not let go of one.
        """
        shelved = self.list()
        if new not in {one.name for one in shelved}:    # nothing goes where nothing came
            return []
        kept = names_to_keep(((one.name, one.manifest.created_at) for one in shelved), config, new, now_ms)
        gone = []
        for one in reversed(shelved):
            if one.name not in kept:
                one.path.unlink()
                gone.append(one.name)
                reached("removed_one")
        if gone:
            sync_directory(self.directory)
            self._log.info("backups removed that are not kept any longer", backups=", ".join(gone))
        return gone

    def _entries(self, suffix: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(self.directory) as entries:
                yield from [entry for entry in entries if entry.name.endswith(suffix)]
        except FileNotFoundError:
            return

    def _look(self, entry: os.DirEntry[str]) -> Shelved | None:
        try:
            found = entry.stat(follow_symlinks=False)
            stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
            known = self._known.get(entry.name)
            if known is None or known[0] != stamp:
                known = self._known[entry.name] = (stamp, self._manifest(entry, found))
        except FileNotFoundError:   # it went meanwhile
            return None
        return None if known[1] is None else Shelved(Path(entry.path), known[1], found.st_size)

    def _manifest(self, entry: os.DirEntry[str], found: os.stat_result) -> Manifest | None:
        if not stat.S_ISREG(found.st_mode):
            self._tell(entry, "it is a link, or no plain file")
            return None
        try:
            descriptor = os.open(entry.path, _OPEN)
            try:
                manifest = read_head(descriptor)
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            raise
        except (BackupInvalid, OSError) as error:
            self._tell(entry, str(error))
            return None
        if entry.name != manifest.name + SUFFIX:
            self._tell(entry, "its manifest has another name")
            return None
        return manifest

    def _tell(self, entry: os.DirEntry[str], reason: str) -> None:
        self._log.warning("a file among the backups is none", file=entry.name, reason=reason)


def names_to_keep(backups: Iterable[tuple[str, int]], config: BackupsConfig, new: str, now_ms: int) -> set[str]:
    """Which of these (name and time) stay: the new one, the newest, and the newest of so many days, weeks and months.

    What is dated in the future was made before the clock was set back: it counts as older than all others.
    """
    newest_first = sorted(
        backups, key=lambda one: (one[0] == new, one[1] <= now_ms, one[1], one[0]), reverse=True
    )
    kept = {new, *(name for name, _ in newest_first[: config.max_count])}
    for pattern, number in (
        ("%Y-%m-%d", config.keep_daily), ("%G-%V", config.keep_weekly), ("%Y-%m", config.keep_monthly),
    ):
        spans: set[str] = set()
        for name, created_at in newest_first:
            span = time.strftime(pattern, time.localtime(created_at / 1000))
            if span not in spans and len(spans) < number:
                spans.add(span)
                kept.add(name)
    return kept


def sync_directory(directory: Path) -> None:
    """Get names that were given or taken in this directory on disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Where a restore puts things, and how they are moved there so that a power cut loses none.

Owns the names of what lies beside the database and the file store while a restore is under way, and after it. Nothing
is ever written over or deleted here but what a restore itself has staged.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nexusd.backup.unpacking import DIRECTORIES, SERVERS_FILE

SET_ASIDE_PREFIX = "before-restore-"
SUFFIXES = {"presets": ".yaml", "tools": ".js"}     # what else lies there is not the file store's


@dataclass(frozen=True, slots=True)
class Places:
    """The database's file and the file store's directory. The two may lie on different file systems."""

    database: Path
    files: Path

    @property
    def journal(self) -> Path:
        """There while a restore is to be finished."""
        return self.database.with_name(f"{self.database.name}.restore")

    @property
    def stage(self) -> Path:
        """What comes out of the backup lies here until it takes its place."""
        return self.database.with_name(f".{self.database.name}.restoring")

    @property
    def files_stage(self) -> Path:
        """The same of the file store's, on its own file system."""
        return self.files / f".{self.database.name}.restoring-files"

    def aside(self, name: str) -> Path:
        """Where the database goes that was there before."""
        return self.database.parent / name

    def files_aside(self, name: str) -> Path:
        """Where the file store's files go that were there before: the same place, where both are in one directory."""
        return self.files / name

    def sweep(self) -> None:
        """Remove what was staged and is not wanted any more; only where no restore is noted."""
        for directory in (self.stage, self.files_stage):
            if directory.is_symlink():  # somebody planted it: what it leads to is not ours
                directory.unlink()
            elif directory.exists():
                shutil.rmtree(directory)
        for parent in {self.database.parent, self.files}:
            for directory in parent.glob(f"{SET_ASIDE_PREFIX}*"):
                if not directory.is_symlink() and not any(directory.iterdir()):
                    directory.rmdir()   # nothing came to lie in it

    def present_files(self) -> list[str]:
        """The file store's files as they are now, by their paths inside it."""
        found = [
            f"{name}/{entry.name}"
            for name in DIRECTORIES
            for entry in _entries(self.files / name)
            if entry.name.endswith(SUFFIXES[name]) and not entry.name.startswith(".")
            and not entry.is_dir(follow_symlinks=False)
        ]  # fmt: skip
        return sorted(found) + ([SERVERS_FILE] if os.path.lexists(self.files / SERVERS_FILE) else [])


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    if directory.is_symlink():
        return []   # it is moved as a link, and what it leads to stays
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def move_aside(path: Path, directory: Path) -> None:
    """Move it into the directory under its own name, or one that is free there; nothing if it is not there."""
    if not os.path.lexists(path):
        return
    names = itertools.chain([path.name], (f"{path.name}.{number}" for number in itertools.count(2)))
    target = next(directory / name for name in names if not os.path.lexists(directory / name))
    path.rename(target)


def make_directory(path: Path, aside: Path) -> None:
    """Let a directory be there; whatever else has its name is moved aside."""
    if path.is_symlink() or not path.is_dir():
        move_aside(path, aside)
        path.mkdir(mode=0o750, exist_ok=True)


def sync(directories: Iterable[Path]) -> None:
    """Let what was moved in and out of them be on disk."""
    for directory in directories:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Let all of it be on disk."""
    for directory, _, files in os.walk(root):
        for name in files:
            descriptor = os.open(Path(directory) / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync([Path(directory)])


def give_to_owner(root: Path, like: Path) -> None:
    """What root writes into the daemon's directory is the daemon's."""
    if os.geteuid() != 0:
        return
    owner = like.stat()
    for directory, _, files in os.walk(root):
        for name in ("", *files):
            os.chown(Path(directory) / name, owner.st_uid, owner.st_gid, follow_symlinks=False)

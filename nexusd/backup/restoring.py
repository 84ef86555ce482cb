"""A backup takes the place of what is there: staged, proven, noted in a journal, swapped in.

Owns the order of the steps and what a crash between any two of them means:

    staged      unpacked beside the database, proven, given a new epoch. Nothing that is in use was touched: a crash
                leaves rubbish, which the next start or the next restore sweeps.
    noted       DATABASE.restore says what is to come. From here on a restore goes forward only: the next start of the
                daemon, or the next restore, finishes it before anything opens the database.
    set aside   the database that was there, its -wal and its -shm, moved whole into before-restore-TIME/.
    swapped     the staged database has its name.
    files       each of the backup's files has its place; those that were there, in the way or not in the backup,
                lie in before-restore-TIME/ too.
    done        the note was moved into before-restore-TIME/ as restore.json.

Each step looks at what is there and does what is left of it, so that it may be done again. The last thing to leave the
stage is what tells how far a restore came. Knows no daemon: whoever calls holds the database's lock.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from nexusd.backup.course import Course
from nexusd.backup.manifest import DATABASE_MEMBER, Manifest
from nexusd.backup.places import (
    SET_ASIDE_PREFIX,
    Places,
    give_to_owner,
    make_directory,
    move_aside,
    sync,
    sync_tree,
)
from nexusd.backup.proof import prove
from nexusd.backup.unpacking import (
    DATABASE_FILE,
    DIRECTORIES,
    files_in,
    read_manifest,
    unpack,
    writing,
)
from nexusd.errors import BackupInvalid, DatabaseRefusedError, DataDirectoryError, DiskFull, StoreUnavailableError
from nexusd.store.connection import Connection
from nexusd.store.restored import begin_anew, newest_schema, refuse_unfit

JOURNAL_FORMAT = 1
DONE_FILE = "restore.json"
LOGS = ("-wal", "-shm", "-journal")     # beside a database, of which each is worth nothing without the others

Reached = Callable[[str], None]


class Journal(Struct, frozen=True, kw_only=True, rename="camel"):
    """What is to be finished. `files`: the file store's paths that come from the backup.

    `files_directory` null: the file store is in the directory of the database, wherever that was moved meanwhile.
    """

    format: Annotated[int, Meta(ge=1, le=JOURNAL_FORMAT)]
    backup: str
    created_at: int
    set_aside: Annotated[str, Meta(pattern=r"^before-restore-[0-9TZ.-]+\Z")]
    files_directory: str | None
    files: list[str]


@dataclass(frozen=True, slots=True)
class Finished:
    """A restore that is done: which backup, of when, and where the data before it lies."""

    backup: str
    created_at: int
    set_aside: Path


def nowhere(_step: str) -> None:
    """Where nobody follows the steps."""


def refuse_manifest(manifest: Manifest) -> None:
    """What can be said before a byte is unpacked.

    Raises:
        BackupInvalid: it was made by a newer nexusd.
    """
    newest = newest_schema()
    if manifest.database.schema_version > newest:
        raise BackupInvalid(
            f"The backup {manifest.name} has schema version {manifest.database.schema_version}, this program knows "
            f"{newest} at most: it was made by a newer nexusd ({manifest.program})."
        )


def refuse_full(directory: Path, manifest: Manifest) -> None:
    """Look whether there is room, before an hour is spent on finding that there is none.

    Raises:
        DiskFull: there is not.
    """
    needed = manifest.database.bytes + sum(m.bytes for m in manifest.members if m.name != DATABASE_MEMBER)
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise DiskFull(f"The restore needs {needed:,} bytes beside the database, there are {free:,}.")


def stage(backup: Path, places: Places, course: Course) -> Manifest:
    """Unpack the backup beside the database and prove it. What an earlier try has left there goes.

    Raises:
        NoSuchBackup, BackupInvalid: there is none, or it is no good.
        DiskFull, ReadOnly: it does not fit.
        HaltedError: the course was halted.
    """
    manifest = read_manifest(backup)
    refuse_manifest(manifest)
    places.sweep()
    try:
        with writing():
            places.files.mkdir(mode=0o700, parents=True, exist_ok=True)
            for directory in (places.stage, places.files_stage):
                directory.mkdir(mode=0o700)
        course.reached("staging")
        refuse_full(places.stage, manifest)
        unpack(backup, places.stage, places.files_stage, progress=course.at)
        course.reached("unpacked")
        staged = places.stage / DATABASE_FILE
        try:
            refuse_unfit(staged)
        except DatabaseRefusedError as error:
            raise BackupInvalid(f"The backup {manifest.name} cannot be used: {error.message}") from None
        course.begin("proving")
        prove(staged, manifest.database, course)
        course.reached("proven")
    except BaseException:
        places.sweep()
        raise
    return manifest


def note(
    manifest: Manifest, places: Places, set_aside: str, also: Callable[[Connection], object] = lambda _db: None,
    *, reached: Reached = nowhere,
) -> None:
    """Make what is staged the database of here and now, and note that it takes the other one's place.

    `also` may write into it, in the same transaction. When this returns, the restore is certain; when it raises, there
    is none.

    Raises:
        DiskFull, ReadOnly: it cannot be noted.
    """
    asides = list(dict.fromkeys((places.aside(set_aside), places.files_aside(set_aside))))
    try:
        with writing():
            begin_anew(places.stage / DATABASE_FILE, also)
            reached("renewed")
            for directory in asides:
                directory.mkdir(mode=0o700)     # now: later the disk may be full
            draft = places.stage / DONE_FILE
            draft.write_bytes(_encoded(manifest, places, set_aside))
            for directory in (places.stage, places.files_stage, *asides):
                give_to_owner(directory, places.database.parent)
                sync_tree(directory)
            sync({places.database.parent, places.files})
            reached("staged")
            draft.rename(places.journal)
            sync([places.database.parent])
    except BaseException:
        places.journal.unlink(missing_ok=True)
        for directory in asides:
            with contextlib.suppress(OSError):
                directory.rmdir()
        places.sweep()
        raise
    reached("noted")


def set_aside_name(places: Places, now_ms: int) -> str:
    """A directory's name that nothing has yet."""
    at = datetime.datetime.fromtimestamp(now_ms / 1000, datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    plain = f"{SET_ASIDE_PREFIX}{at}"
    numbered = itertools.chain([plain], (f"{plain}-{number}" for number in itertools.count(2)))
    return next(
        name for name in numbered
        if not os.path.lexists(places.aside(name)) and not os.path.lexists(places.files_aside(name))
    )  # fmt: skip


def unfinished(places: Places) -> bool:
    """Whether a restore was noted and not finished."""
    return os.path.lexists(places.journal)


def finish(places: Places, *, reached: Reached = nowhere) -> Finished | None:
    """Finish what was noted, if anything was; else sweep what a restore left that never came so far.

    Raises:
        DataDirectoryError: what was noted cannot be read, or what was staged is gone.
        StoreUnavailableError: the disk does not take it now; it may be done again.
    """
    try:
        if not unfinished(places):
            places.sweep()
            return None
        journal = _read(places)
        files = places.database.parent if journal.files_directory is None else Path(journal.files_directory)
        noted = Places(places.database, files)
        aside, files_aside = noted.aside(journal.set_aside), noted.files_aside(journal.set_aside)
        for directory in (aside, files_aside):
            directory.mkdir(mode=0o700, exist_ok=True)
        _swap_database(noted, aside, journal, reached)
        _swap_files(noted, files_aside, frozenset(journal.files), reached)
        noted.journal.rename(aside / DONE_FILE)
        sync([aside, places.database.parent])
        reached("done")
        noted.sweep()
        reached("swept")
    except OSError as error:
        raise StoreUnavailableError(
            f"the restore cannot be finished now: {error.filename or places.database}: {error.strerror}; "
            "nothing is lost, the next start goes on with it"
        ) from error
    return Finished(journal.backup, journal.created_at, aside)


def _swap_database(places: Places, aside: Path, journal: Journal, reached: Reached) -> None:
    staged = places.stage / DATABASE_FILE
    if not staged.exists():     # it has been swapped in already
        if not places.database.exists():
            raise DataDirectoryError(
                f"The restore of {journal.backup} was cut off, and what it had staged is gone from {places.stage}. "
                f"What was there before lies in {aside}. Move it back and remove {places.journal}, or only remove the "
                "latter and restore again."
            )
        return
    for suffix in ("", *LOGS):
        move_aside(places.database.with_name(places.database.name + suffix), aside)
        reached(f"aside{suffix}")
    sync([aside, places.database.parent])   # before anything takes its name
    staged.rename(places.database)
    sync([places.database.parent])
    reached("swapped")


def _swap_files(places: Places, aside: Path, restored: frozenset[str], reached: Reached) -> None:
    for name in DIRECTORIES:
        (aside / name).mkdir(mode=0o700, exist_ok=True)
        make_directory(places.files / name, aside)
    present = places.present_files()
    for name in present:
        # one that is not staged any more has its place already
        if name not in restored or os.path.lexists(places.files_stage / name):
            move_aside(places.files / name, (aside / name).parent)
            reached("file-aside")
    for name in sorted(restored):
        if os.path.lexists(places.files_stage / name):
            move_aside(places.files / name, (aside / name).parent)  # what is no file of the file store's has its name
            (places.files_stage / name).rename(places.files / name)
            reached("file")
    changed = [directory for name in DIRECTORIES for directory in (aside / name, places.files / name)]
    give_to_owner(aside, places.database.parent)
    sync([*changed, aside, places.files])
    reached("files")


def _encoded(manifest: Manifest, places: Places, set_aside: str) -> bytes:
    journal = Journal(
        format=JOURNAL_FORMAT, backup=manifest.name, created_at=manifest.created_at, set_aside=set_aside,
        files_directory=None if places.files == places.database.parent else str(places.files),
        files=files_in(manifest),
    )
    return msgspec.json.format(msgspec.json.encode(journal), indent=2) + b"\n"


def _read(places: Places) -> Journal:
    try:
        return msgspec.json.decode(places.journal.read_bytes(), type=Journal)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise DataDirectoryError(
            f"{places.journal} says that a restore is to be finished, and cannot be read: {error}. "
            "It was left as it is."
        ) from None

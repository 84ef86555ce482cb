"""`nexusd --restore`: a restore without a daemon, and its report.

Owns which backup is meant, what is printed, and that nothing else is done to a database whose restore was cut off.
Holds the database's lock throughout, so that no daemon starts into it; where one runs, it says so and does nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from nexusd.backup.course import Course, tell_nothing
from nexusd.backup.manifest import SUFFIX
from nexusd.backup.places import Places
from nexusd.backup.planning import plan
from nexusd.backup.restoring import finish, note, set_aside_name, stage, unfinished
from nexusd.backup.shelf import Shelf, Shelved
from nexusd.clock import Clock
from nexusd.config import Settings
from nexusd.data_directory import make_data_directory
from nexusd.errors import DataDirectoryError
from nexusd.model.backups import RestorePlan
from nexusd.store.database import locked
from nexusd.store.restored import look


def restore_offline(
    settings: Settings, backup: str, clock: Clock, *, dry_run: bool = False,
    reached: Callable[[str], None] = tell_nothing,
) -> RestorePlan:
    """Restore this backup, a name or a file's path, and say what changed; or only what would.

    Raises:
        NoSuchBackup, BackupInvalid: there is none, or it is no good.
        DataDirectoryError: a daemon holds the database.
        DiskFull, ReadOnly, StoreUnavailableError: the disk does not take it.
    """
    path = find(backup, settings.backups_directory)
    places = Places(settings.database_path, settings.files_directory)
    make_data_directory(places.database.parent)
    with locked(places.database):
        if dry_run and unfinished(places):
            raise DataDirectoryError(f"A restore was cut off; the next start finishes it ({places.journal}).")
        finish(places, reached=reached)
        course = Course("restoring", clock.now_ms(), reached)
        manifest = stage(path, places, course)
        set_aside = set_aside_name(places, clock.now_ms())
        changes = plan(
            Shelved(path, manifest, path.stat().st_size), places, look(places.database), set_aside,
            restoring=not dry_run,
        )
        if dry_run:
            places.sweep()
        else:
            note(manifest, places, set_aside, reached=reached)
            finish(places, reached=reached)
    return changes


def refuse_unfinished(settings: Settings) -> None:
    """Look that no restore is to be finished, before something else is done to the database.

    It goes forward only: what would be changed now may be what it sets aside next, and what it has left beside it may
    be the log of another database.

    Raises:
        DataDirectoryError: one is, or a daemon is at it.
    """
    places = Places(settings.database_path, settings.files_directory)
    if not unfinished(places):
        return
    with locked(places.database):
        raise DataDirectoryError(
            f"Nothing was done: a restore that was cut off is to be finished first ({places.journal}). The next start "
            f"of nexusd does it, or another --restore; what lies at {places.database} by then may be set aside, in a "
            "directory before-restore-TIME beside it. Put back what is wanted after that."
        )


def find(backup: str, directory: Path) -> Path:
    """The backup's file: of the path that was given, else of that name among the backups.

    Raises:
        NoSuchBackup: there is none of that name.
    """
    if "/" in backup or backup.endswith(SUFFIX):
        return Path(backup).resolve()   # a link that somebody names is meant
    return Shelf(directory).find(backup).path


def report(changes: RestorePlan) -> str:
    """What changed, or would, for people."""
    done = changes.restoring
    backup = changes.backup
    made = f"{backup.kind}, schema {backup.schema_version}, nexusd {backup.program}"
    lines = [f"{'restored' if done else 'would restore'} {backup.name} ({made})"]
    for name, (now, then) in changes.rows.items():
        if now != then or then:
            lines.append(f"  {name:<16} {'?' if now is None else f'{now:,}':>12} -> {then:,}")
    lines += [f"  {'written':<16} {name}" for name in changes.files_written]
    lines += [f"  {'set aside':<16} {name}" for name in changes.files_set_aside]
    lines.append(f"what was there before {'lies' if done else 'would lie'} in {changes.set_aside}")
    if not changes.same_model:
        lines.append("it was made under another embedding model: the next start embeds its texts anew")
    if done:
        lines.append("start nexusd again; the index follows by itself, from the stored vectors")
    return "\n".join(lines)


def report_json(changes: RestorePlan) -> str:
    """The same for programs."""
    return msgspec.json.encode(changes).decode()

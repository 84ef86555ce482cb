"""The schema's history: numbered .sql files, each applied once, in one transaction with its number.

Owns the order of migrations and `user_version`. Knows nothing of what a migration does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources

import apsw

from nexusd.errors import DatabaseRefusedError, StoreUnavailableError
from nexusd.store.connection import APPLICATION_ID, NOT_NOW, Connection

BeforeMigration = Callable[[Connection, int], None]


@dataclass(frozen=True, slots=True)
class Migration:
    """One step: the version that it leads to, and its statements."""

    version: int
    sql: str


def load_migrations() -> tuple[Migration, ...]:
    """All steps that this program knows, from 1 on without a gap."""
    directory = resources.files("nexusd.store") / "migrations"
    names = sorted(file.name for file in directory.iterdir() if file.name.endswith(".sql"))
    steps = tuple(
        Migration(int(name.removesuffix(".sql")), (directory / name).read_text(encoding="utf-8"))
        for name in names
    )
    if [step.version for step in steps] != list(range(1, len(steps) + 1)):
        raise DatabaseRefusedError(f"The migrations of this installation are incomplete: {', '.join(names)}.")
    return steps


def migrate(
    db: Connection, migrations: tuple[Migration, ...], before_migration: BeforeMigration | None = None
) -> int:
    """Bring the database up to the newest version; answer the version that it had.

    `before_migration(connection, old version)` is called once, before the first step, where there is
    something to lose: that is the place for a backup.

    Raises:
        DatabaseRefusedError: a step failed; the database stands as before that step.
    """
    old_version: int = db.pragma("user_version")
    missing = [step for step in migrations if step.version > old_version]
    if missing and old_version > 0 and before_migration is not None:
        before_migration(db, old_version)
    for step in missing:
        _apply(db, step)
    return old_version


def _apply(db: Connection, step: Migration) -> None:
    try:
        db.execute("BEGIN IMMEDIATE")
        try:
            db.execute(step.sql).fetchall()
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {step.version}")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
    except NOT_NOW as error:
        raise StoreUnavailableError(f"Migration {step.version:04d} cannot be done now: {error}") from error
    except apsw.Error as error:
        raise DatabaseRefusedError(f"Migration {step.version:04d} failed: {error}") from error

"""Backups as callers see them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from nexusd.model.fields import Mutation, NoParams, Page, Params, Record, TimeMs

MAX_NOTE = 200

BackupKind = Literal["manual", "scheduled", "migration"]
BackupName = Annotated[str, Meta(min_length=1, max_length=200, description="Its name, as `backup.list` tells it.")]
BackupStep = Literal["copying", "files", "checking", "packing", "proving", "rotating", "restoring", "drilling"]


class Backup(Record, frozen=True, kw_only=True):
    """One backup that was proven when it was made. `bytes`: of its file; `databaseBytes`: of the database inside."""

    name: str
    kind: BackupKind
    created_at: TimeMs
    bytes: int
    database_bytes: int
    schema_version: int
    program: str
    model: str | None
    rows: dict[str, int]
    files: int
    note: str | None = None


class CreateBackup(Mutation, frozen=True, kw_only=True):
    """Parameters of backup.create."""

    note: Annotated[str | None, Meta(description="What it is made for; stays in it. At most 200 characters.")] = None

    def __post_init__(self) -> None:
        """A constraint on a union of str and None binds to neither."""
        Mutation.__post_init__(self)
        if self.note is not None and not 1 <= len(self.note) <= MAX_NOTE:
            raise ValueError(f"expected `note` of 1 to {MAX_NOTE} characters")


class ListBackups(Page, frozen=True, kw_only=True):
    """Parameters of backup.list: newest first."""


class VerifyBackup(Params, frozen=True, kw_only=True):
    """Parameters of backup.verify."""

    name: Annotated[str | None, Meta(description="Which; the newest if not given.")] = None


class VerifiedBackup(Struct, frozen=True, kw_only=True, rename="camel"):
    """What backup.verify answers when everything was found as the manifest says; else the error is backup_invalid.

    `checks`: what was done, in order.
    """

    backup: Backup
    checks: list[str]
    took_ms: int


class BackupRun(Struct, frozen=True, kw_only=True, rename="camel"):
    """One that is under way. `done`: 0 to 1, of its step."""

    step: BackupStep
    done: float
    since: TimeMs


class Drill(Struct, frozen=True, kw_only=True, rename="camel"):
    """The last rehearsal of a restore. `error` null: the backup came back whole."""

    at: TimeMs
    backup: str
    took_ms: int
    error: str | None


class BackupStatus(Struct, frozen=True, kw_only=True, rename="camel"):
    """What backup.status answers. `alarm`: why the newest good backup is not what it should be, for people.

    `nextInMs` null: the timer is off. `lastError`: of the last try, null if it succeeded.
    """

    enabled: bool
    directory: str
    running: BackupRun | None
    newest: Backup | None
    newest_age_ms: int | None
    next_in_ms: int | None
    last_tried_at: TimeMs | None
    last_took_ms: int | None
    last_error: str | None
    alarm: str | None
    count: int
    bytes: int
    drill: Drill | None


class RestoreBackup(Mutation, frozen=True, kw_only=True):
    """Parameters of backup.restore."""

    name: BackupName
    dry_run: Annotated[bool, Meta(description="Only verify it, and say what would change.")] = False


class RestorePlan(Struct, frozen=True, kw_only=True, rename="camel"):
    """What a restore changes, or would. `rows`: by table, what is there now and what the backup has; null: unreadable.

    `setAside`: where what is there now goes, whole; nothing of it is ever deleted. `files`: paths that will be written,
    and those that are there and not in the backup, which go aside too.
    """

    backup: Backup
    rows: dict[str, tuple[int | None, int]]
    set_aside: str
    files_written: list[str]
    files_set_aside: list[str]
    same_model: bool
    restoring: bool


class DrillBackup(NoParams, frozen=True, kw_only=True):
    """Parameters of backup.drill."""

"""What the daemon says about itself."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from nexusd.model.backups import BackupStatus
from nexusd.model.cache import CacheStats
from nexusd.model.fields import Params, Record, TimeMs
from nexusd.model.outbox import OutboxStatus

CheckState = Literal["ok", "warning", "problem"]


class Health(Struct, frozen=True, kw_only=True, rename="camel"):
    """Whether the daemon does its job; `reasons` says what is missing, `writes` whether the store takes them.

    `degraded` passes by itself, or can wait; `failed` does neither: the database is damaged.
    """

    status: Literal["ok", "degraded", "failed", "starting", "stopping"]
    reasons: list[str]
    writes: bool = True


class DatabaseStatus(Record, frozen=True, kw_only=True):
    """The store in figures."""

    path: str
    bytes: int
    wal_bytes: int
    schema: int
    epoch: str
    read_only: bool
    queued_writes: int
    commits: int
    writes: int
    sessions: int
    episodes: int


class IndexStatus(Record, frozen=True, kw_only=True):
    """The vector index; `points` by collection, null while it does not answer.

    `verified_at` and `agrees` are of the last index.verify or index.repair that ended; `agrees` is null if it failed.
    """

    backend: str
    available: bool
    detail: str
    rebuilding: bool
    restarts: int
    points: dict[str, int] | None
    verified_at: TimeMs | None
    agrees: bool | None


class EmbedderStatus(Record, frozen=True, kw_only=True):
    """The embedding model."""

    provider: str
    model: str
    dimension: int
    state: Literal["idle", "ready", "unavailable"]
    detail: str
    restarts: int


class RerankerStatus(Record, frozen=True, kw_only=True):
    """The reranker, and what became of the searches that it was asked for since the start.

    `late` ones had their answer without it, after `deadline_ms`; `failed` ones since it could not. It is in the state
    `late` where that goes for the last five of them.
    """

    provider: str
    model: str | None
    state: Literal["idle", "loading", "ready", "late", "unavailable"]
    detail: str
    restarts: int
    deadline_ms: int
    calls: int
    in_time: int
    late: int
    failed: int
    last_failure: str | None
    last_failure_at: TimeMs | None


class MethodCount(Record, frozen=True, kw_only=True):
    """One method since the start: calls, errors (of which `faults` are internal ones), and the time they all took."""

    calls: int
    errors: int
    faults: int
    total_ms: float


class ServerStatus(Record, frozen=True, kw_only=True):
    """The listeners and what came in."""

    socket: str
    tcp: str | None
    connections: int
    methods: dict[str, MethodCount]


class FilesStatus(Record, frozen=True, kw_only=True):
    """Presets, tools and mcp-servers.json: the files that cannot be taken, each with what is wrong with it."""

    directory: str
    broken: dict[str, str]


class TaskStatus(Record, frozen=True, kw_only=True):
    """One supervised task."""

    name: str
    state: str
    restarts: int


class ProcessStatus(Record, frozen=True, kw_only=True):
    """One process of the daemon and the memory that it holds."""

    name: str
    pid: int
    resident_bytes: int


class SettingsStatus(Record, frozen=True, kw_only=True):
    """The settings since the start: how often they were taken anew or refused, and why last, until they are taken.

    `needs_restart` names those that were changed and hold only after the next start.
    """

    file: str | None
    reloads: int
    refused: int
    refusal: str | None
    needs_restart: list[str]


class LogStatus(Record, frozen=True, kw_only=True):
    """Where log entries go; `dropped` were not taken by the journal."""

    output: Literal["journal", "terminal", "logfmt"]
    dropped: int


class Reloaded(Record, frozen=True, kw_only=True):
    """What system.reload answers: settings that hold from now on, and those that will after a restart."""

    changed: list[str]
    needs_restart: list[str]


class SystemStatus(Record, frozen=True, kw_only=True):
    """What system.status answers; `reranker` is null where `search.rerank` is off."""

    version: str
    state: Literal["starting", "ready", "stopping"]
    uptime_ms: int
    health: Health
    database: DatabaseStatus
    outbox: OutboxStatus
    index: IndexStatus
    embedder: EmbedderStatus
    reranker: RerankerStatus | None
    server: ServerStatus
    backups: BackupStatus
    files: FilesStatus
    cache: CacheStats
    settings: SettingsStatus
    log: LogStatus
    tasks: list[TaskStatus]
    processes: list[ProcessStatus]


class CheckSystem(Params, frozen=True, kw_only=True):
    """Parameters of system.check."""

    thorough: Annotated[
        bool, Meta(description="Read the whole database, also where it is large: seconds for each gigabyte.")
    ] = False


class Check(Record, frozen=True, kw_only=True):
    """One thing that was looked at: how it is in a sentence and, unless it is ok, what to do about it."""

    check: str
    state: CheckState
    says: str
    advice: str | None = None


class SystemChecks(Record, frozen=True, kw_only=True):
    """What system.check answers."""

    checks: list[Check]


class Help(Params, frozen=True, kw_only=True):
    """Parameters of help."""

    method: Annotated[str | None, Meta(description="A method's name; all methods if not given.")] = None


Document = dict[str, Any]

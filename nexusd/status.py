"""The daemon's report on itself: health, status, and the line for systemctl.

Owns how the parts' figures are put together and what counts as degraded. Asks every part; none asks it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from itertools import islice

from nexusd import __version__
from nexusd.backup.keeper import Backups
from nexusd.cache import Cache
from nexusd.checkup_surroundings import shown_span
from nexusd.clock import Clock
from nexusd.config import Settings
from nexusd.embedding.serving import Serving
from nexusd.errors import IndexUnavailable, InternalError, StoreDamaged
from nexusd.files.storage import FileStorage
from nexusd.index.index import Index
from nexusd.lifecycle import Supervisor
from nexusd.log import LogControl
from nexusd.model.system import (
    DatabaseStatus,
    EmbedderStatus,
    FilesStatus,
    Health,
    IndexStatus,
    LogStatus,
    MethodCount,
    ProcessStatus,
    RerankerStatus,
    ServerStatus,
    SettingsStatus,
    SystemStatus,
    TaskStatus,
)
from nexusd.processes import resident_bytes
from nexusd.retrieval.second_stage import SecondStage
from nexusd.store.database import Database
from nexusd.store.episodes import count_episodes
from nexusd.store.meta import get_epoch
from nexusd.store.sessions import count_sessions
from nexusd.sync.collections import Collections
from nexusd.sync.reembed import Reembedding
from nexusd.sync.verify import Verifier
from nexusd.sync.worker import OutboxWorker
from nexusd.wire.dispatch import Dispatcher
from nexusd.wire.listeners import Server

COUNT_TIMEOUT_S = 1.0  # a status must not wait for an index that is busy or gone
MAX_BROKEN_FILES = 100  # shown of those that cannot be taken; the log has named each


class StatusReport:
    """Health, status and the status line, from all parts."""

    def __init__(
        self,
        *,
        settings: Settings,
        store: Database,
        index: Index,
        serving: Serving,
        collections: Collections,
        worker: OutboxWorker,
        dispatcher: Dispatcher,
        server: Server,
        supervisor: Supervisor,
        clock: Clock,
        files: FileStorage,
        cache: Cache,
        verifier: Verifier,
        settings_status: Callable[[], SettingsStatus],
        log: LogControl,
        reembedding: Reembedding,
        backups: Backups,
        second_stage: SecondStage | None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._index = index
        self._serving = serving
        self._collections = collections
        self._worker = worker
        self._dispatcher = dispatcher
        self._server = server
        self._supervisor = supervisor
        self._clock = clock
        self._files = files
        self._cache = cache
        self._verifier = verifier
        self._settings_status = settings_status
        self._log = log
        self._reembedding = reembedding
        self._backups = backups
        self._second_stage = second_stage
        self._began_s = clock.monotonic_s()

    def health(self) -> Health:
        """ok, or what is missing. The index and the embedder wake on demand: idle is no fault."""
        try:
            return self._health()
        except StoreDamaged as error:   # the outbox, say, cannot be asked; of the rest nothing counts beside that
            return Health(status="failed", reasons=[error.message], writes=False)

    def _health(self) -> Health:
        state = self._dispatcher.gate.state
        if state != "open":
            return Health(status=state, reasons=[], writes=False)
        reasons = []
        disk = self._store.progress().disk
        if disk == "damaged":
            raise StoreDamaged
        if disk != "ok":
            reasons.append(f"the store takes no writes: the disk is {disk}")
        index = self._index.health()
        if not index.available:
            reasons.append(f"index: {index.detail}")
        embedder = self._serving.model.embedder.health()
        if embedder.state == "unavailable":
            line = self._reembedding.line()
            until = f"; only words are searched until another model serves: {line}" if line else ""
            reasons.append(f"embedder: {embedder.detail}{until}")
        elif self._reembedding.stuck:
            reasons.append(self._reembedding.line())
        reranker = self.reranker()
        if reranker is not None and reranker.state in {"late", "unavailable"}:
            reasons.append(f"reranker: {reranker.detail}; hits come in the first order")
        if index.available and not self._worker.complete:
            trouble = self._worker.index_trouble
            reasons.append(f"index: {trouble}" if trouble else "index: being compared with the rows")
        reasons += [
            f"task {task.name}: {task.last_error}"
            for task in self._supervisor.states()
            if task.state in {"waiting", "failed"}
        ]
        reasons += self._verifier.troubles()
        if (alarm := self._backups.alarm()) is not None:
            reasons.append(f"backup: {alarm}; see `backup.status`")
        dead = self._worker.status().dead
        if dead:
            reasons.append(f"outbox: {dead} rows cannot be indexed; see `outbox.list` with state dead")
        return Health(status="degraded" if reasons else "ok", reasons=reasons, writes=disk == "ok")

    def line(self) -> str:
        """One line for people, as systemctl status shows it."""
        health = self.health()
        if health.status == "failed":
            return f"failed: {health.reasons[0]}"
        outbox = self._worker.status()
        waiting = outbox.pending + outbox.inflight
        age = "" if outbox.oldest_age_ms is None else f" (oldest {outbox.oldest_age_ms // 1000} s)"
        state = "ready" if self._dispatcher.gate.state == "open" else self._dispatcher.gate.state
        clients = self._server.connections
        parts = [state, f"{clients} client{'' if clients == 1 else 's'}", f"outbox {waiting}{age}"]
        line = self._reembedding.line()
        if line and not any(line in reason for reason in health.reasons):
            parts.append(line)
        parts += self._backup_line()
        parts += health.reasons
        if self.settings().refusal is not None:
            parts.append("the changed settings are refused")
        return ", ".join(parts)

    def _backup_line(self) -> list[str]:
        now = self._backups.status()
        if now.running is not None:
            return [f"backup: {now.running.step} {now.running.done:.0%}"]
        if now.newest_age_ms is None:
            return []   # soon after a first start that is as it should be; later it is an alarm
        return [f"backup {shown_span(now.newest_age_ms / 1000)} ago"]

    async def status(self) -> SystemStatus:
        """Every part in figures."""
        index, embedder, store = self._index.health(), self._serving.model.embedder.health(), self._store.stats()
        fingerprint = self._serving.model.embedder.fingerprint
        verified = self._verifier.last
        return SystemStatus(
            version=__version__,
            state="ready" if self._dispatcher.gate.state == "open" else self._dispatcher.gate.state,
            uptime_ms=int((self._clock.monotonic_s() - self._began_s) * 1000),
            health=self.health(),
            database=DatabaseStatus(
                path=str(self._settings.database_path),
                bytes=store.database_bytes,
                wal_bytes=store.writer.wal_bytes,
                schema=store.schema_version,
                epoch=await self._store.read(get_epoch),
                read_only=store.writer.disk != "ok",
                queued_writes=store.writer.waiting,
                commits=store.writer.batches,
                writes=store.writer.writes,
                sessions=await self._store.read(count_sessions),
                episodes=await self._store.read(count_episodes),
            ),
            outbox=self._worker.status(),
            index=IndexStatus(
                backend=self._settings.config.index.backend,
                available=index.available,
                detail=index.detail,
                rebuilding=index.rebuilding,
                restarts=index.restarts,
                points=await self.points(),
                verified_at=None if verified is None else verified.finished_at,
                agrees=None if verified is None else verified.agrees,
            ),
            embedder=EmbedderStatus(
                provider=fingerprint.provider,
                model=fingerprint.model,
                dimension=fingerprint.dimension,
                state=embedder.state,
                detail=embedder.detail,
                restarts=embedder.restarts,
            ),
            reranker=self.reranker(),
            server=ServerStatus(
                socket=str(self._server.socket_path),
                tcp=_shown(self._server.tcp_address),
                connections=self._server.connections,
                methods={
                    name: MethodCount(
                        calls=count["count"],
                        errors=sum(count["errors"].values()),
                        faults=count["errors"].get(InternalError.kind, 0),
                        total_ms=count["totalMs"],
                    )
                    for name, count in self._dispatcher.counters.snapshot().items()
                },
            ),
            backups=self._backups.status(),
            files=FilesStatus(
                directory=str(self._settings.files_directory),
                broken=dict(islice(self._files.broken().items(), MAX_BROKEN_FILES)),
            ),
            cache=self._cache.stats(),
            settings=self.settings(),
            log=self.log(),
            tasks=[
                TaskStatus(name=task.name, state=task.state, restarts=task.restarts)
                for task in self._supervisor.states()
            ],
            processes=[
                ProcessStatus(name=name, pid=pid, resident_bytes=size)
                for name, pid in self.processes()
                if (size := resident_bytes(pid)) is not None
            ],
        )

    def settings(self) -> SettingsStatus:
        """How often the settings were taken anew, and what is left for a restart."""
        return self._settings_status()

    def log(self) -> LogStatus:
        """Where log entries go, and how many were lost on the way."""
        return LogStatus(output=self._log.kind, dropped=self._log.dropped)

    def reranker(self) -> RerankerStatus | None:
        """How the second stage of searches does; None where there is none."""
        stage, config = self._second_stage, self._settings.config.search.rerank
        if stage is None:
            return None
        health, failure = stage.health(), stage.last_failure
        late = stage.always_late and health.state in {"idle", "ready"}   # idle: no answer of a service was awaited
        return RerankerStatus(
            provider=config.provider,
            model=config.model,
            state="late" if late else health.state,
            detail=f"no search had its answer within {config.deadline_ms} ms lately" if late else health.detail,
            restarts=health.restarts,
            deadline_ms=config.deadline_ms,
            calls=stage.in_time + stage.late + stage.failed,
            in_time=stage.in_time,
            late=stage.late,
            failed=stage.failed,
            last_failure=None if failure is None else failure.detail,
            last_failure_at=None if failure is None else failure.at_ms,
        )

    def processes(self) -> list[tuple[str, int]]:
        """The processes of the daemon; the index has a second one while its search graph is made anew."""
        return [
            ("daemon", os.getpid()),
            *zip(("index", "index_rebuild"), self._index.health().process_ids, strict=False),
            *zip(("embedder",), self._serving.model.embedder.health().process_ids, strict=False),
            *zip(("embedder_next",), self._reembedding.process_ids, strict=False),
            *zip(("reranker",), self._second_stage.health().process_ids if self._second_stage else (), strict=False),
        ]

    async def points(self) -> dict[str, int] | None:
        """What the index holds by collection; None while it does not answer."""
        try:
            async with asyncio.timeout(COUNT_TIMEOUT_S):
                return {
                    name: await self._index.count(self._serving.model.physical(name))
                    for name in self._collections.logical
                }
        except (IndexUnavailable, TimeoutError):
            return None


def _shown(address: tuple[str, int] | None) -> str | None:
    if address is None:
        return None
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

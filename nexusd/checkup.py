"""The daemon's examination of itself: every part looked at, and in plain words what to do about it.

Owns which parts there are, how long each may take, and what is said of the store, the index, the embedder and the
outbox; what these stand on is `checkup_surroundings`'. A part that is down, slow or broken spoils its own line and no
other's. What health calls degraded is here a warning or a problem as well. Asks every part; none asks it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import structlog

from nexusd.backup.keeper import Backups
from nexusd.checkup_replication import check_replication
from nexusd.checkup_reranker import check_reranker
from nexusd.checkup_surroundings import (
    check_certificate,
    check_clock,
    check_disk,
    check_memory,
    check_permissions,
    check_settings,
    finding,
    ok,
    shown_size,
    shown_span,
    worst,
)
from nexusd.clock import Clock
from nexusd.config import Settings
from nexusd.embedding.http_settings import describe_service
from nexusd.embedding.serving import Serving
from nexusd.errors import Busy, RpcError, StoreDamaged
from nexusd.files.storage import FileStorage
from nexusd.index.index import Index
from nexusd.lifecycle import Supervisor
from nexusd.model.index import IndexReport, IndexState
from nexusd.model.system import Check, CheckSystem, SystemChecks
from nexusd.reloading import Reloader
from nexusd.retrieval.second_stage import SecondStage
from nexusd.store.database import Database
from nexusd.store.integrity import check_references, check_table, count_full_text, newest_ms, table_names
from nexusd.store.memory_filter import TEXT_TABLES
from nexusd.sync.worker import OutboxWorker
from nexusd.wire.tls_keys import CertificateState

TIMEOUT_S = 5.0
PROBE_TIMEOUT_S = 15.0          # the built-in model is loaded by its first text
READING_TIMEOUT_S = 30.0        # of a database that is read without being asked for
THOROUGH_TIMEOUT_S = 1800.0
MAX_READ_BYTES = 256 * 1024 * 1024  # a larger database is read only where that is asked for
LARGE_WAL_BYTES = 128 * 1024 * 1024  # twice where the writer insists on folding it in
OLD_ROW_S = 600.0               # a row that waits longer than any pause and any batch
UNVERIFIED_S = 8 * 86_400.0
SAME_MODEL = 0.98               # the same weights on another processor differ by less
SHOWN_FINDINGS = 3
SEE_LOG = "journalctl -u nexusd -n 50, or where its standard error goes"

Look = Callable[[], Awaitable[Check]]


class Checkup:
    """The examination. Made with the daemon: it remembers what both clocks showed then."""

    def __init__(
        self,
        *,
        settings: Settings,
        store: Database,
        index: Index,
        serving: Serving,
        worker: OutboxWorker,
        supervisor: Supervisor,
        files: FileStorage,
        processes: Callable[[], list[tuple[str, int]]],
        reloader: Reloader,
        load: Callable[[], Settings],
        clock: Clock,
        index_state: Callable[[], Awaitable[IndexState]] | None = None,
        backups: Backups,
        socket_path: Callable[[], Path],
        certificate: Callable[[], CertificateState] | None = None,
        second_stage: SecondStage | None = None,
    ) -> None:
        """`socket_path` answers where the Unix socket really is: systemd may have opened it.

        `certificate` where there is one, which is where TLS is spoken; `second_stage` where hits are reranked.
        """
        self._settings = settings
        self._store = store
        self._index = index
        self._serving = serving
        self._worker = worker
        self._supervisor = supervisor
        self._files = files
        self._processes = processes
        self._reloader = reloader
        self._load = load
        self._index_state = index_state
        self._backups = backups
        self._socket_path = socket_path
        self._certificate = certificate
        self._second_stage = second_stage
        self._clock = clock
        self._started = clock.now_ms(), clock.monotonic_s()
        self._probes = itertools.count(1)
        self._log = structlog.get_logger("nexusd.checkup")

    async def examine(self, params: CheckSystem) -> SystemChecks:
        """Look at everything at once; the answer takes as long as the slowest part."""
        large = self._store.stats().database_bytes > MAX_READ_BYTES
        reads = params.thorough or not large
        reading_s = THOROUGH_TIMEOUT_S if params.thorough else READING_TIMEOUT_S
        looks: list[tuple[str, Look, float]] = [
            ("settings", self._check_settings, TIMEOUT_S),
            ("permissions", self._check_permissions, TIMEOUT_S),
            ("disk", self._check_disk, TIMEOUT_S),
            ("database", lambda: self._check_database(reads=reads), reading_s),
            ("full text", lambda: self._check_full_text(reads=reads), reading_s),
            ("index", self._check_index, TIMEOUT_S),
            ("embedder", self._check_embedder, PROBE_TIMEOUT_S),
            ("outbox", self._check_outbox, TIMEOUT_S),
            ("files", self._check_files, TIMEOUT_S),
            ("backups", self._check_backups, TIMEOUT_S),
            ("replication", self._check_replication, TIMEOUT_S),
            ("clock", self._check_clock, TIMEOUT_S),
            ("memory", self._check_memory, TIMEOUT_S),
            ("tasks", self._check_tasks, TIMEOUT_S),
        ]
        if self._certificate is not None:
            looks.append(("certificate", partial(self._check_certificate, self._certificate), TIMEOUT_S))
        if self._second_stage is not None:
            look = partial(check_reranker, self._second_stage, self._settings.config.search.rerank)
            looks.append(("reranker", look, PROBE_TIMEOUT_S))
        return SystemChecks(checks=await asyncio.gather(*(self._one(*look) for look in looks)))

    async def _one(self, name: str, look: Look, timeout_s: float) -> Check:
        """One check, whatever happens to it."""
        try:
            async with asyncio.timeout(timeout_s):
                return await look()
        except TimeoutError:
            says = f"not looked at to its end within {timeout_s:.0f} s"
            return finding(name, "warning", says, "nexusctl doctor, when the machine has less to do")
        except Busy:
            says = "a part of it was not read within storage.readTimeoutS"
            return finding(name, "warning", says, "nexusctl doctor, when the machine has less to do")
        except RpcError as error:  # of the store, say: it names what is wrong
            return finding(name, "problem", f"could not be looked at: {error.message}", SEE_LOG)
        except Exception as error:  # noqa: BLE001 - logged; what the others found is worth more when one part fails
            self._log.exception("a check failed", check=name)
            return finding(name, "problem", f"could not be looked at: {type(error).__name__}", SEE_LOG)

    # --- what it stands on: asked beside the loop, since a disk may hang ---

    async def _check_settings(self) -> Check:
        held, changeable = self._reloader.settings, self._reloader.changeable
        return await asyncio.to_thread(check_settings, held, self._load, changeable)

    async def _check_permissions(self) -> Check:
        return await asyncio.to_thread(check_permissions, self._settings, self._socket_path(), os.geteuid())

    async def _check_disk(self) -> Check:
        stats = self._store.stats()
        refused = None if stats.writer.disk == "ok" else stats.writer.disk
        places = (self._settings.data_directory, self._settings.database_path.parent, self._settings.files_directory)
        return await asyncio.to_thread(check_disk, places, stats.database_bytes, refused)

    async def _check_replication(self) -> Check:
        return await asyncio.to_thread(check_replication, self._settings)

    async def _check_clock(self) -> Check:
        return check_clock(self._clock, self._started, await self._store.read(newest_ms))

    async def _check_memory(self) -> Check:
        return await asyncio.to_thread(check_memory, self._processes())

    async def _check_certificate(self, state: Callable[[], CertificateState]) -> Check:
        return check_certificate(state(), self._clock.now_ms())

    # --- its own parts ---

    async def _check_database(self, *, reads: bool) -> Check:
        directory, stats = self._settings.data_directory, self._store.stats()
        size = f"{shown_size(stats.database_bytes)}, WAL {shown_size(stats.writer.wal_bytes)}"
        if not self._store.in_place():
            says = f"{self._store.path} was moved or removed while it is open"
            return finding("database", "problem", says, "Stop nexusd, put the file back, start it")
        broken = await self._broken(reads=reads)
        found = []
        if broken:
            advice = (
                "Put a backup in its place, which sets aside what is there: nexusctl restore NAME\n"
                f"What else can be saved of it: stop nexusd, cp -a {directory} {directory}.damaged, then in that "
                f"copy: sqlite3 {self._store.path.name} .recover | sqlite3 saved.db"
            )
            found.append(finding("", "problem", _few(broken), advice))
        if stats.writer.wal_bytes > LARGE_WAL_BYTES:
            says = f"the WAL has grown to {shown_size(stats.writer.wal_bytes)}: somebody reads without end"
            advice = f"See who else has the database open: fuser -v {self._store.path}"
            found.append(finding("", "warning", says, advice))
        if not reads:
            says = f"references are whole; too large to be read unasked: {size}. nexusctl doctor --thorough reads it"
            return worst("database", found, says)
        return worst("database", found, f"every page is sound, every reference leads somewhere: {size}")

    async def _broken(self, *, reads: bool) -> list[str]:
        """What is wrong with pages and references, a sentence a finding."""
        broken: list[str] = []
        try:
            broken += await self._store.read(check_references)
            tables = await self._store.read(table_names) if reads else []
            for name in tables:  # a read of its own each: none holds the WAL back for long
                broken += await self._store.read(check_table, name)
        except StoreDamaged as error:
            return [*broken, error.message]
        if self._store.progress().disk == "damaged":
            broken.append(StoreDamaged().message)
        return broken

    async def _check_full_text(self, *, reads: bool) -> Check:
        found = []
        for table in TEXT_TABLES.values():
            missing, orphaned = await self._store.read(count_full_text, table.name)
            wrong = [f"it lacks {_rows(missing)} of {table.name}"] if missing else []
            wrong += [f"it holds {orphaned:,} of {table.name} that are gone"] if orphaned else []
            if reads and not wrong:
                differing = await self._store.read(check_table, f"{table.name}_fts")
                wrong = [f"that of {table.name} is damaged"] if differing else []
            advice = "nexusctl index repair"
            found += [finding("", "problem", f"search by words is not whole: {one}", advice) for one in wrong]
        whole = " and is whole in itself" if reads else ""
        return worst("full text", found, f"search by words has every row{whole}")

    async def _check_index(self) -> Check:
        health, backend = self._index.health(), self._settings.config.index.backend
        if not health.available:
            where = "its log: journalctl -u nexusd -n 50" if backend == "embedded" else "index.url, and that server"
            says = f"the {backend} index does not answer: {health.detail}; searches go by words alone"
            return finding("index", "problem", says, f"It is tried again by itself. See {where}")
        if not self._worker.complete:
            trouble = self._worker.index_trouble
            if trouble:
                return finding("index", "problem", trouble, f"It is tried again by itself. {SEE_LOG}")
            says = "being compared with the rows: searches may miss some"
            return finding("index", "warning", says, "Wait for it: nexusctl index status")
        if self._index_state is None:
            return ok("index", f"{backend}, complete")
        state = await self._index_state()
        now_ms = self._clock.now_ms()
        found = [*_reembedding(state), *_verified(state.last_verify, now_ms)]
        if state.dropped_hits:
            says = f"{state.dropped_hits:,} hits had no row any more and were left out of answers"
            found.append(finding("", "warning", says, "nexusctl index verify"))
        points = sum(one.points or 0 for one in state.collections)
        verified = "not compared in full yet, which happens every night"
        if state.last_verify is not None:
            ago_s = (now_ms - (state.last_verify.finished_at or now_ms)) / 1000
            outcome = "agreed" if state.last_verify.agrees else "what differed was mended"
            verified = f"compared in full {shown_span(max(0.0, ago_s))} ago, and {outcome}"
        return worst("index", found, f"{backend}, complete, {points:,} points; {verified}")

    async def _check_embedder(self) -> Check:
        embedder = self._serving.model.embedder
        began_s = self._clock.monotonic_s()
        text = f"Does the model answer? {self._clock.now_ms()} {next(self._probes)}"
        try:  # a text that was never asked for, or its vector would come out of the cache
            vector = await embedder.embed_query(text)
        except RpcError as error:
            says = f"{error.message}; new rows wait, and searches go by words alone"
            return finding("embedder", "problem", says, f"It is tried again by itself. {self._embedder_advice()}")
        took_ms = (self._clock.monotonic_s() - began_s) * 1000
        model = f"{embedder.fingerprint.provider} {embedder.fingerprint.model}"
        return ok("embedder", f"{model} gave a vector of {len(vector) // 4} numbers in {took_ms:,.0f} ms")

    def _embedder_advice(self) -> str:
        config, serving = self._settings.config.embedding, self._serving.model.embedder.fingerprint
        if config.provider == serving.provider == "builtin":
            return SEE_LOG
        if config.provider == "builtin" or (service := describe_service(config)).fingerprint != serving:
            return "Another model is configured, and serves as soon as it has all rows: nexusctl index reembed"
        return f"See whether that service runs: curl -sS {service.origin}"

    async def _check_outbox(self) -> Check:
        status = self._worker.status()
        waiting, age_s = status.pending + status.inflight, (status.oldest_age_ms or 0) / 1000
        found = []
        if status.dead:
            says = f"{_rows(status.dead)} cannot be indexed: by meaning nothing of it is found"
            advice = "See why: nexusctl outbox list --state dead; then: nexusctl outbox retry --all"
            found.append(finding("", "warning", says, advice))
        if age_s > OLD_ROW_S:
            says = f"{_rows(waiting)} still to be indexed, the oldest for {shown_span(age_s)}"
            away = [name for name in ("embedder", "index") if getattr(status, name) != "closed"]
            why = f" (the {' and the '.join(away)} cannot be reached)" if away else ""
            found.append(finding("", "warning", says + why, "nexusctl outbox watch"))
        says = f"{_rows(waiting)} to be indexed, the oldest for {shown_span(age_s)}" if waiting else "nothing is owed"
        return worst("outbox", found, says)

    async def _check_files(self) -> Check:
        broken = self._files.broken()
        if not broken:
            return ok("files", f"presets, tools and MCP servers in {self._settings.files_directory} can be taken")
        says = _few([f"{name}: {why}" for name, why in broken.items()])
        return finding("files", "warning", says, "Mend the file: a change is noticed by itself")

    async def _check_backups(self) -> Check:
        await self._backups.look()
        status, found = self._backups.status(), []
        if status.alarm is not None:
            found.append(finding("", "problem", status.alarm, "Make one now: nexusctl backup now"))
        elif status.last_error is not None:
            found.append(finding("", "warning", f"the last try failed: {status.last_error}", "nexusctl backup now"))
        if not status.enabled:
            says = "none are made by themselves (storage.backups.enabled is false)"
            found.append(finding("", "warning", says, "nexusctl backup now, from a timer of yours; or set it to true"))
        if status.newest is None or status.newest_age_ms is None:
            due_ms = status.next_in_ms
            first = "" if due_ms is None else f"; the first is made in {shown_span(due_ms / 1000)}"
            return worst("backups", found, f"there is none yet{first}")
        ago, size = shown_span(status.newest_age_ms / 1000), shown_size(status.bytes)
        return worst("backups", found, f"{status.count} in {status.directory} ({size}), the newest {ago} old")

    async def _check_tasks(self) -> Check:
        states = self._supervisor.states()
        found = [
            finding("", "problem", f"{task.name}: {task.last_error}", SEE_LOG)
            for task in states
            if task.state in {"waiting", "failed"}
        ]
        return worst("tasks", found, f"all {len(states)} are running")


def _reembedding(state: IndexState) -> list[Check]:
    """What a change of the model asks of people."""
    progress = state.reembed
    if progress.state == "failed":
        says = f"the change to another embedding model has stopped: {progress.detail}"
        return [finding("", "problem", says, "nexusctl index reembed")]
    return []


def _verified(report: IndexReport | None, now_ms: int) -> list[Check]:
    """What the last full comparison asks of people."""
    if report is None:
        return []
    found = []
    if report.state == "failed":
        says = f"the last comparison broke off: {report.error}"
        found.append(finding("", "warning", says, "nexusctl index verify"))
    if report.agrees is False and report.mended is None:
        says = "the last comparison found that index and rows differ"
        found.append(finding("", "problem", says, "nexusctl index repair"))
    if report.model_similarity is not None and report.model_similarity < SAME_MODEL:
        says = f"the embedding model gives other vectors than before (similarity {report.model_similarity:.2f})"
        found.append(finding("", "problem", says, "nexusctl index reembed --force"))
    if report.finished_at is not None and (now_ms - report.finished_at) / 1000 > UNVERIFIED_S:
        says = f"not compared in full for {shown_span((now_ms - report.finished_at) / 1000)}"
        found.append(finding("", "warning", says, "nexusctl index verify"))
    return found


def _rows(number: int) -> str:
    return "1 row" if number == 1 else f"{number:,} rows"


def _few(findings: list[str]) -> str:
    more = f"; and {len(findings) - SHOWN_FINDINGS:,} more" if len(findings) > SHOWN_FINDINGS else ""
    return "; ".join(findings[:SHOWN_FINDINGS]) + more

"""The daemon's figures as text for Prometheus.

Owns the names, the help texts and the labels of the metrics. Asks every part; none asks it. What is counted is
counted where it happens: here is a picture of it, taken when somebody asks. Labels come from closed sets (the
method table, the error tree, the collections), so that a scrape stays as small as the daemon is.

The picture is taken on the loop in a moment. Reading /proc and making the text are for a thread: thousands of
lines take longer than requests should wait.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from nexusd import __version__
from nexusd.clock import Clock
from nexusd.embedding.embedder import EmbedderHealth
from nexusd.embedding.serving import Serving
from nexusd.index.index import Index, IndexHealth
from nexusd.lifecycle import Supervisor
from nexusd.metric_forms import counter as _counter
from nexusd.metric_forms import counters as _counters
from nexusd.metric_forms import cumulated as _cumulated
from nexusd.metric_forms import gauge as _gauge
from nexusd.metric_forms import gauges as _gauges
from nexusd.metric_forms import states as _states
from nexusd.metric_reranker import reranker_metrics
from nexusd.model.backups import BackupStatus
from nexusd.model.cache import CacheStats
from nexusd.model.index import IndexReport, ReembedProgress
from nexusd.model.outbox import BreakerState, OutboxState
from nexusd.model.system import RerankerStatus, SettingsStatus
from nexusd.processes import cpu_seconds, resident_bytes
from nexusd.status import StatusReport
from nexusd.store.backlog import count_collections
from nexusd.store.database import Database, StoreStats
from nexusd.store.outbox import OutboxCounts
from nexusd.store.writer import DiskState
from nexusd.sync.verify import Verifier
from nexusd.sync.worker import OutboxWorker
from nexusd.wire.counters import DURATION_BUCKETS_S
from nexusd.wire.dispatch import Dispatcher
from nexusd.wire.events import EventHub, EventStats
from nexusd.wire.listeners import Server

HEALTH_STATES = ("starting", "ok", "degraded", "failed", "stopping")
EMBEDDER_STATES = ("idle", "ready", "unavailable")
NOTHING_WAITS = OutboxCounts(pending=0, inflight=0, dead=0, oldest_ms=None)

Families = Iterator[Metric]


@dataclass(frozen=True, slots=True)
class _Calls:
    """One method's figures, held still."""

    method: str
    count: int
    seconds: float
    buckets: tuple[int, ...]
    errors: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Picture:
    """Every part's figures at one moment. `points` is None while the index does not answer."""

    now_ms: int
    uptime_s: float
    health: str
    settings: SettingsStatus
    log_dropped: int
    calls: Sequence[_Calls]
    connections: int
    peers: int
    refused: int
    in_flight: int
    store: StoreStats
    outbox: Mapping[str, OutboxCounts]
    breakers: Mapping[str, BreakerState]
    index: IndexHealth
    points: Mapping[str, int] | None
    verified: IndexReport | None
    verifying: bool
    dropped_hits: int
    embedder: EmbedderHealth
    reranker: RerankerStatus | None
    query_cache: tuple[int, int, int]
    reembed: ReembedProgress
    backups: BackupStatus | None
    cache: CacheStats | None
    events: EventStats
    restarts: Mapping[str, int]
    processes: Sequence[tuple[str, int]]


class Metrics:
    """What GET /metrics answers."""

    def __init__(
        self,
        *,
        report: StatusReport,
        dispatcher: Dispatcher,
        server: Server,
        store: Database,
        worker: OutboxWorker,
        collections: Sequence[str],
        index: Index,
        serving: Serving,
        hub: EventHub,
        supervisor: Supervisor,
        clock: Clock,
        reembed: Callable[[], ReembedProgress],
        verifier: Verifier,
        cache: Callable[[], CacheStats] | None = None,
        backups: Callable[[], BackupStatus] | None = None,
    ) -> None:
        """`collections` are the logical ones; a part that is not there has no figures."""
        self._report = report
        self._dispatcher = dispatcher
        self._server = server
        self._store = store
        self._worker = worker
        self._collections = collections
        self._index = index
        self._serving = serving
        self._hub = hub
        self._supervisor = supervisor
        self._clock = clock
        self._reembed = reembed
        self._verifier = verifier
        self._cache = cache
        self._backups = backups
        self._began_s = clock.monotonic_s()

    async def render(self) -> tuple[bytes, str]:
        """The text of now, and its content type.

        Raises:
            Busy: the readers of the store are taken for too long.
        """
        outbox, points = await asyncio.gather(self._store.read(count_collections), self._report.points())
        picture = self._picture({name: outbox.get(name, NOTHING_WAITS) for name in self._collections}, points)
        return await asyncio.to_thread(_text, picture), CONTENT_TYPE_PLAIN_0_0_4

    def _picture(self, outbox: Mapping[str, OutboxCounts], points: Mapping[str, int] | None) -> _Picture:
        queries = self._serving.model.embedder.queries
        return _Picture(
            now_ms=self._clock.now_ms(),
            uptime_s=self._clock.monotonic_s() - self._began_s,
            health=self._report.health().status,
            settings=self._report.settings(),
            log_dropped=self._report.log().dropped,
            calls=[
                _Calls(name, count.count, count.seconds, tuple(count.buckets), dict(count.errors))
                for name, count in self._dispatcher.counters.called()
            ],
            connections=self._server.connections,
            peers=self._server.peers,
            refused=self._server.refused,
            in_flight=self._server.requests,
            store=self._store.stats(),
            outbox=outbox,
            breakers={
                breaker.name: breaker.state
                for breaker in (self._worker.index_breaker, self._worker.embedder_breaker)
            },
            index=self._index.health(),
            points=points,
            verified=self._verifier.last,
            verifying=self._verifier.job is not None,
            dropped_hits=self._verifier.dropped_hits,
            embedder=self._serving.model.embedder.health(),
            reranker=self._report.reranker(),
            query_cache=(len(queries), queries.hits, queries.misses),
            reembed=self._reembed(),
            backups=None if self._backups is None else self._backups(),
            cache=None if self._cache is None else self._cache(),
            events=self._hub.stats(),
            restarts={task.name: task.restarts for task in self._supervisor.states()},
            processes=self._report.processes(),
        )


class _PictureCollector(Collector):
    """A picture as prometheus-client takes it."""

    def __init__(self, picture: _Picture) -> None:
        self._picture = picture

    def collect(self) -> Families:
        """Every metric."""
        for section in (_daemon, _wire, _store, _outbox, _index, _embedder, _backups, _cache, _events, _processes):
            yield from section(self._picture)
        yield from reranker_metrics(self._picture.reranker)


def _text(picture: _Picture) -> bytes:
    registry = CollectorRegistry(auto_describe=False)   # of this picture alone: two scrapes may meet
    registry.register(_PictureCollector(picture))
    return generate_latest(registry)


# --- the metrics, a part each ---


def _daemon(now: _Picture) -> Families:
    yield InfoMetricFamily(
        "nexusd_build", "The version that runs, and what it runs on.",
        {"version": __version__, "python": platform.python_version(), "schema": str(now.store.schema_version)},
    )
    yield _gauge("nexusd_uptime_seconds", "Time since the start.", now.uptime_s)
    yield _states("nexusd_health", "How the daemon is; degraded: see health.", HEALTH_STATES, now.health)
    yield _counters(
        "nexusd_settings_reloads", "Times that the settings were read anew: taken, or refused as wrong.", "outcome",
        {"taken": now.settings.reloads, "refused": now.settings.refused},
    )
    yield _gauge(
        "nexusd_settings_need_restart", "Settings that were changed and wait for a restart.",
        len(now.settings.needs_restart),
    )
    yield _counter("nexusd_log_entries_dropped", "Log entries that the journal did not take.", now.log_dropped)
    yield _counters("nexusd_task_restarts", "Times that an inner task was begun again.", "task", now.restarts)


def _wire(now: _Picture) -> Families:
    yield _counters(
        "nexusd_requests", "Requests answered, by method; (unknown) for names that are none.", "method",
        {calls.method: calls.count for calls in now.calls},
    )
    errors = CounterMetricFamily(
        "nexusd_request_errors", "Requests answered with an error, by method and kind.", labels=["method", "kind"]
    )
    durations = HistogramMetricFamily(
        "nexusd_request_duration_seconds", "Time from a request to its answer, by method.", labels=["method"]
    )
    for calls in now.calls:
        for kind, count in sorted(calls.errors.items()):
            errors.add_metric([calls.method, kind], count)
        durations.add_metric([calls.method], _cumulated(DURATION_BUCKETS_S, calls.buckets), calls.seconds)
    yield errors
    yield durations
    yield _gauge("nexusd_requests_in_flight", "Requests that are being answered.", now.in_flight)
    yield _gauge("nexusd_connections", "Connections that are open.", now.connections)
    yield _gauge("nexusd_connection_peers", "Users and addresses that connections come from.", now.peers)
    yield _counter("nexusd_connections_refused", "Connections that found no room.", now.refused)


def _store(now: _Picture) -> Families:
    writer = now.store.writer
    yield _gauge("nexusd_write_queue_depth", "Writes that wait for their commit.", writer.waiting)
    yield _counter("nexusd_writes", "Writes committed.", writer.writes)
    yield _counter("nexusd_commits", "Commits, each of one or more writes.", writer.batches)
    yield _counter("nexusd_commits_failed", "Commits that were undone.", writer.lost_batches)
    sizes = HistogramMetricFamily("nexusd_commit_writes", "Writes in a commit.")
    bounds = [2**power for power in range(len(writer.batches_by_size))]
    sizes.add_metric([], _cumulated(bounds, (*writer.batches_by_size, 0)), writer.writes)
    yield sizes
    yield _gauge("nexusd_database_bytes", "Size of the database file.", now.store.database_bytes)
    yield _gauge("nexusd_wal_bytes", "Size of the write-ahead log.", writer.wal_bytes)
    yield _states("nexusd_disk_state", "Whether writes are taken.", get_args(DiskState), writer.disk)


def _outbox(now: _Picture) -> Families:
    rows = GaugeMetricFamily(
        "nexusd_outbox_rows", "Rows that the index does not hold yet, by collection and state; dead: given up.",
        labels=["collection", "state"],
    )  # fmt: skip
    ages = GaugeMetricFamily(
        "nexusd_outbox_oldest_age_seconds", "How long the oldest row that is not dead waits; 0 where none does.",
        labels=["collection"],
    )  # fmt: skip
    for collection, counts in now.outbox.items():
        for state in get_args(OutboxState):
            rows.add_metric([collection, state], getattr(counts, state))
        waits_ms = 0 if counts.oldest_ms is None else max(0, now.now_ms - counts.oldest_ms)
        ages.add_metric([collection], waits_ms / 1000)
    yield rows
    yield ages
    breakers = GaugeMetricFamily(
        "nexusd_breaker_state", "Whether the outbox asks a part (closed) or leaves it alone for a while (open).",
        labels=["part", "state"],
    )  # fmt: skip
    for part, current in now.breakers.items():
        for state in get_args(BreakerState):
            breakers.add_metric([part, state], state == current)
    yield breakers


def _index(now: _Picture) -> Families:
    yield _gauge("nexusd_index_up", "Whether the vector index answers.", now.index.available)
    yield _gauge("nexusd_index_rebuilding", "Whether a search graph is being made anew.", now.index.rebuilding)
    yield _counter("nexusd_index_restarts", "Times that the index was started again.", now.index.restarts)
    if now.points is not None:
        yield _gauges("nexusd_index_points", "Points that the index holds, by collection.", "collection", now.points)
    yield _gauge("nexusd_index_verifying", "Whether index and rows are being compared.", now.verifying)
    if now.verified is not None and now.verified.finished_at is not None:
        ended_s = now.verified.finished_at / 1000
        yield _gauge("nexusd_index_verified_timestamp_seconds", "When index and rows were compared last.", ended_s)
        agreed = now.verified.agrees is True
        yield _gauge("nexusd_index_agrees", "Whether nothing differed then, and it did not fail.", agreed)
    yield _counter(
        "nexusd_search_dropped_hits", "Hits dropped since their row was gone, and nothing was queued about it.",
        now.dropped_hits,
    )  # fmt: skip


def _embedder(now: _Picture) -> Families:
    yield _states("nexusd_embedder_state", "How the embedding model is.", EMBEDDER_STATES, now.embedder.state)
    yield _counter("nexusd_embedder_restarts", "Times that the model was started again.", now.embedder.restarts)
    entries, hits, misses = now.query_cache
    yield _gauge("nexusd_query_cache_entries", "Vectors of recent queries that are kept.", entries)
    yield _counter("nexusd_query_cache_hits", "Queries whose vector was there or under way.", hits)
    yield _counter("nexusd_query_cache_misses", "Queries that had to be embedded.", misses)
    reembed = now.reembed
    rows = {"done": reembed.done, "dead": reembed.dead, "left": reembed.total - reembed.done - reembed.dead}
    yield _gauge("nexusd_reembed_running", "Whether another model's vectors are being made.", reembed.next is not None)
    yield _gauges("nexusd_reembed_rows", "Rows of the re-embedding that runs, or ran last.", "state", rows)


def _backups(now: _Picture) -> Families:
    backups = now.backups
    if backups is None:
        return
    yield _gauge("nexusd_backups", "Backups that there are.", backups.count)
    yield _gauge("nexusd_backups_bytes", "What they take on the disk.", backups.bytes)
    if backups.newest is not None:
        made_s = backups.newest.created_at / 1000
        yield _gauge("nexusd_backup_newest_timestamp_seconds", "When the newest good backup was made.", made_s)
    if backups.last_took_ms is not None:
        yield _gauge("nexusd_backup_duration_seconds", "How long the last one took.", backups.last_took_ms / 1000)
    yield _gauge("nexusd_backup_running", "Whether a backup is being worked on.", backups.running is not None)
    yield _gauge("nexusd_backup_failed", "Whether the last try made none.", backups.last_error is not None)
    if (drill := backups.drill) is not None:
        yield _gauge("nexusd_backup_drill_timestamp_seconds", "When a restore was last rehearsed.", drill.at / 1000)
        yield _gauge("nexusd_backup_drill_failed", "Whether that rehearsal failed.", drill.error is not None)
    yield _gauge("nexusd_backup_alarm", "Whether the newest is too old, or no good.", backups.alarm is not None)


def _cache(now: _Picture) -> Families:
    cache = now.cache
    if cache is None:
        return
    yield _gauge("nexusd_cache_entries", "Values in the cache.", cache.entries)
    yield _gauge("nexusd_cache_bytes", "Bytes of the values in the cache, with their keys.", cache.bytes)
    yield _gauge("nexusd_cache_max_bytes", "Bytes that the cache may hold.", cache.max_bytes)
    yield _counter("nexusd_cache_hits", "Values that were asked for and found.", cache.hits)
    yield _counter("nexusd_cache_misses", "Values that were asked for and not found.", cache.misses)
    yield _counter("nexusd_cache_evictions", "Values that gave way to others.", cache.evictions)
    yield _counter("nexusd_cache_expirations", "Values that had had their time.", cache.expirations)


def _events(now: _Picture) -> Families:
    events = now.events
    yield _gauge("nexusd_event_connections", "Connections that listen to events.", events.connections)
    yield _gauge("nexusd_event_subscriptions", "Subscriptions to events.", events.subscriptions)
    yield _counter("nexusd_events", "Events, whether or not anybody listened.", events.published)
    yield _counter("nexusd_events_lagged", "Times that a listener was told that it fell behind.", events.lagged)


def _processes(now: _Picture) -> Families:
    resident = GaugeMetricFamily(
        "nexusd_process_resident_bytes", "Memory that a process holds.", labels=["process"]
    )
    cpu = CounterMetricFamily(
        "nexusd_process_cpu_seconds", "Processor time that a process took since its own start.", labels=["process"]
    )
    for name, pid in now.processes:
        if (held := resident_bytes(pid)) is not None:
            resident.add_metric([name], held)
        if (took := cpu_seconds(pid)) is not None:
            cpu.add_metric([name], took)
    yield resident
    yield cpu

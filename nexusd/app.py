"""The composition root: builds every part, starts them in order, stops them in reverse.

Owns who is given what, and the order of start and stop. Nobody imports this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import os
import random
import sys
from collections.abc import Callable

import structlog
import uvloop

from nexusd import __version__
from nexusd.api.cache import CacheApi
from nexusd.api.conversations import ConversationsApi
from nexusd.api.entities import EntitiesApi
from nexusd.api.episodes import EpisodesApi
from nexusd.api.events import EventsApi
from nexusd.api.graph import GraphApi
from nexusd.api.groups import GroupsApi
from nexusd.api.imports import ImportsApi
from nexusd.api.index import IndexApi
from nexusd.api.mcp_servers import McpServersApi
from nexusd.api.memory import MemoryApi
from nexusd.api.messages import MessagesApi
from nexusd.api.outbox import OutboxApi
from nexusd.api.presets import PresetsApi
from nexusd.api.projects import ProjectsApi
from nexusd.api.reembed import ReembedApi
from nexusd.api.relationships import RelationshipsApi
from nexusd.api.rest_routes import rest_routes
from nexusd.api.semantic import SemanticApi
from nexusd.api.sessions import SessionsApi
from nexusd.api.summaries import SummariesApi
from nexusd.api.system import SystemApi
from nexusd.api.tool_logs import ToolLogsApi
from nexusd.api.tools import ToolsApi
from nexusd.api.users import UsersApi
from nexusd.api.vectors import VectorsApi
from nexusd.cache import Cache
from nexusd.checkup import Checkup
from nexusd.clock import SystemClock
from nexusd.config import Config, Settings
from nexusd.data_directory import make_data_directory
from nexusd.embedding.providers import make_embedder
from nexusd.errors import RpcError, StoreUnavailableError
from nexusd.files.storage import FileStorage
from nexusd.index.embedded import EmbeddedIndex
from nexusd.index.index import Index
from nexusd.index.server import ServerIndex
from nexusd.life_signs import LifeSigns
from nexusd.lifecycle import ExitCode, Notifier, StopSignal, Supervisor, reload_on_hangup, stop_on_signals
from nexusd.log import LogControl, configure, log_loop_errors, log_stray_errors
from nexusd.metrics import Metrics
from nexusd.model.events import INNER_TOPICS
from nexusd.patience import Patience
from nexusd.reloading import Reloader, Taker
from nexusd.retrieval.context import ContextBuilder
from nexusd.retrieval.search import MemorySearch
from nexusd.retrieval.similar import SimilaritySearch
from nexusd.status import StatusReport
from nexusd.store.database import Database
from nexusd.sync.collections import Collections
from nexusd.sync.erasing import Erased, Erasing
from nexusd.sync.kept import KeptModels
from nexusd.sync.models import Models, Role
from nexusd.sync.reembed import Reembedding
from nexusd.sync.sources import current_payloads
from nexusd.sync.verify import Verifier
from nexusd.sync.worker import OutboxWorker
from nexusd.wire.dispatch import Dispatcher
from nexusd.wire.events import EventHub
from nexusd.wire.gate import Gate
from nexusd.wire.http_service import HttpService
from nexusd.wire.listeners import Server
from nexusd.wire.methods import MethodTable

# Between two threads that both want the interpreter the default of 5 ms makes a commit wait for the loop.
SWITCH_INTERVAL_S = 0.0005
# Requests make many short-lived objects and no cycles: with the default thresholds a quarter of the time of a
# small request goes into looking for cycles among objects that live as long as the daemon.
GC_THRESHOLDS = (20_000, 20, 50)
STATUS_INTERVAL_S = 5.0  # how often the line in `systemctl status` is made anew


class App:
    """One daemon: every part, in its place."""

    def __init__(self, settings: Settings, load: Callable[[], Settings], log: LogControl) -> None:
        """`load` reads the settings anew, for a reload."""
        config = settings.config
        clock = SystemClock()
        self._settings = settings
        self._log = structlog.get_logger("nexusd")
        self._stop = StopSignal()
        self._supervisor = Supervisor(self._stop, clock)
        self._notifier = Notifier(settings.systemd.notify_socket)
        self._patience = Patience(self._notifier, clock)
        self._life_signs = LifeSigns(settings, self._notifier, self._supervisor, self._stop, clock)
        self._clock = clock
        self._table = MethodTable()
        self._hub = EventHub(self._table, config.server.limits, clock, inner_topics=INNER_TOPICS)
        self._store = Database(
            settings.database_path, config.storage, clock, on_commit=self._committed, on_fatal=self._store_failed
        )
        self._erasers: list[Erased] = [self._store.erased] if config.storage.secure_delete else []
        self._index = self._make_index()
        self._erasing = Erasing(self._erasers)
        chance = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._models = Models(
            self._store, config.embedding, clock,
            lambda embedding, on_answering: make_embedder(embedding, clock, on_answering=on_answering),
            on_answering=self._embedder_answers,
        )
        self._serving = self._models.serving
        self._collections = Collections(
            self._store, self._index, self._serving.model, kept=self._models.kept_collections
        )
        self._worker = OutboxWorker(
            self._store, self._index, self._serving.model, self._collections, config.outbox, clock, chance,
            self._hub.publish, reached=self._life_signs.stepped,
        )
        self._kept = KeptModels(self._store, self._index, self._models, self._worker, clock)
        self._reembedding = Reembedding(
            self._store, self._index, self._models, self._worker, self._collections, config.outbox, clock, chance,
            self._hub.publish, on_swapped=self._kept.wake,
        )
        self._verifier = Verifier(
            self._store, self._index, self._serving, config.index, clock,
            complete=lambda: self._worker.complete, publish=self._hub.publish,
        )
        self._cache = Cache(config.cache, clock)
        self._files = FileStorage(settings.files_directory, config.files, self._store, clock, publish=self._hub.publish)
        self._gate = Gate()
        self._dispatcher = Dispatcher(
            self._table, config.server.limits, slow_request_ms=config.log.slow_request_ms, clock=clock,
            gate=self._gate, on_change=self._hub.changed,
        )
        self._http = HttpService(
            self._dispatcher, self._table, config.server.limits, clock, routes=rest_routes(),
            host_names=config.server.tcp.names,
            metrics=self._figures if config.metrics.enabled else None,
        )
        inherited = settings.systemd.inherited_sockets
        self._server = Server(self._dispatcher, config.server, settings.socket_path, self._http, inherited=inherited)
        self._reloader = Reloader(
            settings, load, self._takers(log), notifier=self._notifier, status_line=self._status_line,
            publish=self._hub.publish, look_at_files=self._files.scan,
        )
        self._report = StatusReport(
            settings=settings, store=self._store, index=self._index, serving=self._serving,
            collections=self._collections, worker=self._worker, dispatcher=self._dispatcher,
            server=self._server, supervisor=self._supervisor, clock=clock,
            files=self._files, cache=self._cache, verifier=self._verifier, settings_status=self._reloader.status,
            log=log, reembedding=self._reembedding,
        )
        self._index_api = IndexApi(
            self._store, self._verifier, backend=config.index.backend, complete=lambda: self._worker.complete,
            physical=self._collections.physical, points=self._report.points, reembed=self._reembedding.progress,
            kept=self._models.kept,
        )
        self._checkup = Checkup(
            settings=settings, store=self._store, index=self._index, serving=self._serving, worker=self._worker,
            supervisor=self._supervisor, files=self._files, processes=self._report.processes, clock=clock,
            reloader=self._reloader, load=load, index_state=self._index_api.state,
        )
        self._metrics = Metrics(
            report=self._report, dispatcher=self._dispatcher, server=self._server, store=self._store,
            worker=self._worker, collections=self._collections.logical, index=self._index, serving=self._serving,
            hub=self._hub, supervisor=self._supervisor, clock=clock, reembed=self._reembedding.progress,
            cache=self._cache.stats, verifier=self._verifier,
        )
        self._register_methods()

    def _make_index(self) -> Index:
        """The index that is configured."""
        config = self._settings.config.index

        def tell(up: bool) -> None:  # noqa: FBT001  the index calls it with nothing else
            self._tell_state("index", up=up)

        def tell_of_server(up: bool) -> None:  # noqa: FBT001  the same
            self._verifier.index_running(up)
            tell(up)

        if config.backend == "server":
            return ServerIndex(config, self._clock, on_up=self._index_came_up, on_running=tell_of_server)
        embedded = EmbeddedIndex(
            self._settings.data_directory / "index", config, self._clock, on_up=self._index_came_up, on_running=tell,
            secure_delete=self._store.secure,
        )
        if self._store.secure:  # a server's files are its own
            self._erasers.append(embedded.erased)
        return embedded

    def _takers(self, log: LogControl) -> list[Taker]:
        """What can change while the daemon runs, and who takes it. config.yaml says the same to people."""

        def take_limits(config: Config) -> None:
            limits = config.server.limits
            for part in (self._server, self._dispatcher, self._http, self._hub):
                part.set_limits(limits)

        def take_pace(config: Config) -> None:
            for part in (self._worker, self._reembedding):
                part.set_pace(config.outbox)

        return [
            Taker(["log.level"], lambda config: log.set_level(config.log.level)),
            Taker(["log.slowRequestMs"], lambda config: self._dispatcher.set_slow_request(config.log.slow_request_ms)),
            Taker(["server.limits"], take_limits),
            Taker(["server.tcp.hostNames"], lambda config: self._http.set_host_names(config.server.tcp.names)),
            Taker(["server.drainTimeoutS"], lambda _config: None),  # asked for when it is needed
            Taker(["storage.maxQueuedWrites", "storage.readTimeoutS"],
                  lambda config: self._store.set_limits(config.storage)),
            Taker(["outbox"], take_pace),
            Taker(["cache"], lambda config: self._cache.set_bounds(config.cache)),
            Taker(["files.pollIntervalS"], lambda config: self._files.set_interval(config.files.poll_interval_s)),
        ]

    def _register_methods(self) -> None:
        search = MemorySearch(
            self._store, self._index, self._serving, self._clock,
            complete=lambda: self._worker.complete, on_dropped=self._verifier.hits_dropped,
        )
        context = ContextBuilder(self._store, search)
        similar = SimilaritySearch(
            self._store, self._index, self._serving,
            payloads=current_payloads, complete=lambda: self._worker.complete, on_dropped=self._verifier.hits_dropped,
        )
        for api in (
            SystemApi(
                self._table, self._report.health, self._report.status, self._checkup.examine, self._reloader.reload
            ),
            ProjectsApi(self._store, self._clock),
            SessionsApi(self._store, self._clock),
            EpisodesApi(self._store, self._worker, self._clock),
            SummariesApi(self._store, self._worker, self._clock),
            EntitiesApi(self._store, self._worker, self._clock),
            RelationshipsApi(self._store, self._clock),
            GraphApi(self._store),
            ConversationsApi(self._store, self._clock),
            MessagesApi(self._store, self._worker, search, self._clock),
            UsersApi(self._store, self._clock),
            GroupsApi(self._store, self._clock),
            ToolLogsApi(self._store, self._clock),
            MemoryApi(search, context),
            CacheApi(self._cache, self._clock),
            PresetsApi(self._files.presets),
            ToolsApi(self._files.tools),
            McpServersApi(self._files.mcp_servers),
            SemanticApi(self._store, self._worker, similar, self._clock),
            VectorsApi(self._store, self._worker, similar, self._clock),
            ImportsApi(self._store, lambda: similar.space),
            EventsApi(self._hub),
            ReembedApi(self._store, self._models, self._reembedding, self._kept, self._clock),
            OutboxApi(self._store, self._worker, self._collections.logical, self._clock, self._erasing),
            self._index_api,
        ):
            self._table.register(api.methods())

    async def run(self) -> ExitCode:
        """Start, serve until asked to stop, stop in reverse."""
        began_s = self._clock.monotonic_s()
        log_loop_errors(asyncio.get_running_loop())
        with (
            stop_on_signals(self._stop, _leave_at_once),
            reload_on_hangup(self._reloader.request, self._stop, sys.stderr),
        ):
            async with contextlib.AsyncExitStack() as parts:
                self._notifier.status("opening the database")
                self._patience.for_the_start()
                parts.callback(self._patience.enough)
                await self._store.open()
                parts.push_async_callback(self._store.close)
                try:
                    await self._open_models()
                except RpcError as error:  # the disk is full, or another program holds the lock
                    raise StoreUnavailableError(f"{self._settings.database_path}: {error.message}") from error
                parts.push_async_callback(self._files.close)
                await self._files.open()
                parts.push_async_callback(self._index.close)  # before its start, which may fail half done
                await self._index.start()
                parts.push_async_callback(self._models.close)
                await self._models.start()
                parts.push_async_callback(self._supervisor.close)
                self._supervisor.start("outbox", self._worker.run)
                self._supervisor.start("models", self._kept.run)
                self._supervisor.start("reembed", self._reembedding.run)
                self._supervisor.start("verify", self._verifier.run)
                self._supervisor.start("files", self._files.run)
                self._supervisor.start("cache", self._cache.run)
                gc.collect()
                gc.freeze()  # what is there now stays until the end
                gc.set_threshold(*GC_THRESHOLDS)
                self._gate.open()  # before the sockets: whoever waited there through a restart is not put off
                parts.push_async_callback(self._server.close)
                await self._server.start()
                self._supervisor.start("status", self._keep_status)
                self._supervisor.start("reload", self._reloader.run)
                self._notifier.ready(self._report.line())
                self._patience.enough()
                self._life_signs.start(self._store, self._worker)
                took_s = self._clock.monotonic_s() - began_s
                self._log.info("ready", version=__version__, start_ms=round(took_s * 1000))
                await self._drain(await self._stop.wait())
        self._log.info("stopped", reason=self._stop.reason, exit_code=int(self._stop.exit_code))
        self._notifier.close()
        return self._stop.exit_code

    async def _open_models(self) -> None:
        """Which model serves is in the store; what was built around the configured one takes it over."""
        await self._models.open()
        self._collections.adopt(Collections(self._store, self._index, self._serving.model))
        self._worker.adopt(self._serving.model, self._collections)

    async def _drain(self, reason: str) -> None:
        """Let nobody in any more; answer those who are in, and deliver what is due."""
        config = self._reloader.settings.config
        self._log.info("stopping", reason=reason)
        self._notifier.stopping(f"stopping: {reason}")
        self._patience.for_the_stop(config.server.drain_timeout_s + config.outbox.drain_timeout_s)
        self._hub.publish("system", {"state": "stopping"})
        self._server.stop_accepting()
        await self._server.hear_out()
        self._gate.stop()
        self._worker.stop_waiting()
        self._verifier.stop_waiting()
        self._erasing.stop()
        await self._server.drain(config.server.drain_timeout_s)
        await self._worker.drain(config.outbox.drain_timeout_s)

    def _index_came_up(self) -> None:
        self._worker.index_up()
        self._reembedding.index_up()
        self._kept.wake()

    def _embedder_answers(self, role: Role, answering: bool) -> None:  # noqa: FBT001 - a callback's own arguments
        if answering:
            (self._worker if role == "serving" else self._reembedding).embedder_up()
        if role == "serving":
            if answering:
                self._verifier.embedder_answers()
            self._tell_state("embedder", up=answering)

    def _status_line(self) -> str:
        return self._report.line()

    async def _figures(self) -> tuple[bytes, str]:
        return await self._metrics.render()

    def _tell_state(self, part: str, *, up: bool) -> None:
        self._hub.publish(part, {"state": "up" if up else "down"})

    def _committed(self) -> None:
        self._worker.wake()
        self._reembedding.wake()

    def _store_failed(self, error: Exception) -> None:
        """The disk cannot be trusted: end, so that a fresh start reads what really is there."""
        self._stop.request(f"store: {error}", ExitCode.INTERNAL)

    async def _keep_status(self) -> None:
        while True:
            self._notifier.status(self._report.line())
            if not self._store.in_place():
                self._store_failed(FileNotFoundError(f"{self._settings.database_path} was moved or removed"))
            await asyncio.sleep(STATUS_INTERVAL_S)


def _leave_at_once(number: int) -> None:
    """A second signal: whoever sends it does not want to wait. What was acknowledged is on disk."""
    os._exit(128 + number)


def run(settings: Settings, load: Callable[[], Settings]) -> int:
    """Run the daemon with these settings; its exit code. `load` reads them anew.

    Raises:
        StartupError: it cannot start with these settings or this data.
    """
    log = configure(settings.config.log, sys.stderr, settings.systemd.journal_stream)
    log_stray_errors()
    faulthandler.enable()  # a watchdog ends with SIGABRT: where every thread hung is then in the log
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    make_data_directory(settings.data_directory)

    async def serve() -> ExitCode:
        return await App(settings, load, log).run()  # inside the loop: the parts make events and futures of it

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return int(runner.run(serve()))

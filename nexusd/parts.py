"""The parts of one daemon: who is given what.

Owns how they are put together: every part is built here, from the settings, and handed those it works with. Starts
nothing: in what order they start and stop is `nexusd.app`'s.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import structlog

from nexusd.api.backup import BackupApi
from nexusd.api.cache import CacheApi
from nexusd.api.conversations import ConversationsApi
from nexusd.api.entities import EntitiesApi
from nexusd.api.episodes import EpisodesApi
from nexusd.api.events import EventsApi
from nexusd.api.exports import ExportsApi
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
from nexusd.api.restore import RestoreApi
from nexusd.api.semantic import SemanticApi
from nexusd.api.sessions import SessionsApi
from nexusd.api.summaries import SummariesApi
from nexusd.api.system import SystemApi
from nexusd.api.tokens import TokensApi
from nexusd.api.tool_logs import ToolLogsApi
from nexusd.api.tools import ToolsApi
from nexusd.api.users import UsersApi
from nexusd.api.vectors import VectorsApi
from nexusd.backup.drill import Drills
from nexusd.backup.keeper import Backups
from nexusd.backup.places import Places
from nexusd.backup.restorer import Restorer
from nexusd.cache import Cache
from nexusd.checkup import Checkup
from nexusd.clock import SystemClock
from nexusd.config import Settings
from nexusd.config_sections import Config
from nexusd.embedding.providers import make_embedder
from nexusd.embedding.reranker import make_reranker
from nexusd.files.storage import FileStorage
from nexusd.index.embedded import EmbeddedIndex
from nexusd.index.index import Index
from nexusd.index.server import ServerIndex
from nexusd.life_signs import LifeSigns
from nexusd.lifecycle import ExitCode, Notifier, StopSignal, Supervisor
from nexusd.log import LogControl
from nexusd.metrics import Metrics
from nexusd.model.events import INNER_TOPICS
from nexusd.patience import Patience
from nexusd.reloading import Reloader, Taker
from nexusd.retrieval.context import ContextBuilder
from nexusd.retrieval.model_tokens import ServingTokens
from nexusd.retrieval.search import MemorySearch
from nexusd.retrieval.second_stage import SecondStage
from nexusd.retrieval.similar import SimilaritySearch
from nexusd.status import StatusReport
from nexusd.store.connection import Connection
from nexusd.store.database import Database
from nexusd.sync.collections import Collections
from nexusd.sync.erasing import Erased, Erasing
from nexusd.sync.kept import KeptModels
from nexusd.sync.models import Models, Role
from nexusd.sync.reembed import Reembedding
from nexusd.sync.sources import current_payloads
from nexusd.sync.verify import Verifier
from nexusd.sync.worker import OutboxWorker
from nexusd.wire.audit import Audit
from nexusd.wire.auth import Authenticator
from nexusd.wire.dispatch import Dispatcher
from nexusd.wire.events import EventHub
from nexusd.wire.gate import Gate
from nexusd.wire.http_service import HttpService
from nexusd.wire.listeners import Server
from nexusd.wire.methods import MethodTable
from nexusd.wire.tls_keys import TlsKeys

DRILL_DIRECTORY = ".drill"  # in the data directory, while a restore is rehearsed
# Of storage.backups, what can change without a restart: all but the directory, which others were given too.
BACKUP_KEYS = ("enabled", "interval", "maxCount", "keepDaily", "keepWeekly", "keepMonthly")


class Parts:
    """Every part of one daemon, built and in its place. The names say what each is."""

    def __init__(self, settings: Settings, load: Callable[[], Settings], log: LogControl) -> None:
        """`load` reads the settings anew, for a reload."""
        config = settings.config
        clock = SystemClock()
        self.settings = settings
        self.log = structlog.get_logger("nexusd")
        self.stop = StopSignal()
        self.supervisor = Supervisor(self.stop, clock)
        self.notifier = Notifier(settings.systemd.notify_socket)
        self.patience = Patience(self.notifier, clock)
        self.life_signs = LifeSigns(settings, self.notifier, self.supervisor, self.stop, clock)
        self.clock = clock
        self.table = MethodTable()
        self.hub = EventHub(self.table, config.server.limits, clock, inner_topics=INNER_TOPICS)
        self.store = Database(
            settings.database_path, config.storage, clock, on_commit=self._committed, on_fatal=self.fail,
            before_migration=self._before_migration,
        )
        self.places = Places(settings.database_path, settings.files_directory)
        self.erasers: list[Erased] = [self.store.erased] if config.storage.secure_delete else []
        self.index = self._make_index()
        self.erasing = Erasing(self.erasers)
        chance = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self.backups = Backups(settings, self.store, clock, chance, self.hub.publish)
        self.restorer = Restorer(
            self.store, self.places, self.backups.shelf, clock, self.backups.exclusive, self.begin_again
        )
        self.drills = Drills(
            self.store, self.backups, settings.data_directory / DRILL_DIRECTORY,
            config.storage.backups.drill_interval_s, clock,
        )
        self.models = Models(
            self.store, config.embedding, clock,
            lambda embedding, on_answering: make_embedder(embedding, clock, on_answering=on_answering),
            on_answering=self._embedder_answers,
        )
        self.serving = self.models.serving
        rerank = config.search.rerank
        self.reranker = make_reranker(rerank, clock)
        self.second_stage = None if self.reranker is None else SecondStage(
            self.reranker, clock, candidates=rerank.candidates, deadline_s=rerank.deadline_ms / 1000
        )
        self.collections = Collections(
            self.store, self.index, self.serving.model, kept=self.models.kept_collections
        )
        self.worker = OutboxWorker(
            self.store, self.index, self.serving.model, self.collections, config.outbox, clock, chance,
            self.hub.publish, reached=self.life_signs.stepped,
        )
        self.kept = KeptModels(self.store, self.index, self.models, self.worker, clock)
        self.reembedding = Reembedding(
            self.store, self.index, self.models, self.worker, self.collections, config.outbox, clock, chance,
            self.hub.publish, on_swapped=self.kept.wake,
        )
        self.verifier = Verifier(
            self.store, self.index, self.serving, config.index, clock,
            complete=lambda: self.worker.complete, publish=self.hub.publish,
        )
        self.cache = Cache(config.cache, clock)
        self.files = FileStorage(settings.files_directory, config.files, self.store, clock, publish=self.hub.publish)
        self.gate = Gate()
        audit = Audit(clock)
        authenticator = Authenticator(clock, audit)
        self.dispatcher = Dispatcher(
            self.table, config.server.limits, slow_request_ms=config.log.slow_request_ms, clock=clock,
            gate=self.gate, on_change=self.hub.changed, audit=audit,
        )
        self.http = HttpService(
            self.dispatcher, self.table, config.server.limits, clock, routes=rest_routes(),
            host_names=config.server.tcp.names,
            metrics=self._figures if config.metrics.enabled else None,
        )
        inherited = settings.systemd.inherited_sockets
        tls = config.server.tcp.tls
        self.tls_keys = TlsKeys(tls, clock) if tls.cert_file is not None else None
        self.server = Server(
            self.dispatcher, config.server, settings.socket_path, self.http, inherited=inherited,
            authenticator=authenticator, audit=audit, tls_keys=self.tls_keys,
        )
        self.tokens = TokensApi(
            self.store, authenticator, audit, clock, credentials=settings.systemd.credentials,
            on_revoked=self.server.check_grants,
        )
        self.reloader = Reloader(
            settings, load, self._takers(log), notifier=self.notifier, status_line=self._status_line,
            publish=self.hub.publish, look_at_files=self._look_at_files,
        )
        self.report = StatusReport(
            settings=settings, store=self.store, index=self.index, serving=self.serving,
            collections=self.collections, worker=self.worker, dispatcher=self.dispatcher,
            server=self.server, supervisor=self.supervisor, clock=clock,
            files=self.files, cache=self.cache, verifier=self.verifier, settings_status=self.reloader.status,
            log=log, reembedding=self.reembedding, backups=self.backups,
            second_stage=self.second_stage,
        )
        self.index_api = IndexApi(
            self.store, self.verifier, backend=config.index.backend, complete=lambda: self.worker.complete,
            physical=self.collections.physical, points=self.report.points, reembed=self.reembedding.progress,
            kept=self.models.kept,
        )
        self.checkup = Checkup(
            settings=settings, store=self.store, index=self.index, serving=self.serving, worker=self.worker,
            supervisor=self.supervisor, files=self.files, processes=self.report.processes, clock=clock,
            reloader=self.reloader, load=load, index_state=self.index_api.state, backups=self.backups,
            socket_path=lambda: self.server.socket_path,
            certificate=None if self.tls_keys is None else self.tls_keys.state, second_stage=self.second_stage,
        )
        self.metrics = Metrics(
            report=self.report, dispatcher=self.dispatcher, server=self.server, store=self.store,
            worker=self.worker, collections=self.collections.logical, index=self.index, serving=self.serving,
            hub=self.hub, supervisor=self.supervisor, clock=clock, reembed=self.reembedding.progress,
            cache=self.cache.stats, verifier=self.verifier, backups=self.backups.status,
        )
        self._register_methods()

    def _make_index(self) -> Index:
        """The index that is configured."""
        config = self.settings.config.index

        def tell(up: bool) -> None:  # noqa: FBT001  the index calls it with nothing else
            self._tell_state("index", up=up)

        def tell_of_server(up: bool) -> None:  # noqa: FBT001  the same
            self.verifier.index_running(up)
            tell(up)

        if config.backend == "server":
            return ServerIndex(config, self.clock, on_up=self._index_came_up, on_running=tell_of_server)
        embedded = EmbeddedIndex(
            self.settings.data_directory / "index", config, self.clock, on_up=self._index_came_up, on_running=tell,
            secure_delete=self.store.secure,
        )
        if self.store.secure:  # a server's files are its own
            self.erasers.append(embedded.erased)
        return embedded

    def _takers(self, log: LogControl) -> list[Taker]:
        """What can change while the daemon runs, and who takes it. config.yaml says the same to people."""

        def take_limits(config: Config) -> None:
            limits = config.server.limits
            for part in (self.server, self.dispatcher, self.http, self.hub):
                part.set_limits(limits)

        def take_pace(config: Config) -> None:
            for part in (self.worker, self.reembedding):
                part.set_pace(config.outbox)

        tls = [] if self.tls_keys is None else [Taker(["server.tcp.tls"], self.tls_keys.take)]
        return [
            *tls,
            Taker(["log.level"], lambda config: log.set_level(config.log.level)),
            Taker(["log.slowRequestMs"], lambda config: self.dispatcher.set_slow_request(config.log.slow_request_ms)),
            Taker(["server.limits"], take_limits),
            Taker(["server.tcp.hostNames"], lambda config: self.http.set_host_names(config.server.tcp.names)),
            Taker(["server.drainTimeoutS"], lambda _config: None),  # asked for when it is needed
            Taker(["storage.maxQueuedWrites", "storage.readTimeoutS"],
                  lambda config: self.store.set_limits(config.storage)),
            Taker([f"storage.backups.{key}" for key in BACKUP_KEYS],
                  lambda config: self.backups.set_config(config.storage.backups)),
            Taker(["outbox"], take_pace),
            Taker(["cache"], lambda config: self.cache.set_bounds(config.cache)),
            Taker(["files.pollIntervalS"], lambda config: self.files.set_interval(config.files.poll_interval_s)),
        ]

    def _register_methods(self) -> None:
        search = MemorySearch(
            self.store, self.index, self.serving, self.clock,
            complete=lambda: self.worker.complete, on_dropped=self.verifier.hits_dropped,
            second=self.second_stage,
        )
        context = ContextBuilder(self.store, search, of_model=ServingTokens(self.serving).of_package)
        similar = SimilaritySearch(
            self.store, self.index, self.serving,
            payloads=current_payloads, complete=lambda: self.worker.complete, on_dropped=self.verifier.hits_dropped,
        )
        for api in (
            SystemApi(
                self.table, self.report.health, self.report.status, self.checkup.examine, self.reloader.reload
            ),
            ProjectsApi(self.store, self.clock),
            SessionsApi(self.store, self.clock),
            EpisodesApi(self.store, self.worker, self.clock),
            SummariesApi(self.store, self.worker, self.clock),
            EntitiesApi(self.store, self.worker, self.clock),
            RelationshipsApi(self.store, self.clock),
            GraphApi(self.store),
            ConversationsApi(self.store, self.clock),
            MessagesApi(self.store, self.worker, search, self.clock),
            self.tokens,
            UsersApi(self.store, self.clock),
            GroupsApi(self.store, self.clock),
            ToolLogsApi(self.store, self.clock),
            MemoryApi(search, context),
            CacheApi(self.cache, self.clock),
            PresetsApi(self.files.presets),
            ToolsApi(self.files.tools),
            McpServersApi(self.files.mcp_servers),
            SemanticApi(self.store, self.worker, similar, self.clock),
            VectorsApi(self.store, self.worker, similar, self.clock),
            ImportsApi(self.store, lambda: similar.space),
            ExportsApi(self.store, self.clock, lambda: similar.space),
            EventsApi(self.hub),
            ReembedApi(self.store, self.models, self.reembedding, self.kept, self.clock),
            BackupApi(self.store, self.backups, self.clock),
            RestoreApi(self.store, self.restorer, self.drills, self.clock),
            OutboxApi(self.store, self.worker, self.collections.logical, self.clock, self.erasing),
            self.index_api,
        ):
            self.table.register(api.methods())

    async def open_models(self) -> None:
        """Which model serves is in the store; what was built around the configured one takes it over."""
        await self.models.open()
        self.collections.adopt(Collections(self.store, self.index, self.serving.model))
        self.worker.adopt(self.serving.model, self.collections)

    async def start_reranker(self, stack: contextlib.AsyncExitStack) -> None:
        """Where there is one; `stack` closes it."""
        if self.reranker is not None:
            stack.push_async_callback(self.reranker.close)
            await self.reranker.start()

    def _index_came_up(self) -> None:
        self.worker.index_up()
        self.reembedding.index_up()
        self.kept.wake()

    def _embedder_answers(self, role: Role, answering: bool) -> None:  # noqa: FBT001 - a callback's own arguments
        if answering:
            (self.worker if role == "serving" else self.reembedding).embedder_up()
        if role == "serving":
            if answering:
                self.verifier.embedder_answers()
            self._tell_state("embedder", up=answering)

    async def _look_at_files(self) -> None:
        await self.files.scan()
        if self.tls_keys is not None:
            await self.tls_keys.look()

    def _status_line(self) -> str:
        return self.report.line()

    async def _figures(self) -> tuple[bytes, str]:
        return await self.metrics.render()

    def _tell_state(self, part: str, *, up: bool) -> None:
        self.hub.publish(part, {"state": "up" if up else "down"})

    def _committed(self) -> None:
        self.worker.wake()
        self.reembedding.wake()

    def _before_migration(self, db: Connection, old_version: int) -> None:
        self.backups.before_migration(db, old_version)

    def fail(self, error: Exception) -> None:
        """The disk cannot be trusted: end, so that a fresh start reads what really is there."""
        self.stop.request(f"store: {error}", ExitCode.INTERNAL)

    def begin_again(self, reason: str) -> None:
        """A restore is noted: what would be written from here on would be set aside with all the rest."""
        self.gate.stop(again=True)
        self.stop.request_again(reason)

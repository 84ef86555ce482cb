"""The whole daemon inside the test's process: everything that `Parts` puts together, asked through its dispatcher.

No listener, no signal and no model: texts are embedded by a fake. The index is the real one in its child process, or
a fake that outlives a restart as a directory would. The daemon's time is a test's to move.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from fakes.embedder import FakeEmbedder
from fakes.index import FakeIndex

from nexusd.clock import Clock, SystemClock
from nexusd.config import load_settings
from nexusd.log import LogControl
from nexusd.parts import Parts
from nexusd.store.connection import Connection
from nexusd.wire.methods import Client, Principal

OWNER = Principal("uid:1000", "admin")
DRAIN_S = 60
SETTINGS = {"NEXUSD_STORAGE__SYNCHRONOUS": "NORMAL"}    # no power is cut here


class WalkingClock:
    """The wall clock stands still but for `advance`, so that many things happen at the same moment.

    The other one goes on, for what really waits goes by it.
    """

    def __init__(self) -> None:
        self._system = SystemClock()
        self._now_ms = self._system.now_ms()    # near the real one, by which files are stamped
        self._skipped_s = 0.0

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic_s(self) -> float:
        return self._system.monotonic_s() + self._skipped_s

    def advance(self, milliseconds: int) -> None:
        """Let time pass, on both clocks."""
        self._now_ms += milliseconds
        self._skipped_s += milliseconds / 1000


class Listener:
    """A connection as far as events go: it takes all of them at once."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def notify(self, message: bytes) -> bool:
        self.events.append(json.loads(message)["params"])
        return True

    def when_writable(self, _function: Any) -> None:
        raise AssertionError("it takes everything")

    def when_closed(self, _function: Any) -> None:
        pass


class WholeDaemon:
    """One run of the daemon."""

    def __init__(self, app: Parts) -> None:
        self._app = app
        self.store = app.store
        self.index = app.index
        self.worker = app.worker
        self.collections = app.collections
        self.files = app.files
        self.table = app.table

    async def answer(
        self, method: str, params: Any, *, principal: Principal = OWNER, client: Client | None = None
    ) -> bytes:
        """The reply as it goes over the wire; equal replies are equal bytes."""
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        reply = await self._app.dispatcher.handle(json.dumps(request).encode(), principal, client)
        assert reply is not None
        return reply

    async def ask(self, method: str, params: Any, **who: Any) -> dict[str, Any]:
        """The reply as a client reads it."""
        reply: dict[str, Any] = json.loads(await self.answer(method, params, **who))
        return reply

    async def get(self, method: str, **params: Any) -> Any:
        """The result of a call that must work."""
        reply = await self.ask(method, params)
        assert "result" in reply, (method, params, reply)
        return reply["result"]

    async def figures(self) -> str:
        """What Prometheus is told."""
        return (await self._app.metrics.render())[0].decode()

    async def drained(self) -> None:
        """Until the index holds all that it should."""
        waited = await self.worker.wait_for(None, [], DRAIN_S)
        assert waited.pending == 0, waited

    async def select(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows of a query of the test's own."""

        def rows(db: Connection) -> list[tuple[Any, ...]]:
            return list(db.execute(sql, values))

        found: list[tuple[Any, ...]] = await self.store.read(rows)
        return found

    async def counts(self) -> dict[str, int]:
        """How many rows each table of the database holds."""
        tables = await self.select("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '%_fts%'")
        return {name: (await self.select(f'SELECT count(*) FROM "{name}"'))[0][0] for (name,) in tables}


@contextlib.asynccontextmanager
async def whole_daemon(
    data: Path,
    *,
    embedder: FakeEmbedder | None,
    clock: Clock | None = None,
    index: FakeIndex | None = None,
    environ: Mapping[str, str] = SETTINGS,
) -> AsyncIterator[WholeDaemon]:
    """Start it on this directory, and stop it again. Without `embedder` and `index` it has those of the settings."""
    data.mkdir(parents=True, exist_ok=True)
    (config := data / "config.yaml").write_text("{}\n")    # not whatever lies where the tests are run
    settings = load_settings(config=config, data=data, environ=environ)
    with contextlib.ExitStack() as replaced:
        if embedder is not None:
            replaced.enter_context(mock.patch("nexusd.parts.make_embedder", return_value=embedder))
        replaced.enter_context(mock.patch("nexusd.parts.SystemClock", return_value=clock or SystemClock()))
        if index is not None:
            replaced.enter_context(mock.patch("nexusd.parts.EmbeddedIndex", return_value=index))
        # what follows a restore is a run of its own; this one goes on, to be asked what it kept
        replaced.enter_context(mock.patch("nexusd.parts.Parts.begin_again"))
        app = Parts(settings, lambda: load_settings(config=config, data=data, environ=SETTINGS), LogControl())
    async with contextlib.AsyncExitStack() as parts:
        await app.store.open()
        parts.push_async_callback(app.store.close)
        await app.open_models()
        await app.tokens.load()
        parts.push_async_callback(app.files.close)
        await app.files.open()
        parts.push_async_callback(app.index.close)
        await app.index.start()
        parts.push_async_callback(app.models.close)
        await app.models.start()
        await app.start_reranker(parts)
        working = asyncio.create_task(app.worker.run())
        parts.push_async_callback(_end, working)
        app.gate.open()
        yield WholeDaemon(app)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task

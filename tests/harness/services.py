"""An embedding service and a Qdrant server, each behind a proxy, in a thread beside a test that blocks.

What a daemon is told to use are the proxies: so the network can fail without the service, and the service behind a
network that is well. `heal` ends every fault at once. The settings that go with it keep every deadline short.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, TypeVar

from fakes.embedding_server import EmbeddingServer, Kind
from fakes.proxy import Proxy
from fakes.qdrant_server import HANDLERS, VERSION, FakeQdrant, InThread

Answer = TypeVar("Answer")

DIMENSION = 32
EVERYTHING = frozenset(HANDLERS) | {"greet"}  # every operation of the index server


class Services:
    """Both services and the ways to them. Attributes of the fakes may be set from any thread; the rest is `do`."""

    def __init__(self, kind: Kind = "service", *, tls: ssl.SSLContext | None = None) -> None:
        self.embedding = EmbeddingServer(kind, DIMENSION)
        self.qdrant = FakeQdrant()
        self.qdrant.tls = tls
        self._thread = InThread()
        self.do(self._start())

    async def _start(self) -> None:
        await self.embedding.start()
        await self.qdrant.start()
        self.to_embedding = Proxy(int(self.embedding.url.rpartition(":")[2]))
        self.to_qdrant = Proxy(self.qdrant.port)
        await self.to_embedding.start()
        await self.to_qdrant.start()

    def do(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Do this in the services' own loop, and wait for it."""
        return self._thread.run(work)

    def call(self, function: Callable[..., Answer], *args: Any) -> Answer:
        """The same for what is no coroutine, but touches their loop."""

        async def called() -> Answer:
            return function(*args)

        return self.do(called())

    @property
    def settings(self) -> dict[str, str]:
        """The environment of a daemon that uses them."""
        return {
            "EMBEDDING_SERVICE_URL": self.to_embedding.url,
            "NEXUSD_EMBEDDING__DIMENSION": str(DIMENSION),
            "NEXUSD_EMBEDDING__TIMEOUT_S": "0.5",
            "QDRANT_URL": self.to_qdrant.url,
            "NEXUSD_INDEX__CHECK_INTERVAL_S": "0.2",
            "NEXUSD_INDEX__CONNECT_TIMEOUT_S": "0.5",
            "NEXUSD_INDEX__SEARCH_TIMEOUT_S": "0.5",
            "NEXUSD_INDEX__CALL_TIMEOUT_S": "1",
            "NEXUSD_OUTBOX__MAX_BACKOFF_S": "0.3",
        }

    def heal(self) -> None:
        """Whatever was wrong is over; collections that somebody made in the place of the daemon's are removed."""
        embedding, qdrant = self.embedding, self.qdrant
        embedding.fault, embedding.retry_after, embedding.faults = "", "", []
        embedding.flawed, embedding.poison, embedding.crashing = set(), set(), set()
        qdrant.status, qdrant.headers = {}, {}
        qdrant.stalled, qdrant.cut, qdrant.version = set(), set(), VERSION
        self.do(self._heal())

    async def _heal(self) -> None:
        for way in (self.to_embedding, self.to_qdrant):
            way.corrupting = False
            way.flow()
            await way.start_again()
        for name in self.qdrant.collections():
            if not self.qdrant.mark(name):
                await self.qdrant.remove(name)

    def versions(self, collection: str) -> dict[int, int]:
        """What the index server holds of a logical collection: versions by id."""
        held = self.points(f"nexusd-{collection}-").values()
        return {id_: version for each in held for id_, version in each.items()}

    def points(self, prefix: str) -> dict[str, dict[int, int]]:
        """Versions by id, of every collection whose name begins so."""
        names = self.call(self.qdrant.collections)
        return {name: self.call(self.qdrant.versions, name) for name in names if name.startswith(prefix)}

    def vectors(self, collection: str) -> dict[int, list[float]]:
        """The vectors that the index server holds of a logical collection, by id."""
        found: dict[int, list[float]] = {}
        for name in self.physical(collection):
            found |= self.call(self.qdrant.vectors, name)
        return found

    def make_gate(self) -> asyncio.Event:
        """An event that requests to the embedding service can wait for."""
        return self.call(asyncio.Event)

    def physical(self, collection: str) -> list[str]:
        """The names on the index server that begin like those of a logical collection."""
        return [name for name in self.call(self.qdrant.collections) if name.startswith(f"nexusd-{collection}-")]

    def __enter__(self) -> Services:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.do(self._stop())
        self._thread.close()

    async def _stop(self) -> None:
        for part in (self.to_embedding, self.to_qdrant, self.embedding, self.qdrant):
            await part.stop()


def until(met: Callable[[], Answer], what: Any = "", *, within_s: float = 20.0) -> Answer:
    """What `met` answers in the end: the daemon is another process, and nothing of it can wake a test.

    `what` says what was waited for, and is called for it if it can be.
    """
    deadline = time.monotonic() + within_s
    while not (found := met()):
        assert time.monotonic() < deadline, what() if callable(what) else what or "it never came"
        time.sleep(0.02)
    return found

"""The index on a Qdrant server, or a cluster of them.

Owns the state of the connection, the deadline of every call, and what was ensured. A task looks at the server
again and again: it finds out that the server is back, and that a collection was wiped, replaced or taken over
while nobody wrote. While the server is away every call is refused at once. Knows no table and no text, and not the
client library, which takes over a second to import: `nexusd.index.server_calls` does, in a thread, at the start.

A collection that this run has not ensured is IndexUnavailable: its owner has not come up yet, and an empty
answer would look like the truth.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import structlog

from nexusd.clock import Clock
from nexusd.config import DEFAULT_INDEX_URL, is_loopback
from nexusd.config_sections import IndexConfig
from nexusd.errors import BadContent, DimensionMismatch, IndexUnavailable
from nexusd.index.filters import Filter
from nexusd.index.identity import check_name, check_spec, checked_id
from nexusd.index.index import CollectionSpec, Hit, IndexHealth, Point, PointVersion, Vector
from nexusd.index.server_claim import Claim, claim
from nexusd.index.server_doubts import Doubts
from nexusd.index.server_errors import CollectionLost, CollectionTaken, ForeignCollection, Unreachable
from nexusd.index.vectors import checked_vector

if TYPE_CHECKING:
    from nexusd.index.server_calls import ServerCalls

FIRST_PAUSE_S = 0.2  # after a failure; doubles from there
MAX_PAUSE_S = 5.0
STEADY_AFTER_S = 30.0  # a connection that lasted this long begins with the shortest pause again
REFUSED_COLLECTION = ""  # in the place of an incarnation: whoever noted one sees that it is gone

Connect = Callable[[IndexConfig], "ServerCalls"]
Answer = TypeVar("Answer")


class ServerIndex:
    """An Index on a server; see the protocol for what each method promises."""

    def __init__(
        self,
        config: IndexConfig,
        clock: Clock,
        *,
        on_up: Callable[[], None] | None = None,
        on_running: Callable[[bool], None] | None = None,
        connect: Connect | None = None,
    ) -> None:
        """`on_up` is called whenever the server has come up, and when a collection there was lost, with whatever it
        still holds; `on_running` when the server comes and goes. `connect` makes the calls, in a thread.
        """
        self._config = config
        self._clock = clock
        self._on_up = on_up
        self._on_running = on_running
        self._connect = connect or _connect
        self._log = structlog.get_logger("nexusd.index")
        self._writer = uuid.uuid4().hex
        self._calls: ServerCalls | None = None
        self._specs: dict[str, CollectionSpec] = {}
        self._claims: dict[str, Claim] = {}
        self._refused: dict[str, str] = {}  # collection -> why it cannot be used
        self._claiming = asyncio.Lock()  # two at once would both make a collection that is missing
        self._doubts = Doubts()
        self._up = False
        self._detail = "connecting"
        self._up_since_s = 0.0
        self._failures = 0  # in a row, shortly after each other
        self._tried = asyncio.Event()  # whether the server is there was found out once
        self._look_now = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to connect; does not wait for it."""
        if self._keeper is not None:
            return
        url = urlsplit(self._config.url or DEFAULT_INDEX_URL)
        if self._config.api_key is not None and url.scheme == "http" and not is_loopback(url.hostname or ""):
            self._log.warning("the index's key is sent unencrypted; use https", host=url.hostname)
        self._keeper = asyncio.create_task(self._keep(), name="index:server")

    async def close(self) -> None:
        """Drop the connections. What was acknowledged is on the server."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        self._up, self._detail = False, "closed"
        self._tried.set()
        if self._calls is not None:
            await self._calls.close()

    async def ensure(self, spec: CollectionSpec) -> str:
        """Make the collection if it is missing, take it over if it is there; answers its incarnation.

        Raises:
            BadName: not a name for a collection.
            DimensionMismatch: it exists with another dimension or distance.
            IndexUnavailable: not now, or it is not ours.
        """
        check_name(spec.name)
        check_spec(self._specs.get(spec.name), spec)
        return await self._ask(lambda calls: self._ensure(calls, spec), self._config.call_timeout_s)

    async def _ensure(self, calls: ServerCalls, spec: CollectionSpec) -> str:
        async with self._claiming:
            held = await self._claim(calls, spec)
            self._specs[spec.name] = spec
            return held.mark.incarnation

    async def drop(self, collection: str) -> None:
        """Remove the collection."""
        check_name(collection)
        async with self._claiming:  # a look meanwhile must not make it again
            await self._ask(lambda calls: calls.drop(collection), self._config.call_timeout_s)
            for known in (self._specs, self._claims, self._refused):
                known.pop(collection, None)
            self._doubts.forget(collection)

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        """Store points; returns when the server has carried it out."""
        held = self._held(collection)
        checked = [
            Point(checked_id(point.id), point.version, checked_vector(point.vector, held.spec), point.payload)
            for point in points
        ]
        if not checked:
            return
        stamp, ids, answered = held.stamp(), [point.id for point in checked], False
        try:
            with held.witness.writing(ids, stamp, removing=False):
                await self._ask(lambda calls: calls.upsert(collection, checked, stamp), self._config.call_timeout_s)
            answered = True
        finally:  # however it failed, a cancellation included: it may have been sent
            if not answered:
                self._doubts.sent(collection, ids, self._clock.monotonic_s())

    async def delete(self, collection: str, ids: Sequence[int]) -> None:
        """Remove points; returns when the server has carried it out."""
        held = self._held(collection)
        checked = [checked_id(id_) for id_ in ids]
        if checked:
            stamp = held.stamp()
            self._doubts.removed(collection, checked, stamp)
            certain = not self._doubts.any_of(collection, checked)
            with held.witness.writing(checked, stamp, removing=True, certain=certain):
                await self._ask(lambda calls: calls.delete(collection, checked, stamp), self._config.call_timeout_s)

    async def search(self, collection: str, vector: Vector, limit: int, where: Filter | None) -> list[Hit]:
        """The `limit` nearest points that pass the filter, nearest first."""
        spec = self._held(collection).spec
        checked = checked_vector(vector, spec)
        return await self._ask(
            lambda calls: calls.search(spec, checked, limit, where), self._config.search_timeout_s
        )

    async def scroll(self, collection: str, after_id: int, limit: int) -> list[PointVersion]:
        """Up to `limit` points with ids greater than `after_id`, ascending."""
        self._held(collection)
        return await self._ask(lambda calls: calls.scroll(collection, after_id, limit), self._config.call_timeout_s)

    async def count(self, collection: str) -> int:
        """How many points the collection holds, exactly."""
        self._held(collection)
        return await self._ask(lambda calls: calls.count(collection), self._config.call_timeout_s)

    async def publish(self, names: Mapping[str, str]) -> None:
        """Let the names be aliases of these collections; a name that cannot be one is told.

        Raises:
            IndexUnavailable: the server is away.
        """
        try:
            await self._ask(lambda calls: calls.publish(names), self._config.call_timeout_s)
        except Unreachable:
            raise
        except (BadContent, IndexUnavailable) as error:  # a key that may not, a collection of that very name
            if self._up:
                self._log.warning("the aliases of the index's collections cannot be set", reason=error.message)

    def health(self) -> IndexHealth:
        """The state as last seen."""
        troubles = [*self._refused.values(), *(held.trouble for held in self._claims.values() if held.trouble)]
        return IndexHealth(
            available=self._up,
            detail="; ".join(troubles) if self._up else self._detail,
            rebuilding=self._up and any(held.busy for held in self._claims.values()),
            incarnations={
                name: REFUSED_COLLECTION if name in self._refused else held.mark.incarnation
                for name, held in self._claims.items()
            },
        )

    def _held(self, collection: str) -> Claim:
        if not self._up and self._tried.is_set():
            raise IndexUnavailable(self._detail)
        if collection in self._refused:
            raise IndexUnavailable(self._refused[collection])
        held = self._claims.get(collection)
        if held is None:
            raise IndexUnavailable(f"the collection {collection} is not open yet")
        return held

    async def _ask(self, call: Callable[[ServerCalls], Awaitable[Answer]], timeout_s: float) -> Answer:
        """Do a call within its time; what it tells of the connection is noted.

        Raises:
            IndexUnavailable, DimensionMismatch, BadContent: as the protocol says.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._tried.wait()
                if not self._up or self._calls is None:
                    raise IndexUnavailable(self._detail)
                return await call(self._calls)
        except TimeoutError:
            self._look_now.set()  # a look tells a server that is gone from a question that took long
            raise IndexUnavailable(f"no answer within {timeout_s:g} s") from None
        except Unreachable as error:
            self._lost(error)
            raise
        except CollectionLost:
            self._failures += 1
            self._look_now.set()
            raise

    def _lost(self, error: IndexUnavailable) -> None:
        """The server is away; every call is refused from now on, until a look finds it again."""
        if not self._up:
            return
        if self._clock.monotonic_s() - self._up_since_s >= STEADY_AFTER_S:
            self._failures = 0
        self._failures += 1
        self._went_down(error.message)
        self._look_now.set()

    def _went_down(self, reason: str) -> None:
        was_up, self._up = self._up, False
        detail = f"{urlsplit(self._config.url or DEFAULT_INDEX_URL).netloc}: {reason}"
        if was_up or detail != self._detail:
            self._log.warning("index server unavailable", reason=detail)
        self._detail = detail
        if was_up and self._on_running is not None:
            self._on_running(False)  # noqa: FBT003  the callback takes nothing else

    async def _keep(self) -> None:
        """Look at the server for as long as the daemon runs."""
        while True:
            self._look_now.clear()
            was_up = self._up
            try:
                lost = await self._look()
            except IndexUnavailable as error:
                self._failures += 1
                self._went_down(error.message)
            except Exception as error:  # noqa: BLE001  the one task that finds the server again must not end
                self._log.exception("looking at the index server failed")
                self._failures += 1
                self._went_down(type(error).__name__)
            else:
                if self._up or not was_up:  # else a call has failed meanwhile, and this look may be older than that
                    self._came_up(lost=lost)
            self._tried.set()
            if self._up:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._config.check_interval_s):
                        await self._look_now.wait()
            if self._failures:
                # also after a call found the server away, which now answers: it may do so to small questions alone
                await asyncio.sleep(min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._failures - 1, 16)))

    def _came_up(self, *, lost: bool) -> None:
        now_s = self._clock.monotonic_s()
        if self._up:
            if now_s - self._up_since_s >= STEADY_AFTER_S:
                self._failures = 0
        else:
            self._up, self._up_since_s = True, now_s
            if self._on_running is not None:
                self._on_running(True)  # noqa: FBT003  the callback takes nothing else
            lost = True  # whatever is there may have changed meanwhile
        if lost and self._on_up is not None:
            self._on_up()

    async def _look(self) -> bool:
        """Whether a collection was lost, or cannot be used any more, since the last look.

        Raises:
            IndexUnavailable: the server is away.
        """
        try:
            if self._calls is None:
                self._calls = await asyncio.to_thread(self._connect, self._config)
            async with asyncio.timeout(self._config.connect_timeout_s):
                version = await self._calls.greet()
                if not self._up:
                    await self._calls.check_key()
                    self._log.info("index server answers", version=version)
            before = self.health().incarnations
            async with asyncio.timeout(self._config.call_timeout_s):
                for spec in list(self._specs.values()):
                    await self._look_at(self._calls, spec)
                for collection, stamp, ids in self._doubts.again(self._clock.monotonic_s()):
                    await self._calls.delete(collection, ids, stamp)
        except TimeoutError:
            raise Unreachable("no answer in time") from None
        except (OSError, ImportError) as error:  # certificates, or the library itself
            raise Unreachable(f"cannot connect: {error}") from error
        return any(self.health().incarnations.get(name) != incarnation for name, incarnation in before.items())

    async def _look_at(self, calls: ServerCalls, spec: CollectionSpec) -> None:
        """One collection; that it cannot be used is noted, and the others are served."""
        try:
            async with self._claiming:
                if spec.name in self._specs:  # else it was dropped meanwhile
                    await self._claim(calls, spec)
        except (DimensionMismatch, ForeignCollection, CollectionTaken) as error:
            if self._refused.get(spec.name) != error.message:
                self._log.error("index collection cannot be used", collection=spec.name, reason=error.message)
            self._refused[spec.name] = error.message

    async def _claim(self, calls: ServerCalls, spec: CollectionSpec) -> Claim:
        """Under the lock."""
        known = self._claims.get(spec.name)
        held = await claim(calls, spec, self._writer, known)
        if known is not None and known.mark.incarnation != held.mark.incarnation:
            self._log.error("index collection was lost on the server; it is filled again", collection=spec.name)
        self._claims[spec.name] = held
        self._refused.pop(spec.name, None)
        return held


def _connect(config: IndexConfig) -> ServerCalls:
    """The calls to the configured server; imports the client library."""
    from nexusd.index.server_calls import ServerCalls, connect  # noqa: PLC0415  it takes over a second

    return ServerCalls(connect(config), config)

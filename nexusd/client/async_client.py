"""The client for asyncio programs: many calls at once over one connection.

Owns when there is a connection and which. Every decision (keys, tries, backoff) is `exchange`'s,
every byte's meaning `core`'s. One client belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import functools
import math
import random
import socket
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar, cast, overload

import msgspec

from nexusd.client import calls
from nexusd.client.address import Address, TlsAddress, Trust, UnixAddress, parse_address
from nexusd.client.async_events import AsyncEvents
from nexusd.client.async_link import Link
from nexusd.client.core import Request
from nexusd.client.errors import ClientClosed, ConnectionFailed, ProtocolViolated
from nexusd.client.exchange import (
    DEFAULT_TIMEOUT_S,
    Caller,
    Expired,
    Learn,
    LoginRefused,
    OnNotification,
    Outcome,
    Pause,
    Retry,
    Send,
    Steps,
    Unsent,
    logged_in,
    login,
)
from nexusd.client.listening import Listening
from nexusd.client.security import tls_context, why

T = TypeVar("T")
P = ParamSpec("P")


def _call(build: Callable[P, Request[T]]) -> Callable[Concatenate[AsyncClient, P], Awaitable[T]]:
    """A method that makes this one request."""

    @functools.wraps(build)
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.execute(build(*args, **kwargs))

    return method


def _flow(
    build: Callable[Concatenate[Caller, P], Steps[T]],
) -> Callable[Concatenate[AsyncClient, P], Awaitable[T]]:
    """A method that makes these requests, one after the other."""

    @functools.wraps(build)
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(build(self._caller, *args, **kwargs))

    return method


class AsyncClient:
    """A connection to nexusd, made at the first call and again when it was lost.

    Any number of tasks may call at once: requests share the connection and replies find their callers in any
    order. Cancelling a call leaves the others alone; what it asked for may still be done.

        async with AsyncClient("/run/nexusd/nexusd.sock") as nexus:
            await nexus.remember("Where is the key?", "Under the mat.", session="kitchen")
            hits = await nexus.search("how do I get in")
    """

    def __init__(
        self,
        address: str | Path | Address,
        *,
        token: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry: Retry | None = None,
        on_notification: OnNotification | None = None,
        rng: random.Random | None = None,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
    ) -> None:
        """With `token` every connection begins with a login. The files are what a `Trust` holds, for tls://."""
        self._token = token
        trust = Trust(ca_file, cert_file, key_file)
        self.address = parse_address(address, trust) if isinstance(address, str | Path) else address
        self._on_notification = on_notification
        self._on_lost: Callable[[], None] | None = None
        self._streams: weakref.WeakSet[AsyncEvents] = weakref.WeakSet()
        self._caller = Caller(timeout_s=timeout_s, retry=retry, rng=rng)
        self._link: Link | None = None
        self._connecting = asyncio.Lock()
        self._learning = asyncio.Lock()
        self._closed = False

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self, *, timeout_s: float | None = None) -> None:
        """Connect now, in one try; otherwise the first call does.

        Raises:
            ConnectionFailed: nobody listens there, or does not answer in time.
            Unauthenticated: the token is not accepted.
        """
        try:
            async with asyncio.timeout(self._caller.deadline(timeout_s) - time.monotonic()):
                await self._connected()
        except LoginRefused as exc:
            raise exc.reason() from None
        except TimeoutError as exc:
            raise ConnectionFailed(f"no connection to {self.address}: timed out") from exc

    async def close(self) -> None:
        """Close the connection; calls on the way end in ClientClosed, streams of events end."""
        self._closed = True
        for stream in list(self._streams):
            await stream.close()
        if self._link is not None:
            self._link.close(ClientClosed())
            await asyncio.sleep(0)  # one turn of the loop, in which the transport lets go of its socket

    @overload
    async def call(
        self,
        method: str,
        params: msgspec.Struct | dict[str, Any] | None = None,
        /,
        *,
        result: type[T],
        timeout_s: float | None = None,
        **named: Any,
    ) -> T: ...

    @overload
    async def call(
        self,
        method: str,
        params: msgspec.Struct | dict[str, Any] | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **named: Any,
    ) -> Any: ...

    async def call(
        self,
        method: str,
        params: msgspec.Struct | dict[str, Any] | None = None,
        /,
        *,
        result: Any = Any,
        timeout_s: float | None = None,
        **named: Any,
    ) -> Any:
        """Call any method; parameters by their wire names, from a mapping, a parameter struct, or by keyword.

        The result is decoded as `result`. `timeout_s` is for all tries together. Raises what `execute` does.
        """
        return await self.execute(calls.named_request(method, params, result, named), timeout_s=timeout_s)

    async def execute(self, request: Request[T], *, timeout_s: float | None = None) -> T:
        """Make the call that a request describes.

        Raises:
            RpcError: the daemon answered this error (the classes of nexusd.errors).
            ConnectionFailed, DeadlineExceeded, ProtocolViolated, ClientClosed: it did not get that far.
            ValueError: the parameters cannot be written as JSON.
        """
        deadline = self._caller.deadline(timeout_s, request.params)
        return await self._run(self._caller.exchange(request, deadline))

    def events(self, topics: Sequence[str] = (), *, since_seq: int | None = None) -> AsyncEvents:
        """What happens in the daemon, to be iterated with `async for`, over a connection of its own.

        Of these topics (resources such as "episodes", and embedder, files, index, outbox, system), or all. From the
        first wait on, or from `async with`; with `since_seq` from after the event of this number.
        """
        listening = Listening(topics, since_seq, self._caller.retry, self._caller.rng)
        stream = AsyncEvents(self._beside, listening)
        self._streams.add(stream)
        return stream

    def _beside(self, on_notification: OnNotification, on_lost: Callable[[], None]) -> AsyncClient:
        """Another client of the same daemon, for a stream."""
        client = AsyncClient(self.address, token=self._token, on_notification=on_notification)
        client._caller = self._caller
        client._on_lost = on_lost
        return client

    @property
    def link(self) -> Link | None:
        """The connection of now, or the last one; for streams."""
        return self._link

    search = _call(calls.search)
    context = _call(calls.context)
    status = _call(calls.status)
    wait_indexed = _call(calls.wait_indexed)
    create_episode = _call(calls.create_episode)
    ensure_session = _flow(calls.ensure_session)
    remember = _flow(calls.remember)

    async def _run(self, steps: Steps[T]) -> T:
        """Carry the steps out; the one loop of this client."""
        outcome: Outcome = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as done:
                return cast("T", done.value)
            match step:
                case Send():
                    outcome = await self._transfer(step)
                case Pause(seconds):
                    await asyncio.sleep(seconds)
                    outcome = None
                case Learn(method, deadline):
                    async with self._learning:
                        await self._run(self._caller.learn(method, deadline))
                    outcome = None

    async def _transfer(self, step: Send) -> Outcome:
        try:
            async with asyncio.timeout(step.deadline - time.monotonic()):
                try:
                    link = await self._connected()
                except (ConnectionFailed, ClientClosed, ProtocolViolated) as exc:
                    return Unsent(exc)
                except LoginRefused as exc:
                    return exc.reply
                return await link.transfer(step)
        except TimeoutError:
            return Expired()

    async def _connected(self) -> Link:
        """The connection, made anew when there is none; one task makes it while the others wait."""
        if self._closed:
            raise ClientClosed
        link = self._link
        if link is not None and link.closed is None:
            return link
        async with self._connecting:
            if self._link is None or self._link.closed is not None:
                self._link = await self._opened()
            link = self._link
        self._still_open(link)
        return link

    def _still_open(self, link: Link) -> None:
        """A client that was closed while it connected keeps no connection."""
        if self._closed:
            link.close(ClientClosed())
            raise ClientClosed

    async def _opened(self) -> Link:
        loop = asyncio.get_running_loop()

        def link() -> Link:
            return Link(str(self.address), self._on_notification, self._on_lost)

        try:
            if isinstance(self.address, UnixAddress):
                _, made = await loop.create_unix_connection(link, self.address.path)
            else:
                tls = tls_context(self.address) if isinstance(self.address, TlsAddress) else None
                transport, made = await loop.create_connection(link, self.address.host, self.address.port, ssl=tls)
                # A peer that was switched off says nothing; without probes its calls would all wait out.
                transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except OSError as exc:
            raise ConnectionFailed(f"no connection to {self.address}: {why(exc)}") from exc
        if self._token is not None:
            await self._log_in(made, self._token)
        return made

    @staticmethod
    async def _log_in(link: Link, token: str) -> None:
        """The first words of a connection; without them it is of no use. The caller's deadline ends it."""
        accepted = False
        try:
            logged_in(await link.transfer(login(token, math.inf)))
            accepted = True
        finally:
            if not accepted:
                link.close(ClientClosed())

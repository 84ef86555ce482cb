"""The client for programs without an event loop: a blocking socket, one request at a time.

Owns the socket and its lock. Every decision (keys, tries, backoff) is `exchange`'s, every byte's meaning
`core`'s.
"""

from __future__ import annotations

import functools
import random
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar, cast, overload

import msgspec

from nexusd.client import calls
from nexusd.client.address import Address, UnixAddress, parse_address
from nexusd.client.core import Inbox, Reply, Request
from nexusd.client.errors import ClientClosed, ConnectionFailed, ProtocolViolated
from nexusd.client.exchange import (
    DEFAULT_TIMEOUT_S,
    Caller,
    Expired,
    Learn,
    Lost,
    OnNotification,
    Outcome,
    Pause,
    Retry,
    Send,
    Steps,
    Unsent,
)

T = TypeVar("T")
P = ParamSpec("P")

_READ_BYTES = 256 * 1024


def _left(deadline: float) -> float:
    """Seconds until the deadline.

    Raises:
        TimeoutError: there are none.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _is_ours(exc: OSError) -> bool:
    """Whether a timeout of this side's, and not one of the network's, which has a number."""
    return isinstance(exc, TimeoutError) and exc.errno is None


class _Link:
    """One connection, used by one request at a time."""

    def __init__(self, address: Address, deadline: float) -> None:
        """Connect.

        Raises:
            OSError: nobody listens there; a TimeoutError when the deadline passed first.
        """
        self._inbox = Inbox()
        if isinstance(address, UnixAddress):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self._socket.settimeout(_left(deadline))
                self._socket.connect(address.path)
            except OSError:
                self._socket.close()
                raise
        else:
            self._socket = socket.create_connection((address.host, address.port), _left(deadline))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A peer that was switched off says nothing; without probes its calls would all wait out.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def send(self, step: Send) -> None:
        """Send the line; after any exception part of it may be on the way and the link is of no more use."""
        self._socket.settimeout(_left(step.deadline))
        self._socket.sendall(step.line)

    def receive(self, step: Send, on_notification: OnNotification | None) -> Outcome:
        """Read until the reply is there, or the deadline: then the late reply will be dropped.

        Raises:
            OSError: the connection is lost.
            ProtocolViolated: it is of no more use.
        """
        self._inbox.expect(step.id, len(step.line))
        try:
            while True:
                reply = None
                for message in self._inbox.feed(self._read(step.deadline)):
                    if isinstance(message, Reply):
                        reply = message  # the only one that is expected
                    elif on_notification is not None:
                        on_notification(message)
                if reply is not None:
                    return reply
        except TimeoutError as exc:
            if not _is_ours(exc):
                raise
            return Expired()
        finally:
            self._inbox.forget(step.id)

    def _read(self, deadline: float) -> bytes:
        self._socket.settimeout(_left(deadline))
        data = self._socket.recv(_READ_BYTES)
        if not data:
            complaint = self._inbox.complaint
            raise ConnectionResetError(complaint.message if complaint else "closed by the daemon")
        return data

    def close(self) -> None:
        """Close the socket; a thread that is reading from it wakes up."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other side was quicker
        self._socket.close()


def _call(build: Callable[P, Request[T]]) -> Callable[Concatenate[Client, P], T]:
    """A method that makes this one request."""

    @functools.wraps(build)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.execute(build(*args, **kwargs))

    return method


def _flow(build: Callable[Concatenate[Caller, P], Steps[T]]) -> Callable[Concatenate[Client, P], T]:
    """A method that makes these requests, one after the other."""

    @functools.wraps(build)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(build(self._caller, *args, **kwargs))

    return method


class Client:
    """A connection to nexusd, made at the first call and again when it was lost.

    May be shared by threads: one request is on the way at a time, the others wait for it. Threads that
    should not wait for each other take a client each.

        with Client("/run/nexusd/nexusd.sock") as nexus:
            nexus.remember("Where is the key?", "Under the mat.", session="kitchen")
            hits = nexus.search("how do I get in")
    """

    def __init__(
        self,
        address: str | Path | Address,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry: Retry | None = None,
        on_notification: OnNotification | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.address = parse_address(address) if isinstance(address, str | Path) else address
        self._on_notification = on_notification
        self._caller = Caller(timeout_s=timeout_s, retry=retry, rng=rng)
        self._link: _Link | None = None
        self._using = threading.Lock()  # the link
        self._learning = threading.Lock()
        self._closed = threading.Event()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def connect(self, *, timeout_s: float | None = None) -> None:
        """Connect now, in one try; otherwise the first call does.

        Raises:
            ConnectionFailed: nobody listens there, or does not answer in time.
        """
        try:
            with self._using:
                self._connected(self._caller.deadline(timeout_s))
        except TimeoutError as exc:
            raise ConnectionFailed(f"no connection to {self.address}: timed out") from exc

    def close(self) -> None:
        """Close the connection; calls on the way in other threads end in ClientClosed."""
        self._closed.set()
        link = self._link
        if link is not None:
            link.close()

    @overload
    def call(
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
    def call(
        self,
        method: str,
        params: msgspec.Struct | dict[str, Any] | None = None,
        /,
        *,
        timeout_s: float | None = None,
        **named: Any,
    ) -> Any: ...

    def call(
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
        return self.execute(calls.named_request(method, params, result, named), timeout_s=timeout_s)

    def execute(self, request: Request[T], *, timeout_s: float | None = None) -> T:
        """Make the call that a request describes.

        Raises:
            RpcError: the daemon answered this error (the classes of nexusd.errors).
            ConnectionFailed, DeadlineExceeded, ProtocolViolated, ClientClosed: it did not get that far.
            ValueError: the parameters cannot be written as JSON.
        """
        deadline = self._caller.deadline(timeout_s, request.params)
        return self._run(self._caller.exchange(request, deadline))

    search = _call(calls.search)
    context = _call(calls.context)
    status = _call(calls.status)
    wait_indexed = _call(calls.wait_indexed)
    create_episode = _call(calls.create_episode)
    ensure_session = _flow(calls.ensure_session)
    remember = _flow(calls.remember)

    def _run(self, steps: Steps[T]) -> T:
        """Carry the steps out; the one loop of this client."""
        outcome: Outcome = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as done:
                return cast("T", done.value)
            match step:
                case Send():
                    outcome = self._transfer(step)
                case Pause(seconds):
                    self._closed.wait(seconds)  # a close ends the pause
                    outcome = None
                case Learn(method, deadline):
                    with self._learning:
                        self._run(self._caller.learn(method, deadline))
                    outcome = None

    def _transfer(self, step: Send) -> Outcome:
        if not self._using.acquire(timeout=max(0.0, step.deadline - time.monotonic())):
            return Expired()
        try:
            return self._transferred(step)
        finally:
            self._using.release()

    def _transferred(self, step: Send) -> Outcome:
        try:
            link = self._connected(step.deadline)
        except (ConnectionFailed, ClientClosed) as exc:
            return Unsent(exc)
        except TimeoutError:
            return Expired()
        intact = False
        try:
            link.send(step)
            outcome = link.receive(step, self._on_notification)
            intact = True
        except OSError as exc:
            outcome = self._lost(exc)
        except ProtocolViolated as exc:
            outcome = Lost(exc)
        finally:
            if not intact:  # Ctrl-C too: half a line may be out, and the next request would continue it
                self._dropped(link)
        return outcome

    def _lost(self, exc: OSError) -> Outcome:
        if _is_ours(exc):
            return Expired()
        if self._closed.is_set():
            return Lost(ClientClosed())
        why = exc.strerror or exc
        return Lost(ConnectionFailed(f"the connection to {self.address} was lost: {why}"))

    def _connected(self, deadline: float) -> _Link:
        """The connection, made anew when there is none; the caller holds the lock."""
        if self._closed.is_set():
            raise ClientClosed
        if self._link is None:
            try:
                self._link = _Link(self.address, deadline)
            except OSError as exc:
                if _is_ours(exc):
                    raise
                raise ConnectionFailed(f"no connection to {self.address}: {exc.strerror or exc}") from exc
            if self._closed.is_set():  # closed while it connected, so nobody else will
                self._dropped(self._link)
                raise ClientClosed
        return self._link

    def _dropped(self, link: _Link) -> None:
        link.close()
        self._link = None

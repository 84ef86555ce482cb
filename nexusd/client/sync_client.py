"""The client for programs without an event loop: a blocking socket, one request at a time.

Owns when there is a connection, and its lock. Every decision (keys, tries, backoff) is `exchange`'s, every byte's
meaning `core`'s.
"""

from __future__ import annotations

import functools
import random
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar, cast, overload

import msgspec

from nexusd.client import calls
from nexusd.client.address import Address, Trust, parse_address
from nexusd.client.core import Request
from nexusd.client.errors import ClientClosed, ConnectionFailed, ProtocolViolated
from nexusd.client.exchange import (
    DEFAULT_TIMEOUT_S,
    Caller,
    Expired,
    Learn,
    LoginRefused,
    Lost,
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
from nexusd.client.security import why
from nexusd.client.sync_events import Events
from nexusd.client.sync_link import Link, is_ours

T = TypeVar("T")
P = ParamSpec("P")

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
        self._caller = Caller(timeout_s=timeout_s, retry=retry, rng=rng)
        self._link: Link | None = None
        self._using = threading.Lock()  # the link
        self._learning = threading.Lock()
        self._closed = threading.Event()
        self._streams: weakref.WeakSet[Events] = weakref.WeakSet()

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
            Unauthenticated: the token is not accepted.
        """
        try:
            with self._using:
                self._connected(self._caller.deadline(timeout_s))
        except LoginRefused as exc:
            raise exc.reason() from None
        except TimeoutError as exc:
            raise ConnectionFailed(f"no connection to {self.address}: timed out") from exc

    def close(self) -> None:
        """Close the connection; calls on the way in other threads end in ClientClosed, streams of events end."""
        self._closed.set()
        for stream in list(self._streams):
            stream.close()
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

    def events(self, topics: Sequence[str] = (), *, since_seq: int | None = None) -> Events:
        """What happens in the daemon, to be iterated, over a connection of its own.

        Of these topics (resources such as "episodes", and embedder, files, index, outbox, system), or all. From the
        first wait on, or from `with`; with `since_seq` from after the event of this number.
        """
        listening = Listening(topics, since_seq, self._caller.retry, self._caller.rng)
        client = Client(self.address, token=self._token, on_notification=listening.arrive)
        client._caller = self._caller
        stream = Events(client, listening)
        self._streams.add(stream)
        return stream

    def listen(self) -> None:
        """Wait until something comes that answers no request, and give it to `on_notification`.

        Raises:
            ConnectionFailed: there is no connection, or it is lost.
            ProtocolViolated: it is of no more use.
            ClientClosed: the client is closed, by another thread too.
        """
        with self._using:
            link = self._link
            if link is None:
                raise ClientClosed if self._closed.is_set() else ConnectionFailed
            try:
                link.listen(self._on_notification)
            except OSError as exc:
                self._dropped(link)
                if self._closed.is_set():
                    raise ClientClosed from None
                raise self._connection_lost(exc) from exc
            except BaseException:
                self._dropped(link)     # what was read of a line is gone
                raise

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
        except (ConnectionFailed, ClientClosed, ProtocolViolated) as exc:
            return Unsent(exc)
        except LoginRefused as exc:
            return exc.reply
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
        if is_ours(exc):
            return Expired()
        if self._closed.is_set():
            return Lost(ClientClosed())
        return Lost(self._connection_lost(exc))

    def _connection_lost(self, exc: OSError) -> ConnectionFailed:
        return ConnectionFailed(f"the connection to {self.address} was lost: {why(exc)}")

    def _connected(self, deadline: float) -> Link:
        """The connection, made anew when there is none; the caller holds the lock."""
        if self._closed.is_set():
            raise ClientClosed
        if self._link is None:
            try:
                self._link = Link(self.address, deadline)
            except OSError as exc:
                if is_ours(exc):
                    raise
                raise ConnectionFailed(f"no connection to {self.address}: {why(exc)}") from exc
            if self._token is not None:
                self._log_in(self._link, self._token, deadline)
            if self._closed.is_set():  # closed while it connected, so nobody else will
                self._dropped(self._link)
                raise ClientClosed
        return self._link

    def _log_in(self, link: Link, token: str, deadline: float) -> None:
        """The first words of a connection; without them it is of no use."""
        step = login(token, deadline)
        accepted = False
        try:
            link.send(step)
            logged_in(link.receive(step, self._on_notification))
            accepted = True
        except OSError as exc:
            if is_ours(exc):
                raise
            raise self._connection_lost(exc) from exc
        finally:
            if not accepted:
                self._dropped(link)

    def _dropped(self, link: Link) -> None:
        link.close()
        self._link = None

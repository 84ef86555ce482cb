"""A closed-loop load: so many connections, each sends its next request when it has the last one's reply.

Owns the sockets and the clock around them. One thread and epoll, so that the measuring side takes as
little as it can of the processors that it shares with what it measures.
"""

from __future__ import annotations

import selectors
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


class Framing(Protocol):
    """How a reply's end is told."""

    def complete(self, received: bytearray) -> bool:
        """Whether a whole reply is there."""

    def failed(self, received: bytearray) -> bool:
        """Whether the whole reply that is there says that it did not work."""


class NdjsonFraming:
    """One JSON value a line."""

    def complete(self, received: bytearray) -> bool:
        """Whether a whole reply is there."""
        return received.endswith(b"\n")

    def failed(self, received: bytearray) -> bool:
        """Whether it is an error."""
        return b'"error":' in received[:200]


class HttpFraming:
    """HTTP/1.1 with Content-Length, keep-alive."""

    def complete(self, received: bytearray) -> bool:
        """Whether a whole reply is there."""
        head = received.find(b"\r\n\r\n")
        if head < 0:
            return False
        at = received.lower().find(b"content-length:", 0, head)
        length = int(received[at + 15 : received.find(b"\r\n", at)])
        return len(received) >= head + 4 + length

    def failed(self, received: bytearray) -> bool:
        """Whether the status is not 2xx."""
        return not received.startswith(b"HTTP/1.1 2")


@dataclass(frozen=True, slots=True)
class Result:
    """What a load did: requests a second, and each request's time."""

    requests: int
    seconds: float
    latencies_ms: list[float]

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    def percentile_ms(self, share: float) -> float:
        """The latency that this share of the requests stayed within."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]

    @property
    def median_ms(self) -> float:
        """The median latency."""
        return statistics.median(self.latencies_ms)


def together(results: Sequence[Result]) -> Result:
    """Several turns of one load as one."""
    return Result(
        sum(result.requests for result in results),
        sum(result.seconds for result in results),
        [latency for result in results for latency in result.latencies_ms],
    )


class _Connection:
    __slots__ = ("received", "sent_at", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = bytearray()
        self.sent_at = 0.0


def run_load(
    connect: Callable[[], socket.socket],
    next_request: Callable[[], bytes | None],
    framing: Framing,
    *,
    clients: int,
    seconds: float,
) -> Result:
    """Drive `clients` connections for so long, or until there is no next request.

    Raises:
        RuntimeError: a reply was an error, or a connection ended.
    """
    selector = selectors.DefaultSelector()
    latencies: list[float] = []
    open_connections = 0
    began = time.perf_counter()
    until = began + seconds
    for _ in range(clients):
        if (request := next_request()) is None:
            break
        connection = _Connection(connect())
        selector.register(connection.sock, selectors.EVENT_READ, connection)
        connection.sent_at = time.perf_counter()
        connection.sock.sendall(request)
        open_connections += 1
    while open_connections:
        for key, _ in selector.select():
            connection = key.data
            chunk = connection.sock.recv(1 << 20)
            if not chunk:
                raise RuntimeError("the server closed a connection")
            connection.received += chunk
            if not framing.complete(connection.received):
                continue
            now = time.perf_counter()
            latencies.append((now - connection.sent_at) * 1e3)
            if framing.failed(connection.received):
                raise RuntimeError(f"the server answered {bytes(connection.received[:300])!r}")
            connection.received.clear()
            request = next_request() if now < until else None
            if request is None:
                selector.unregister(connection.sock)
                connection.sock.close()
                open_connections -= 1
                continue
            connection.sent_at = time.perf_counter()
            connection.sock.sendall(request)
    return Result(len(latencies), time.perf_counter() - began, latencies)

"""What a token costs: the same requests at a daemon that wants one and at a daemon that wants none, in short turns.

Two daemons on copies of one store, one of which answers at a time, to connections that have logged in before. Beside
the throughput, which also tells what else the machine was doing, it measures what is the daemon's own: the processor
time that its process took for each request.
"""

from __future__ import annotations

import os
import socket
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from daemon import MeasuredDaemon, connect_tcp, request, running
from load import Framing, HttpFraming, NdjsonFraming, run_load
from prefill import prefill

EPISODES = 2_000
CLIENTS = 64
TURN_S = 0.5
AIM = 0.05      # of the throughput
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """Of one sort of request: each pair of turns' requests a second and processor microseconds a request."""

    what: str
    open_rates: list[float]
    token_rates: list[float]
    open_us: list[float]
    token_us: list[float]

    @property
    def throughput_lost(self) -> float:
        """The median over the pairs; a share."""
        pairs = zip(self.open_rates, self.token_rates, strict=True)
        return 1 - statistics.median(token / open_ for open_, token in pairs)

    @property
    def processor_added(self) -> float:
        """The median over the pairs; a share."""
        return statistics.median(token / open_ for open_, token in zip(self.open_us, self.token_us, strict=True)) - 1


class _Side:
    """One daemon, and how the load comes in."""

    def __init__(self, daemon: MeasuredDaemon, *, wants_token: bool) -> None:
        self.daemon = daemon
        self.secret = daemon.call("tokens.create", name="bench", role="write")["token"] if wants_token else None
        self._address = daemon.tcp_address()

    def connected(self, first: bytes, framing: Framing) -> socket.socket:
        """A connection on which this was asked and answered."""
        connection, received = connect_tcp(*self._address), bytearray()
        connection.sendall(first)
        while not framing.complete(received):
            received += connection.recv(1 << 16)
        if framing.failed(received):
            raise RuntimeError(f"the daemon answered {bytes(received)!r}")
        return connection

    def login(self) -> bytes:
        """The first line; without a token one that asks for as little."""
        return request("health", {}) if self.secret is None else request("auth.login", {"token": self.secret})

    def get(self, number: int) -> bytes:
        """A look-up over HTTP."""
        shown = "" if self.secret is None else f"Authorization: Bearer {self.secret}\r\n"
        return f"GET /episodes/{number} HTTP/1.1\r\nHost: localhost\r\n{shown}\r\n".encode()

    def turn(self, first: bytes, requests: Iterator[bytes], framing: Framing) -> _Turn:
        """One turn of the load."""
        connections = [self.connected(first, framing) for _ in range(CLIENTS)]
        before_s = processor_s(self.daemon.pid)
        result = run_load(connections.pop, lambda: next(requests), framing, clients=CLIENTS, seconds=TURN_S)
        return _Turn(result.rate, (processor_s(self.daemon.pid) - before_s) / result.requests * 1e6)


@dataclass(frozen=True)
class _Turn:
    rate: float
    processor_us: float


def processor_s(pid: int) -> float:
    """What the process itself has taken of the processors so far, in ticks of a hundredth of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


def authentication_costs(work: Path, settings: dict[str, str], seconds: float) -> Iterator[Cost]:
    """Of look-ups by lines and over HTTP, each for so many seconds on either side."""
    for name in ("open", "token"):
        prefill(work / name / "nexus.db", EPISODES)
    wanting = {**settings, "NEXUSD_SERVER__TCP__AUTH": "token"}
    with running(work / "open", **settings) as first, running(work / "token", **wanting) as second:
        sides = [_Side(first, wants_token=False), _Side(second, wants_token=True)]
        for daemon in (first, second):
            daemon.wait_until(lambda daemon=daemon: daemon.call("outbox.status")["pending"] == 0)
        numbers = range(1, EPISODES)
        yield _cost("look-ups by lines", sides, seconds, lambda side: (
            side.login(), cycle([request("episodes.get", {"id": n}) for n in numbers]), NdjsonFraming(),
        ))  # fmt: skip
        yield _cost("look-ups over HTTP", sides, seconds, lambda side: (
            side.get(1), cycle([side.get(n) for n in numbers]), HttpFraming(),
        ))  # fmt: skip


def _cost(
    what: str, sides: list[_Side], seconds: float,
    load_of: Callable[[_Side], tuple[bytes, Iterator[bytes], Framing]],
) -> Cost:
    loads = [load_of(side) for side in sides]
    turns: tuple[list[_Turn], list[_Turn]] = ([], [])
    for number in range(max(2, round(seconds / TURN_S))):
        for at in ((0, 1), (1, 0))[number % 2]:  # each goes first as often as the other
            turns[at].append(sides[at].turn(*loads[at]))
    rates = [[turn.rate for turn in each] for each in turns]
    took_us = [[turn.processor_us for turn in each] for each in turns]
    return Cost(what, *rates, *took_us)

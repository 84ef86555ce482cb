"""What a token costs: the same requests at a daemon that wants one and at a daemon that wants none, in short turns.

Two daemons on copies of one store, one of which answers at a time, to connections that have logged in before. Two
processes of the same program already differ by some percent for as long as they run, so that there are several rounds,
each with new ones. Beside the throughput, which also tells what else the machine was doing, it measures what is the
daemon's own: the processor time that its process took for each request.
"""

from __future__ import annotations

import os
import socket
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from daemon import MeasuredDaemon, connect_tcp, request, running
from load import Framing, HttpFraming, NdjsonFraming, run_load
from prefill import prefill

EPISODES = 2_000
CLIENTS = 64
TURN_S = 0.5
ROUNDS = 8
AIM = 0.05      # of the throughput
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """Of one sort of request: each pair of turns' requests a second and processor microseconds a request."""

    what: str
    open_rates: list[float] = field(default_factory=list)
    token_rates: list[float] = field(default_factory=list)
    open_us: list[float] = field(default_factory=list)
    token_us: list[float] = field(default_factory=list)

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

    def __init__(self, daemon: MeasuredDaemon, token_name: str | None) -> None:
        self.daemon = daemon
        self.secret = token_name and daemon.call("tokens.create", name=token_name, role="write")["token"]
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


def authentication_costs(work: Path, settings: dict[str, str], seconds: float) -> list[Cost]:
    """Of look-ups by lines and over HTTP, each for so many seconds on either side."""
    for name in ("open", "token"):
        prefill(work / name / "nexus.db", EPISODES)
    wanting = {**settings, "NEXUSD_SERVER__TCP__AUTH": "token"}
    numbers = range(1, EPISODES)
    lines, http = Cost("look-ups by lines"), Cost("look-ups over HTTP")
    for number in range(ROUNDS):
        with running(work / "open", **settings) as first, running(work / "token", **wanting) as second:
            sides = [_Side(first, None), _Side(second, f"bench-{number}")]
            for daemon in (first, second):
                daemon.wait_until(lambda daemon=daemon: daemon.call("outbox.status")["pending"] == 0)
            _measure(lines, sides, seconds / ROUNDS, lambda side: (
                side.login(), cycle([request("episodes.get", {"id": n}) for n in numbers]), NdjsonFraming(),
            ))  # fmt: skip
            _measure(http, sides, seconds / ROUNDS, lambda side: (
                side.get(1), cycle([side.get(n) for n in numbers]), HttpFraming(),
            ))  # fmt: skip
    return [lines, http]


def _measure(
    cost: Cost, sides: list[_Side], seconds: float,
    load_of: Callable[[_Side], tuple[bytes, Iterator[bytes], Framing]],
) -> None:
    loads = [load_of(side) for side in sides]
    for side, load in zip(sides, loads, strict=True):
        side.turn(*load)    # that everything is there
    into = [(cost.open_rates, cost.open_us), (cost.token_rates, cost.token_us)]
    for number in range(max(2, round(seconds / TURN_S))):
        for at in ((0, 1), (1, 0))[number % 2]:  # each goes first as often as the other
            turn = sides[at].turn(*loads[at])
            rates, took_us = into[at]
            rates.append(turn.rate)
            took_us.append(turn.processor_us)

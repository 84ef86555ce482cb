"""What one noisy client does to another: the same quiet requests alone and beside each kind of noise, in turns.

Owns the kinds of noise, the quiet client's requests, and the turns. The noisy client is a process of its own that comes
in over TCP, with as many connections and as many requests in flight as the limits let it have. Each turn has a daemon
of its own on a copy of the same data, so that none finds what the noise of another one left to be done.

Beside what the daemon answers the quiet client asks another process, which only sends a line back: what becomes slower
there waits for a processor, and not for the daemon.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from daemon import running
from load import NdjsonFraming, Result, run_load
from texts import Texts

CONNECTIONS = 100       # of the noisy client
IN_FLIGHT = 32          # on each of them
TURNS = 3               # alone and beside the noise, one after the other: what else the machine does meets both
SETTLE_S = 1.0          # from the noise's first request until its queues are full
NICE = 10   # on a machine of its own it would take no processor from the daemon either
AIM = 3.0
MESSAGE_BYTES = 16 * 1024 * 1024

Noise = Callable[[], Iterator[bytes]]


def line(method: str, params: dict[str, object]) -> bytes:
    """One request."""
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n"


def searches() -> Iterator[bytes]:
    """Questions that were never asked before, so that each is embedded."""
    texts = Texts(seed=21)
    for number in itertools.count():
        yield line("memory.search", {"query": f"{texts.question()} {number}", "limit": 50})


def gets() -> Iterator[bytes]:
    """Look-ups that wait for nothing, as many as fit."""
    return itertools.repeat(line("episodes.get", {"id": 1}))


def creates() -> Iterator[bytes]:
    """Exchanges to be created, one by one."""
    texts = Texts(seed=25)
    return (line("episodes.create", {"sessionId": 1, "userMessage": texts.sentence(), "aiResponse": texts.sentence()})
            for _ in itertools.count())  # fmt: skip


def bulk() -> Iterator[bytes]:
    """Lists of a hundred exchanges to be created."""
    texts = Texts(seed=22)
    items = [{"sessionId": 1, "userMessage": texts.sentence(), "aiResponse": texts.sentence()} for _ in range(100)]
    return itertools.repeat(line("episodes.createMany", {"items": items}))


def batches() -> Iterator[bytes]:
    """Batches of a hundred searches."""
    texts = Texts(seed=23)
    for number in itertools.count():
        yield json.dumps([
            {"jsonrpc": "2.0", "id": one, "method": "memory.search",
             "params": {"query": f"{texts.question()} {number} {one}"}}
            for one in range(100)
        ]).encode() + b"\n"


def long_messages() -> Iterator[bytes]:
    """Messages as long as they may be: one that is refused for what it holds, and one long text."""
    half = b'{"jsonrpc":"2.0","id":1,"method":"episodes.get","params":{"id":['
    many = half + b",".join([b'{"a":1}'] * (MESSAGE_BYTES // 8 - 100)) + b"]}}\n"
    text = line("episodes.get", {"id": 1, "more": "x" * (MESSAGE_BYTES - 1000)})
    return itertools.cycle([many, text])


NOISES: dict[str, tuple[Noise, int, int]] = {  # with the connections, and the requests in flight on each
    "gets": (gets, CONNECTIONS, IN_FLIGHT),
    "searches": (searches, CONNECTIONS, IN_FLIGHT),
    "creates": (creates, CONNECTIONS, IN_FLIGHT),
    "createMany of 100": (bulk, CONNECTIONS, IN_FLIGHT),
    "batches of 100 searches": (batches, CONNECTIONS, 4),
    "messages of 16 MiB": (long_messages, 8, 1),
    "64 searches at a time": (searches, 8, 8),  # no flood: a client that is busy, and reads its answers
    "64 creates at a time": (creates, 8, 8),
}


ECHO = [line("health", {})]


def quiet_requests() -> dict[str, list[bytes]]:
    """What the quiet client does."""
    texts = Texts(seed=24)
    return {
        "get": [line("episodes.get", {"id": one}) for one in range(1, 100)],
        "search": [line("memory.search", {"query": texts.question()}) for _ in range(20)],
        "create": [line("episodes.create", {"sessionId": 1, "userMessage": texts.sentence(), "aiResponse": "yes"})],
    }


@contextlib.contextmanager
def echo_running(path: Path) -> Iterator[Callable[[], socket.socket]]:
    """A process that sends each line back; how to connect to it."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        pid = os.fork()
        if pid == 0:
            try:
                _echo(listening)
            finally:
                os._exit(0)

    def connect() -> socket.socket:
        asking = socket.socket(socket.AF_UNIX)
        asking.connect(str(path))
        return asking

    try:
        yield connect
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _echo(listening: socket.socket) -> None:
    while True:
        with listening.accept()[0] as sock:
            while said := sock.recv(1 << 16):
                sock.sendall(said)


@contextlib.contextmanager
def noise_running(address: tuple[str, int], noise: Noise, connections: int, in_flight: int) -> Iterator[None]:
    """The noisy client, in a process of its own."""
    pid = os.fork()
    if pid == 0:
        try:
            os.nice(NICE)
            _make_noise(address, noise(), connections, in_flight)
        finally:
            os._exit(0)
    try:
        time.sleep(SETTLE_S)
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _make_noise(address: tuple[str, int], requests: Iterator[bytes], connections: int, in_flight: int) -> None:
    lock = threading.Lock()

    def one() -> None:
        while True:     # one that was cut off comes again
            with contextlib.suppress(OSError), socket.create_connection(address) as sock:
                for _ in range(in_flight):
                    with lock:
                        request = next(requests)
                    sock.sendall(request)
                while answered := sock.recv(1 << 18).count(b"\n"):
                    for _ in range(answered):
                        with lock:
                            request = next(requests)
                        sock.sendall(request)

    threads = [threading.Thread(target=one, daemon=True) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def latencies_ms(
    data: Path, work: Path, noise: str, settings: dict[str, str], seconds: float
) -> dict[str, tuple[list[float], list[float]]]:
    """Of each of the quiet client's requests, and of the echo: alone, and beside this noise.

    `data` is a daemon's directory, of which a copy is used; `seconds` is how long each of them is asked, in all turns.
    """
    make, connections, in_flight = NOISES[noise]
    alone: dict[str, list[float]] = defaultdict(list)
    beside: dict[str, list[float]] = defaultdict(list)
    for turn in range(TURNS):
        copy = work / str(turn)
        shutil.copytree(data, copy, ignore=shutil.ignore_patterns("*.sock"))
        with running(copy, **settings) as daemon, echo_running(copy / "echo.sock") as echo:
            asked = [("echo", echo, ECHO), *((what, daemon.connect, how) for what, how in quiet_requests().items())]
            daemon.call("memory.search", query="once, so that the model is loaded")
            for what, connect, requests in asked:
                alone[what] += _quiet(connect, requests, seconds / TURNS).latencies_ms
            with noise_running(daemon.tcp_address(), make, connections, in_flight):
                for what, connect, requests in asked:
                    beside[what] += _quiet(connect, requests, seconds / TURNS).latencies_ms
            daemon.kill()   # what the noise left is for nobody
        shutil.rmtree(copy)
    return {what: (alone[what], beside[what]) for what in alone}


def _quiet(connect: Callable[[], socket.socket], requests: Sequence[bytes], seconds: float) -> Result:
    endless = itertools.cycle(requests)
    return run_load(connect, lambda: next(endless), NdjsonFraming(), clients=1, seconds=seconds)


def percentile_ms(latencies_ms: Sequence[float], share: float = 0.99) -> float:
    """The latency that this share stayed within."""
    ordered = sorted(latencies_ms)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]

"""Measure the daemon: what is asked for, each figure beside its aim.

Each part is a function that adds rows to the report. Both sides of a comparison run in this one process's
time, one after the other, on the same machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import socket
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from baseline import bare_creates_per_second
from daemon import MeasuredDaemon, request, running
from load import HttpFraming, NdjsonFraming, run_load
from peer import running_peer, why_not
from prefill import prefill
from texts import Texts

CLIENTS = 64
QUERIES = 200
READ_EPISODES = 20_000


@dataclass
class Row:
    """One figure."""

    what: str
    figure: str
    aim: str = ""
    holds: bool | None = None


@dataclass
class Report:
    """All figures, printed as they come."""

    rows: list[Row] = field(default_factory=list)

    def add(self, what: str, figure: str, aim: str = "", *, holds: bool | None = None) -> None:
        """Keep and print a figure."""
        self.rows.append(Row(what, figure, aim, holds))
        mark = {None: " ", True: "+", False: "-"}[holds]
        print(f" {mark} {what:<52} {figure:>22}   {aim}", flush=True)


@dataclass
class Options:
    """The command line."""

    episodes: int
    seconds: float
    peer: Path | None
    work: Path


def measure_small_store(options: Options, report: Report) -> None:
    """Durable creates and gets with 64 clients, beside bare SQLite and the peer."""
    bare = bare_creates_per_second(options.work / "bare", options.seconds)
    report.add("bare apsw, creates in batches of 64", f"{bare:,.0f}/s")
    with running(options.work / "small") as daemon:
        session = daemon.call("sessions.create", externalId="bench")["id"]
        texts = Texts(seed=4)
        pool = [
            request("episodes.create",
                    {"sessionId": session, "userMessage": texts.sentence(), "aiResponse": texts.sentence()})
            for _ in range(2000)
        ]
        endless = itertools.cycle(pool)
        created = run_load(daemon.connect, lambda: next(endless), NdjsonFraming(), clients=CLIENTS,
                           seconds=options.seconds)
        share = created.rate / bare
        report.add("creates, 64 clients, Unix socket", f"{created.rate:,.0f}/s",
                   f"p50 {created.median_ms:.1f} ms, p99 {created.percentile_ms(0.99):.1f} ms")
        report.add("  of bare apsw", f"{share:.0%}", "at least 45%", holds=share >= 0.45)
    # Reads are measured without the embedding backlog that the creates left behind: the peer embeds nothing.
    prefill(options.work / "reads" / "nexus.db", READ_EPISODES)
    with running(options.work / "reads") as daemon:
        daemon.wait_until(lambda: daemon.call("outbox.status")["pending"] == 0)
        daemon.wait_until(lambda: not daemon.call("system.status")["index"]["rebuilding"], every_s=1)
        ids = itertools.cycle([request("episodes.get", {"id": i}) for i in range(1, READ_EPISODES)])
        got = run_load(daemon.connect, lambda: next(ids), NdjsonFraming(), clients=CLIENTS, seconds=options.seconds)
        report.add("gets, 64 clients, Unix socket", f"{got.rate:,.0f}/s",
                   f"p50 {got.median_ms:.1f} ms, p99 {got.percentile_ms(0.99):.1f} ms")
        alone = run_load(daemon.connect, lambda: next(ids), NdjsonFraming(), clients=1, seconds=2)
        report.add("get, one client, round trip p50", f"{alone.median_ms:.3f} ms", "under 0.25 ms",
                   holds=alone.median_ms < 0.25)
    reason = why_not(options.peer)
    if options.peer is None or reason is not None:
        report.add("Express + better-sqlite3 service", "skipped", reason or "")
        return
    with running_peer(options.peer, options.work / "peer") as port:
        measure_peer(port, options, report, created.rate, got.rate)


def measure_peer(port: int, options: Options, report: Report, creates: float, gets: float) -> None:
    """The same load on the Express service over HTTP."""

    def connect() -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def post(path: str, body: dict[str, object]) -> bytes:
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: peer\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
        return head.encode() + b"\r\n\r\n" + data

    texts = Texts(seed=4)
    sessions = iter([post("/sessions", {"externalId": "bench"})])
    run_load(connect, lambda: next(sessions, None), HttpFraming(), clients=1, seconds=5)
    pool = itertools.cycle([
        post("/episodes", {"sessionId": 1, "userMessage": texts.sentence(), "aiResponse": texts.sentence()})
        for _ in range(2000)
    ])
    created = run_load(connect, lambda: next(pool), HttpFraming(), clients=CLIENTS, seconds=options.seconds)
    report.add("Express service, creates, 64 clients, SYNC=FULL", f"{created.rate:,.0f}/s")
    ratio = creates / created.rate
    report.add("  nexusd creates against it", f"{ratio:.1f} x", "at least 2.5 x", holds=ratio >= 2.5)
    stored = min(created.requests, READ_EPISODES)
    ids = itertools.cycle([f"GET /episodes/{i} HTTP/1.1\r\nHost: peer\r\n\r\n".encode() for i in range(1, stored)])
    got = run_load(connect, lambda: next(ids), HttpFraming(), clients=CLIENTS, seconds=options.seconds)
    report.add("Express service, gets, 64 clients", f"{got.rate:,.0f}/s")
    ratio = gets / got.rate
    report.add("  nexusd gets against it", f"{ratio:.1f} x", "at least 4 x", holds=ratio >= 4)


def measure_large_store(options: Options, report: Report) -> None:
    """Start, memory and hybrid search on a large store: at rest, while creates run, while a shard is rebuilt."""
    data = options.work / "large"
    prefill(data / "nexus.db", options.episodes)
    with running(data) as daemon:
        daemon.wait_until(lambda: daemon.call("outbox.status")["pending"] == 0)
        daemon.wait_until(lambda: not daemon.call("system.status")["index"]["rebuilding"], every_s=1)
    with running(data) as daemon:
        report.add(f"start to READY, {options.episodes:,} episodes", f"{daemon.start_s * 1000:.0f} ms",
                   "under 1000 ms", holds=daemon.start_s < 1)
        memory = daemon.memory_mb()
        report.add("resident memory, idle, model not loaded",
                   ", ".join(f"{name} {size:.0f} MB" for name, size in memory.items()),
                   "daemon under 120 MB", holds=memory["daemon"] < 120)
        queries = _queries(daemon)
        memory = daemon.memory_mb()
        report.add("resident memory after searches",
                   ", ".join(f"{name} {size:.0f} MB" for name, size in memory.items()),
                   "daemon under 120 MB", holds=memory["daemon"] < 120)
        _measure_search("hybrid search, at rest", daemon, queries, options, report)
        with _creates_running(daemon):
            _measure_search("hybrid search, while creates run", daemon, queries, options, report)
    # A limit of 100 makes the tail that the last rebuild left a reason for another one at once.
    with running(data, NEXUSD_INDEX__REBUILD_AFTER="100") as daemon:
        queries = _queries(daemon)
        if not daemon.call("system.status")["index"]["rebuilding"]:
            _touch(daemon)
        daemon.wait_until(lambda: daemon.call("system.status")["index"]["rebuilding"], timeout_s=120)
        _measure_search("hybrid search, while a shard is rebuilt", daemon, queries, options, report,
                        proof=lambda: daemon.call("system.status")["index"]["rebuilding"])


def _queries(daemon: MeasuredDaemon) -> list[bytes]:
    """Queries whose vectors the daemon has in its cache: the time to embed them is not measured."""
    texts = Texts(seed=5)
    questions = [texts.question() for _ in range(QUERIES)]
    for question in questions:
        hits = daemon.call("memory.search", query=question)
        if hits["degraded"]:
            raise RuntimeError(f"degraded: {hits['degraded']}")
    return [request("memory.search", {"query": question}) for question in questions]


def _measure_search(
    what: str, daemon: MeasuredDaemon, queries: list[bytes], options: Options, report: Report,
    proof: Callable[[], bool] | None = None,
) -> None:
    endless = itertools.cycle(queries)
    found = run_load(daemon.connect, lambda: next(endless), NdjsonFraming(), clients=1, seconds=options.seconds)
    if proof is not None and not proof():
        what += " (ended before the measurement did)"
    p50, p99 = found.median_ms, found.percentile_ms(0.99)
    report.add(f"{what}, p50", f"{p50:.1f} ms", "under 15 ms", holds=p50 < 15)
    report.add(f"{what}, p99", f"{p99:.1f} ms", "under 50 ms", holds=p99 < 50)


class _creates_running:  # noqa: N801 - reads as the statement that it is
    """Eight clients that create as fast as they can, in a process of their own."""

    def __init__(self, daemon: MeasuredDaemon) -> None:
        self._daemon = daemon
        self._stop = threading.Event()
        texts = Texts(seed=6)
        self._pool = itertools.cycle([
            request("episodes.create",
                    {"sessionId": 1, "userMessage": texts.sentence(), "aiResponse": texts.sentence()})
            for _ in range(500)
        ])
        self._pid = 0

    def __enter__(self) -> None:
        self._pid = os.fork()
        if self._pid == 0:
            run_load(self._daemon.connect, lambda: next(self._pool), NdjsonFraming(), clients=8, seconds=600)
            os._exit(0)

    def __exit__(self, *_: object) -> None:
        os.kill(self._pid, 9)
        os.waitpid(self._pid, 0)


def _touch(daemon: MeasuredDaemon) -> None:
    """A few new rows, so that the index looks at the length of its tail."""
    items = [{"sessionId": 1, "userMessage": f"touch {i}", "aiResponse": "again"} for i in range(200)]
    daemon.call("episodes.createMany", items=items)


PARTS = {"small": measure_small_store, "large": measure_large_store}


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, by comma: " + ", ".join(PARTS))
    parser.add_argument("--episodes", type=int, default=100_000, help="size of the large store")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each load runs")
    parser.add_argument("--peer", type=Path, help="folder of the Express service, with its node_modules")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    given = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    report = Report()
    with tempfile.TemporaryDirectory(prefix="nexusd-bench-") as work:
        options = Options(given.episodes, given.seconds, given.peer and given.peer.resolve(), Path(work))
        for name in given.only.split(","):
            PARTS[name](options, report)
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in report.rows], indent=2) + "\n")


main()

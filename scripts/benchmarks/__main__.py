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
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import authentication
import paired
import recall
from baseline import bare_creates_per_second, drop_outbox_triggers
from daemon import MeasuredDaemon, connect_tcp, request, running
from fairness import AIM, MESSAGE_BYTES, NOISES, latencies_ms, percentile_ms
from load import Framing, HttpFraming, NdjsonFraming, Result, run_load, together
from peer import running_peer, why_not
from prefill import prefill
from texts import Texts
from transfer import transfers

CLIENTS = 64
QUERIES = 200
READ_EPISODES = 20_000
FAIR_EPISODES = 5_000
TURNS = 8
TCP = {
    "NEXUSD_SERVER__TCP__ENABLED": "true", "NEXUSD_SERVER__TCP__PORT": "0", "NEXUSD_SERVER__TCP__AUTH": "none",
}


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
    noises: list[str]


def measure_small_store(options: Options, report: Report) -> None:
    """Durable creates and gets with 64 clients, line by line and over HTTP, beside bare SQLite and the peer."""
    bare = bare_creates_per_second(options.work / "bare", options.seconds)
    report.add("bare apsw, creates in batches of 64", f"{bare:,.0f}/s")
    with running(options.work / "small", **TCP) as daemon:
        daemon.call("sessions.create", externalId="bench")
        bodies = new_episodes()
        created = load(daemon.connect, [request("episodes.create", body) for body in bodies], NdjsonFraming(), options)
        share = created.rate / bare
        report.add("creates, 64 clients, Unix socket", f"{created.rate:,.0f}/s",
                   f"p50 {created.median_ms:.1f} ms, p99 {created.percentile_ms(0.99):.1f} ms")
        report.add("  of bare apsw", f"{share:.0%}", "at least 45%", holds=share >= 0.45)
        connect = tcp_of(daemon)
        rpc_created, rest_created = load_in_turns(
            connect,
            [rpc("episodes.create", body) for body in bodies],
            [post("/episodes", body) for body in bodies],
            options,
        )
        report.add("creates, 64 clients, POST /rpc", f"{rpc_created.rate:,.0f}/s")
        report.add("creates, 64 clients, POST /episodes", f"{rest_created.rate:,.0f}/s")
    # Reads are measured without the embedding backlog that the creates left behind: the peer embeds nothing.
    prefill(options.work / "reads" / "nexus.db", READ_EPISODES)
    with running(options.work / "reads", **TCP) as daemon:
        daemon.wait_until(lambda: daemon.call("outbox.status")["pending"] == 0)
        daemon.wait_until(lambda: not daemon.call("system.status")["index"]["rebuilding"], every_s=1)
        ids = range(1, READ_EPISODES)
        gets = [request("episodes.get", {"id": i}) for i in ids]
        got = load(daemon.connect, gets, NdjsonFraming(), options)
        report.add("gets, 64 clients, Unix socket", f"{got.rate:,.0f}/s",
                   f"p50 {got.median_ms:.1f} ms, p99 {got.percentile_ms(0.99):.1f} ms")
        alone = load(daemon.connect, gets, NdjsonFraming(), options, clients=1)
        report.add("get, one client, round trip p50", f"{alone.median_ms:.3f} ms", "under 0.25 ms",
                   holds=alone.median_ms < 0.25)
        measure_cache(daemon, options, report)
        connect = tcp_of(daemon)
        rpc_got, rest_got = load_in_turns(
            connect, [rpc("episodes.get", {"id": i}) for i in ids], [get(f"/episodes/{i}") for i in ids], options
        )
        report.add("gets, 64 clients, POST /rpc", f"{rpc_got.rate:,.0f}/s")
        report.add("gets, 64 clients, GET /episodes/:id", f"{rest_got.rate:,.0f}/s")
    for what, rpc_result, rest_result in (("gets", rpc_got, rest_got), ("creates", rpc_created, rest_created)):
        added = rpc_result.rate / rest_result.rate - 1
        report.add(f"  {what}: what REST adds to POST /rpc", f"{added:+.0%}", "under 20%", holds=added < 0.2)
    reason = why_not(options.peer)
    if options.peer is None or reason is not None:
        report.add("Express + better-sqlite3 service", "skipped", reason or "")
        return
    with running_peer(options.peer, options.work / "peer") as port:
        peer_created, peer_got = load_peer(port, options)
    report.add("Express service, creates, 64 clients, SYNC=FULL", f"{peer_created.rate:,.0f}/s")
    report.add("Express service, gets, 64 clients", f"{peer_got.rate:,.0f}/s")
    for what, ours, theirs, aim in (
        ("creates, lines", created, peer_created, 2.5), ("creates, REST", rest_created, peer_created, 2),
        ("gets, lines", got, peer_got, 4), ("gets, REST", rest_got, peer_got, 2),
    ):
        ratio = ours.rate / theirs.rate
        report.add(f"  nexusd against it: {what}", f"{ratio:.1f} x", f"at least {aim:g} x", holds=ratio >= aim)


def measure_cache(daemon: MeasuredDaemon, options: Options, report: Report) -> None:
    """A look-up in the TTL cache: what a round trip costs where nothing is done."""
    if not daemon.has("cache.get"):
        report.add("cache.get, one client, round trip p50", "skipped", "there is no such method")
        return
    daemon.call("cache.set", key="bench", value={"a": 1}, ttl=3_600_000)
    cached = load(daemon.connect, [request("cache.get", {"key": "bench"})], NdjsonFraming(), options, clients=1)
    report.add("cache.get, one client, round trip p50", f"{cached.median_ms:.3f} ms", "under 0.15 ms",
               holds=cached.median_ms < 0.15)


def load_peer(port: int, options: Options) -> tuple[Result, Result]:
    """The same creates and gets on the Express service."""

    def connect() -> socket.socket:
        return connect_tcp("127.0.0.1", port)

    sessions = iter([post("/sessions", {"externalId": "bench"})])
    run_load(connect, lambda: next(sessions, None), HttpFraming(), clients=1, seconds=5)
    created = load(connect, [post("/episodes", body) for body in new_episodes()], HttpFraming(), options)
    stored = min(created.requests, READ_EPISODES)
    return created, load(connect, [get(f"/episodes/{i}") for i in range(1, stored)], HttpFraming(), options)


def load(
    connect: Callable[[], socket.socket], requests: list[bytes], framing: Framing, options: Options, *,
    clients: int = CLIENTS, seconds: float | None = None,
) -> Result:
    """These requests over and over, from so many clients."""
    endless: Iterator[bytes] = itertools.cycle(requests)
    return run_load(connect, lambda: next(endless), framing, clients=clients, seconds=seconds or options.seconds)


def load_in_turns(
    connect: Callable[[], socket.socket], first: list[bytes], second: list[bytes], options: Options
) -> tuple[Result, Result]:
    """Two loads over HTTP in short turns, so that what else the machine does meets both alike."""
    results: tuple[list[Result], list[Result]] = ([], [])
    for _ in range(TURNS):
        for requests, into in zip((first, second), results, strict=True):
            into.append(load(connect, requests, HttpFraming(), options, seconds=options.seconds / TURNS))
    return together(results[0]), together(results[1])


def tcp_of(daemon: MeasuredDaemon) -> Callable[[], socket.socket]:
    """Connects to the daemon's port."""
    host, port = daemon.tcp_address()
    return lambda: connect_tcp(host, port)


def new_episodes() -> list[dict[str, object]]:
    """Exchanges to be created in the first session."""
    texts = Texts(seed=4)
    return [{"sessionId": 1, "userMessage": texts.sentence(), "aiResponse": texts.sentence()} for _ in range(2000)]


def post(path: str, body: dict[str, object]) -> bytes:
    """One HTTP request with a JSON body."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


def rpc(method: str, params: dict[str, object]) -> bytes:
    """One JSON-RPC request over HTTP."""
    return post("/rpc", {"jsonrpc": "2.0", "id": 1, "method": method, "params": params})


def get(path: str) -> bytes:
    """One HTTP request without a body."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


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


def measure_outbox(options: Options, report: Report) -> None:
    """What the outbox adds to a create: a daemon as it is beside one whose schema has no outbox triggers, in turns.

    No embedder answers, so that what is measured is the outbox and not the model that takes its rows.
    """
    for name in ("with", "without"):
        prefill(options.work / name / "nexus.db", 0)
    drop_outbox_triggers(options.work / "without" / "nexus.db")
    away = {"EMBEDDING_SERVICE_URL": "http://127.0.0.1:9"}
    bodies = [request("episodes.create", body) for body in new_episodes()]
    results: dict[str, list[Result]] = {"with": [], "without": []}
    with running(options.work / "with", **away) as first, running(options.work / "without", **away) as second:
        daemons = {"with": first, "without": second}
        for daemon in daemons.values():
            daemon.call("sessions.create", externalId="bench")
        for _ in range(TURNS):
            for name, daemon in daemons.items():
                results[name].append(
                    load(daemon.connect, bodies, NdjsonFraming(), options, seconds=options.seconds / TURNS)
                )
    rates = {name: together(each).rate for name, each in results.items()}
    added = rates["without"] / rates["with"] - 1
    report.add("creates, 64 clients, no outbox triggers", f"{rates['without']:,.0f}/s")
    report.add("creates, 64 clients, as it is", f"{rates['with']:,.0f}/s")
    report.add("  what the outbox adds to a create", f"{added:+.1%}", "under 10%", holds=added < 0.1)


def measure_index(options: Options, report: Report) -> None:
    """Filling a wiped index from stored vectors, and a verification of it: how long, and what it takes from writers."""
    data = options.work / "index"
    prefill(data / "nexus.db", options.episodes)
    with running(data) as daemon:
        began_s = time.perf_counter()
        daemon.wait_until(lambda: daemon.call("outbox.status")["pending"] == 0, every_s=0.1)
        rate = options.episodes / (time.perf_counter() - began_s + daemon.start_s)
        report.add(f"{options.episodes:,} rows from stored vectors", f"{rate:,.0f}/s", "at least 5,000/s",
                   holds=rate >= 5000)
        daemon.wait_until(lambda: not daemon.call("system.status")["index"]["rebuilding"], every_s=1)
        began_s = time.perf_counter()
        agrees = daemon.call("index.verify", timeoutMs=60_000)["agrees"]
        took_s = time.perf_counter() - began_s
        if not agrees:
            raise RuntimeError("the index does not agree with the rows")
        report.add(f"verification of {options.episodes:,} rows", f"{took_s:.1f} s", "under 15 s", holds=took_s < 15)
        bodies = [request("episodes.create", body) for body in new_episodes()]
        results: tuple[list[Result], list[Result]] = ([], [])
        for _ in range(TURNS // 2):
            for verifying, into in zip((False, True), results, strict=True):
                if verifying:
                    daemon.call("index.verify", timeoutMs=1)
                seconds = options.seconds / (TURNS // 2)
                into.append(load(daemon.connect, bodies, NdjsonFraming(), options, clients=8, seconds=seconds))
                if verifying and not _verifies(daemon):
                    report.add("  (a verification ended before the load did)", "")
                daemon.wait_until(lambda: not _verifies(daemon), timeout_s=120)
    plain, disturbed = (together(each).rate for each in results)
    report.add("creates, 8 clients, without a verification", f"{plain:,.0f}/s")
    report.add("creates, 8 clients, while one runs", f"{disturbed:,.0f}/s", "at least 80% of that",
               holds=disturbed >= 0.8 * plain)


def _verifies(daemon: MeasuredDaemon) -> bool:
    job = daemon.call("index.status")["job"]
    return job is not None and bool(job["state"] == "running")


def measure_fairness(options: Options, report: Report) -> None:
    """A quiet client's 99th percentile, alone and beside one noisy client of every kind."""
    data = options.work / "fair"
    prefill(data / "nexus.db", min(FAIR_EPISODES, options.episodes))
    settings = {**TCP, "NEXUSD_SERVER__LIMITS__MAX_MESSAGE_BYTES_TCP": str(MESSAGE_BYTES)}
    with running(data, **settings) as daemon:
        daemon.wait_until(lambda: daemon.call("outbox.status")["pending"] == 0)
        daemon.wait_until(lambda: not daemon.call("system.status")["index"]["rebuilding"])
    for noise in options.noises:
        for what, (alone_ms, beside_ms) in latencies_ms(data, options.work, noise, settings, options.seconds).items():
            alone, beside = percentile_ms(alone_ms), percentile_ms(beside_ms)
            report.add(f"{what} beside {noise}, p99", f"{alone:.2f} -> {beside:.2f} ms", f"{beside / alone:.1f} x, "
                       + (f"at most {AIM:g} x" if what != "echo" else "by another process: the machine's own"),
                       holds=beside <= AIM * alone if what != "echo" else None)


def measure_export(options: Options, report: Report) -> None:
    """An export of everything, and the imports of it and of an older service's file into an empty memory."""
    for what, seconds in transfers(options.work / "export", options.episodes):
        report.add(f"{what}, {options.episodes:,} exchanges", f"{options.episodes / median(seconds):,.0f}/s",
                   f"{len(seconds)} runs, {min(seconds):.2f} to {max(seconds):.2f} s")


def measure_authentication(options: Options, report: Report) -> None:
    """Look-ups with a token and without, in pairs of short turns."""
    for cost in authentication.authentication_costs(options.work / "auth", TCP, options.seconds):
        lost, pairs = cost.throughput_lost, len(cost.open_rates)
        report.add(f"{cost.what} with a token, throughput lost", f"{lost:+.1%}",
                   f"under {authentication.AIM:.0%}; median of {pairs} pairs", holds=lost < authentication.AIM)
        report.add("  processor time of the daemon added", f"{cost.processor_added:+.1%}",
                   f"{median(cost.open_us):.1f} -> {median(cost.token_us):.1f} us a request")


PARTS = {
    "small": measure_small_store, "large": measure_large_store, "outbox": measure_outbox, "fairness": measure_fairness,
    "index": measure_index, "export": measure_export, "auth": measure_authentication,
}


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, by comma: " + ", ".join(PARTS))
    parser.add_argument("--episodes", type=int, default=100_000, help="size of the large store")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each load runs")
    parser.add_argument("--peer", type=Path, help="folder of the Express service, with its node_modules")
    parser.add_argument("--noise", action="append", choices=NOISES, help="which of them, each with --noise")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    given = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    report = Report()
    with tempfile.TemporaryDirectory(prefix="nexusd-bench-") as work:
        options = Options(given.episodes, given.seconds, given.peer and given.peer.resolve(), Path(work),
                          given.noise or list(NOISES))
        for name in given.only.split(","):
            PARTS[name](options, report)
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in report.rows], indent=2) + "\n")


if sys.argv[1:2] == ["recall"]:
    recall.main(sys.argv[2:])
elif sys.argv[1:2] == ["compare"]:
    paired.main(sys.argv[2:])
else:
    main()

"""The daemon under a mixed load for a long time, with restarts: whether what it takes stays the same.

Owns the load, what is measured of the daemon's processes, and the verdict. The store is kept at one size, so that
whatever still grows is not the memory of the household. What the daemon keeps for a day, the replies of calls that
may be sent again, would still only grow within an hour: whenever the daemon has ended in order, that day is over.

Two kinds of memory are told apart. What a process has allocated is its own: nobody but the process gives it back, and
a leak shows there. Files that it maps are the system's cache: it drops them where it needs the room. The index allots
each collection 32 MB of file and reads all of that when it opens it, holes too, but not when it makes it: the first
life of a run, in which the collections are made, maps some 190 MB less than every later one.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
from harness.daemon import Daemon
from harness.household import THINGS, Household

from nexusd.client import Client, ClientError, Events, RpcError

ROWS = 1500  # of one household at most; beyond its size something is forgotten for everything new
NEW_ROWS = 0.4  # that come of a turn, roughly
WARM_UP = 1 / 3  # of the time between two restarts, after which figures count
REBUILD_AFTER = 1000  # changes of a collection: what is deleted leaves the index with a rebuild; there are to be many
FILLING = 1 / 5  # of the run, after which they do: the store grows to its size, and the first daemon had it small
MAY_RISE_MB = 12.0  # over the whole run, by the fitted line: what an allocator keeps and gives back by chance
MAY_RISE_SHARE = 0.05
MAY_RISE_MAPPED_MB = 40.0  # one more file that the index allots: what is deleted goes with a rebuild, so it fills on
MAY_RISE_DESCRIPTORS = 4.0
ENGINE_LOG = "/wal/"
LOG_MAY_HOLD_MB = 160.0  # a collection's: files of 32 MB, of which the engine removes those that are flushed


class Steady(Household):
    """A household that forgets as much as it learns, and asks in between."""

    def __init__(self, client: Client, latencies: dict[str, list[float]], *, seed: int, rows: int) -> None:
        self._client = client
        self._latencies = latencies
        self._rows = rows
        super().__init__(self.timed, seed=seed, owner=f"{seed} ")

    def use(self, client: Client, latencies: dict[str, list[float]]) -> None:
        """Go on over another connection."""
        self._client, self._latencies = client, latencies

    def timed(self, method: str, **params: Any) -> Any:
        """One call, and how long it took."""
        began_s = time.monotonic()
        result = self._client.call(method, **params)
        self._latencies[method].append((time.monotonic() - began_s) * 1000)
        return result

    def turn(self) -> None:
        """A write, and some questions."""
        self.live(1)
        while sum(len(held) for held in self._held.values()) > self._rows:
            self._forget()
        query = " ".join(self.chance.choices(THINGS, k=3))
        match self.chance.randrange(4):
            case 0:
                self.timed("memory.search", query=query, limit=10)
            case 1:
                self.timed("memory.context", query=query, tokenBudget=500)
            case 2:
                self.timed("episodes.list", sessionId=self._session, limit=20)
            case 3 if self._held["episodes"]:
                self.timed("episodes.get", id=self.chance.choice(self._held["episodes"]))


@dataclass(frozen=True)
class Sample:
    """The daemon at one moment."""

    at_s: float  # of the run
    life: int  # how many restarts there were before it
    age: float  # of the time between two restarts: 0 to 1
    daemon_mb: float  # its own memory
    children_mb: float  # theirs
    mapped_mb: float  # files that all of them map
    descriptors: int
    wal_mb: float
    database_mb: float
    log_mb: float  # of the index's engine


def memory_mb(pid: int) -> tuple[float, float]:
    """What a process has allocated, and what is in memory of the files that it maps; nothing if it is gone.

    Without the logs of the index's engine: see `log_mb`.
    """
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        kilobytes = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)
                     if name in {"RssAnon", "RssFile"}}  # fmt: skip
        logged, in_log = 0, False
        for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
            if not line.partition(" ")[0].endswith(":"):    # the head of a mapping, with its file
                in_log = ENGINE_LOG in line
            elif in_log and line.startswith("Rss:"):
                logged += int(line.split()[1])
        return kilobytes.get("RssAnon", 0) / 1024, (kilobytes.get("RssFile", 0) - logged) / 1024
    return 0.0, 0.0


def log_mb(index: Path) -> float:
    """The largest log of a collection. It is written round in a ring, and in memory as far as it was written yet."""
    sizes: Counter[Path] = Counter()
    for file in index.glob(f"*/shard-*{ENGINE_LOG}*"):
        with contextlib.suppress(FileNotFoundError):    # a rebuild has just put another shard there
            sizes[file.parent] += file.stat().st_size
    return max(sizes.values(), default=0) / 2**20


def forget_replies(database: Path) -> None:
    """As if a day had passed over a daemon that has ended in order."""
    db = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        db.execute("DELETE FROM idempotency")
    finally:
        db.close()


def size_mb(path: Path) -> float:
    """How large a file is; nothing if there is none."""
    return path.stat().st_size / 2**20 if path.exists() else 0.0


class Soak:
    """One run."""

    def __init__(
        self, data: Path, *, minutes: float, restart_every: float, seed: int, clients: int, rate: float,
        program: Sequence[str] = ("-m", "nexusd"),
    ) -> None:
        self.samples: list[Sample] = []
        self.latencies: list[dict[str, list[float]]] = []  # of each time between two restarts
        self.events: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.restarts = 0
        self._segments = max(1, round(minutes / restart_every))
        self._segment_s = minutes * 60 / self._segments
        self._sample_s = min(5.0, self._segment_s / 12)
        self._rate = rate / clients
        self._rows = min(ROWS, max(1, int(NEW_ROWS * self._rate * FILLING * minutes * 60)))
        self._seeds = [seed * 1000 + n for n in range(clients)]
        self._households: dict[int, Steady] = {}
        self._daemon = Daemon(data, program=program, settings={"NEXUSD_INDEX__REBUILD_AFTER": str(REBUILD_AFTER)})
        self._chance = random.Random(seed)
        self._began_s = time.monotonic()

    def run(self) -> None:
        """Live, restart, live on. Every second end is a kill -9."""
        self._began_s = time.monotonic()
        with self._daemon.start():
            self._segment(self._segment_s)
            for _ in range(1, self._segments):
                self.restarts += 1
                if self.restarts % 2:
                    self._daemon.kill()
                elif (code := self._daemon.terminate()) != 0:
                    self.errors[f"ended with {code}"] += 1
                else:
                    forget_replies(self._daemon.data / "nexus.db")
                self._daemon.start()
                self._segment(self._segment_s)

    def _segment(self, seconds: float) -> None:
        latencies: dict[str, list[float]] = defaultdict(list)
        self.latencies.append(latencies)
        stop = threading.Event()
        threads = [threading.Thread(target=self._live, args=(seed, stop, latencies)) for seed in self._seeds]
        with Client(self._daemon.socket_path) as client, client.events(["episodes", "outbox"]) as stream:
            listening = threading.Thread(target=self._listen, args=(stream,))
            for thread in (*threads, listening):
                thread.start()
            began_s = time.monotonic()
            while (age_s := time.monotonic() - began_s) < seconds:
                stop.wait(min(self._sample_s, max(0.0, seconds - age_s)))
                self._sample((time.monotonic() - began_s) / seconds)
            stop.set()
            for thread in threads:
                thread.join()
        listening.join()

    def _live(self, seed: int, stop: threading.Event, latencies: dict[str, list[float]]) -> None:
        with Client(self._daemon.socket_path) as client:
            try:
                if seed in self._households:
                    self._households[seed].use(client, latencies)
                else:
                    self._households[seed] = Steady(client, latencies, seed=seed, rows=self._rows)
                while not stop.is_set():
                    began_s = time.monotonic()
                    self._households[seed].turn()
                    stop.wait(max(0.0, 1 / self._rate - (time.monotonic() - began_s)))
            except (ClientError, RpcError) as error:  # told in the verdict, as a client that gave up
                self.errors[f"{type(error).__name__}: {error}"] += 1

    def _listen(self, stream: Events) -> None:
        for event in stream:
            self.events[event.topic] += 1

    def _sample(self, age: float) -> None:
        daemon = self._daemon
        own_mb, mapped_mb = memory_mb(daemon.pid)
        children = [memory_mb(pid) for pid in daemon.children().values()]
        self.samples.append(Sample(
            time.monotonic() - self._began_s, self.restarts, age, own_mb, sum(own for own, _ in children),
            mapped_mb + sum(mapped for _, mapped in children),
            len(list(Path(f"/proc/{daemon.pid}/fd").iterdir())), size_mb(daemon.data / "nexus.db-wal"),
            size_mb(daemon.data / "nexus.db"), log_mb(daemon.data / "index"),
        ))  # fmt: skip

    # ---- what came of it

    def rises(self) -> dict[str, tuple[float, float, bool]]:
        """Of each figure: its mean, how much it rose over the run by the fitted line, and whether that is flat."""
        filled_s = FILLING * self.samples[-1].at_s
        steady = [sample for sample in self.samples if sample.age >= WARM_UP and sample.at_s >= filled_s]
        opened = [sample for sample in steady if sample.life > 0] or steady
        found = {}
        for name in ("daemon_mb", "children_mb", "mapped_mb", "descriptors"):
            counted = opened if name == "mapped_mb" else steady
            values = [float(getattr(sample, name)) for sample in counted]
            mean, rise = statistics.fmean(values), rise_of([sample.at_s for sample in counted], values)
            least = {"mapped_mb": MAY_RISE_MAPPED_MB}.get(name, MAY_RISE_MB)
            may = MAY_RISE_DESCRIPTORS if name == "descriptors" else max(least, MAY_RISE_SHARE * mean)
            found[name] = (mean, rise, rise <= may)
        logs = [sample.log_mb for sample in self.samples]
        found["log_mb"] = (max(logs), logs[-1] - logs[0], max(logs) <= LOG_MAY_HOLD_MB)
        return found

    def report(self) -> list[str]:
        """All that was seen, and the verdict as the last line."""
        lines = [f"{'at':>7} {'daemon':>8} {'children':>9} {'mapped':>7} {'descr.':>7} {'WAL':>7} {'database':>9}"]
        lines += [
            f"{one.at_s:6.0f}s {one.daemon_mb:5.0f} MB {one.children_mb:6.0f} MB {one.mapped_mb:4.0f} MB "
            f"{one.descriptors:7d} {one.wal_mb:4.1f} MB {one.database_mb:6.1f} MB"
            for one in self.samples[:: max(1, len(self.samples) // 24)]
        ]
        lines.append(f"{'method':<24} {'calls':>8} {'p50':>9} {'p99':>9}   p50 first, last time between restarts")
        for method in sorted({name for one in self.latencies for name in one}):
            times = [one[method] for one in self.latencies if one.get(method)]
            every = sorted(value for one in times for value in one)
            lines.append(
                f"{method:<24} {len(every):8d} {at(every, 0.5):6.1f} ms {at(every, 0.99):6.1f} ms   "
                f"{at(sorted(times[0]), 0.5):.1f}, {at(sorted(times[-1]), 0.5):.1f} ms"
            )
        lines.append(f"restarts {self.restarts}, events {dict(self.events)}, errors {dict(self.errors)}")
        rises = self.rises()
        lines += [f"{name}: {mean:.1f}, {rise:+.1f} over the run" for name, (mean, rise, _) in rises.items()]
        lines.append("verdict: flat" if self.flat else "verdict: NOT flat")
        return lines

    @property
    def flat(self) -> bool:
        """Whether nothing grew, and nothing went wrong."""
        return not self.errors and all(flat for _, _, flat in self.rises().values())


def rise_of(times: Sequence[float], values: Sequence[float]) -> float:
    """How much a line through these rises from the first to the last."""
    if len(set(times)) < 2:
        return 0.0
    return statistics.linear_regression(times, values).slope * (times[-1] - times[0])


def at(ordered: Sequence[float], share: float) -> float:
    """The value below which this share lies."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default: %(default)g)")
    parser.add_argument("--restart-every", type=float, default=5.0, metavar="MINUTES", help="(default: %(default)g)")
    parser.add_argument("--rate", type=float, default=40.0, help="turns a second, of all (default: %(default)g)")
    parser.add_argument("--clients", type=int, default=4, help="(default: %(default)d)")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)d)")
    parser.add_argument("--data", type=Path, help="a directory to be made (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nexusd-soak-") as scratch:
        soak = Soak(
            options.data or Path(scratch) / "data", minutes=options.minutes, restart_every=options.restart_every,
            seed=options.seed, clients=options.clients, rate=options.rate,
        )
        soak.run()
    print("\n".join(soak.report()), flush=True)
    return 0 if soak.flat else 1


if __name__ == "__main__":
    sys.exit(main())

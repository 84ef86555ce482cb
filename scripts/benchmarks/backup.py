"""A backup while 64 clients write: what the writers feel of it, and how long its steps take.

    python scripts/benchmarks/backup.py [--episodes N] [--seconds S] [--data DIR]

The embedding service that is set does not answer, so that embedding and indexing take nothing from either side of the
comparison. A DIR that holds a store already is used as it is, copied first.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from daemon import MeasuredDaemon, request, running
from load import NdjsonFraming, Result, run_load
from prefill import prefill
from texts import Texts

CLIENTS = 64
WITHOUT_MODEL = {
    "NEXUSD_EMBEDDING__PROVIDER": "service", "NEXUSD_EMBEDDING__URL": "http://127.0.0.1:9",
    "NEXUSD_STORAGE__BACKUPS__ENABLED": "false",
}  # fmt: skip


def write(daemon: MeasuredDaemon, seconds: float, until: threading.Event | None = None) -> Result:
    """The load: each client creates exchanges, one after the other."""
    texts = Texts(seed=5)

    def next_request() -> bytes | None:
        if until is not None and until.is_set():
            return None
        return request("episodes.create", {
            "sessionId": 1, "userMessage": texts.sentence(), "aiResponse": texts.sentence(),
        })  # fmt: skip

    return run_load(daemon.connect, next_request, NdjsonFraming(), clients=CLIENTS, seconds=seconds)


class Backup(threading.Thread):
    """Asks for a backup, and follows its steps on another connection."""

    def __init__(self, daemon: MeasuredDaemon) -> None:
        super().__init__()
        self.ended = threading.Event()
        self.steps: dict[str, float] = {}
        self.answer: Any = None
        self._asking, self._looking = daemon.connect(), daemon.connect()

    def run(self) -> None:
        """Until the backup is there."""
        self._asking.sendall(request("backup.create", {}))
        follower = threading.Thread(target=self._follow)
        follower.start()
        self.answer = json.loads(self._asking.makefile("rb").readline())
        self.ended.set()
        follower.join()

    def _follow(self) -> None:
        replies = self._looking.makefile("rb")
        before_s, before = time.perf_counter(), None
        while not self.ended.wait(0.05):
            self._looking.sendall(request("backup.status", {}))
            running_now = json.loads(replies.readline())["result"]["running"]
            now_s, step = time.perf_counter(), running_now and running_now["step"]
            if before is not None:
                self.steps[before] = self.steps.get(before, 0.0) + now_s - before_s
            before_s, before = now_s, step


def told(name: str, result: Result) -> None:
    """A line of figures."""
    shares = ", ".join(f"p{share * 100:g} {result.percentile_ms(share):.1f}" for share in (0.5, 0.99, 0.999))
    print(f"{name:<20} {result.rate:>7,.0f}/s   {shares}, longest {max(result.latencies_ms):.1f} ms", flush=True)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=170_000, help="exchanges in the store; 170,000 are 500 MB")
    parser.add_argument("--seconds", type=float, default=10.0, help="of writing without a backup, before and after")
    parser.add_argument("--data", type=Path, help="a directory with a store that is made already")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nexusd-bench-") as directory:
        data = Path(directory) / "data"
        if options.data is None:
            prefill(data / "nexus.db", options.episodes)
        else:
            shutil.copytree(options.data, data)
        print(f"database: {(data / 'nexus.db').stat().st_size / 1e6:,.0f} MB", flush=True)
        with running(data, **WITHOUT_MODEL) as daemon:
            write(daemon, 2.0)
            told("without a backup", write(daemon, options.seconds))
            backup = Backup(daemon)
            backup.start()
            result = write(daemon, 600.0, backup.ended)
            backup.join()
            told("while one is made", result)
            told("after it", write(daemon, options.seconds))
            if "error" in backup.answer:
                raise SystemExit(f"no backup: {backup.answer['error']}")
            made = backup.answer["result"]
            steps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in backup.steps.items())
            print(f"backup: {result.seconds:.1f} s, {made['bytes'] / 1e6:,.0f} MB; {steps}", flush=True)


if __name__ == "__main__":
    main()

"""One data directory through many trials: its disk, its daemon, its ledger, and whether they agree after a fault.

Owns starting and killing the daemon, and the examination after each fault. Knows no kind of fault.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.torture.checks import disagreements, read_rows, unsound
from harness.torture.disks import Disk
from harness.torture.ledger import Ledger
from harness.torture.load import Changes, Load
from harness.torture.spawning import Ended, Spawner

PATIENCE_S = 30.0
SETTINGS = {
    "NEXUSD_SERVER__TCP__ENABLED": "false",
    "NEXUSD_STORAGE__BACKUPS__ENABLED": "false",  # those that are asked for are made
    "NEXUSD_STORAGE__BACKUPS__MAX_COUNT": "1",
    "NEXUSD_OUTBOX__BATCH_SIZE": "4",  # several claims
    "NEXUSD_OUTBOX__MAX_ATTEMPTS": "2",
    "NEXUSD_OUTBOX__MAX_BACKOFF_S": "0.2",
    "NEXUSD_OUTBOX__DRAIN_TIMEOUT_S": "0",
}


class Refused(AssertionError):
    """The daemon answered an error."""


@dataclass
class Report:
    """What one trial found."""

    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    index: list[str] = field(default_factory=list)
    store: list[str] = field(default_factory=list)

    def findings(self) -> list[str]:
        """All of it."""
        return [*self.lost, *self.wrong, *self.index, *self.store]


class Lane:
    """A directory, a daemon and what is known of both."""

    def __init__(
        self, spawner: Spawner, root: Path, disk: Disk, chance: random.Random, *, index: str, name: str
    ) -> None:
        self.disk = disk
        self.index = index
        self.chance = chance
        self.ledger = Ledger()
        self.changes = Changes(self.ledger, chance, name)
        self.trials = 0
        self.start_s = 0.0
        self.data = disk.path / "data"
        self.socket_path = root / f"{name}.sock"
        self.log = root / f"{name}.log"
        self.pid: int | None = None
        self._spawner = spawner
        self._notify_path = root / f"{name}.notify"
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(self._notify_path))
        disk.attach()
        self.start()
        self.changes.conversation = self.call("conversations.create", title=name)["id"]

    # ---- the daemon

    def launch(self, environ: Mapping[str, str] | None = None) -> None:
        """Start it, and wait for nothing."""
        while select.select([self._notify], [], [], 0)[0]:
            self._notify.recv(4096)  # of the one before
        settings = {
            **SETTINGS, "NEXUSD_SERVER__SOCKET__PATH": str(self.socket_path), "NOTIFY_SOCKET": str(self._notify_path),
            "TORTURE_INDEX": self.index, **(environ or {}),
        }
        self.pid = self._spawner.spawn(["--data", str(self.data)], settings, self.log)

    def start(self, environ: Mapping[str, str] | None = None) -> None:
        """Start it, and wait until it is ready."""
        began_s = time.monotonic()
        self.launch(environ)
        assert self.pid is not None
        while True:
            if select.select([self._notify], [], [], 0.05)[0]:
                if b"READY=1" in self._notify.recv(4096):
                    break
            elif (code := self._spawner.poll(self.pid)) is not None:
                raise Ended(f"the start ended with {code}\n{self.log_tail()}")
            elif time.monotonic() - began_s > PATIENCE_S:
                raise Ended(f"it does not become ready\n{self.log_tail()}")
        self.start_s = time.monotonic() - began_s

    def children(self) -> list[int]:
        """Its child processes."""
        with contextlib.suppress(OSError):
            tasks = list(Path(f"/proc/{self.pid}/task").glob("*/children"))
            return [int(pid) for task in tasks for pid in task.read_text().split()]
        return []

    def kill(self) -> None:
        """kill -9, and nothing of it is left, its children neither."""
        assert self.pid is not None
        watched = []
        for pid in self.children():
            with contextlib.suppress(ProcessLookupError):
                watched.append(os.pidfd_open(pid))
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._spawner.wait(self.pid, PATIENCE_S)
        for child in watched:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(child, signal.SIGKILL)
            select.select([child], [], [], PATIENCE_S)
            os.close(child)

    def freeze(self) -> None:
        """Not one thread of it does anything more; what it asked the kernel for may still be under way."""
        assert self.pid is not None
        os.kill(self.pid, signal.SIGSTOP)
        tasks = list(Path(f"/proc/{self.pid}/task").iterdir())
        while any((task / "stat").read_text().rpartition(")")[2].split()[0] not in "TD" for task in tasks):
            pass

    def ended(self) -> bool:
        """Whether it is gone."""
        return self.pid is None or self._spawner.poll(self.pid) is not None

    def wait(self, seconds: float = PATIENCE_S) -> int:
        """Its exit code, when it has ended by itself."""
        assert self.pid is not None
        return self._spawner.wait(self.pid, seconds)

    def log_tail(self) -> str:
        """The end of what it logged."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def close(self) -> None:
        """No trace of it is left but its log."""
        if not self.ended():
            self.kill()
        self._notify.close()
        self._notify_path.unlink(missing_ok=True)
        self.socket_path.unlink(missing_ok=True)
        self.disk.detach()

    # ---- calls

    def call(self, method: str, **params: Any) -> Any:
        """One call, on a connection of its own.

        Raises:
            Refused: an error was answered.
            ConnectionError: the daemon went away.
        """
        with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rb") as replies:
            connection.settimeout(PATIENCE_S + 60)
            connection.connect(str(self.socket_path))
            body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            connection.sendall(json.dumps(body).encode() + b"\n")
            line = replies.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError("the daemon went away")
        reply = json.loads(line)
        if "error" in reply:
            raise Refused(f"{method}: {reply['error']}")
        return reply["result"]

    def load(self) -> Load:
        """Clients for this daemon."""
        return Load(self.socket_path, self.ledger, self.changes)

    # ---- after a fault

    def examine(self) -> Report:
        """Whether what was acknowledged is there, everything agrees, and what is tried again is done once."""
        report = Report()
        database = self.data / "nexus.db"
        self._compare(database, report)
        try:
            self._try_again(report)
            self._drain()
        except (Refused, OSError) as error:
            report.wrong.append(str(error))
            return report
        wanted = self._compare(database, report)
        report.index = self._disagreements(wanted)
        report.store = unsound(database)
        return report

    def _compare(self, database: Path, report: Report) -> dict[str, dict[int, int]]:
        rows, wanted = read_rows(database)
        found = self.ledger.compare(rows)
        report.lost += found.lost
        report.wrong += found.wrong
        return wanted

    def _try_again(self, report: Report) -> None:
        """What was in doubt, and some of what was acknowledged."""
        ledger = self.ledger
        for change in ledger.unknown:
            if change.key is None or self.chance.random() < 0.3:
                continue
            done = all(thing.possible == {after} for thing, after in change.effects)
            change.sent()
            result = self.call(change.method, **change.params, idempotencyKey=change.key)
            change.acknowledged(result)
            ledger.repeatable.append(change)
            ledger.counts["acknowledged"] += 1
            ledger.counts["stored"] += not done
        ledger.unknown.clear()
        del ledger.repeatable[:-40]
        for change in self.chance.sample(ledger.repeatable, min(2, len(ledger.repeatable))):
            again = self.call(change.method, **change.params, idempotencyKey=change.key)
            if without_states(again) != without_states(change.reply):
                report.wrong.append(f"{change.method} under {change.key} answers {again}, not {change.reply}")

    def _drain(self) -> None:
        """The outbox is empty, what was buried included."""
        ends_s = time.monotonic() + 2 * PATIENCE_S
        while not (waited := self.call("outbox.wait", timeoutMs=10_000))["done"]:
            if time.monotonic() > ends_s:
                raise Refused(f"the outbox does not drain: {waited}, {self.call('outbox.status')}")
            if waited["dead"]:
                self.call("outbox.retry", seqs=[])

    def _disagreements(self, wanted: dict[str, dict[int, int]]) -> list[str]:
        ends_s = time.monotonic() + PATIENCE_S / 3
        while True:
            try:
                told = self.call("torture.points")["points"]
            except Refused as error:  # a collection is not open yet
                found = [str(error)]
            else:
                held = {name: {int(id_): version for id_, version in of.items()} for name, of in told.items()}
                found = disagreements(held, wanted)
            if not found or time.monotonic() > ends_s:
                return found
            time.sleep(0.01)


def without_states(result: Any) -> Any:
    """A reply but for what it says of vectors, which goes on after it was kept."""
    if isinstance(result, dict):
        return {name: without_states(value) for name, value in result.items() if name != "vector"}
    return [without_states(one) for one in result] if isinstance(result, list) else result



"""The daemon under measurement: its process, its readiness, its memory."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class MeasuredDaemon:
    """A running daemon and one connection to it."""

    def __init__(self, data: Path, process: subprocess.Popen[bytes], start_s: float) -> None:
        self.data = data
        self.socket_path = data / "nexusd.sock"
        self.start_s = start_s
        self._process = process
        self._connection = self.connect()
        self._replies = self._connection.makefile("rb")

    @property
    def pid(self) -> int:
        """Of the daemon's own process."""
        return self._process.pid

    def connect(self) -> socket.socket:
        """A new connection."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.socket_path))
        return connection

    def tcp_address(self) -> tuple[str, int]:
        """Where its port is, if that is on."""
        host, _, port = self.call("system.status")["server"]["tcp"].rpartition(":")
        return host, int(port)

    def has(self, method: str) -> bool:
        """Whether there is such a method."""
        return any(one["name"] == method for one in self.call("help")["methods"])

    def call(self, method: str, **params: Any) -> Any:
        """One exchange, outside of what is timed."""
        self._connection.sendall(request(method, params))
        reply = json.loads(self._replies.readline())
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply['error']}")
        return reply["result"]

    def wait_until(self, condition: Any, *, every_s: float = 0.2, timeout_s: float = 1800) -> Any:
        """The first true answer of `condition`."""
        until = time.monotonic() + timeout_s
        while not (answer := condition()):
            if time.monotonic() > until:
                raise RuntimeError("the daemon did not get there in time")
            time.sleep(every_s)
        return answer

    def kill(self) -> None:
        """End it at once, with whatever it still has to do."""
        self._process.kill()

    def memory_mb(self) -> dict[str, float]:
        """Resident memory by process."""
        return {p["name"]: round(p["residentBytes"] / 1e6, 1) for p in self.call("system.status")["processes"]}


def connect_tcp(host: str, port: int) -> socket.socket:
    """A connection that sends at once."""
    connection = socket.create_connection((host, port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def request(method: str, params: dict[str, Any]) -> bytes:
    """One NDJSON request."""
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n"


@contextlib.contextmanager
def running(data: Path, **settings: str) -> Iterator[MeasuredDaemon]:
    """The daemon on this data directory, from READY to its end."""
    data.mkdir(parents=True, exist_ok=True)
    notify_path = data / "notify.sock"
    notify_path.unlink(missing_ok=True)
    environ = {k: v for k, v in os.environ.items() if not k.startswith("NEXUSD_")}
    environ |= {"NOTIFY_SOCKET": str(notify_path), "NEXUSD_SERVER__TCP__ENABLED": "false", **settings}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, (data / "log").open("ab") as log:
        notify.bind(str(notify_path))
        notify.settimeout(120)
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "nexusd", "--data", str(data)], env=environ, cwd=data, stdout=log, stderr=log
        )
        try:
            while b"READY=1" not in notify.recv(4096):
                pass
            yield MeasuredDaemon(data, process, time.perf_counter() - began)
        finally:
            process.terminate()
            process.wait(60)

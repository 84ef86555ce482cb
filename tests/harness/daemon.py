"""The daemon as a process, as a test sees it: started until it says READY, killed, stopped, started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType


class DaemonFailed(AssertionError):
    """The daemon ended, or did not become ready; the message has the end of its log."""


class Daemon:
    """`python -m nexusd --data DIR`. Readiness is the daemon's own READY=1, never a guess by time."""

    def __init__(
        self, data: Path, *, settings: Mapping[str, str] | None = None, program: Sequence[str] = ("-m", "nexusd")
    ) -> None:
        self.data = data
        self._program = program
        self.socket_path = data / "nexusd.sock"
        self.log_path = data.parent / f"{data.name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.start_s = 0.0
        self._notify: socket.socket | None = None
        self._told: list[str] = []
        open_door = {"NEXUSD_SERVER__TCP__ENABLED": "false", "NEXUSD_SERVER__TCP__AUTH": "none"}
        self._settings = {**open_door, **(settings or {})}
        self._notify_path = data.parent / f"{data.name}.notify"
        data.mkdir(parents=True, exist_ok=True)

    def start(self, *, timeout_s: float = 30.0) -> Daemon:
        """Start it and wait until it is ready."""
        self._notify_path.unlink(missing_ok=True)
        if self._notify is not None:
            self._notify.close()
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)  # open as long as it runs, as systemd's is
        self._notify.bind(str(self._notify_path))
        self._notify.settimeout(0.2)
        began = time.monotonic()
        self.launch({"NOTIFY_SOCKET": str(self._notify_path)})
        assert self.process is not None
        while True:
            if self.process.poll() is not None:
                raise DaemonFailed(f"ended with {self.process.returncode}\n{self.log_tail()}")
            if time.monotonic() - began > timeout_s:
                self.kill()
                raise DaemonFailed(f"not ready after {timeout_s} s\n{self.log_tail()}")
            try:
                if "READY=1" in self._notify.recv(4096).decode().split("\n"):
                    break
            except TimeoutError:
                continue
        self.start_s = time.monotonic() - began
        return self

    def launch(self, environ: Mapping[str, str] | None = None) -> None:
        """Start it and wait for nothing."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("NEXUSD_", "NOTIFY_"))}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self._program, "--data", str(self.data)],
                env={**inherited, **self._settings, **(environ or {})},
                cwd=self.data.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        """The daemon's own process."""
        assert self.process is not None
        return self.process.pid

    def children(self) -> dict[str, int]:
        """Child processes by the last part of their module's name."""
        found = {}
        tasks = Path(f"/proc/{self.pid}/task").glob("*/children")
        for pid in (int(p) for task in tasks for p in task.read_text().split()):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            name = next((c.decode().rpartition(".")[2] for c in command if c.startswith(b"nexusd.")), None)
            if name is not None:
                found[name] = pid
        return found

    def told(self) -> list[str]:
        """What it has told the service manager since it became ready, a line each; what was told once is not again."""
        assert self._notify is not None
        while True:
            try:
                self._told += self._notify.recv(4096).decode().split("\n")
            except TimeoutError:
                return self._told

    def metrics(self) -> str:
        """What GET /metrics answers."""
        return self.get("/metrics")

    def get(self, path: str) -> str:
        """What a GET answers, its head too."""
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(str(self.socket_path))
            asking.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            return b"".join(iter(lambda: asking.recv(65536), b"")).decode()

    def kill(self) -> None:
        """kill -9, and nothing of it is left."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def terminate(self, *, timeout_s: float = 30.0) -> int:
        """SIGTERM; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def log_tail(self, lines: int = 40) -> str:
        """The end of what it logged."""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def __enter__(self) -> Daemon:
        return self if self.process is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._notify is not None:
            self._notify.close()
            self._notify = None
        if self.process is not None and self.process.poll() is None:
            try:
                self.terminate()
            except subprocess.TimeoutExpired:
                self.kill()

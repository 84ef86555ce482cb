"""Daemons by fork, from a process that has everything loaded: a start takes a tenth of what it takes from nothing.

Run as a program it is that process: a JSON line on its input starts a daemon, a JSON line on its output tells that one
started or how it ended. Knows nothing of what the daemon is.
"""

from __future__ import annotations

import json
import os
import select
import selectors
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Enter = Callable[[list[str]], int]


class Ended(AssertionError):
    """The daemon ended, or did not what it should in time."""


# ---- in the process that forks


def serve(enter: Enter) -> None:
    """Fork daemons that run `enter` until the input ends."""
    waking, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; whoever asks for daemons ends them first
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(waking, selectors.EVENT_READ)
    pending = b""
    while True:
        for key, _ in selector.select():
            if key.fd == waking:
                os.read(waking, 4096)
                _reap()
                continue
            data = os.read(0, 65536)
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                asked = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    _become(asked, enter)
                _tell({"started": pid})


def _reap() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _tell({"ended": pid, "code": os.waitstatus_to_exitcode(status)})


def _tell(what: dict[str, int]) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def _become(asked: dict[str, Any], enter: Enter) -> None:
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.closerange(3, 256)
        os.environ.update(asked["environ"])
        code = enter(asked["arguments"])
    except BaseException:  # noqa: BLE001 - whatever it is, this process must not go on as its parent does
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


# ---- in the process that asks for daemons


class Spawner:
    """The process that forks, as its user sees it."""

    def __init__(self, program: str, log: Path) -> None:
        self.ended: dict[int, int] = {}
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )
        assert self._process.stdout is not None
        self._out = self._process.stdout.fileno()
        self._pending = b""
        self._started: list[int] = []

    def spawn(self, arguments: list[str], environ: Mapping[str, str], log: Path) -> int:
        """Start a daemon; its process id."""
        asked = {"arguments": arguments, "environ": dict(environ), "log": str(log)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        self._process.stdin.flush()
        while not self._started:
            self._hear(30.0)
        return self._started.pop()

    def poll(self, pid: int) -> int | None:
        """How it ended; None while it runs."""
        while pid not in self.ended and self._hear(0.0):
            pass
        return self.ended.get(pid)

    def wait(self, pid: int, seconds: float) -> int:
        """How it ended.

        Raises:
            Ended: it has not, in time.
        """
        ends_s = time.monotonic() + seconds
        while pid not in self.ended:
            if time.monotonic() > ends_s:
                raise Ended(f"the daemon did not end within {seconds:g} s")
            self._hear(0.2)
        return self.ended[pid]

    def close(self) -> None:
        """No more daemons."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _hear(self, seconds: float) -> bool:
        if not select.select([self._out], [], [], seconds)[0]:
            return False
        data = os.read(self._out, 65536)
        if not data:
            raise Ended("the process that forks is gone")
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            told = json.loads(line)
            if "started" in told:
                self._started.append(told["started"])
            else:
                self.ended[told["ended"]] = told["code"]
        return True

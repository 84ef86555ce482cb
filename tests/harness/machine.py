"""A machine with a real systemd as process 1: booted in under a second, gone without a trace.

It sees this machine's files through an overlay: what it writes is thrown away with it. Units, sockets, cgroups,
watchdog, sandbox and journal are all real. Needs root, namespaces and overlayfs.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

BOOT = Path(__file__).parents[1] / "systemd" / "boot"
PROGRAMS = ("unshare", "nsenter", "systemctl", "journalctl", "setpriv")
# Everything that `boot` does and that a container may forbid.
PROBE = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1"/upper "$1"/work "$1"/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount -t proc proc "$1/root/proc"
mount -t sysfs sysfs "$1/root/sys"
"""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
AS_USER = 'user=$1; shift; exec setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups "$@"'


class MachineFailed(AssertionError):
    """It did not boot, or a command in it failed; the message says what was printed."""


def why_not() -> str:
    """Why no machine can be booted here; empty where it can."""
    if os.geteuid() != 0:
        return "a real systemd wants root"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"a real systemd wants {', '.join(missing)}"
    if not any(Path(path).exists() for path in ("/lib/systemd/systemd", "/usr/lib/systemd/systemd")):
        return "systemd is not installed"
    with tempfile.TemporaryDirectory(prefix="nexusd-probe-") as directory:
        tried = subprocess.run(
            ["unshare", "--pid", "--fork", "--mount", "--uts", "--ipc", "--net", "--cgroup",
             "bash", "-c", PROBE, "probe", directory],
            capture_output=True, text=True, timeout=30, check=False,
        )
    return "" if tried.returncode == 0 else f"no namespaces for a real systemd: {tried.stderr.strip()}"


class Machine:
    """One booted machine. Commands run as root in it unless they name a user."""

    def __init__(self, *, network: Literal["own", "host"] = "own") -> None:
        self._network = network
        self._directory = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._init = 0

    @property
    def shared(self) -> Path:
        """A directory of ours that it sees as /run/host."""
        return self._directory / "shared"

    def boot(self, *, timeout_s: float = 60.0) -> Machine:
        """Start it; it is up when systemd itself says so."""
        self._directory = Path(tempfile.mkdtemp(prefix="nexusd-machine-"))
        (self._directory / "files").mkdir()
        self.shared.mkdir()
        log_path = self._directory / "log"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, log_path.open("wb") as log:
            notify.bind(str(self.shared / "notify"))
            self._process = subprocess.Popen(
                ["unshare", "--mount", str(BOOT), str(self._directory), self._network],
                stdin=subprocess.PIPE, stdout=log, stderr=log,
            )
            if not _is_ready(notify, self._process, timeout_s):
                said = log_path.read_text(errors="replace")
                self.power_off()
                raise MachineFailed(f"no boot within {timeout_s:.0f} s:\n{said}")
        self._init = self._find_init()
        return self

    def _find_init(self) -> int:
        """Its process 1, as this machine numbers it."""
        assert self._process is not None
        waiting = [self._process.pid]
        while waiting:
            pid = waiting.pop()
            fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            if pid != self._process.pid and fields["NSpid"].split()[1:] == ["1"]:
                return pid
            waiting += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        raise MachineFailed("it said READY and has no process 1")

    def power_off(self) -> None:
        """At once, as by the plug; nothing of it was to be kept."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process = None
        shutil.rmtree(self._directory)

    def command(
        self, *arguments: str | Path, user: str | None = None, environ: Mapping[str, str] | None = None
    ) -> list[str]:
        """What runs the command inside, for who starts it in a way of their own."""
        inside = ["nsenter", "--target", str(self._init), "--all"]
        inside += ["env", "-i", "--chdir=/", f"PATH={PATH}", "LC_ALL=C.UTF-8"]
        inside += [f"{name}={value}" for name, value in (environ or {}).items()]
        if user is not None:
            inside += ["sh", "-c", AS_USER, "as", user]
        return [*inside, *map(str, arguments)]

    def run(
        self, *arguments: str | Path, user: str | None = None, check: bool = True, text: str = "",
        environ: Mapping[str, str] | None = None, timeout_s: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside."""
        ran = subprocess.run(
            self.command(*arguments, user=user, environ=environ), input=text, capture_output=True, text=True,
            timeout=timeout_s, check=False,
        )
        if check and ran.returncode != 0:
            shown = " ".join(map(str, arguments))
            raise MachineFailed(f"{shown}: exit code {ran.returncode}\n{ran.stdout}\n{ran.stderr}")
        return ran

    def output(self, *arguments: str | Path, user: str | None = None) -> str:
        """What a command prints."""
        return self.run(*arguments, user=user).stdout.strip()

    def start(self, arguments: Sequence[str | Path], *, user: str | None = None) -> subprocess.Popen[str]:
        """Start a command inside and do not wait for it."""
        return subprocess.Popen(
            self.command(*arguments, user=user), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )

    def write(self, path: str | Path, text: str, *, mode: int = 0o644) -> None:
        """Write a file inside, with the directories above it."""
        script = 'umask 022; mkdir -p "$(dirname "$1")" && cat >"$1" && chmod "$2" "$1"'
        self.run("sh", "-c", script, "write", path, f"{mode:o}", text=text)

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit."""
        printed = self.output("systemctl", "show", unit, f"--property={','.join(properties)}")
        return dict(line.split("=", 1) for line in printed.splitlines())

    def __enter__(self) -> Machine:
        return self if self._process is not None else self.boot()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.power_off()


def _is_ready(notify: socket.socket, process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Whether systemd says that it is up before it ends, or the time is up."""
    deadline = time.monotonic() + timeout_s
    notify.settimeout(0.2)
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if b"READY=1" in notify.recv(4096).split(b"\n"):
                return True
        except TimeoutError:
            continue
    return False

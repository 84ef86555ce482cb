"""What a compromised daemon would try; prints as JSON what became of each: "done", or the name of the error."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
STATE = os.environ.get("STATE_DIRECTORY", "/var/tmp")
LIBC = ctypes.CDLL(None, use_errno=True)


def called(result: int) -> None:
    """A function of the C library failed: its error."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def write_and_execute() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def make_executable() -> None:
    LIBC.mmap.restype = ctypes.c_void_p
    page = LIBC.mmap(None, ctypes.c_size_t(4096), 3, 0x22, -1, ctypes.c_long(0))
    called(LIBC.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(4096), 5))


def run_what_was_written(where: str) -> Callable[[], object]:
    def attempt() -> None:
        with tempfile.TemporaryDirectory(dir=where) as directory:
            program = Path(directory) / "program"
            program.write_bytes(Path("/usr/bin/true").read_bytes())
            program.chmod(0o700)
            subprocess.run([program], check=True)

    return attempt


def opened(family: int, kind: int, protocol: int = 0) -> Callable[[], object]:
    return lambda: socket.socket(family, kind, protocol).close()


def write(path: str) -> Callable[[], object]:
    def attempt() -> None:
        target = Path(path)
        there = target.exists()
        with target.open("ab"):
            pass
        if not there:
            target.unlink()

    return attempt


def see_others() -> None:
    """Process 1 is always there; who may not see other users' processes does not find it."""
    Path("/proc/1/status").stat()


def make_cgroup() -> None:
    parent = CGROUPS / "systemd" if (CGROUPS / "systemd").exists() else CGROUPS
    (parent / "was-here").mkdir()
    (parent / "was-here").rmdir()


ATTEMPTS: dict[str, Callable[[], object]] = {
    "read /etc/shadow": lambda: Path("/etc/shadow").read_bytes(),
    "list /root": lambda: list(Path("/root").iterdir()),
    "list /home": lambda: list(Path("/home").iterdir()),
    "write /etc": write("/etc/nexusd-was-here"),
    "write /etc/nexusd": write("/etc/nexusd/config.yaml"),
    "write /usr": write("/usr/nexusd-was-here"),
    "write /opt/nexusd": write("/opt/nexusd/nexusd-was-here"),
    "write /var/lib": write("/var/lib/nexusd-was-here"),
    "write /run": write("/run/nexusd/was-here"),
    "write /proc/sys": lambda: Path("/proc/sys/kernel/core_pattern").write_text("core"),
    "make a cgroup": make_cgroup,
    "memory to write and execute": write_and_execute,
    "memory made executable": make_executable,
    "run what was written to its state": run_what_was_written(STATE),
    "run what was written to /tmp": run_what_was_written("/tmp"),
    "run what was written to /dev/shm": run_what_was_written("/dev/shm"),
    "raw socket": opened(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "packet socket": opened(socket.AF_PACKET, socket.SOCK_RAW),
    "internet socket": opened(socket.AF_INET, socket.SOCK_STREAM),
    "netlink socket": opened(socket.AF_NETLINK, socket.SOCK_RAW),
    "user namespace": lambda: called(LIBC.unshare(0x10000000)),
    "mount": lambda: called(LIBC.mount(b"none", b"/tmp", b"tmpfs", 0, None)),
    "trace a process": lambda: called(LIBC.ptrace(0, 0, None, None)),
    "set-user-id file": lambda: (Path(tempfile.mkstemp()[1])).chmod(0o4755),
    "other people's processes": see_others,
    "become root": lambda: os.setuid(0),
    "set the time zone of the clock": lambda: called(LIBC.settimeofday(None, ctypes.create_string_buffer(8))),
    "lower its own priority": lambda: os.setpriority(os.PRIO_PROCESS, 0, 5),
    "write its state": write(f"{STATE}/attempt"),
    "a file of its own in /tmp": lambda: tempfile.TemporaryFile().close(),
}


def outcome(attempt: Callable[[], object]) -> str:
    """Tried in a process of its own: some attempts would change what the next may do."""
    ours, theirs = os.pipe()
    if os.fork() == 0:
        os.write(theirs, tried(attempt).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as said:
        return said.read()


def tried(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except subprocess.CalledProcessError as error:
        return f"exit {error.returncode}"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "done"


Path(sys.argv[1]).write_text(json.dumps({name: outcome(attempt) for name, attempt in ATTEMPTS.items()}))

"""What can be said of a daemon that does not answer: its socket, process, settings, directory, disk, unit and log.

Owns where these are looked for when nobody says it. Disturbs no daemon that is about to start: neither the database
nor its lock is opened.
"""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from nexusd.cli.connection import DEFAULT_SOCKETS
from nexusd.cli.texts import age, size
from nexusd.client.address import UnixAddress, parse_address
from nexusd.model.system import Check, CheckState

UNIT = "nexusd"
# where the unit has them
UNIT_CONFIG = Path("/etc/nexusd/config.yaml")
UNIT_DATA = Path("/var/lib/nexusd")
ENOUGH_ROOM_BYTES = 1024**3
LEAST_ROOM_BYTES = 64 * 1024**2
TIMEOUT_S = 20.0
CONNECT_TIMEOUT_S = 1.0
LOG_LINES = 3
REFUSED = "78"  # the daemon's exit code for settings or data that are wrong


class Offline:
    """The examination of a daemon that does not answer. What is not given is looked for where it usually is."""

    def __init__(self, address: str | None, config: Path | None, data: Path | None) -> None:
        self._address = address
        self._config = config
        self._data = data
        self._unit: dict[str, str] = {}
        self._settings: dict[str, str] = {}

    def checks(self, why: str) -> list[Check]:
        """All that can be said; `why` is what the connection failed of."""
        sockets = self._socket_paths()
        if self._address is not None and not sockets:
            says = f"nobody answers: {why}"
            return [_found("daemon", "problem", says, "What is wrong there, nexusctl doctor tells on that machine")]
        self._unit = _unit_state()
        self._choose_places()
        settings = self._check_settings()  # before the others: it says where things are
        missing = "".join(f", nothing is at {path}" for path in sockets if not _named(path))
        return [
            _found("daemon", "problem", f"no daemon answers{missing}", self._how_to_start()),
            *(_check_socket(path, why) for path in sockets if _named(path)),
            settings,
            *self._check_directory(),
            *self._check_unit(),
        ]

    def _socket_paths(self) -> list[Path]:
        if self._address is None:
            return [Path(path) for path in DEFAULT_SOCKETS]
        address = parse_address(self._address)
        return [Path(address.path)] if isinstance(address, UnixAddress) else []

    def _choose_places(self) -> None:
        """The settings and the data that are meant: those given, those beside the socket, or the unit's."""
        beside = Path(self._address).parent if self._address is not None and "://" not in self._address else None
        if self._data is None and beside is not None and _there(beside / "nexus.db"):
            self._data = beside
        at_home = _there(Path("config.yaml")) or _there(Path("data"))
        if self._unit and self._address is None and not at_home:
            self._config = self._config or (UNIT_CONFIG if _there(UNIT_CONFIG) else None)
            self._data = self._data or (UNIT_DATA if _there(UNIT_DATA) else None)

    def _options(self) -> list[str]:
        options = [] if self._config is None else ["--config", str(self._config)]
        return options if self._data is None else [*options, "--data", str(self._data)]

    def _how_to_start(self) -> str:
        if self._unit:
            return f"systemctl start {UNIT}"
        return "Start it: " + shlex.join(["nexusd", *self._options()])

    def _check_settings(self) -> Check:
        """What `nexusd --check` says."""
        command = ["nexusd", "--check", *self._options()]
        done = _run(sys.executable, "-m", *command)
        if done is None:
            return _found("settings", "warning", "nexusd --check did not come to its end", shlex.join(command))
        if done.returncode == 0:
            lines = (line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith("  "))
            self._settings = {line[0]: line[1] for line in lines if len(line) == 2}
            return _ok("settings", f"in order; settings file: {self._settings.get('config', 'none')}")
        said = done.stderr.strip().removeprefix("nexusd: ") or f"nexusd --check ended with {done.returncode}"
        if "Permission denied" in said:
            says = f"cannot be looked at by {_user(os.geteuid())}: {said}"
            return _found("settings", "warning", says, "Ask as the daemon's user, or as root: sudo nexusctl doctor")
        return _found("settings", "problem", said, f"Put it right, and see: {shlex.join(command)}")

    def _check_directory(self) -> Iterator[Check]:
        """The data directory, what holds the database, and the disk that they lie on."""
        named = self._settings.get("data")
        directory = Path(named) if named is not None else self._data
        if directory is None:
            return
        database = Path(self._settings.get("database", directory / "nexus.db"))
        yield _check_permissions(directory)
        yield _check_database(database)
        yield from _check_disk(directory)

    def _check_unit(self) -> Iterator[Check]:
        if not self._unit:
            return
        active, result, code = (self._unit.get(name, "") for name in ("ActiveState", "Result", "ExecMainStatus"))
        if active == "failed":
            meaning = ": its settings or its data are wrong" if code == REFUSED else ""
            says = f"systemd gave it up ({result}, exit code {code}{meaning})"
            advice = f"See why, then: systemctl reset-failed {UNIT} && systemctl start {UNIT}"
            yield _found("unit", "problem", says, advice)
        elif active == "inactive":
            yield _found("unit", "warning", "systemd knows it, and it is not started", f"systemctl start {UNIT}")
        else:
            says = f"systemd says that it is {active}"
            yield _found("unit", "warning", says, f"systemctl status {UNIT}")
        log = _run("journalctl", "-u", UNIT, "-n", str(LOG_LINES), "-o", "cat", "--no-pager", "-q")
        last = "" if log is None or log.returncode else log.stdout.strip()
        more = f"journalctl -u {UNIT} -n 50"
        yield _found("log", "warning", last or "nothing that this user may see", f"More of it: {more}")


def _check_socket(path: Path, why: str) -> Check:
    try:
        status = path.lstat()
    except OSError as error:
        return _ok("socket", f"{path}: {error.strerror}")
    owner = f"{_user(status.st_uid)}:{_group(status.st_gid)}, mode {stat.S_IMODE(status.st_mode):04o}"
    if not stat.S_ISSOCK(status.st_mode):
        says = f"{path} is no socket ({owner}), and the daemon does not replace what it did not make"
        return _found("socket", "problem", says, f"See what it is: ls -l {shlex.quote(str(path))}")
    try:
        with socket.socket(socket.AF_UNIX) as trial:
            trial.settimeout(CONNECT_TIMEOUT_S)
            trial.connect(str(path))
    except PermissionError:
        says = f"{path} ({owner}) does not let {_user(os.geteuid())} connect"
        advice = f"sudo usermod -aG {_group(status.st_gid)} {_user(os.geteuid())}, and log in again"
        return _found("socket", "problem", says, advice)
    except OSError:
        says = f"{path} ({owner}) is there and nobody listens: a daemon that was killed left it. A start replaces it"
        return _ok("socket", says)
    says = f"somebody listens at {path} ({owner}), and does not answer as nexusd: {why}"
    return _found("socket", "problem", says, f"See who it is: ss -xlp src {shlex.quote(str(path))}")


def _check_permissions(directory: Path) -> Check:
    try:
        status = directory.stat()
    except FileNotFoundError:
        return _ok("permissions", f"{directory} is not there yet; a start makes it")
    except OSError as error:
        says = f"{directory}: {error.strerror}"
        return _found("permissions", "warning", says, "Ask as the daemon's user, or as root: sudo nexusctl doctor")
    owner = f"{_user(status.st_uid)}:{_group(status.st_gid)}, mode {stat.S_IMODE(status.st_mode):04o}"
    if stat.S_IMODE(status.st_mode) & 0o007:
        says = f"every user of this machine gets into {directory} ({owner}), where all memories lie"
        return _found("permissions", "warning", says, f"chmod o-rwx {shlex.quote(str(directory))}")
    return _ok("permissions", f"{directory} ({owner})")


def _check_database(path: Path) -> Check:
    """Its size, when it was written, and who holds it. Opened it is not: that would take the lock from a start."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return _ok("database", f"{path} is not there yet; a start makes it")
    except OSError as error:
        return _ok("database", f"{path}: {error.strerror}")
    written_ms = max(_written_ms(path), _written_ms(path.with_name(path.name + "-wal")))
    says = f"{path}, {size(status.st_size)}, last written {age(written_ms, time.time_ns() // 1_000_000)}"
    holder = _holder(path.with_name(path.name + ".lock"))
    if holder is None:
        return _ok("database", f"{says}; no daemon has it open")
    says += f"; the process {holder} has it open and does not answer: it starts, stops or hangs, or listens elsewhere"
    return _found("database", "problem", says, f"See what it does: ps -fp {holder}; to end it: kill {holder}")


def _check_disk(directory: Path) -> Iterator[Check]:
    place = next((place for place in (directory, *directory.parents) if _there(place)), None)
    if place is None:
        return
    free = shutil.disk_usage(place).free
    says = f"{size(free)} free where {directory} lies"
    if free >= ENOUGH_ROOM_BYTES:
        yield _ok("disk", says)
    else:
        state: CheckState = "problem" if free < LEAST_ROOM_BYTES else "warning"
        advice = f"See what takes the room: du -xh {shlex.quote(str(place))} | sort -h | tail"
        yield _found("disk", state, f"only {says}", advice)


def _unit_state() -> dict[str, str]:
    """What systemd says of the unit; nothing where there is no systemd, or no such unit."""
    names = "LoadState,ActiveState,Result,ExecMainStatus"
    done = _run("systemctl", "show", f"{UNIT}.service", "-p", names)
    if done is None or done.returncode:
        return {}
    state = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    return state if state.get("LoadState") == "loaded" else {}


def _holder(lock: Path) -> int | None:
    """The process that holds the lock beside the database, by the kernel's own list."""
    try:
        status = lock.stat()
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    name = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    holders = [int(fields[4]) for line in lines if name in (fields := line.split()) and fields[1] == "FLOCK"]
    return holders[0] if holders else None


def _run(program: str, *arguments: str) -> subprocess.CompletedProcess[str] | None:
    """The program at its end; None where there is none, or it takes too long."""
    found = shutil.which(program)
    if found is None:
        return None
    try:
        return subprocess.run(  # noqa: S603 - a fixed program with this module's own arguments, without a shell
            [found, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None


def _named(path: Path) -> bool:
    """Whether something has this name, also where nobody may follow it."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def _there(path: Path) -> bool:
    try:
        path.stat()
    except OSError:
        return False
    return True


def _written_ms(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns // 1_000_000
    except OSError:
        return 0


def _user(user_id: int) -> str:
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return str(user_id)


def _group(group_id: int) -> str:
    try:
        return grp.getgrgid(group_id).gr_name
    except KeyError:
        return str(group_id)


def _ok(check: str, says: str) -> Check:
    return Check(check=check, state="ok", says=says)


def _found(check: str, state: CheckState, says: str, advice: str) -> Check:
    return Check(check=check, state=state, says=says, advice=advice)

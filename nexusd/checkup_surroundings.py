"""What the daemon stands on, examined: files and their modes, disks, memory, the clock.

Owns what counts as too open, too full or too late, and the words for it. Plain functions that ask the system and
answer findings; they may block, as a disk may, so they are called beside the loop. Knows no store and no index.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from nexusd.clock import Clock
from nexusd.config import Settings
from nexusd.config_changes import changed_keys, is_under
from nexusd.errors import ConfigError
from nexusd.model.system import Check, CheckState
from nexusd.processes import machine_memory, resident_bytes
from nexusd.wire.tls_keys import CertificateState

OTHERS = 0o007
LEAST_ROOM_BYTES = 64 * 1024 * 1024         # with less, a checkpoint or the next growth of the WAL may fail
ENOUGH_ROOM_BYTES = 1024 * 1024 * 1024
LEAST_MEMORY_BYTES = 256 * 1024 * 1024      # what the embedding model takes when it is started again
LATE_S = 5.0                                # clocks of one machine, read one after the other, differ by less
JUMPED_S = 60.0
EXPIRES_SOON_S = 14 * 86_400.0              # two weekends in which somebody may come to it
EARLIEST_MS = 1_704_067_200_000             # 2024: a machine without a battery wakes up decades before

# a key that is no null and no comment
_KEY = re.compile(r"^[ \t]*apiKey[ \t]*:[ \t]*(?!null\b|~|#)\S", re.MULTILINE)


def ok(check: str, says: str) -> Check:
    """Nothing to do."""
    return Check(check=check, state="ok", says=says)


def finding(check: str, state: CheckState, says: str, advice: str) -> Check:
    """Something to do."""
    return Check(check=check, state=state, says=says, advice=advice)


def worst(check: str, findings: Sequence[Check], says: str) -> Check:
    """All findings of one check as one, the gravest first; without any it is ok and `says` this."""
    if not findings:
        return ok(check, says)
    ordered = sorted(findings, key=lambda one: one.state != "problem")
    advice = dict.fromkeys(one.advice for one in ordered if one.advice)
    return Check(
        check=check, state=ordered[0].state, says="; ".join(one.says for one in ordered), advice="\n".join(advice)
    )


def shown_size(count: float) -> str:
    """Bytes in the unit that suits them."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def shown_span(seconds: float) -> str:
    """A span of time in the unit that suits it."""
    for below, unit_s, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < below:
            return f"{seconds / unit_s:.0f} {name}"
    return f"{seconds / 86_400:,.0f} days"


def check_settings(held: Settings, load: Callable[[], Settings], changeable: Sequence[str]) -> Check:
    """Whether what runs is what the settings say now; `changeable` are those that need no restart."""
    path = held.config_path
    try:
        new = load()
    except ConfigError as error:
        says = f"as they are now they are refused, and a start would fail: {error.message}"
        options = "" if path is None else f" --config {shlex.quote(str(path))}"
        return finding("settings", "problem", says, f"Put it right, and see: nexusd --check{options}")
    if path is not None and new.config_path is None:
        says = f"{path} is gone: the next start takes the defaults"
        return finding("settings", "problem", says, "Put it back")
    differing = changed_keys(held.config, new.config)
    now = [name for name in differing if is_under(name, changeable)]
    later = [name for name in differing if name not in now]
    found = []
    if now:
        found.append(finding("", "warning", f"changed and not taken yet: {', '.join(now)}", "nexusctl reload"))
    if later:
        says = f"changed, and taken by a restart alone: {', '.join(later)}"
        found.append(finding("", "warning", says, "systemctl restart nexusd"))
    return worst("settings", found, "the defaults, and the environment" if path is None else f"as in {path}")


def check_permissions(settings: Settings, socket_path: Path, user_id: int) -> Check:
    """Whether only those get at the memories, the socket (which may be systemd's) and the keys who shall."""
    found = [
        *_private(settings.data_directory, user_id),
        *_closed(settings),
        *_socket(socket_path),
        *_settings_file(settings.config_path),
    ]
    return worst("permissions", found, f"closed to the other users of this machine: {settings.data_directory}")


def _private(directory: Path, user_id: int) -> Iterable[Check]:
    status = directory.stat()
    quoted = shlex.quote(str(directory))
    if stat.S_IMODE(status.st_mode) & OTHERS:
        says = f"every user of this machine gets into {directory} (mode {_mode(status)}), where all memories lie"
        yield finding("", "warning", says, f"chmod o-rwx {quoted}")
    if status.st_uid != user_id:
        says = f"{directory} belongs to the user {status.st_uid}, and the daemon runs as {user_id}"
        yield finding("", "warning", says, f"chown -R {user_id} {quoted}")


def _closed(settings: Settings) -> Iterable[Check]:
    """A database elsewhere than in the data directory is not guarded by that one's mode."""
    path = settings.database_path
    if path.is_relative_to(settings.data_directory):
        return
    modes = path.stat().st_mode, path.parent.stat().st_mode
    if modes[0] & 0o004 and modes[1] & 0o001:
        says = f"every user of this machine can read {path} (mode {_mode(path.stat())})"
        yield finding("", "warning", says, f"chmod o-rwx {shlex.quote(str(path))}*")


def _socket(path: Path) -> Iterable[Check]:
    try:
        status = path.lstat()
    except FileNotFoundError:
        says = f"the socket {path} was removed: nobody can connect to it any more"
        yield finding("", "problem", says, "systemctl restart nexusd, or stop it and start it again")
        return
    if stat.S_IMODE(status.st_mode) & 0o002:
        says = f"every user of this machine may connect to {path} (mode {_mode(status)}), and so read all memories"
        yield finding("", "warning", says, 'Set server.socket.mode: "0660" and server.socket.group, and restart it')


def _settings_file(path: Path | None) -> Iterable[Check]:
    if path is None or not path.exists():  # check_settings speaks of that
        return
    status = path.stat()
    quoted = shlex.quote(str(path))
    if stat.S_IMODE(status.st_mode) & 0o002:
        says = f"every user of this machine may change {path} (mode {_mode(status)})"
        yield finding("", "problem", says, f"chmod o-w {quoted}")
    if stat.S_IMODE(status.st_mode) & 0o004 and _KEY.search(path.read_text(encoding="utf-8", errors="replace")):
        says = f"{path} holds an API key, and every user of this machine can read it (mode {_mode(status)})"
        yield finding("", "warning", says, f"chmod o-rwx {quoted}")


def _mode(status: os.stat_result) -> str:
    return f"{stat.S_IMODE(status.st_mode):04o}"


def check_disk(directories: Iterable[Path], database_bytes: int, refused: str | None) -> Check:
    """Whether there is room: for what comes, and for a second copy of the database, which some repairs make.

    `refused` is what the store says of the disk where it takes no writes.
    """
    if refused is not None and refused != "damaged":    # that is the database's finding: there may be room enough
        says = f"the store takes no writes: the disk is {refused}"
        advice = "Make room on it; writes resume by themselves" if refused == "full" else "journalctl -u nexusd -n 50"
        return finding("disk", "problem", says, advice)
    found, rooms = [], []
    for directory in {path.stat().st_dev: path for path in directories}.values():
        free = shutil.disk_usage(directory).free
        rooms.append(f"{shown_size(free)} free where {directory} lies")
        files = os.statvfs(directory)
        if free < LEAST_ROOM_BYTES:
            found.append(_tight("problem", directory, f"only {shown_size(free)} are free where {directory} lies"))
        elif free < max(ENOUGH_ROOM_BYTES, database_bytes):
            found.append(_tight("warning", directory, f"only {shown_size(free)} are free where {directory} lies"))
        if files.f_files and files.f_favail < 100:
            found.append(_tight("problem", directory, f"no more files can be made where {directory} lies"))
    return worst("disk", found, ", ".join(rooms))


def _tight(state: CheckState, directory: Path, says: str) -> Check:
    return finding("", state, says, f"See what takes the room: du -xh {shlex.quote(str(directory))} | sort -h | tail")


def check_clock(clock: Clock, started: tuple[int, float], newest_ms: int | None) -> Check:
    """Whether the wall clock may be believed: against the other clock since the start, and the newest row.

    `started` is what both clocks showed then.
    """
    advice = "timedatectl set-ntp true, and see what timedatectl says"
    now_ms = clock.now_ms()
    if now_ms < EARLIEST_MS:
        says = "the clock shows a day before 2024: it was not set, and rows get wrong times"
        return finding("clock", "problem", says, advice)
    if newest_ms is not None and (ahead_s := (newest_ms - now_ms) / 1000) > LATE_S:
        says = f"the clock is {shown_span(ahead_s)} behind the newest row: it was set back, or was ahead then"
        return finding("clock", "warning", says, advice)
    jumped_s = (now_ms - started[0]) / 1000 - (clock.monotonic_s() - started[1])
    if jumped_s < -JUMPED_S:
        says = f"the clock was set back by {shown_span(-jumped_s)} since the daemon started"
        return finding("clock", "warning", says, advice)
    if jumped_s > JUMPED_S:
        says = f"the clock moved {shown_span(jumped_s)} more than time passed since the daemon started"
        return finding("clock", "warning", says, f"Nothing, if the machine slept that long. Else {advice}")
    return ok("clock", "steady since the start, and later than the newest row")


def check_certificate(state: CertificateState, now_ms: int) -> Check:
    """Whether clients will believe the certificate tomorrow as well."""
    left_s = state.not_after_s - now_ms / 1000
    directory = shlex.quote(str(Path(state.file).parent))
    renewed = f"nexusctl tls init --renew --dir {directory}, or as it was made"
    found = []
    if state.refusal is not None:
        says = f"the files changed and are refused, what was there before is still shown: {state.refusal}"
        found.append(finding("", "problem", says, "Put them right: a change is noticed by itself"))
    if left_s < 0:
        says = f"{state.file} is out of date for {shown_span(-left_s)}: no client believes it"
        found.append(finding("", "problem", says, f"Renew it: {renewed}"))
    elif left_s < EXPIRES_SOON_S:
        says = f"{state.file} is good for {shown_span(left_s)} more"
        found.append(finding("", "warning", says, f"Renew it: {renewed}"))
    return worst(
        "certificate", found, f"{state.file}, for {', '.join(state.names)}, is good for {shown_span(left_s)} more"
    )


def check_memory(processes: Iterable[tuple[str, int]]) -> Check:
    """What the daemon's processes hold, and whether the machine has any left."""
    held = [(name, size) for name, pid in processes if (size := resident_bytes(pid)) is not None]
    says = ", ".join(f"{name.replace('_', ' ')} {shown_size(size)}" for name, size in held)
    machine = machine_memory()
    if machine is None:
        return ok("memory", says)
    total, left = machine
    says = f"{says}; {shown_size(left)} of the machine's {shown_size(total)} can be had"
    if left < LEAST_MEMORY_BYTES:
        return finding("memory", "warning", says, "See what takes it: ps -eo rss,comm --sort=-rss | head")
    return ok("memory", says)

"""What systemd hands to a service by variables: where it is told how we are, how often, and sockets that it opened.

Owns the reading of those variables. They name the process that is meant: what a parent of ours was given is not ours.
Opens nothing and knows no setting.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

FIRST_INHERITED_FD = 3  # after the standard streams
MAX_INHERITED = 64      # more sockets than that are a mistake


class FromSystemd(Struct, frozen=True, kw_only=True):
    """Nothing of it is there where the daemon is started by hand."""

    notify_socket: str | None = None
    journal_stream: str | None = None       # which of our streams the journal reads
    watchdog_s: float | None = None         # within what time it wants a sign of life
    inherited_sockets: dict[int, str] = {}  # file descriptors that it listens on for us, and their names
    credentials: str | None = None          # the directory of LoadCredential=
    problems: list[str] = []                # what cannot be understood, a sentence each


def from_systemd(environ: Mapping[str, str], pid: int) -> FromSystemd:
    """What the variables say to this process."""
    problems: list[str] = []
    watchdog_us = None
    if environ.get("WATCHDOG_USEC") and environ.get("WATCHDOG_PID", str(pid)) == str(pid):
        watchdog_us = _number(environ, "WATCHDOG_USEC", 10**15, problems)
    sockets: dict[int, str] = {}
    if environ.get("LISTEN_FDS") and environ.get("LISTEN_PID") == str(pid):
        count = _number(environ, "LISTEN_FDS", MAX_INHERITED, problems) or 0
        # without names as sd_listen_fds_with_names has it
        names = environ["LISTEN_FDNAMES"].split(":") if environ.get("LISTEN_FDNAMES") else ["unknown"] * count
        if count and len(names) != count:
            problems.append(f"environment LISTEN_FDNAMES: {len(names)} names for {count} file descriptors")
        sockets = dict(enumerate(names[:count], FIRST_INHERITED_FD))
    return FromSystemd(
        notify_socket=environ.get("NOTIFY_SOCKET") or None,
        journal_stream=environ.get("JOURNAL_STREAM") or None,
        watchdog_s=None if watchdog_us is None else watchdog_us / 1_000_000,
        inherited_sockets=sockets,
        credentials=environ.get("CREDENTIALS_DIRECTORY") or None,
        problems=problems,
    )


def _number(environ: Mapping[str, str], name: str, most: int, problems: list[str]) -> int | None:
    text = environ[name]
    if text.isascii() and text.isdecimal() and len(text) <= 20 and 0 < int(text) <= most:
        return int(text)
    problems.append(f"environment {name}: found {text[:40]!r}, expected a number from 1 to {most}")
    return None

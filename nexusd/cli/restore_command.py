"""nexusctl restore: a backup takes the place of what is there, by the daemon that runs, or without one.

Owns who does it: the daemon, if one answers, since nobody else may touch its files; else `python -m nexusd --restore`,
as a program of its own. What would change is shown first, and asked about.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from nexusd.cli.completion import asked
from nexusd.cli.invocation import Invocation, Json, Verdict, complain, invocation_of, write
from nexusd.cli.params import ParameterError
from nexusd.client.core import Request
from nexusd.client.errors import ClientError, ConnectionFailed
from nexusd.client.sync_client import Client
from nexusd.errors import RpcError
from nexusd.model.backups import Backup, BackupStatus, RestorePlan
from nexusd.model.fields import Listing

NOT_DONE = 1
LONGEST_S = 3600.0      # to unpack and prove a large backup; the daemon goes on if nobody waits
BACK_WITHIN_S = 300.0   # until a daemon that begins again answers
LOOK_S = 0.25


def _names(ctx: typer.Context, incomplete: str) -> list[str]:
    listed = asked(ctx, Request("backup.list", {}, Listing[Backup], mutates=False))
    return [one.name for one in (listed.items if listed else []) if one.name.startswith(incomplete)]


def restore(
    ctx: typer.Context,
    *,
    backup: Annotated[
        str, typer.Argument(metavar="NAME|FILE", help="A backup's name, or its file.", autocompletion=_names)
    ],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Into another data directory, which no daemon uses.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Verify it, and only say what would change.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Put a backup in the place of all that is there. What is there is set aside, never deleted.

    A daemon that runs does it itself: it verifies the backup while it serves, swaps, and begins again. Without one,
    nexusd --restore does it, with the settings and the data directory that nexusd has when it is started here.
    """
    invocation = invocation_of(ctx, json=json)
    if to is None:
        try:
            with invocation.client() as nexus:
                _by_the_daemon(invocation, nexus, backup, dry_run=dry_run, yes=yes)
                return
        except ConnectionFailed:
            if invocation.address is not None and "://" in invocation.address:
                raise   # a daemon elsewhere is not replaced by what is here
    _without_a_daemon(invocation, backup, to, dry_run=dry_run, yes=yes)


def _by_the_daemon(invocation: Invocation, nexus: Client, backup: str, *, dry_run: bool, yes: bool) -> None:
    name = _known_name(nexus, backup)
    if dry_run or not yes:
        plan = _asked_for(invocation, nexus, {"name": name, "dryRun": True})
        if dry_run:
            _tell(invocation, plan)
            return
        print(_told(plan), file=sys.stderr)
        _agree()
    plan = _asked_for(invocation, nexus, {"name": name})
    _wait_until_back(invocation)
    _tell(invocation, plan)


def _known_name(nexus: Client, backup: str) -> str:
    """The name under which the daemon knows it.

    Raises:
        ParameterError: it is a file that lies elsewhere.
    """
    path = Path(backup)
    if "/" not in backup and path.suffix != ".tar":
        return backup
    status = nexus.execute(Request("backup.status", {}, BackupStatus, mutates=False))
    if path.resolve().parent != Path(status.directory).resolve():
        raise ParameterError(
            f"a daemon runs, and restores what lies in {status.directory}: move {backup} there, or stop the daemon"
        )
    return path.stem


def _asked_for(invocation: Invocation, nexus: Client, params: dict[str, Any]) -> RestorePlan:
    """The daemon's answer; how far it is goes to standard error meanwhile, if that is a terminal."""
    done = threading.Event()
    watching = threading.Thread(target=_watch, args=(invocation, done), daemon=True)
    if sys.stderr.isatty():
        watching.start()
    try:
        return nexus.execute(Request("backup.restore", params, RestorePlan, mutates=True), timeout_s=LONGEST_S)
    except KeyboardInterrupt:
        complain("interrupted; what the daemon has begun it finishes", "nexusctl backup status shows it")
        raise
    finally:
        done.set()
        if watching.is_alive():
            watching.join(LOOK_S * 4)


def _watch(invocation: Invocation, done: threading.Event) -> None:
    try:
        with invocation.client() as nexus:
            while not done.wait(LOOK_S):
                run = nexus.execute(Request("backup.status", {}, BackupStatus, mutates=False)).running
                if run is not None:
                    print(f"\r{run.step:<10} {run.done:4.0%}", end="", file=sys.stderr, flush=True)
    except (ClientError, RpcError):
        pass    # it begins again
    print("\r" + " " * 16 + "\r", end="", file=sys.stderr, flush=True)


def _wait_until_back(invocation: Invocation) -> None:
    """Until the daemon answers that has begun again.

    Raises:
        ClientError: it does not, in time.
    """
    until_s = time.monotonic() + BACK_WITHIN_S
    while True:
        try:
            with invocation.client() as nexus:
                nexus.execute(Request("health", {}, msgspec.Raw, mutates=False))
                return
        except (ClientError, RpcError):
            if time.monotonic() > until_s:
                raise
            time.sleep(LOOK_S)


def _without_a_daemon(invocation: Invocation, backup: str, to: Path | None, *, dry_run: bool, yes: bool) -> None:
    if not dry_run and not yes:
        plan = _child(backup, to, ["--dry-run", "--json"])
        print(_told(msgspec.json.decode(plan, type=RestorePlan)), file=sys.stderr)
        _agree()
    extra = [*(["--dry-run"] if dry_run else []), *(["--json"] if invocation.json else [])]
    write(_child(backup, to, extra).rstrip(b"\n"))


def _child(backup: str, to: Path | None, extra: list[str]) -> bytes:
    """What `nexusd --restore` says.

    Raises:
        Verdict: it refused, and has said why.
    """
    place = [] if to is None else ["--into", str(to)]
    command = [sys.executable, "-m", "nexusd", "--restore", backup, *place, *extra]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)  # noqa: S603  ours
    if done.returncode:
        raise Verdict(NOT_DONE)
    return done.stdout


def _agree() -> None:
    """Go on if somebody says yes.

    Raises:
        ParameterError: nobody is there to be asked.
        Verdict: they said no.
    """
    if not sys.stdin.isatty():
        raise ParameterError("nobody is there to be asked: say --yes")
    print("Restore it? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        complain("nothing was changed")
        raise Verdict(NOT_DONE)


def _tell(invocation: Invocation, plan: RestorePlan) -> None:
    write(msgspec.json.encode(plan) if invocation.json else _told(plan).encode())


def _told(plan: RestorePlan) -> str:
    done = plan.restoring
    lines = [f"{'restored' if done else 'to restore'}: {plan.backup.name} ({plan.backup.kind})"]
    for name, (now, then) in plan.rows.items():
        if now or then:
            lines.append(f"  {name:<16} {'?' if now is None else f'{now:,}':>12} -> {then:,}")
    if plan.files_written:
        lines.append(f"  files written    {', '.join(plan.files_written)}")
    if plan.files_set_aside:
        lines.append(f"  files set aside  {', '.join(plan.files_set_aside)}")
    lines.append(f"what {'was' if done else 'is'} there {'lies' if done else 'goes'} to {plan.set_aside}")
    if not plan.same_model:
        lines.append("it was made under another embedding model; its texts are embedded anew")
    return "\n".join(lines)

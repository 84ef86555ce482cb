"""nexusctl backup now, list, verify, status: copies of everything, made and looked after.

Owns the course of each: asked for over one connection, followed over another. The work is the daemon's and goes on
without whoever watches. Exit codes: 0 all is well, 1 the daemon refused, or (status) there is an alarm.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import msgspec
import typer

from nexusd.cli.completion import asked
from nexusd.cli.invocation import INTERRUPTED, Invocation, Json, Verdict, complain, draw, invocation_of, write
from nexusd.client.core import Request
from nexusd.client.errors import ClientError
from nexusd.errors import RpcError
from nexusd.model.backups import Backup, BackupStatus, VerifiedBackup
from nexusd.model.fields import MAX_PAGE, Listing

ALARM = 1
LOOK_S = 0.2
LONG_S = 6 * 3600.0     # a backup takes as long as it takes; whoever is tired of it presses Ctrl-C
STATUS = Request("backup.status", {}, BackupStatus, mutates=False)


def _names(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    listing = asked(ctx, Request("backup.list", {}, Listing[Backup], mutates=False))
    return [(one.name, one.note or one.kind) for one in (listing.items if listing else []) if incomplete in one.name]


def now(
    ctx: typer.Context,
    *,
    note: Annotated[
        str | None, typer.Option("--note", "-m", metavar="TEXT", help="What it is made for; stays in it.")
    ] = None,
    json: Json = False,
) -> None:
    """Make a backup now, and prove it."""
    invocation = invocation_of(ctx, json=json)
    params = {} if note is None else {"note": note}
    answer = _followed(invocation, Request("backup.create", params, msgspec.Raw, mutates=True))
    if invocation.json:
        write(answer)
    else:
        draw(_pages().made(msgspec.json.decode(answer, type=Backup)))


def list_(ctx: typer.Context, *, json: Json = False) -> None:
    """List the backups, newest first."""
    invocation = invocation_of(ctx, json=json)
    with invocation.client() as nexus:
        answer = nexus.execute(Request("backup.list", {"limit": MAX_PAGE}, msgspec.Raw, mutates=False))
    if invocation.json:
        write(answer)
    else:
        draw(_pages().listed(msgspec.json.decode(answer, type=Listing[Backup])))


def verify(
    ctx: typer.Context,
    *,
    name: Annotated[
        str | None, typer.Argument(help="Which; the newest without it.", autocompletion=_names)
    ] = None,
    json: Json = False,
) -> None:
    """Unpack a backup, look at all of it, and compare it with what it says of itself."""
    invocation = invocation_of(ctx, json=json)
    params = {} if name is None else {"name": name}
    answer = _followed(invocation, Request("backup.verify", params, msgspec.Raw, mutates=False))
    if invocation.json:
        write(answer)
    else:
        draw(_pages().verified(msgspec.json.decode(answer, type=VerifiedBackup)))


def status(ctx: typer.Context, *, json: Json = False) -> None:
    """Show how old the newest good backup is, and when the next is due. Exit code 1: there is an alarm."""
    invocation = invocation_of(ctx, json=json)
    with invocation.client() as nexus:
        answer = nexus.execute(Request("backup.status", {}, msgspec.Raw, mutates=False))
    found = msgspec.json.decode(answer, type=BackupStatus)
    if invocation.json:
        write(answer)
    else:
        draw(_pages().standing(found))
    if found.alarm is not None:
        raise Verdict(ALARM)


def _followed(invocation: Invocation, request: Request[msgspec.Raw]) -> msgspec.Raw:
    """The answer to what takes long, with a bar until it comes; where nobody looks, without."""
    if not sys.stderr.isatty():
        with invocation.client() as nexus, _goes_on():
            return nexus.execute(request, timeout_s=LONG_S)
    waiting = _Waiting(invocation, request)
    waiting.start()
    with _goes_on(), _bar() as bar, invocation.client() as nexus:
        while not waiting.ended.wait(LOOK_S):
            running = nexus.execute(STATUS).running
            if running is not None:
                bar.update(0, description=f"{running.step:<9}", completed=running.done)
    answer: msgspec.Raw = waiting.answer()
    return answer


class _Waiting(threading.Thread):
    """Waits for an answer beside who draws. A daemon thread: Ctrl-C ends the program, whatever it waits for."""

    def __init__(self, invocation: Invocation, request: Request[Any]) -> None:
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self._invocation = invocation
        self._request = request
        self._answer: Any = None
        self._error: Exception | None = None

    def run(self) -> None:
        """Ask, and keep what comes of it."""
        try:
            with self._invocation.client() as nexus:
                self._answer = nexus.execute(self._request, timeout_s=LONG_S)
        except (RpcError, ClientError, ValueError) as error:    # what `main` tells people of, on its own thread
            self._error = error
        finally:
            self.ended.set()

    def answer(self) -> Any:
        """What came of it."""
        if self._error is not None:
            raise self._error
        return self._answer


@contextmanager
def _goes_on() -> Iterator[None]:
    """Ctrl-C ends the watching; say that it ends nothing else."""
    try:
        yield
    except KeyboardInterrupt:
        complain("interrupted; the daemon goes on", "nexusctl backup status shows how far it is")
        sys.exit(INTERRUPTED)


@contextmanager
def _bar() -> Iterator[Any]:
    from rich import progress as rich_progress  # noqa: PLC0415 (rich takes 50 ms that a pipe does not need)
    from rich.console import Console  # noqa: PLC0415 (as above)

    columns = (
        rich_progress.TextColumn("{task.description}"), rich_progress.BarColumn(), rich_progress.TaskProgressColumn(),
        rich_progress.TimeElapsedColumn(),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        bar.add_task("beginning", total=1.0)
        yield bar


def _pages() -> Any:
    import nexusd.cli.backup_pages  # noqa: PLC0415 (as above)

    return nexusd.cli.backup_pages

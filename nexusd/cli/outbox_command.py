"""nexusctl outbox show, retry, watch: what the index still owes to the rows, and what was given up.

Owns how one row is found, and the course of watching: until all is drained, on a terminal as bars, in a pipe a line
for each change. The other verbs are the daemon's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import typer

from nexusd.cli.completion import asked
from nexusd.cli.invocation import INTERRUPTED, Invocation, Json, draw, invocation_of, write
from nexusd.cli.outbox_status import WaitingRows, plain
from nexusd.cli.params import ParameterError
from nexusd.client.core import Request
from nexusd.client.sync_client import Client
from nexusd.errors import OutboxRowNotFound
from nexusd.model.fields import MAX_PAGE, Listing
from nexusd.model.outbox import OutboxRow, OutboxState

LOOK_S = 0.5    # between two looks of a person who waits
MAX_OFFERED = 30


def _offered(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Dead letters that a shell may offer."""
    params = {"state": "dead", "limit": MAX_OFFERED}
    page = asked(ctx, Request("outbox.list", params, Listing[OutboxRow], mutates=False))
    rows = [] if page is None else page.items
    return [
        (str(row.seq), f"{row.collection} #{row.row_id} {row.error_kind or ''}".rstrip())
        for row in rows
        if str(row.seq).startswith(incomplete)
    ]


def show(
    ctx: typer.Context,
    *,
    seq: Annotated[int, typer.Argument(min=1, help="Its number, as outbox list shows it.", autocompletion=_offered)],
    json: Json = False,
) -> None:
    """Show all about one row that waits or was given up, and what to do about it."""
    invocation = invocation_of(ctx, json=json)
    with invocation.client() as nexus:
        row = _row(nexus, seq)
    if invocation.json:
        write(msgspec.json.encode(row))
    else:
        from nexusd.cli import outbox_pages  # noqa: PLC0415 (rich takes 50 ms that a pipe does not need)

        draw(outbox_pages.one(row))


def retry(
    ctx: typer.Context,
    *,
    seqs: Annotated[
        list[int] | None, typer.Argument(metavar="[SEQ...]", min=1, help="Which.", autocompletion=_offered)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every dead letter.")] = False,
    json: Json = False,
) -> None:
    """Try dead letters again: the named ones, or all."""
    invocation = invocation_of(ctx, json=json)
    if bool(seqs) == everything:
        raise ParameterError("expected either numbers of dead letters or --all; nexusctl outbox list --state dead")
    with invocation.client() as nexus:
        answer = nexus.execute(Request("outbox.retry", {"seqs": seqs} if seqs else {}, msgspec.Raw, mutates=True))
    if invocation.json:
        write(answer)
    else:
        from nexusd.cli import outbox_pages  # noqa: PLC0415 (as above)

        draw(outbox_pages.retried(bytes(answer)))


def watch(
    ctx: typer.Context,
    *,
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.05, max=3600, help="Between two looks.")
    ] = LOOK_S,
    json: Json = False,
) -> None:
    """Watch the outbox until the index has all that it is owed; in a pipe, a line for each change."""
    invocation = invocation_of(ctx, json=False)
    as_json = ctx.obj.json or json
    try:
        if as_json or not sys.stdout.isatty():
            _watch_plainly(invocation, interval, as_json=as_json)
        else:
            _watch_drawn(invocation, interval)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _watch_plainly(invocation: Invocation, interval_s: float, *, as_json: bool) -> None:
    last: object = None
    with invocation.client() as nexus:
        for answer, rows in _looks(nexus, interval_s):
            if rows.changing != last:
                write(answer if as_json else plain(rows).encode())
            last = rows.changing


def _watch_drawn(invocation: Invocation, interval_s: float) -> None:
    from rich.console import Console  # noqa: PLC0415 (as above)
    from rich.live import Live  # noqa: PLC0415 (as above)

    from nexusd.cli import outbox_pages  # noqa: PLC0415 (as above)

    most: dict[str, int] = {}
    with invocation.client() as nexus, Live(console=Console(highlight=False), auto_refresh=False) as live:
        for _, rows in _looks(nexus, interval_s):
            for name, backlog in {**rows.by_name, "": rows}.items():
                most[name] = max(backlog.depth, most.get(name, 0))
            live.update(outbox_pages.progress(rows, most), refresh=True)


def _looks(nexus: Client, interval_s: float) -> Iterator[tuple[msgspec.Raw, WaitingRows]]:
    """The outbox's status, again and again, until nothing waits any more."""
    while True:
        answer = nexus.execute(Request("outbox.status", {}, msgspec.Raw, mutates=False))
        rows = msgspec.json.decode(answer, type=WaitingRows)
        yield answer, rows
        if not rows.depth:
            return
        time.sleep(interval_s)


def _row(nexus: Client, seq: int) -> OutboxRow:
    """The row of this number: among the dead, who are few and asked for most, or among all.

    Raises:
        OutboxRowNotFound: there is none, any more.
    """
    states: tuple[OutboxState | None, ...] = ("dead", None)
    for state in states:
        params: dict[str, Any] = {"limit": MAX_PAGE} if state is None else {"limit": MAX_PAGE, "state": state}
        while True:
            page = nexus.execute(Request("outbox.list", params, Listing[OutboxRow], mutates=False))
            for row in page.items:
                if row.seq == seq:
                    return row
            if page.next_cursor is None or page.items[-1].seq > seq:  # oldest first
                break
            params = {**params, "cursor": page.next_cursor}
    raise OutboxRowNotFound(f"The outbox has no row {seq}: it was delivered, or there was none.")

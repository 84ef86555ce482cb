"""nexusctl index verify, repair, reembed, forget: the index compared with the rows, and made anew.

Owns the course of each: started over the socket, followed by asking how far it is, told at the end. The work is the
daemon's and goes on without whoever watches. Exit codes of verify and repair: 0 it agrees, 1 it differs or differed,
and 4 where the daemon refused or broke off, which is 1 for other commands.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Protocol, get_args

import msgspec
import typer

from nexusd.cli.completion import asked
from nexusd.cli.invocation import (
    FAILED,
    INTERRUPTED,
    Invocation,
    Json,
    Verdict,
    complain,
    complain_of,
    draw,
    invocation_of,
    write,
)
from nexusd.cli.params import ParameterError
from nexusd.cli.texts import duration
from nexusd.client.core import Request
from nexusd.client.sync_client import Client
from nexusd.errors import RpcError
from nexusd.model.fields import IndexedCollection
from nexusd.model.index import ForgottenModels, IndexReport, IndexState, ReembedProgress

DIFFERS = 1
FIRST_WAIT_MS = 400     # a small index is compared within it, and nothing flickers
LOOK_S = 0.25
_UNDER_WAY = frozenset({"filling", "embedding", "comparing"})


def _collections(incomplete: str) -> list[str]:
    return [name for name in get_args(IndexedCollection) if name.startswith(incomplete)]


Collections = Annotated[
    list[str] | None,
    typer.Argument(metavar="[COLLECTION...]", help="Which; all without any.", autocompletion=_collections),
]


def verify(ctx: typer.Context, *, collections: Collections = None, json: Json = False) -> None:
    """Compare the index with the rows, and tell what differs. Exit code 1: something does."""
    _compare(invocation_of(ctx, json=json), "verify", collections or [])


def repair(ctx: typer.Context, *, collections: Collections = None, json: Json = False) -> None:
    """Compare the index with the rows, and mend what differs. Exit code 1: something did."""
    _compare(invocation_of(ctx, json=json), "repair", collections or [])


def reembed(
    ctx: typer.Context,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Also where the model serves that is configured: its weights changed.")
    ] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Begin, and do not watch.")] = False,
    json: Json = False,
) -> None:
    """Embed every row with the model that is configured, while the earlier one serves; then let it serve."""
    invocation = invocation_of(ctx, json=json)
    with invocation.client() as nexus:
        request = Request("index.reembed", {"force": True} if force else {}, ReembedProgress, mutates=True)
        progress = nexus.execute(request)
        if progress.state == "idle":
            if not invocation.json:
                said = "The model that is configured serves already; --force embeds everything again."
                print(said, file=sys.stderr)
        elif not no_wait:
            with _goes_on("embedding", "nexusctl index reembed watches it again, nexusctl index status shows it"):
                progress = _followed(nexus, progress)
    if invocation.json:
        write(msgspec.json.encode(progress))
    else:
        draw(_pages().changing(progress))
    if progress.state == "failed":
        raise Verdict(FAILED)


def _kept_keys(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    state = asked(ctx, Request("index.status", {}, IndexState, mutates=False))
    return [(one.key, one.model) for one in (state.kept if state else []) if one.key.startswith(incomplete)]


def forget(
    ctx: typer.Context,
    *,
    key: Annotated[
        str | None, typer.Argument(help="Which kept model; all without it.", autocompletion=_kept_keys)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Drop the vectors of a model that serves no more; going back to it then embeds everything again."""
    invocation = invocation_of(ctx, json=json)
    with invocation.client() as nexus:
        if not yes:
            kept = nexus.execute(Request("index.status", {}, IndexState, mutates=False)).kept
            chosen = [one for one in kept if key is None or one.key == key]
            if chosen and not _agreed([f"{one.provider} {one.model} ({one.dimension})" for one in chosen]):
                complain("nothing was dropped")
                raise Verdict(DIFFERS)
        params = {} if key is None else {"key": key}
        answer = nexus.execute(Request("index.forget", params, msgspec.Raw, mutates=True))
    if invocation.json:
        write(answer)
        return
    done = msgspec.json.decode(answer, type=ForgottenModels)
    if not done.forgotten:
        write(b"No model is kept but the one that serves.")
    else:
        said = f"Dropped: {', '.join(done.forgotten)}, with {done.vectors_deleted:,} stored vectors."
        write(said.encode())


def _agreed(models: list[str]) -> bool:
    """Whether somebody said yes.

    Raises:
        ParameterError: nobody is there to ask.
    """
    if not sys.stdin.isatty():
        raise ParameterError("nobody is there to be asked: say --yes")
    print(f"Drop all vectors of {', '.join(models)}? What they cost is paid again on going back. [y/N] ", end="",
          file=sys.stderr, flush=True)  # fmt: skip
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _compare(invocation: Invocation, job: str, collections: list[str]) -> None:
    try:
        with invocation.client() as nexus, _goes_on("comparing", "nexusctl index status shows it"):
            report = _ended(nexus, job, collections)
    except RpcError as exc:
        complain_of(exc)
        raise Verdict(FAILED) from None
    if invocation.json:
        write(msgspec.json.encode(report))
    else:
        draw(_pages().compared(report))
    if report.state != "done":
        raise Verdict(FAILED)
    if not report.agrees:
        raise Verdict(DIFFERS)


def _ended(nexus: Client, job: str, collections: list[str]) -> IndexReport:
    """The report of the job at its end, or as it was last seen where the daemon knows it no more."""
    params: dict[str, Any] = {"timeoutMs": FIRST_WAIT_MS}
    if collections:
        params["collections"] = collections
    report = nexus.execute(Request(f"index.{job}", params, IndexReport, mutates=False))
    if report.state != "running":
        return report
    began_s, first = time.monotonic(), report.checked
    with _bar(f"{report.job:<9}") as bar:
        while True:
            rate = (report.checked - first) / (time.monotonic() - began_s + 1e-9)
            left_ms = int((report.total - report.checked) / rate * 1000) if rate else None
            bar.show(report.checked, report.total, rate=rate, left_ms=left_ms)
            time.sleep(LOOK_S)
            state = nexus.execute(Request("index.status", {}, IndexState, mutates=False))
            same = [
                one for one in (state.job, state.last_verify)
                if one is not None and (one.job, one.started_at) == (report.job, report.started_at)
            ]  # fmt: skip
            if not same:
                gone = "the daemon knows nothing of it any more: it was started anew, perhaps"
                return msgspec.structs.replace(report, state="failed", error=gone)
            report = same[0]
            if report.state != "running":
                return report


def _followed(nexus: Client, progress: ReembedProgress) -> ReembedProgress:
    """The change of the model at its end."""
    coming = None if progress.next is None else progress.next.key
    with _bar(f"{progress.state:<9}") as bar:
        while progress.state in _UNDER_WAY:
            bar.show(progress.done, progress.total, name=progress.state, rate=progress.rows_per_second,
                     left_ms=progress.estimate_ms)  # fmt: skip
            time.sleep(LOOK_S)
            progress = nexus.execute(Request("index.status", {}, IndexState, mutates=False)).reembed
            if progress.next is not None:
                coming = progress.next.key
        if progress.state == "idle" and progress.serving.key == coming:  # swapped, and tidied up since
            progress = msgspec.structs.replace(progress, state="swapped")
    return progress


@contextmanager
def _goes_on(what: str, how: str) -> Iterator[None]:
    """Ctrl-C ends the watching; say that it ends nothing else."""
    try:
        yield
    except KeyboardInterrupt:
        complain(f"interrupted; the daemon goes on {what}", how)
        sys.exit(INTERRUPTED)


class _Bar(Protocol):
    def show(
        self, done: int, total: int, *, name: str = "", rate: float = 0.0, left_ms: int | None = None
    ) -> None:
        """So far."""


class _NoBar:
    def show(self, done: int, total: int, *, name: str = "", rate: float = 0.0, left_ms: int | None = None) -> None:
        pass


class _RichBar:
    def __init__(self, bars: Any, name: str) -> None:
        self._bars = bars
        self._task = bars.add_task(name, total=None, pace="")

    def show(self, done: int, total: int, *, name: str = "", rate: float = 0.0, left_ms: int | None = None) -> None:
        pace = f"{rate:,.0f} rows/s" if rate else ""
        pace += f" · {duration(left_ms)} left" if left_ms is not None else ""
        self._bars.update(self._task, completed=done, total=total or None, pace=pace)
        if name:
            self._bars.update(self._task, description=f"{name:<9}")


@contextmanager
def _bar(name: str) -> Iterator[_Bar]:
    """A bar on standard error, which is gone at the end; where that is no terminal, none."""
    if not sys.stderr.isatty():
        yield _NoBar()
        return
    from rich import progress as rich_progress  # noqa: PLC0415 (rich takes 50 ms that a pipe does not need)
    from rich.console import Console  # noqa: PLC0415 (as above)

    columns = (
        rich_progress.TextColumn("{task.description}"), rich_progress.BarColumn(), rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("{task.fields[pace]}"),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield _RichBar(bars, name)


def _pages() -> Any:
    import nexusd.cli.index_pages  # noqa: PLC0415 (as above)

    return nexusd.cli.index_pages

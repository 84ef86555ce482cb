"""One run of nexusctl: whom it talks to, how it speaks, and where its words go.

Owns the options that every command has, standard output and standard error. Knows no command.
"""

from __future__ import annotations

import dataclasses
import io
import os
import stat
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from typer.core import TyperGroup

from nexusd.cli.connection import Token, connected
from nexusd.cli.params import ParameterError, parse_document
from nexusd.cli.texts import safe
from nexusd.client.address import Trust
from nexusd.client.sync_client import Client
from nexusd.errors import RpcError

if TYPE_CHECKING:
    from rich.console import RenderableType

INTERRUPTED = 130  # as a shell shows a program that SIGINT ended
BROKEN_PIPE = 141  # as a shell shows a program that SIGPIPE ended
NOT_WRITTEN = 1
FAILED = 4  # the daemon refused or broke off, of commands for which 1 says what was found

Json = Annotated[bool, typer.Option("--json", help="JSON, also on a terminal.")]


class Verdict(SystemExit):
    """The command's own exit code for what it found: whatever else the number means elsewhere."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """One run of nexusctl."""

    address: str | None
    timeout_s: float
    json: bool
    token: Token | None = None
    trust: Trust | None = None

    def client(self) -> Client:
        """A connected client."""
        return connected(self.address, timeout_s=self.timeout_s, token=self.token, trust=self.trust)


def invocation_of(ctx: typer.Context, *, json: bool) -> Invocation:
    """The run that this command is of; JSON also where nobody looks."""
    invocation: Invocation = ctx.obj
    return dataclasses.replace(invocation, json=invocation.json or json or not sys.stdout.isatty())


def open_missing_streams() -> None:
    """Standard streams that the caller has closed lead nowhere: Python has None in their place."""
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123  open until the end
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123  as above
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123  as above


def own_commands(ctx: typer.Context) -> frozenset[str]:
    """The commands that nexusctl has without a daemon; groups are none, whose verbs may be the daemon's."""
    commands = getattr(ctx.find_root().command, "commands", {})
    return frozenset(name for name, command in commands.items() if not isinstance(command, TyperGroup))


def document_on_stdin() -> dict[str, Any]:
    """The JSON object on standard input.

    Raises:
        ParameterError: there is something else.
    """
    return parse_document(sys.stdin.buffer.read())


def stdin_has_document() -> bool:
    """Whether standard input is something that was put there: a pipe, a socket or a file, not a device."""
    try:
        kind = os.fstat(0).st_mode
    except OSError:  # closed
        return False
    return stat.S_ISFIFO(kind) or stat.S_ISREG(kind) or stat.S_ISSOCK(kind)


def text_on_stdin() -> str:
    """All of standard input.

    Raises:
        ParameterError: it is no text.
    """
    with io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8") as stdin:
        try:
            return stdin.read()
        except UnicodeDecodeError:
            raise ParameterError("standard input is not valid UTF-8") from None


def now_ms() -> int:
    """The time of this machine."""
    return time.time_ns() // 1_000_000


def write(document: bytes | msgspec.Raw) -> None:
    """A line on standard output; a reader that went away ends the command quietly."""
    left = memoryview(bytes(document) + b"\n")
    try:
        while left:  # PYTHONUNBUFFERED makes this a bare write, which takes what the pipe has room for
            left = left[sys.stdout.buffer.write(left) :]
        sys.stdout.buffer.flush()
    except OSError as error:
        # Python flushes once more at exit and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            sys.exit(BROKEN_PIPE)
        complain(f"standard output cannot be written: {error.strerror}")    # a full disk
        sys.exit(NOT_WRITTEN)


def render() -> Any:
    """The module of drawings, loaded when there is something to draw."""
    import nexusd.cli.render  # noqa: PLC0415 (rich takes 50 ms that a pipe does not need)

    return nexusd.cli.render


def pages() -> Any:
    """The module of help pages, likewise."""
    import nexusd.cli.help_pages  # noqa: PLC0415 (as above)

    return nexusd.cli.help_pages


def draw(what: RenderableType) -> None:
    """Show it on standard output, as wide as the terminal is."""
    from rich.console import Console  # noqa: PLC0415 (as above)

    Console(highlight=False).print(what)


def complain_of(error: RpcError) -> None:
    """Say on standard error what the daemon refused."""
    details = [f"{field.path}: {field.expected}" for field in error.fields]
    details = [detail for detail in details if detail not in error.message]  # it may have room for them
    if error.kind == "internal_error" and error.request_id is not None:
        details.append(f"requestId {error.request_id}")  # all that the daemon's log can be searched for
    named = error.message.lower().startswith(error.kind.replace("_", " "))
    complain(error.message if named else f"{error.kind}: {error.message}", *details)


def complain(message: str, *details: str) -> None:
    """Say on standard error what went wrong."""
    print(f"nexusctl: {safe(message)}", file=sys.stderr)
    for detail in details:
        print(f"  {safe(detail)}", file=sys.stderr)

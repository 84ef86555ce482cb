"""nexusctl: the commands.

Owns the command line, where answers and errors go, and the exit codes: 0 ok, 1 the daemon answered an
error, 2 no connection, 3 a wrong command line, 130 interrupted. On a terminal it draws; into a pipe,
or with --json, it writes the daemon's result as it came: one JSON document.
"""

from __future__ import annotations

import dataclasses
import io
import os
import re
import stat
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import msgspec
import typer

from nexusd import __version__
from nexusd.cli.completion import method_names
from nexusd.cli.connection import connected, socket_path_or_url
from nexusd.cli.params import ParameterError, check_text, parse_arguments, parse_document
from nexusd.cli.texts import safe
from nexusd.client import calls
from nexusd.client.core import Request
from nexusd.client.errors import ClientError
from nexusd.client.exchange import DEFAULT_TIMEOUT_S
from nexusd.client.sync_client import Client
from nexusd.errors import NotFound, RpcError
from nexusd.model.episodes import Episode
from nexusd.model.memory import MemoryContext, MemoryFilter, MemoryHits, Mode
from nexusd.model.sessions import Session

if TYPE_CHECKING:
    from rich.console import RenderableType

T = TypeVar("T")

OK, REMOTE_ERROR, NO_CONNECTION, USAGE, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 3, 130, 141
_TYPER_USAGE = 2  # what typer exits with for a wrong command line, and for nothing else
DEFAULT_SESSION = "nexusctl"

Json = Annotated[bool, typer.Option("--json", help="JSON, also on a terminal.")]
SessionName = Annotated[
    str | None,
    typer.Option(
        "--session", "-s", metavar="SESSION", help="A session's external id, or its row id: id:1, or '#1' in quotes."
    ),
]
_ROW_ID = re.compile(r"(?:#|id:)([0-9]+)")  # id: for shells, to which a bare # begins a comment


@dataclass(frozen=True, slots=True)
class Invocation:
    """One run of nexusctl: whom it talks to and how it speaks."""

    address: str | None
    timeout_s: float
    json: bool

    def client(self) -> Client:
        """A connected client."""
        return connected(self.address, timeout_s=self.timeout_s)


def _invocation(ctx: typer.Context, json: bool) -> Invocation:
    invocation: Invocation = ctx.obj
    return dataclasses.replace(invocation, json=invocation.json or json or not sys.stdout.isatty())


def _print_version(asked: bool) -> None:
    if asked:
        print(f"nexusctl {__version__}")
        raise typer.Exit


def options(
    ctx: typer.Context,
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    socket: Annotated[
        str | None,
        typer.Option(metavar="PATH", envvar="NEXUSD_SOCKET", help="The daemon's Unix socket."),
    ] = None,
    url: Annotated[str | None, typer.Option(metavar="URL", help="tcp://HOST:PORT, not a socket.")] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.001, help="How long an answer may take.")
    ] = DEFAULT_TIMEOUT_S,
    json: Json = False,
) -> None:
    """Talk to nexusd, the memory of the house.

    Without --socket or --url it looks at $NEXUSD_SOCKET, /run/nexusd/nexusd.sock and ./data/nexusd.sock.
    """
    if url is not None and _is_from_environment(ctx, "socket"):
        socket = None  # what is said now goes before what was said once
    ctx.obj = Invocation(socket_path_or_url(socket, url), timeout, json)


def call(
    ctx: typer.Context,
    *,
    method: Annotated[str, typer.Argument(help="Such as episodes.get.", autocompletion=method_names)],
    parameters: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Parameters, or - for JSON on stdin.")
    ] = None,
    json: Json = False,
) -> None:
    """Call any method.

    KEY=VALUE takes the value as JSON if it is JSON, else as text; KEY:=JSON insists on JSON; a.b=1 is
    {"a": {"b": 1}}. Without any, the parameters are read as one JSON object from standard input, unless that
    is a terminal.
    """
    invocation = _invocation(ctx, json)
    if not method:
        raise ParameterError("expected the name of a method, such as episodes.get; nexusctl help lists them")
    params = _parameters(parameters or [])
    with invocation.client() as nexus:
        answer = nexus.execute(Request(method, params, msgspec.Raw))
    if invocation.json:
        _write(answer)
    else:
        _draw(_render().document(bytes(answer)))


def status(ctx: typer.Context, *, json: Json = False) -> None:
    """Show how the daemon is."""
    invocation = _invocation(ctx, json)
    with invocation.client() as nexus:
        answer = nexus.execute(_raw(calls.status()))
    if invocation.json:
        _write(answer)
    else:
        _draw(_render().status(msgspec.json.decode(answer)))


def add(
    ctx: typer.Context,
    *,
    user: Annotated[str | None, typer.Argument(help="What the user said; - reads it from stdin.")] = None,
    assistant: Annotated[str | None, typer.Argument(help="What the system answered.")] = None,
    user_option: Annotated[str | None, typer.Option("--user", "-u", help="Instead of the argument.")] = None,
    assistant_option: Annotated[
        str | None, typer.Option("--assistant", "-a", help="Instead of the argument.")
    ] = None,
    session: Annotated[
        str, typer.Option("--session", "-s", metavar="EXTERNAL_ID", help="Created when missing.")
    ] = DEFAULT_SESSION,
    wait: Annotated[bool, typer.Option("--wait", help="Until the vector index has it too.")] = False,
    json: Json = False,
) -> None:
    """Remember an exchange."""
    invocation = _invocation(ctx, json)
    user_message = _one("USER", user, "--user", user_option)
    if user_message == "-":
        user_message = _text_on_stdin().rstrip("\n")
    if not user_message:
        raise ParameterError("expected what the user said: nexusctl add USER [ASSISTANT]")
    ai_response = _one("ASSISTANT", assistant, "--assistant", assistant_option) or ""
    for text in (user_message, ai_response, session):  # before the session is made
        check_text(text)
    with invocation.client() as nexus:
        session_id = nexus.ensure_session(session).id
        create = calls.create_episode(session_id, user_message, ai_response, wait=wait)
        answer = nexus.execute(_raw(create))
    if invocation.json:
        _write(answer)
    else:
        _draw(_render().added(msgspec.json.decode(answer, type=Episode), session))


def search(
    ctx: typer.Context,
    *,
    query: Annotated[str, typer.Argument(help="In plain words.")],
    mode: Annotated[Mode, typer.Option(help="Both engines, words only, or meaning only.")] = "hybrid",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100, help="Hits at most.")] = 10,
    session: SessionName = None,
    explain: Annotated[bool, typer.Option("--explain", help="Each engine's rank and score.")] = False,
    json: Json = False,
) -> None:
    """Find memories by meaning and by words."""
    invocation = _invocation(ctx, json)
    with invocation.client() as nexus:
        where = None if session is None else MemoryFilter(session_id=_session_id(nexus, session))
        request = calls.search(query, mode=mode, limit=limit, filter=where, explain=explain)
        answer = nexus.execute(_raw(request))
    if invocation.json:
        _write(answer)
    else:
        _draw(_render().hits(msgspec.json.decode(answer, type=MemoryHits), query, _now_ms()))


def context(
    ctx: typer.Context,
    *,
    query: Annotated[str, typer.Argument(help="What the prompt is about.")],
    budget: Annotated[
        int, typer.Option("--budget", "-b", min=16, max=1_000_000, help="Tokens at most.")
    ] = 2000,
    session: SessionName = None,
    text: Annotated[bool, typer.Option("--text", help="The text alone, as a prompt takes it.")] = False,
    json: Json = False,
) -> None:
    """Put together what is worth knowing for a prompt."""
    invocation = _invocation(ctx, json)
    with invocation.client() as nexus:
        session_id = None if session is None else _session_id(nexus, session)
        answer = nexus.execute(_raw(calls.context(query, token_budget=budget, session_id=session_id)))
    if text:
        found = msgspec.json.decode(answer, type=MemoryContext).text
        _write((safe(found) if sys.stdout.isatty() else found).encode())
    elif invocation.json:
        _write(answer)
    else:
        _draw(_render().context(msgspec.json.decode(answer, type=MemoryContext), _now_ms()))


def help_(
    ctx: typer.Context,
    *,
    method: Annotated[str | None, typer.Argument(help="A method's name.", autocompletion=method_names)] = None,
    json: Json = False,
) -> None:
    """List the daemon's methods, or explain one."""
    invocation = _invocation(ctx, json)
    with invocation.client() as nexus:
        params = {} if method is None else {"method": method}
        answer = nexus.execute(Request("help", params, msgspec.Raw, mutates=False))
    if invocation.json:
        _write(answer)
    else:
        _draw(_render().help_page(msgspec.json.decode(answer)))


def make_app() -> typer.Typer:
    """The command line."""
    app = typer.Typer(name="nexusctl", no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(options)
    app.command()(add)
    app.command()(search)
    app.command()(context)
    app.command()(status)
    app.command()(call)
    app.command("help")(help_)
    return app


def main() -> NoReturn:
    """Run one command and exit."""
    try:
        make_app()(prog_name="nexusctl")
    except SystemExit as exc:
        sys.exit(USAGE if exc.code == _TYPER_USAGE else exc.code)
    except RpcError as exc:
        details = [f"{field.path}: {field.expected}" for field in exc.fields]
        details = [detail for detail in details if detail not in exc.message]  # it may have room for them
        if exc.kind == "internal_error" and exc.request_id is not None:
            details.append(f"requestId {exc.request_id}")  # all that the daemon's log can be searched for
        named = exc.message.lower().startswith(exc.kind.replace("_", " "))
        _complain(exc.message if named else f"{exc.kind}: {exc.message}", *details)
        sys.exit(REMOTE_ERROR)
    except ClientError as exc:
        _complain(exc.message)
        sys.exit(NO_CONNECTION)
    except ValueError as exc:  # an address, a ParameterError, or what cannot be sent: a broken byte, say
        _complain(str(exc))
        sys.exit(USAGE)
    sys.exit(OK)


def _is_from_environment(ctx: typer.Context, option: str) -> bool:
    source = ctx.get_parameter_source(option)
    return source is not None and source.name == "ENVIRONMENT"


def _parameters(arguments: list[str]) -> dict[str, Any]:
    if arguments == ["-"] or (not arguments and _stdin_has_document()):
        return parse_document(sys.stdin.buffer.read())
    return parse_arguments(arguments)


def _stdin_has_document() -> bool:
    """Whether standard input is something that was put there: a pipe, a socket or a file, not a device."""
    try:
        kind = os.fstat(0).st_mode
    except OSError:  # closed
        return False
    return stat.S_ISFIFO(kind) or stat.S_ISREG(kind) or stat.S_ISSOCK(kind)


def _text_on_stdin() -> str:
    with io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8") as stdin:
        try:
            return stdin.read()
        except UnicodeDecodeError:
            raise ParameterError("standard input is not valid UTF-8") from None


def _session_id(nexus: Client, name: str) -> int:
    """The id of an existing session; asked for also where it is given, since a search in none finds nothing."""
    if by_id := _ROW_ID.fullmatch(name):
        find = Request("sessions.get", {"id": int(by_id[1])}, Session, mutates=False)
        missing = f"No session has the id {by_id[1]}."
    else:
        find = Request("sessions.getByExternalId", {"externalId": name}, Session, mutates=False)
        missing = f"No session is called {name!r}."
    try:
        return nexus.execute(find).id
    except NotFound as exc:
        exc.args = (missing,)
        raise


def _one(argument_name: str, argument: str | None, option_name: str, option: str | None) -> str | None:
    if argument is not None and option is not None:
        raise ParameterError(f"expected one of {argument_name} and {option_name}, got both")
    return option if argument is None else argument


def _raw(request: Request[Any]) -> Request[msgspec.Raw]:
    """The same request with its result as it came."""
    return Request(request.method, request.params, msgspec.Raw, request.mutates)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _write(document: bytes | msgspec.Raw) -> None:
    """A line on standard output; a reader that went away ends the command quietly."""
    left = memoryview(bytes(document) + b"\n")
    try:
        while left:  # PYTHONUNBUFFERED makes this a bare write, which takes what the pipe has room for
            left = left[sys.stdout.buffer.write(left) :]
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # Python flushes once more at exit and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BROKEN_PIPE)


def _render() -> Any:
    import nexusd.cli.render  # noqa: PLC0415 (rich takes 50 ms that a pipe does not need)

    return nexusd.cli.render


def _draw(what: RenderableType) -> None:
    from rich.console import Console  # noqa: PLC0415 (as above)

    Console(highlight=False).print(what)


def _complain(message: str, *details: str) -> None:
    print(f"nexusctl: {safe(message)}", file=sys.stderr)
    for detail in details:
        print(f"  {safe(detail)}", file=sys.stderr)

"""nexusctl: the commands.

Owns the command line and the exit codes: 0 ok, 1 the daemon answered an error, 2 no connection, 3 a wrong
command line, 130 interrupted; doctor and index have some of their own. On a terminal it draws; into a pipe, or with
--json, it writes the daemon's result as it came: one JSON document. What is no command here is `learned`'s.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer

from nexusd import __version__
from nexusd.cli.backup_command import list_, now
from nexusd.cli.backup_command import status as backup_status
from nexusd.cli.backup_command import verify as verify_backup
from nexusd.cli.completion import method_names
from nexusd.cli.connection import choose_token, socket_path_or_url
from nexusd.cli.doctor_command import doctor
from nexusd.cli.events_command import events
from nexusd.cli.export_command import export
from nexusd.cli.import_command import import_
from nexusd.cli.index_command import forget, reembed, repair, verify
from nexusd.cli.invocation import (
    Invocation,
    Json,
    Verdict,
    complain,
    complain_of,
    document_on_stdin,
    draw,
    invocation_of,
    now_ms,
    open_missing_streams,
    own_commands,
    pages,
    render,
    stdin_has_document,
    text_on_stdin,
    write,
)
from nexusd.cli.learned import PANEL, CommandGroup, resource_group
from nexusd.cli.outbox_command import retry, show, watch
from nexusd.cli.params import ParameterError, check_text, parse_arguments
from nexusd.cli.restore_command import restore
from nexusd.cli.sessions import ROW_ID, SessionName, session_id_of
from nexusd.cli.texts import safe
from nexusd.cli.tls_command import tls_group
from nexusd.client import calls
from nexusd.client.address import Trust
from nexusd.client.core import Request
from nexusd.client.errors import ClientError
from nexusd.client.exchange import DEFAULT_TIMEOUT_S
from nexusd.errors import RpcError
from nexusd.model.episodes import Episode
from nexusd.model.memory import MemoryContext, MemoryFilter, MemoryHits, Mode

OK, REMOTE_ERROR, NO_CONNECTION, USAGE = 0, 1, 2, 3
_TYPER_USAGE = 2  # what typer exits with for a wrong command line, and for nothing else
DEFAULT_SESSION = "nexusctl"


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
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="tls://HOST:PORT or tcp://HOST:PORT, not a socket.")
    ] = None,
    ca_file: Annotated[
        str | None,
        typer.Option(metavar="FILE", envvar="NEXUSD_CA_FILE", help="Who signs for the daemon, with tls://."),
    ] = None,
    cert_file: Annotated[
        str | None, typer.Option(metavar="FILE", envvar="NEXUSD_CERT_FILE", help="A certificate of one's own.")
    ] = None,
    key_file: Annotated[str | None, typer.Option(metavar="FILE", envvar="NEXUSD_KEY_FILE", help="Its key.")] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", envvar="NEXUSD_TOKEN_FILE", help="A file with the token to show."),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN", envvar="NEXUSD_TOKEN", show_envvar=False,
            help="The token itself, better as $NEXUSD_TOKEN: every user of the machine sees the words of a command.",
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.001, help="How long an answer may take.")
    ] = DEFAULT_TIMEOUT_S,
    json: Json = False,
    help_: Annotated[bool, typer.Option("--help", help="Show this message and exit.")] = False,
) -> None:
    """Talk to nexusd, the memory of the house.

    Without --socket or --url it looks at $NEXUSD_SOCKET, /run/nexusd/nexusd.sock and ./data/nexusd.sock.

    All that the daemon can do has a command: nexusctl RESOURCE VERB KEY=VALUE..., or --KEY VALUE.
    nexusctl RESOURCE lists those of a resource, nexusctl RESOURCE VERB --help explains one.
    """
    if help_ or ctx.invoked_subcommand is None:  # not typer's own help: it would not know the daemon's address yet
        print(ctx.get_help(), end="")
        raise typer.Exit(OK if help_ else _TYPER_USAGE)
    if url is not None and _is_from_environment(ctx, "socket"):
        socket = None  # what is said now goes before what was said once
    trust = Trust(ca_file, cert_file, key_file)
    once = [name for name in ("token", "token_file") if _is_from_environment(ctx, name)]
    shown = choose_token(token, token_file, from_environment=once)
    ctx.obj = Invocation(socket_path_or_url(socket, url), timeout, json, shown, trust)


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
    invocation = invocation_of(ctx, json=json)
    if not method:
        raise ParameterError("expected the name of a method, such as episodes.get; nexusctl help lists them")
    params = _parameters(parameters or [])
    with invocation.client() as nexus:
        answer = nexus.execute(Request(method, params, msgspec.Raw))
    if invocation.json:
        write(answer)
    else:
        draw(render().document(bytes(answer)))


def status(ctx: typer.Context, *, json: Json = False) -> None:
    """Show how the daemon is."""
    invocation = invocation_of(ctx, json=json)
    with invocation.client() as nexus:
        answer = nexus.execute(_raw(calls.status()))
    if invocation.json:
        write(answer)
    else:
        draw(render().status(msgspec.json.decode(answer)))


def reload(ctx: typer.Context, *, json: Json = False) -> None:
    """Have the daemon read its settings anew.

    Says what changed and what needs a restart. Settings that are wrong change nothing, and the exit code is 1.
    """
    invocation = invocation_of(ctx, json=json)
    with invocation.client() as nexus:
        answer = nexus.execute(Request("system.reload", {}, msgspec.Raw, mutates=False))
    if invocation.json:
        write(answer)
    else:
        draw(render().reloaded(msgspec.json.decode(answer)))


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
        str,
        typer.Option(
            "--session", "-s", metavar="SESSION",
            help="A session's external id, created when missing; or its row id: id:1, or '#1' in quotes.",
        ),
    ] = DEFAULT_SESSION,
    wait: Annotated[bool, typer.Option("--wait", help="Until the vector index has it too.")] = False,
    json: Json = False,
) -> None:
    """Remember an exchange."""
    invocation = invocation_of(ctx, json=json)
    user_message = _one("USER", user, "--user", user_option)
    if user_message == "-":
        user_message = text_on_stdin().rstrip("\n")
    if not user_message:
        raise ParameterError("expected what the user said: nexusctl add USER [ASSISTANT]")
    ai_response = _one("ASSISTANT", assistant, "--assistant", assistant_option) or ""
    for text in (user_message, ai_response, session):  # before the session is made
        check_text(text)
    with invocation.client() as nexus:
        by_id = ROW_ID.fullmatch(session)  # as for search, which would not find what goes to a session called id:1
        session_id = session_id_of(nexus, session) if by_id else nexus.ensure_session(session).id
        create = calls.create_episode(session_id, user_message, ai_response, wait=wait)
        answer = nexus.execute(_raw(create))
    if invocation.json:
        write(answer)
    else:
        draw(render().added(msgspec.json.decode(answer, type=Episode), session))


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
    invocation = invocation_of(ctx, json=json)
    with invocation.client() as nexus:
        where = None if session is None else MemoryFilter(session_id=session_id_of(nexus, session))
        request = calls.search(query, mode=mode, limit=limit, filter=where, explain=explain)
        answer = nexus.execute(_raw(request))
    if invocation.json:
        write(answer)
    else:
        draw(render().hits(msgspec.json.decode(answer, type=MemoryHits), query, now_ms()))


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
    invocation = invocation_of(ctx, json=json)
    with invocation.client() as nexus:
        session_id = None if session is None else session_id_of(nexus, session)
        answer = nexus.execute(_raw(calls.context(query, token_budget=budget, session_id=session_id)))
    if text:
        found = msgspec.json.decode(answer, type=MemoryContext).text
        write((safe(found) if sys.stdout.isatty() else found).encode())
    elif invocation.json:
        write(answer)
    else:
        draw(render().context(msgspec.json.decode(answer, type=MemoryContext), now_ms()))


def help_(
    ctx: typer.Context,
    *,
    method: Annotated[str | None, typer.Argument(help="A method's name.", autocompletion=method_names)] = None,
    json: Json = False,
) -> None:
    """List the daemon's methods, or explain one."""
    invocation = invocation_of(ctx, json=json)
    with invocation.client() as nexus:
        params = {} if method is None else {"method": method}
        answer = nexus.execute(Request("help", params, msgspec.Raw, mutates=False))
    if invocation.json:
        write(answer)
    else:
        draw(pages().help_page(bytes(answer), own_commands(ctx)))


def make_app() -> typer.Typer:
    """The command line."""
    app = typer.Typer(name="nexusctl", cls=CommandGroup, pretty_exceptions_enable=False)
    app.callback(invoke_without_command=True, add_help_option=False)(options)
    app.command()(add)
    app.command()(search)
    app.command()(context)
    app.command()(status)
    app.command()(doctor)
    app.command()(reload)
    app.command()(restore)
    app.command()(events)
    app.command()(export)
    app.command("import")(import_)
    app.command()(call)
    app.command("help")(help_)
    app.add_typer(tls_group(), name="tls")
    app.add_typer(resource_group(show, retry, watch), name="outbox", rich_help_panel=PANEL)
    app.add_typer(resource_group(verify, repair, reembed, forget), name="index", rich_help_panel=PANEL)
    app.add_typer(
        resource_group(now, list_, verify_backup, backup_status), name="backup", rich_help_panel=PANEL
    )
    return app


def main() -> NoReturn:
    """Run one command and exit."""
    open_missing_streams()
    try:
        make_app()(prog_name="nexusctl")
    except Verdict:
        raise
    except SystemExit as exc:
        sys.exit(USAGE if exc.code == _TYPER_USAGE else exc.code)
    except RpcError as exc:
        complain_of(exc)
        sys.exit(REMOTE_ERROR)
    except ClientError as exc:
        complain(exc.message)
        sys.exit(NO_CONNECTION)
    except ValueError as exc:  # an address, a ParameterError, or what cannot be sent: a broken byte, say
        complain(str(exc))
        sys.exit(USAGE)
    sys.exit(OK)


def _is_from_environment(ctx: typer.Context, option: str) -> bool:
    source = ctx.get_parameter_source(option)
    return source is not None and source.name == "ENVIRONMENT"


def _parameters(arguments: list[str]) -> dict[str, Any]:
    if arguments == ["-"] or (not arguments and stdin_has_document()):
        return document_on_stdin()
    return parse_arguments(arguments)


def _one(argument_name: str, argument: str | None, option_name: str, option: str | None) -> str | None:
    if argument is not None and option is not None:
        raise ParameterError(f"expected one of {argument_name} and {option_name}, got both")
    return option if argument is None else argument


def _raw(request: Request[Any]) -> Request[msgspec.Raw]:
    """The same request with its result as it came."""
    return Request(request.method, request.params, msgspec.Raw, request.mutates)

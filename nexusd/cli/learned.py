"""The commands that nexusctl learns from the daemon: `nexusctl RESOURCE VERB KEY=VALUE...`.

Owns how a word that is no command of nexusctl's own becomes a method of the daemon. What methods there are and
what they take is asked of the daemon at each run (one short request, the one that every call of a method makes in
any case), so that nothing here names a resource.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence
from typing import Annotated, Any

import msgspec
import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from nexusd.cli.completion import resources, words_for
from nexusd.cli.invocation import (
    Invocation,
    Json,
    document_on_stdin,
    draw,
    invocation_of,
    own_commands,
    pages,
    stdin_has_document,
    write,
)
from nexusd.cli.params import ParameterError, check_text
from nexusd.cli.typed_params import Explained, camel, kebab, read_words
from nexusd.client.core import Request
from nexusd.client.errors import ConnectionFailed
from nexusd.client.sync_client import Client
from nexusd.errors import MethodNotFound

PANEL = "Resources of the daemon"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*")  # of a verb; a parameter has a = in it


class UnknownCommand(ValueError):
    """Neither nexusctl nor the daemon has this command; the message says what comes near."""


class _Named(msgspec.Struct):
    name: str
    summary: str = ""


class _Methods(msgspec.Struct):
    methods: list[_Named]


class CommandGroup(TyperGroup):
    """The commands of nexusctl; any other word is one of the daemon's resources."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._verbs: dict[str, str] = {}

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name; of a word that is none, whether it is a resource is asked when it runs."""
        own = super().get_command(ctx, cmd_name)
        return own if own is not None else _resource_command(cmd_name, self._verbs.get(cmd_name, ""))

    def list_commands(self, ctx: Any) -> list[str]:
        """Its own and, when a daemon answers at once, the resources."""
        own = super().list_commands(ctx)
        self._verbs = {name: verbs for name, verbs in resources(ctx).items() if name not in own}
        return [*own, *self._verbs]


class _ResourceCommand(TyperCommand):
    """A resource: everything after it is read when it is known what it means."""

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Flags, of the command and of the method's parameters."""
        own = super().shell_complete(ctx, incomplete)
        learned = [item for one in self.params if one.name == "words" for item in one.shell_complete(ctx, incomplete)]
        known = {item.value for item in own}
        return own + [item for item in learned if item.value not in known]


def _resource_command(name: str, verbs: str) -> Any:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(
        name, cls=_ResourceCommand, help=verbs, rich_help_panel=PANEL, add_help_option=False,
        context_settings={"ignore_unknown_options": True},
    )(_run)  # fmt: skip
    return get_command(app)


def _run(
    ctx: typer.Context,
    *,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="VERB [KEY=VALUE...]", autocompletion=words_for)
    ] = None,
    help_: Annotated[bool, typer.Option("--help", help="Explain it.")] = False,
    json: Json = False,
) -> None:
    invocation = invocation_of(ctx, json=json)
    typed = str(ctx.info_name)
    for word in (typed, *(words or ())):
        check_text(word)
    with _client(invocation, typed, own_commands(ctx)) as nexus:
        method, rest = _explained(nexus, typed, words or [], own_commands(ctx))
        if method is None:
            _list(nexus, camel(typed), as_json=invocation.json and (json or not help_))
        elif help_:
            _explain(method, own_commands(ctx), as_json=json)
        else:
            answer = nexus.execute(Request(method.name, _parameters(method, rest), msgspec.Raw, method.mutates))
            if invocation.json:
                write(answer)
            else:
                import nexusd.cli.tables  # noqa: PLC0415 (rich takes 50 ms that a pipe does not need)

                draw(nexusd.cli.tables.result(bytes(answer)))


def _client(invocation: Invocation, typed: str, own: Collection[str]) -> Client:
    """A connected client; without a daemon nobody knows whether the word is a command."""
    try:
        return invocation.client()
    except ConnectionFailed as exc:
        near = difflib.get_close_matches(typed, sorted(own), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConnectionFailed(f"{exc.message}\n  {typed} is no command that works without a daemon{hint}") from None


def _explained(
    nexus: Client, typed: str, words: Sequence[str], own: Collection[str]
) -> tuple[Explained | None, list[str]]:
    """The method that is meant and the words left for its parameters; none where only the resource is named.

    Raises:
        UnknownCommand: the daemon has nothing of this name.
    """
    resource = camel(typed)
    has_verb = bool(words) and _NAME.fullmatch(words[0]) is not None
    name = f"{resource}.{camel(words[0])}" if has_verb else resource
    try:
        method = nexus.execute(Request("help", {"method": name}, Explained, mutates=False))
    except MethodNotFound:
        pass
    else:
        return method, list(words[1:] if has_verb else words)
    names = [method.name for method in _methods(nexus)]
    verbs = [name.partition(".")[2] for name in names if name.startswith(f"{resource}.")]
    if verbs and not words:
        return None, []
    raise UnknownCommand(_no_such(typed, resource, words, names, own))


def _no_such(typed: str, resource: str, words: Sequence[str], names: Sequence[str], own: Collection[str]) -> str:
    verbs = [kebab(name.partition(".")[2]) for name in names if name.startswith(f"{resource}.")]
    if verbs and _NAME.fullmatch(words[0]) is None:
        return f"expected a command after {typed}: {', '.join(verbs)}"
    if verbs:
        near = difflib.get_close_matches(kebab(words[0]), verbs, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(verbs)}"
        return f"{typed} has no command {words[0]}; {hint}"
    known = [*own, *dict.fromkeys(kebab(name.partition(".")[0]) for name in names)]
    near = difflib.get_close_matches(kebab(typed), known, n=1)
    hint = f"did you mean {near[0]}?" if near else "nexusctl --help lists what there is"
    return f"there is no command {typed}; {hint}"


def _methods(nexus: Client) -> list[_Named]:
    return nexus.execute(Request("help", {}, _Methods, mutates=False)).methods


def _parameters(method: Explained, words: list[str]) -> dict[str, Any]:
    if words == ["-"] or (not words and method.params and stdin_has_document()):
        return document_on_stdin()
    try:
        return read_words(words, method.params)
    except ParameterError as exc:
        names = ", ".join(one.name for one in method.params) or "nothing"
        raise ParameterError(f"{exc}\n  {method.name} takes {names}") from None


def _list(nexus: Client, resource: str, *, as_json: bool) -> None:
    members = [one for one in _methods(nexus) if one.name.startswith(f"{resource}.")]
    if as_json:
        write(msgspec.json.encode({"methods": members}))
    else:
        draw(pages().command_list(resource, [msgspec.to_builtins(one) for one in members]))


def _explain(method: Explained, own: Collection[str], *, as_json: bool) -> None:
    if as_json:
        write(msgspec.json.encode(method))
    else:
        draw(pages().method_page(method, own))

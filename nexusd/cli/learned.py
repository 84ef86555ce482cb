"""The commands that nexusctl learns from the daemon: `nexusctl RESOURCE VERB KEY=VALUE...`.

Owns how a word that is no command of nexusctl's own becomes a method of the daemon, and how verbs of both kinds
live in one resource. What methods there are and what they take is asked of the daemon at each run (one short request,
the one that every call of a method makes in any case), so that nothing here names a resource.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any

import msgspec
import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from nexusd.cli.completion import learned_words, resources, words_for
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
_MEANS_THE_METHOD = re.compile(r"[A-Za-z][^\s=:]*:?=|-$")


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
        return own if own is not None else _learned_command(cmd_name, self._verbs.get(cmd_name, ""))

    def list_commands(self, ctx: Any) -> list[str]:
        """Its own and, when a daemon answers at once, the resources; among these the groups that are one."""
        learned = resources(ctx)
        for name, group in self.commands.items():
            if isinstance(group, ResourceGroup):
                known = learned.get(name, "").split(", ") if name in learned else []
                learned[name] = group.help = ", ".join(dict.fromkeys([*known, *group.commands]))
        self._verbs = {name: verbs for name, verbs in sorted(learned.items()) if name not in own_commands(ctx)}
        return [*(name for name in super().list_commands(ctx) if name not in self._verbs), *self._verbs]


class ResourceGroup(TyperGroup):
    """A resource of the daemon with verbs of nexusctl's own; every other verb is the daemon's.

    Of a verb that both have, nexusctl's goes first, except with words KEY=VALUE or a lone - for JSON on standard
    input: those mean the method itself.
    """

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The verb of this name; one that is none of nexusctl's is the daemon's, or nobody's."""
        own = super().get_command(ctx, cmd_name)
        return own if own is not None else _learned_command(cmd_name, "")

    def list_commands(self, ctx: Any) -> list[str]:
        """The daemon's, when it answers at once, and its own."""
        learned = resources(ctx).get(str(ctx.info_name), "")
        return list(dict.fromkeys([*(learned.split(", ") if learned else []), *super().list_commands(ctx)]))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The verb's command and what is left for it."""
        verb, *rest = args
        if verb in self.commands and any(_MEANS_THE_METHOD.match(word) for word in rest):
            return verb, _learned_command(verb, ""), rest
        return super().resolve_command(ctx, args)


def resource_group(*commands: Callable[..., None]) -> typer.Typer:
    """A resource with these functions as verbs, each by its own name."""
    app = typer.Typer(cls=ResourceGroup, add_completion=False)
    app.callback(invoke_without_command=True, add_help_option=False)(_show_verbs)
    for command in commands:
        app.command(command.__name__.rstrip("_"))(command)
    return app


def _show_verbs(
    ctx: typer.Context,
    *,
    help_: Annotated[bool, typer.Option("--help", help="Show its commands.")] = False,
    json: Json = False,
) -> None:
    if ctx.invoked_subcommand is not None and not help_:
        ctx.obj = dataclasses.replace(ctx.obj, json=ctx.obj.json or json)
        return
    invocation = invocation_of(ctx, json=json)
    group, name = ctx.command, str(ctx.info_name)
    assert isinstance(group, ResourceGroup)  # noqa: S101 - whose callback this is; for the type checker
    own = [_Named(f"{name}.{verb}", command.get_short_help_str(200)) for verb, command in group.commands.items()]
    try:
        with invocation.client() as nexus:
            learned = [one for one in _methods(nexus) if one.name.startswith(f"{camel(name)}.")]
    except ConnectionFailed:
        if invocation.json and not help_:
            raise
        learned = []  # its own can be told without
    if invocation.json and (json or not help_):
        write(msgspec.json.encode({"methods": learned}))
    else:
        both = {kebab(one.name): one for one in [*learned, *own]}  # of a verb that both have, its own words
        draw(pages().command_list(name, [msgspec.to_builtins(one) for one in both.values()]))
    raise typer.Exit


class _LearnedCommand(TyperCommand):
    """A resource, or a verb of one: everything after it is read when it is known what it means."""

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Flags, of the command and of the method's parameters."""
        own = super().shell_complete(ctx, incomplete)
        learned = [item for one in self.params if one.name == "words" for item in one.shell_complete(ctx, incomplete)]
        known = {item.value for item in own}
        return own + [item for item in learned if item.value not in known]


def _learned_command(name: str, summary: str) -> Any:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(
        name, cls=_LearnedCommand, help=summary, rich_help_panel=PANEL, add_help_option=False,
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
    typed, words = learned_words(ctx, words or ())
    for word in (typed, *words):
        check_text(word)
    own_verbs = _own_verbs(ctx)
    shown = f"{typed} {words[0]}" if own_verbs else typed
    with _client(invocation, shown, own_verbs or sorted(own_commands(ctx))) as nexus:
        method, rest = _explained(nexus, typed, words, own_commands(ctx), own_verbs)
        if method is None:
            _list(nexus, camel(typed), as_json=invocation.json and (json or not help_))
        elif help_:
            _explain(method, own_commands(ctx), as_json=json)
        else:
            answer = nexus.execute(Request(method.name, _parameters(method, rest), msgspec.Raw, method.mutates))
            if invocation.json:
                write(answer)
            else:
                import nexusd.cli.drawings  # noqa: PLC0415 (rich takes 50 ms that a pipe does not need)

                draw(nexusd.cli.drawings.drawing(method.name, bytes(answer)))


def _client(invocation: Invocation, typed: str, own: Collection[str]) -> Client:
    """A connected client; without a daemon nobody knows whether the words are a command."""
    try:
        return invocation.client()
    except ConnectionFailed as exc:
        near = difflib.get_close_matches(typed.rsplit(maxsplit=1)[-1], own, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConnectionFailed(f"{exc.message}\n  {typed} is no command that works without a daemon{hint}") from None


def _own_verbs(ctx: typer.Context) -> list[str]:
    """What nexusctl adds to the verbs of the resource."""
    group = ctx.parent.command if ctx.parent is not None else None
    return list(group.commands) if isinstance(group, ResourceGroup) else []


def _explained(
    nexus: Client, typed: str, words: Sequence[str], own: Collection[str], own_verbs: Sequence[str]
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
    names += [f"{resource}.{verb}" for verb in own_verbs if f"{resource}.{verb}" not in names]
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

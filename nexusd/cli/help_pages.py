"""What the daemon can do, drawn for people: all methods, the commands of a resource, one method.

Answers of the daemon's `help` in, rich renderables out. Asks the daemon nothing and prints nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec
from msgspec import UnsetType
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from nexusd.cli.render import document
from nexusd.cli.texts import safe
from nexusd.cli.typed_params import Explained, Parameter, choices, kebab, kinds, words_of

_PLACEHOLDERS = {"string": "TEXT", "integer": "NUMBER", "number": "NUMBER"}


def help_page(raw: bytes, own_commands: Collection[str] = ()) -> RenderableType:
    """The answer of `help`: the methods by resource, or all about one of them."""
    answer = msgspec.json.decode(raw)
    if "methods" in answer:
        return method_list(answer["methods"])
    if "params" in answer:
        return method_page(msgspec.convert(answer, Explained), own_commands)
    return document(raw)


def method_list(methods: Iterable[Mapping[str, Any]]) -> RenderableType:
    """Every method, those of a resource together."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="cyan")
    table.add_column()
    resource = None
    for method in methods:
        name = safe(str(method.get("name")))
        if resource is not None and name.partition(".")[0] != resource:
            table.add_row("", "")
        resource = name.partition(".")[0]
        table.add_row(name, Text(safe(str(method.get("summary", "")))))
    return Group(table, Text("\nnexusctl help METHOD explains one.", style="dim"))


def command_list(resource: str, methods: Iterable[Mapping[str, Any]]) -> RenderableType:
    """The commands of one resource."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="cyan")
    table.add_column()
    for method in methods:
        _, _, verb = str(method.get("name")).rpartition(".")
        table.add_row(safe(kebab(verb)), Text(safe(str(method.get("summary", "")))))
    name = safe(kebab(resource))
    usage = Text.assemble(("Usage: ", "bold"), f"nexusctl {name} COMMAND [KEY=VALUE...]\n")
    hint = Text(f"\nnexusctl {name} COMMAND --help explains one.", style="dim")
    return Group(usage, Padding(table, (0, 0, 0, 2)), hint)


def method_page(method: Explained, own_commands: Collection[str] = ()) -> RenderableType:
    """All about one method, as a command; by `call` where nexusctl has a command of its own in its place."""
    command = _command(method.name, own_commands)
    parts: list[RenderableType] = [
        Text(safe(method.name), style="bold cyan"),
        Text(safe(method.summary)),
        Text("\nUsage", style="bold"),
        _indented(Text(safe(" ".join((command, *map(_placeholder, method.params)))))),
    ]
    if method.params:
        parts += [Text("\nParameters", style="bold"), _indented(_parameters(method.params))]
    if method.result:
        parts += [Text("\nAnswers", style="bold"), _indented(Text(safe(method.result)))]
    if method.errors:
        told = ", ".join(dict.fromkeys(safe(str(error.get("kind"))) for error in method.errors))
        parts += [Text("\nErrors", style="bold"), _indented(Text(told))]
    if isinstance(method.example, Mapping):
        line = " ".join((command, *map(shlex.quote, words_of(method.example, method.params))))
        parts += [Text("\nExample", style="bold"), _indented(Text(safe(line)))]
    return Group(*parts)


def _command(method_name: str, own_commands: Collection[str]) -> str:
    resource, _, verb = method_name.partition(".")
    if resource in own_commands:
        return f"nexusctl call {method_name}"
    return f"nexusctl {kebab(resource)} {kebab(verb)}".rstrip()


def _placeholder(parameter: Parameter) -> str:
    allowed = sorted(kinds(parameter.schema) - {"null"})
    value = _PLACEHOLDERS.get(allowed[0], "JSON") if len(allowed) == 1 else "VALUE"
    told = choices(parameter.schema)
    if told and allowed != ["array"]:
        value = "|".join(told)
    return f"{parameter.name}={value}" if parameter.required else f"[{parameter.name}={value}]"


def _parameters(parameters: Iterable[Parameter]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for parameter in parameters:
        name = Text(safe(parameter.name), style="bold" if parameter.required else "")
        kind = Text(safe(parameter.type), style="green")
        if parameter.required:
            kind.append("  required", style="yellow")
        elif parameter.default is not None and not isinstance(parameter.default, dict | UnsetType):
            kind.append(f"  default {safe(msgspec.json.encode(parameter.default).decode())}", style="dim")
        if parameter.description:
            kind.append(f"\n{safe(parameter.description)}", style="default")
        table.add_row(name, kind)
    return table


def _indented(what: RenderableType) -> RenderableType:
    return Padding(what, (0, 0, 0, 2))

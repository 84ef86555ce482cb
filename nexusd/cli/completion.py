"""What a shell offers after <TAB>: the daemon's resources, methods, parameters and the values that they may have.

Asks the daemon of the command line so far, within the time that a finger waits; without one it offers nothing.
Knows that bash splits words at = and other shells do not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

import msgspec
import typer

from nexusd.cli.connection import choose_token, connected, socket_path_or_url
from nexusd.cli.typed_params import Explained, Schema, camel, choices, fields_of, find, is_switch, kebab
from nexusd.client.address import Trust
from nexusd.client.core import Request
from nexusd.client.errors import ClientError
from nexusd.errors import RpcError

MAX_WAIT_S = 0.3

T = TypeVar("T")


class _Named(msgspec.Struct):
    name: str
    summary: str = ""


class _Methods(msgspec.Struct):
    methods: list[_Named]


def method_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """The daemon's methods that begin like this; none when no daemon answers at once."""
    return [method.name for method in _methods(ctx) if method.name.startswith(incomplete)]


def resources(ctx: typer.Context) -> dict[str, str]:
    """The daemon's resources as they are typed, each with its commands in words; none without a daemon."""
    found: dict[str, list[str]] = {}
    for method in _methods(ctx):
        resource, _, verb = method.name.partition(".")
        found.setdefault(kebab(resource), []).append(kebab(verb))
    return {resource: ", ".join(verb for verb in verbs if verb) for resource, verbs in found.items()}


def learned_words(ctx: typer.Context, words: Sequence[str]) -> tuple[str, list[str]]:
    """The resource as it was typed and the words after it; where a group took the verb, that is the first of them."""
    group = ctx.parent
    if group is not None and group.parent is not None:
        return str(group.info_name), [str(ctx.info_name), *words]
    return str(ctx.info_name), list(words)


def words_for(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """What may come after a resource: a command of it, a parameter (as a flag where one was begun), or a value."""
    name, typed = learned_words(ctx, ctx.params.get("words") or ())
    resource = camel(name)
    if not typed and "=" not in incomplete and not incomplete.startswith("-"):
        verbs = [one for one in _methods(ctx) if one.name.startswith(f"{resource}.")]
        if verbs:
            return _either([(one.name.partition(".")[2], one.summary) for one in verbs], incomplete)
    method = _explained(ctx, resource, typed)
    if method is None:
        return []
    return _after(_joined(typed if method.name == resource else typed[1:]), method, incomplete)


def _after(rest: Sequence[str], method: Explained, incomplete: str) -> list[tuple[str, str]]:
    """What may come after these words of a method."""
    key = _awaiting(rest, method)
    if key is not None:  # bash began a new word at the =, or the flag before wants a value
        return [(choice, "") for choice in choices(find(key, method.params)[1])]
    if incomplete.startswith("-"):
        return [(f"--{kebab(one.name)}", one.description) for one in method.params]
    given = {word.partition("=")[0].rstrip(":") for word in rest}
    key, equals, _ = incomplete.partition("=")
    begun = [key] if equals else [path for path in _paths(method) if path.startswith(key) and path not in given]
    values = choices(find(begun[0], method.params)[1]) if len(begun) == 1 else []
    if equals or values:  # with one name left its values are offered at once: no blank to take back
        return [(f"{begun[0]}={value}", "") for value in values]
    told = {one.name: one.description for one in method.params}
    return [(f"{path}=", told.get(path, "")) for path in begun]


def _either(names: list[tuple[str, str]], incomplete: str) -> list[tuple[str, str]]:
    """The names as they are typed in a shell, or as the wire has them where that is what was begun."""
    typed = [(kebab(name), told) for name, told in names]
    found = [pair for pair in typed if pair[0].startswith(incomplete)]
    return found or [pair for pair in names if pair[0].startswith(incomplete)]


def _joined(words: Sequence[str]) -> list[str]:
    """The words, with those that bash split at a = as one again."""
    found: list[str] = []
    for word in words:
        if found and (word in {"=", ":="} or found[-1].endswith("=")) and not _is_whole(found[-1], word):
            found[-1] += word
        else:
            found.append(word)
    return found


def _is_whole(before: str, word: str) -> bool:
    """Whether a word that ends in = is a parameter with an empty value, since a parameter follows it."""
    return before.endswith("=") and "=" in word


def _awaiting(words: Sequence[str], method: Explained) -> str | None:
    """The key whose value comes next."""
    if not words:
        return None
    last = words[-1]
    if last.endswith("="):
        return last.lstrip("-").rstrip(":=")
    if "=" in last:
        return None
    if last.startswith("--") and is_switch(find(last.removeprefix("--"), method.params)[1]):
        return None
    return last.removeprefix("--")


def _paths(method: Explained) -> Iterator[str]:
    """The parameters; in place of an object with known fields, those."""

    def below(path: str, schema: Schema) -> Iterator[str]:
        fields = fields_of(schema)
        if not fields:
            yield path
        for name, part in fields.items():
            yield from below(f"{path}.{name}", part)

    for one in method.params:
        yield from below(one.name, one.schema)


def _methods(ctx: typer.Context) -> list[_Named]:
    answer = asked(ctx, Request("help", {}, _Methods, mutates=False))
    return [] if answer is None else answer.methods


def _explained(ctx: typer.Context, resource: str, typed: Sequence[str]) -> Explained | None:
    name = f"{resource}.{camel(typed[0])}" if typed and "=" not in typed[0] else resource
    return asked(ctx, Request("help", {"method": name}, Explained, mutates=False))


def asked(ctx: typer.Context, request: Request[T]) -> T | None:
    """The daemon's answer, if it comes at once."""
    given = ctx.find_root().params
    deadline = time.monotonic() + MAX_WAIT_S
    try:
        address = socket_path_or_url(given.get("socket"), given.get("url"))
        token = choose_token(given.get("token"), given.get("token_file"), from_environment={"token", "token_file"})
        trust = Trust(given.get("ca_file"), given.get("cert_file"), given.get("key_file"))
        with connected(address, timeout_s=MAX_WAIT_S, token=token, trust=trust) as nexus:
            left_s = max(0.0, deadline - time.monotonic())
            return nexus.execute(request, timeout_s=left_s)
    except (ClientError, RpcError, ValueError):  # a half-typed address too: a prompt is no place for complaints
        return None

"""Parameters as people type them: `key=value`, `key:=json`, dotted keys for nested objects, or JSON.

Owns the grammar and its errors; reads and calls nothing.

    key=value      the value as JSON if it is JSON, else as text
    key:=json      the value as JSON; anything else is an error instead of a text
    a.b=value      {"a": {"b": value}}
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

# A key ends at the first = or :=; a name has no blank, so that `hello world=1` is a mistake and not a key.
_ARGUMENT = re.compile(r"(?P<key>[^\s=:]+)(?P<operator>:=|=)(?P<value>.*)", re.DOTALL)


class ParameterError(ValueError):
    """A parameter that cannot be read; the message says which and why."""


def parse_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """Read `key=value` arguments.

    Raises:
        ParameterError: an argument is no such thing, is given twice, or goes below one that is no object.
    """
    params: dict[str, Any] = {}
    opened: set[int] = set()  # the objects that dotted keys made; one given as a value is not added to
    for argument in arguments:
        match = _ARGUMENT.fullmatch(argument)
        if match is None:
            raise ParameterError(f"expected key=value, got {argument!r}")
        *parents, name = match["key"].split(".")
        if not all((*parents, name)):
            raise ParameterError(f"expected a name between the dots, got {argument!r}")
        value = _json(match["key"], match["value"]) if match["operator"] == ":=" else _value(match["value"])
        here = params
        for parent in parents:
            if parent not in here:
                here[parent] = {}
                opened.add(id(here[parent]))
            elif id(here[parent]) not in opened:
                raise ParameterError(f"{match['key']} goes into {parent}, which already has a value")
            here = here[parent]
        if name in here:
            raise ParameterError(f"{match['key']} is given twice")
        here[name] = value
    return params


def parse_document(text: str | bytes) -> dict[str, Any]:
    """Read parameters as one JSON object; nothing at all is no parameters.

    Raises:
        ParameterError: it is not a JSON object.
    """
    if not text.strip():
        return {}
    try:
        params = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ParameterError(f"the parameters on standard input are not JSON: {exc}") from exc
    if not isinstance(params, dict):
        raise ParameterError(f"expected a JSON object on standard input, got {type(params).__name__}")
    return params


def check_text(text: str) -> None:
    """See that a text of the command line is one.

    Raises:
        ParameterError: there were bytes in it that are no UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ParameterError("a parameter is not valid UTF-8") from None


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return text


def _json(key: str, text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError) as exc:
        raise ParameterError(f"the value of {key} is not JSON: {exc}") from exc

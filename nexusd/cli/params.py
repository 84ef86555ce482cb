"""Parameters as people type them: `key=value`, `key:=json`, dotted keys for nested objects, or JSON.

Owns the grammar and its errors; reads and calls nothing.

    key=value      the value as JSON if it is JSON, else as text
    key:=json      the value as JSON; anything else is an error instead of a text
    a.b=value      {"a": {"b": value}}
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

# A key ends at the first = or :=; a name has no blank, so that `hello world=1` is a mistake and not a key.
_ARGUMENT = re.compile(r"(?P<key>[^\s=:]+)(?P<operator>:=|=)(?P<value>.*)", re.DOTALL)


class ParameterError(ValueError):
    """A parameter that cannot be read; the message says which and why."""


class Argument(NamedTuple):
    """One `key=value` or `key:=json` as it was typed."""

    key: str
    operator: str
    value: str


class Parameters:
    """The parameters put together from dotted keys."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self._opened: set[int] = set()  # the objects that dotted keys made; one given as a value is not added to

    def put(self, key: str, value: Any) -> None:
        """Set the value of a key.

        Raises:
            ParameterError: the key is none, is given twice, or goes below one that is no object.
        """
        here, name = self._place(key)
        if name in here:
            raise ParameterError(f"{key} is given twice")
        here[name] = value

    def append(self, key: str, items: list[Any]) -> None:
        """Add to the list of a key, which this alone has made.

        Raises:
            ParameterError: as `put`.
        """
        here, name = self._place(key)
        if name not in here:
            here[name] = []
            self._opened.add(id(here[name]))
        elif id(here[name]) not in self._opened or not isinstance(here[name], list):
            raise ParameterError(f"{key} is given twice")
        here[name] += items

    def _place(self, key: str) -> tuple[dict[str, Any], str]:
        *parents, name = key.split(".")
        if not all((*parents, name)):
            raise ParameterError(f"expected a name between the dots, got {key!r}")
        here = self.values
        for parent in parents:
            if parent not in here:
                here[parent] = {}
                self._opened.add(id(here[parent]))
            elif id(here[parent]) not in self._opened or not isinstance(here[parent], dict):
                raise ParameterError(f"{key} goes into {parent}, which already has a value")
            here = here[parent]
        return here, name


def split_argument(argument: str) -> Argument:
    """The parts of `key=value`.

    Raises:
        ParameterError: it is no such thing.
    """
    match = _ARGUMENT.fullmatch(argument)
    if match is None:
        raise ParameterError(f"expected key=value, got {argument!r}")
    return Argument(match["key"], match["operator"], match["value"])


def parse_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """Read `key=value` arguments.

    Raises:
        ParameterError: an argument is no such thing, is given twice, or goes below one that is no object.
    """
    params = Parameters()
    for argument in arguments:
        key, operator, text = split_argument(argument)
        params.put(key, insisted_json(key, text) if operator == ":=" else json_or_text(text))
    return params.values


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


def json_or_text(text: str) -> Any:
    """The value as JSON if it is JSON, else as text."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return text


def insisted_json(key: str, text: str) -> Any:
    """The value as JSON.

    Raises:
        ParameterError: it is none.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError) as exc:
        raise ParameterError(f"the value of {key} is not JSON: {exc}") from exc

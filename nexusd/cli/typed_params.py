"""The words of a learned command -> parameters, by the types that the daemon told.

Owns what a value means where its type is known, and flags. The grammar of `key=value` is that of `params`; asks
the daemon nothing.

    name=5             "5" where name is a text, 5 where it is a number
    labels=a labels=b  ["a", "b"] where labels is a list
    --limit 5          limit=5; also --limit=5, and --token-budget for tokenBudget
    --explain          explain=true where explain is a boolean
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from nexusd.cli.params import ParameterError, Parameters, insisted_json, json_or_text, split_argument

Schema = Mapping[str, Any]

_FLAG = re.compile(r"--(?P<key>[^\s=:]+)(?:(?P<operator>:=|=)(?P<value>.*))?", re.DOTALL)
_KINDS: dict[type, frozenset[str]] = {
    bool: frozenset({"boolean"}), int: frozenset({"integer", "number"}), float: frozenset({"number"}),
    str: frozenset({"string"}), list: frozenset({"array"}), dict: frozenset({"object"}),
    type(None): frozenset({"null"}),
}  # fmt: skip


class Parameter(Struct, frozen=True):
    """A parameter as the daemon explains it; one that knows no schemas is read as `call` reads."""

    name: str
    type: str = "any value"
    required: bool = False
    description: str = ""
    default: Any = UNSET
    schema: dict[str, Any] = {}


class Explained(Struct, frozen=True):
    """A method as the daemon explains it."""

    name: str
    summary: str = ""
    role: str = ""
    mutates: bool = False
    params: list[Parameter] = []
    result: str = ""
    errors: list[dict[str, Any]] = []
    example: dict[str, Any] | UnsetType | None = None


def camel(name: str) -> str:
    """`create-many` -> `createMany`; what is camelCase already stays."""
    first, *others = name.split("-")
    return first + "".join(other[:1].upper() + other[1:] for other in others)


def kebab(name: str) -> str:
    """`createMany` -> `create-many`."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"-\1", name).lower()


def read_words(words: Sequence[str], parameters: Sequence[Parameter]) -> dict[str, Any]:
    """The parameters that `key=value` words and flags give.

    Raises:
        ParameterError: a word is neither, a flag is unknown or has no value, or a key is given twice.
    """
    read = Parameters()
    left = iter(words)
    for word in left:
        flag = _FLAG.fullmatch(word)
        if flag is None:
            key, operator, text = split_argument(word)
            path, schema = find(key, parameters)
        else:
            path, schema = _known(flag["key"], parameters)
            operator, text = flag["operator"] or "=", flag["value"]
            if text is None:
                text = "true" if is_switch(schema) else _after(word, left)
        if operator == ":=":
            read.put(path, insisted_json(path, text))
        elif (items := _items(text, schema)) is not None:
            read.append(path, items)
        else:
            read.put(path, _value(text, schema))
    return read.values


def find(key: str, parameters: Sequence[Parameter]) -> tuple[str, Schema]:
    """The key as the daemon writes it and the schema of its value; of an unknown one, that anything may be."""
    schema: Schema = {"type": "object", "properties": {one.name: one.schema for one in parameters}}
    path = []
    for name in key.split("."):
        known = fields_of(schema)
        wire_name = name if name in known or camel(name) not in known else camel(name)
        schema = known.get(wire_name, _others(schema))
        path.append(wire_name)
    return ".".join(path), schema


def fields_of(schema: Schema) -> dict[str, Schema]:
    """The known fields of an object."""
    return {name: part for one in alternatives(schema) for name, part in one.get("properties", {}).items()}


def alternatives(schema: Schema) -> Iterator[Schema]:
    """What a value may be, one after the other."""
    if "anyOf" in schema:
        for part in schema["anyOf"]:
            yield from alternatives(part)
    else:
        yield schema


def kinds(schema: Schema) -> frozenset[str]:
    """The JSON types of a value; none: any."""
    found: set[str] = set()
    for one in alternatives(schema):
        if "enum" in one:
            found |= {kind for choice in one["enum"] for kind in _KINDS.get(type(choice), ())}
        elif "type" in one:
            found.add(one["type"])
        else:
            return frozenset()
    return frozenset(found)


def choices(schema: Schema) -> list[str]:
    """The values that can be told beforehand, as they are typed."""
    found = []
    for one in alternatives(schema):
        found += [choice for choice in one.get("enum", ()) if isinstance(choice, str)]
        if one.get("type") == "boolean":
            found += ["true", "false"]
        if one.get("type") == "array" and isinstance(one.get("items"), dict):
            found += choices(one["items"])
    return found


def is_switch(schema: Schema) -> bool:
    """Whether a flag of this type needs no value."""
    return kinds(schema) - {"null"} == {"boolean"}


def words_of(values: Mapping[str, Any], parameters: Sequence[Parameter]) -> list[str]:
    """Words that `read_words` reads as these values."""
    words = []
    for name, value in values.items():
        as_json = msgspec.json.encode(value).decode()
        word = f"{name}={value if isinstance(value, str) else as_json}"
        words.append(word if read_words([word], parameters) == {name: value} else f"{name}:={as_json}")
    return words


def _known(key: str, parameters: Sequence[Parameter]) -> tuple[str, Schema]:
    path, schema = find(key, parameters)
    names = [one.name for one in parameters]
    if path.split(".")[0] in names:
        return path, schema
    near = difflib.get_close_matches(camel(key), names, n=1)
    hint = f"; did you mean --{kebab(near[0])}?" if near else ""
    raise ParameterError(f"there is no parameter --{key}{hint}")


def _after(flag: str, left: Iterator[str]) -> str:
    try:
        return next(left)
    except StopIteration:
        raise ParameterError(f"expected a value after {flag}") from None


def _others(schema: Schema) -> Schema:
    """What an object takes under names of the caller's."""
    for one in alternatives(schema):
        if isinstance(others := one.get("additionalProperties"), Mapping):
            return others
    return {}


def _items(text: str, schema: Schema) -> list[Any] | None:
    """One item for a list, or None where the text is the whole value."""
    allowed = kinds(schema)
    if "array" not in allowed or "string" in allowed:
        return None
    value = json_or_text(text)
    if isinstance(value, list) or _KINDS[type(value)] & allowed:
        return None
    inner: Schema = next((one.get("items", {}) for one in alternatives(schema) if one.get("type") == "array"), {})
    return [_value(text, inner)]


def _value(text: str, schema: Schema) -> Any:
    allowed = kinds(schema)
    if allowed and allowed <= {"string", "null"}:
        return text
    value = json_or_text(text)
    if "string" in allowed and not _KINDS[type(value)] & allowed:
        return text
    return value  # of a wrong type, perhaps: the daemon says so

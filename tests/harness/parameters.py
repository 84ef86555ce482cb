"""Values that a parameter must and must not take, made from its schema as discovery tells it.

An oracle of its own: what validates is asked nothing. Schemas are `help`'s, without references.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Schema = Mapping[str, Any]

LONGEST_LIST = 1000  # items; longer limits are not tried
WRONG: dict[str, Any] = {
    "string": "1", "integer": 7, "number": 1.5, "boolean": True, "array": [{}], "object": {"wrong": {}},
    "null": None,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A value for the parameter or a part of it: the whole parameter's value, where it is wrong, and how."""

    how: str
    value: Any
    path: str


def sample(schema: Schema) -> Any:
    """A value that the schema allows: small, and not null where something else is possible."""
    one = next((part for part in _alternatives(schema) if part.get("type") != "null"), {"type": "null"})
    if "enum" in one:
        return next(choice for choice in one["enum"] if choice is not None)
    match one.get("type"):
        case "string":
            value: Any = "x" * max(1, one.get("minLength", 0))
        case "integer" | "number":
            value = min(max(1, one.get("minimum", 1)), one.get("maximum", 1))
        case "array":
            value = [sample(one.get("items", {}))] * max(1, one.get("minItems", 0))
        case "object":
            value = {name: sample(part) for name, part in one.get("properties", {}).items() if name in one["required"]}
        case kind:
            value = {"boolean": True, "null": None}.get(str(kind), "anything")
    return value


def refused(schema: Schema, path: str) -> Iterator[Case]:
    """Values that the schema forbids."""
    parts = list(_alternatives(schema))
    kinds = {kind for part in parts for kind in _kinds(part)}
    if not kinds:
        return
    for kind, value in WRONG.items():
        fits = kind in kinds or (kind == "integer" and "number" in kinds)
        if not fits:
            yield Case(f"{kind} given", value, path)
    for part in parts:
        if "enum" in part:
            if not any(other.get("type") == "string" for other in parts):
                yield Case("no such choice", "no such choice", path)
            continue
        yield from _out_of_bounds(part, path)
        yield from _inside(part, path)


def allowed(schema: Schema, path: str) -> Iterator[Case]:
    """Values at the edge of what the schema allows; none of them long."""
    for part in _alternatives(schema):
        for choice in part.get("enum", ()):
            yield Case(f"choice {choice}", choice, path)
        match part.get("type"):
            case "null":
                yield Case("null given", None, path)
            case "string":
                shortest = part.get("minLength", 0)
                yield Case("shortest", "x" * shortest, path)
                yield Case("odd characters", "\x00\n\U0001f512\u202e'\"%;--" + "x" * shortest, path)
            case "integer" | "number":
                yield from (Case(edge, part[edge], path) for edge in ("minimum", "maximum") if edge in part)
            case "boolean":
                yield from (Case(str(value), value, path) for value in (True, False))
            case "array":
                yield Case("shortest", [sample(part.get("items", {}))] * part.get("minItems", 0), path)
            case "object" if not part.get("required"):
                yield Case("empty", {}, path)


def _out_of_bounds(part: Schema, path: str) -> Iterator[Case]:
    if "minimum" in part:
        yield Case("too small", part["minimum"] - 1, path)
    if "maximum" in part:
        yield Case("too large", part["maximum"] + 1, path)
    if part.get("maximum", 2**63) < 2**63 - 1:
        yield Case("of 64 bits", 2**63 - 1, path)
    if part.get("minLength", 0) > 0:
        yield Case("too short", "x" * (part["minLength"] - 1), path)
    if "maxLength" in part:
        yield Case("too long", "x" * (part["maxLength"] + 1), path)
    if part.get("minItems", 0) > 0:
        yield Case("too few", [sample(part.get("items", {}))] * (part["minItems"] - 1), path)
    if part.get("maxItems", LONGEST_LIST) < LONGEST_LIST:
        yield Case("too many", [sample(part.get("items", {}))] * (part["maxItems"] + 1), path)


def _inside(part: Schema, path: str) -> Iterator[Case]:
    """Lists with a bad item, objects with a bad field."""
    if isinstance(part.get("items"), Mapping):
        for case in refused(part["items"], f"{path}[0]"):
            yield Case(case.how, [case.value, *[sample(part["items"])] * (part.get("minItems", 1) - 1)], case.path)
    whole = sample(part)
    for name, field in part.get("properties", {}).items():
        yield from (Case(c.how, {**whole, name: c.value}, c.path) for c in refused(field, f"{path}.{name}"))
        if name in part["required"]:
            yield Case("missing", {key: value for key, value in whole.items() if key != name}, f"{path}.{name}")
    if part.get("additionalProperties") is False:
        yield Case("unknown field", {**whole, "noSuchField": 1}, f"{path}.noSuchField")
    if isinstance(part.get("additionalProperties"), Mapping):
        for case in refused(part["additionalProperties"], f"{path}.key"):
            yield Case(case.how, {"key": case.value}, case.path)


def _alternatives(schema: Schema) -> Iterator[Schema]:
    if "anyOf" in schema:
        for part in schema["anyOf"]:
            yield from _alternatives(part)
    else:
        yield schema


def _kinds(part: Schema) -> set[str]:
    if "enum" in part:
        return {"null" if choice is None else "string" for choice in part["enum"]}
    return {part["type"]} if "type" in part else set()

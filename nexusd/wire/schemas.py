"""Types -> JSON schemas, and JSON schemas -> a few words.

Owns what discovery, help and the reference say of a type; made from the types that validate and encode. Knows no
method.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterable
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Struct

from nexusd.model.fields import MAX_SAFE_INTEGER

Schema = dict[str, Any]

PREFIX = "#/components/schemas/"
_BOUNDS = (
    ("minimum", "maximum", ""),
    ("minLength", "maxLength", "character"),
    ("minItems", "maxItems", "item"),
)


class Schemas:
    """The schemas of some types, with one set of components that they share: two types never share a name."""

    def __init__(self, wanted: Iterable[Any]) -> None:
        self._own: dict[Any, Schema] = {}  # of what msgspec has a schema for
        leaves = list(dict.fromkeys(leaf for type_ in wanted for leaf in _leaves(type_)))
        schemas, components = msgspec.json.schema_components(leaves, ref_template=PREFIX + "{name}")
        self._own.update(zip(leaves, schemas, strict=True))
        self._components: dict[str, Schema] = {name: _cleaned(schema) for name, schema in components.items()}
        self._composed: dict[Any, str] = {}  # structs put together here, by type

    def of(self, type_: Any) -> Schema:
        """The schema of one of the types that were wanted."""
        if type_ in self._own:
            return self._own[type_]
        if _is_struct(type_):
            return {"$ref": PREFIX + self._compose(type_)}
        bare, origin, parts = _bare(type_), get_origin(_bare(type_)), get_args(_bare(type_))
        if origin in (Union, types.UnionType):
            return {"anyOf": [self.of(part) for part in parts if part is not msgspec.UnsetType]}
        if origin is list:
            return {"type": "array", "items": self.of(parts[0])}
        return {"title": getattr(bare, "__name__", str(bare)), "description": inspect.getdoc(bare) or ""}

    def properties(self, type_: type[Struct]) -> tuple[dict[str, Schema], frozenset[str]]:
        """The schemas of a struct's fields by wire name, and the names of those that are required."""
        struct = self.resolved(self.of(type_))
        return struct["properties"], frozenset(struct.get("required", ()))

    def resolved(self, schema: Schema) -> Schema:
        """The schema itself where it is a reference to a component; what stands beside the reference goes first."""
        if "$ref" not in schema:
            return schema
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return {**self._components[name_of(schema)], **beside}

    def inlined(self, schema: Schema, *, inside: frozenset[str] = frozenset()) -> Schema:
        """The schema without references; a component inside itself stays open."""
        if "$ref" in schema:
            name = name_of(schema)
            if name in inside:
                return {"title": name}
            return self.inlined(self.resolved(schema), inside=inside | {name})
        return {key: self._inlined_member(key, value, inside) for key, value in schema.items()}

    def _inlined_member(self, key: str, value: Any, inside: frozenset[str]) -> Any:
        if key == "properties":
            return {name: self.inlined(part, inside=inside) for name, part in value.items()}
        if key == "anyOf":
            return [self.inlined(part, inside=inside) for part in value]
        if key in ("items", "additionalProperties") and isinstance(value, dict):
            return self.inlined(value, inside=inside)
        return value

    def reached(self, document: Any) -> dict[str, Schema]:
        """The components that a document refers to, and those that they refer to, by name."""
        found: set[str] = set()
        waiting = [document]
        while waiting:
            node = waiting.pop()
            if isinstance(node, list):
                waiting += node
            elif isinstance(node, dict):
                waiting += node.values()
                name = name_of(node) if isinstance(node.get("$ref"), str) else ""
                if name and name not in found:
                    found.add(name)
                    waiting.append(self._components[name])
        return {name: self._components[name] for name in sorted(found)}

    def words(self, schema: Schema, *, fields: bool = True) -> str:
        """A few words: `integer (at least 1)`, `string or null`, `array of Episode`, `Filter {since, until}`."""
        if "$ref" in schema:
            name = name_of(schema)
            inner = self._components[name].get("properties")
            title = self._components[name].get("title", name)
            return f"{title} {{{', '.join(inner)}}}" if fields and inner else str(title)
        if "anyOf" in schema:
            return " or ".join(self.words(part, fields=fields) for part in schema["anyOf"])
        if "enum" in schema:
            return " or ".join("null" if choice is None else f'"{choice}"' for choice in schema["enum"])
        kind = str(schema.get("type", schema.get("title", "any value")))
        if kind == "array" and schema.get("items"):
            inner_words = self.words(schema["items"], fields=fields)
            kind = f"array of {f'({inner_words})' if ' or ' in inner_words else inner_words}"
        return kind + _bounds(schema)

    def _compose(self, struct: Any) -> str:
        """The component of a struct that msgspec encodes and has no schema for: one with a union of structs in it."""
        if struct in self._composed:
            return self._composed[struct]
        name = struct.__name__
        if name in self._components:
            name = f"{struct.__module__}.{name}"
        self._composed[struct] = name
        fields = msgspec.structs.fields(struct)
        needed = [f.encode_name for f in fields if f.default is NODEFAULT and f.default_factory is NODEFAULT]
        self._components[name] = {
            "title": struct.__name__,
            "description": inspect.getdoc(struct) or "",
            "type": "object",
            "properties": {field.encode_name: self.of(field.type) for field in fields},
            "required": needed,
        }
        return str(name)


def name_of(schema: Schema) -> str:
    """The component that a reference names."""
    return str(schema["$ref"]).removeprefix(PREFIX)


def description(schema: Schema) -> str:
    """Its own, or that of the alternative that has one."""
    if "description" in schema:
        return str(schema["description"])
    return next((str(part["description"]) for part in schema.get("anyOf", ()) if "description" in part), "")


def _leaves(type_: Any) -> list[Any]:
    """The type, or the parts of it that msgspec has schemas for."""
    try:
        msgspec.json.schema_components([type_])
    except TypeError:
        if _is_struct(type_):
            return [leaf for field in msgspec.structs.fields(type_) for leaf in _leaves(field.type)]
        return [leaf for part in get_args(_bare(type_)) for leaf in _leaves(part)]
    return [type_]


def _cleaned(component: Schema) -> Schema:
    """With its description as a reader of the docstring would see it; msgspec leaves the indentation in."""
    if "description" in component:
        return {**component, "description": inspect.cleandoc(component["description"])}
    return component


def _is_struct(type_: Any) -> bool:
    return isinstance(type_, type) and issubclass(type_, Struct)


def _bare(type_: Any) -> Any:
    return get_args(type_)[0] if get_origin(type_) is Annotated else type_


def _bounds(schema: Schema) -> str:
    """The limits of a number, a string's length or an array's, where there are any."""
    for low_name, high_name, unit in _BOUNDS:
        low, high = schema.get(low_name), schema.get(high_name)
        if high == MAX_SAFE_INTEGER:  # no limits that anybody would meet
            high = None
        if low == -MAX_SAFE_INTEGER:
            low = None
        if low is not None and high is not None:
            return f" ({low} to {_counted(high, unit)})"
        if low is not None:
            return f" (at least {_counted(low, unit)})"
        if high is not None:
            return f" (at most {_counted(high, unit)})"
    return ""


def _counted(number: float, unit: str) -> str:
    """`9` where the number is all, else `1 item`, `9 items`."""
    return f"{number:,} {unit}{'' if number == 1 else 's'}" if unit else str(number)

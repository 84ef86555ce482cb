"""JSON that a schema allows, and JSON that is nearly so."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from harness.methods import real_table
from hypothesis import strategies as st

from nexusd.wire.discovery import describe

ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abAB_\0é", max_size=4), inner, max_size=3),
    max_leaves=6,
)


def near(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Mostly what the schema allows, with something else here and there."""
    return st.integers(0, 9).flatmap(lambda die: ANYTHING if die == 0 else allowed(schema))


def allowed(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:  # noqa: PLR0911 - a kind of value each
    """What the schema allows, as far as its bounds say; of its parts some are only near it."""
    if "anyOf" in schema:
        return st.one_of([allowed(part) for part in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(list(schema["enum"]))
    match schema.get("type"):
        case "string":
            shortest = schema.get("minLength", 0)
            return st.text(st.characters(exclude_categories=["Cs"]), min_size=min(shortest, 64),
                           max_size=max(shortest, min(schema.get("maxLength", 40), 40)))
        case "integer":
            return st.integers(schema.get("minimum", -(2**63)), schema.get("maximum", 2**63 - 1))
        case "number":
            return st.floats(schema.get("minimum"), schema.get("maximum"), allow_nan=False, allow_infinity=False)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "array":
            shortest = schema.get("minItems", 0)
            return st.lists(near(schema.get("items", {})), min_size=min(shortest, 8), max_size=max(shortest, 3))
        case "object":
            parts = {name: near(part) for name, part in schema.get("properties", {}).items()}
            needed = {name: parts[name] for name in schema.get("required", ()) if name in parts}
            optional = {name: part for name, part in parts.items() if name not in needed}
            return st.fixed_dictionaries(needed, optional=optional)
        case _:
            return ANYTHING


@functools.cache
def parameters_of(method: str) -> st.SearchStrategy[Any]:
    """Parameters of a method, by name; nearly right."""
    told = describe(real_table(), method)["params"]
    needed = {one["name"]: near(one["schema"]) for one in told if one["required"]}
    optional = {one["name"]: near(one["schema"]) for one in told if not one["required"]}
    return st.fixed_dictionaries(needed, optional=optional)

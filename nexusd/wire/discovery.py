"""What the daemon can do, told by itself: `rpc.discover` (OpenRPC) and `help`.

Owns the description of methods, made from the same structs that validate, so that it cannot drift from what
runs. Knows no method; `api` registers two that answer with `discover` and `describe`.
"""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from nexusd import __version__
from nexusd.errors import InternalError, InvalidParams, RpcError
from nexusd.model.fields import MAX_SAFE_INTEGER
from nexusd.wire.methods import Method, MethodTable, no_such_method

OPENRPC_VERSION = "1.3.2"
_REF = "#/components/schemas/{name}"
_COMMON_ERRORS: tuple[type[RpcError], ...] = (InvalidParams, InternalError)     # any method may answer these

_BOUNDS = (
    ("minimum", "maximum", ""),
    ("minLength", "maxLength", "character"),
    ("minItems", "maxItems", "item"),
)

Schema = dict[str, Any]


def discover(table: MethodTable) -> dict[str, Any]:
    """Every method as an OpenRPC document; the same table gives the same document."""
    components: dict[str, Schema] = {}
    methods = [_openrpc_method(method, components) for method in _sorted(table)]
    return {
        "openrpc": OPENRPC_VERSION,
        "info": {"title": "nexusd", "version": __version__},
        "methods": methods,
        "components": {"schemas": dict(sorted(components.items()))},
    }


def describe(table: MethodTable, name: str | None = None) -> dict[str, Any]:
    """For people: `{methods: [{name, summary}]}`, or all that there is to know to call one method.

    Raises:
        MethodNotFound: there is no method of this name.
    """
    if name is None:
        return {"methods": [{"name": method.name, "summary": method.summary} for method in _sorted(table)]}
    method = table.get(name)
    if method is None:
        raise no_such_method(name)
    definitions: dict[str, Schema] = {}
    parameters = _parameters(method, definitions)
    result, result_definitions = _schema(method.result)
    return {
        "name": method.name,
        "summary": method.summary,
        "role": method.role,
        "mutates": method.mutates,
        "params": [
            _described_parameter(parameter, schema, definitions, required=required)
            for parameter, schema, required in parameters
        ],
        "result": _in_words(result, result_definitions),
        "errors": [{"code": e.code, "kind": e.kind, "message": inspect.getdoc(e)} for e in _errors(method)],
        "example": method.example,
    }


def _sorted(table: MethodTable) -> list[Method]:
    return sorted(table, key=lambda method: method.name)


def _errors(method: Method) -> tuple[type[RpcError], ...]:
    return (*_COMMON_ERRORS, *(error for error in method.errors if error not in _COMMON_ERRORS))


def _schema(type_: Any) -> tuple[Schema, dict[str, Schema]]:
    """The JSON schema of a type, and the definitions that it refers to."""
    try:
        (schema,), definitions = msgspec.json.schema_components([type_], ref_template=_REF)
    except TypeError:   # msgspec encodes a union of plain structs, but has no schema for it
        title = getattr(type_, "__name__", str(type_))
        return {"title": title, "description": inspect.getdoc(type_) or ""}, {}
    return schema, definitions


def _parameters(method: Method, components: dict[str, Schema]) -> list[tuple[str, Schema, bool]]:
    """Name, schema and whether it is required, in positional order; fills `components`."""
    schema, definitions = _schema(method.params)
    own = definitions.pop(schema["$ref"].rsplit("/", 1)[-1])
    components |= definitions
    required = set(own.get("required", ()))
    return [(name, own["properties"][name], name in required) for name in method.positions]


# --- OpenRPC ---


def _openrpc_method(method: Method, components: dict[str, Schema]) -> dict[str, Any]:
    params = []
    for name, schema, required in _parameters(method, components):
        param = {"name": name, "required": required, "schema": schema}
        if description := _description(schema):
            param["description"] = description
        params.append(param)
    result, definitions = _schema(method.result)
    components |= definitions
    described: dict[str, Any] = {
        "name": method.name,
        "summary": method.summary,
        "paramStructure": "either",
        "params": params,
        "result": {"name": "result", "schema": result},
        "errors": [
            {"code": e.code, "message": inspect.getdoc(e), "data": {"kind": e.kind, "retryable": e.retryable}}
            for e in _errors(method)
        ],
        "x-role": method.role,
        "x-mutates": method.mutates,
    }
    if method.example is not None:
        given = [{"name": name, "value": value} for name, value in method.example.items()]
        described["examples"] = [{"name": "example", "params": given}]
    return described


# --- help ---


def _described_parameter(
    name: str, schema: Schema, definitions: dict[str, Schema], *, required: bool
) -> dict[str, Any]:
    described = {
        "name": name,
        "type": _in_words(schema, definitions),
        "required": required,
        "description": _description(schema),
    }
    if not required and "default" in schema:
        described["default"] = schema["default"]
    return described


def _description(schema: Schema) -> str:
    """Its own, or that of the alternative that has one."""
    if "description" in schema:
        return str(schema["description"])
    return next((str(part["description"]) for part in schema.get("anyOf", ()) if "description" in part), "")


def _in_words(schema: Schema, definitions: dict[str, Schema]) -> str:
    """A schema in a few words: `integer (at least 1)`, `string or null`, `array of Episode`."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[-1]
        fields = definitions.get(name, {}).get("properties")
        return f"{name} {{{', '.join(fields)}}}" if fields else name
    if "anyOf" in schema:
        return " or ".join(_in_words(part, definitions) for part in schema["anyOf"])
    if "enum" in schema:
        return " or ".join("null" if choice is None else f'"{choice}"' for choice in schema["enum"])
    kind = str(schema.get("type", schema.get("title", "any value")))
    if kind == "array" and schema.get("items"):
        kind = f"array of {_in_words(schema['items'], {})}"
    return kind + _bounds(schema)


def _bounds(schema: Schema) -> str:
    """The limits of a number, a string's length or an array's, where there are any."""
    for low_name, high_name, unit in _BOUNDS:
        low, high = schema.get(low_name), schema.get(high_name)
        if high == MAX_SAFE_INTEGER:    # no limit that anybody would meet
            high = None
        if low is not None and high is not None:
            return f" ({low} to {_counted(high, unit)})"
        if low is not None:
            return f" (at least {_counted(low, unit)})"
        if high is not None:
            return f" (at most {_counted(high, unit)})"
    return ""


def _counted(number: float, unit: str) -> str:
    """`9` where the number is all, else `1 item`, `9 items`."""
    return f"{number} {unit}{'' if number == 1 else 's'}" if unit else str(number)

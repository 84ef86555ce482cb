"""What the daemon can do, told by itself: `rpc.discover` (OpenRPC) and `help`.

Owns the description of methods, made from the same structs that validate, so that it cannot drift from what
runs. Knows no method; `api` registers two that answer with `discover` and `describe`.
"""

from __future__ import annotations

import inspect
from typing import Any

from nexusd import __version__
from nexusd.errors import InternalError, InvalidParams, RpcError
from nexusd.wire.methods import Method, MethodTable, no_such_method
from nexusd.wire.schemas import Schema, Schemas, description

OPENRPC_VERSION = "1.3.2"
_COMMON_ERRORS: tuple[type[RpcError], ...] = (InvalidParams, InternalError)     # any method may answer these


def discover(table: MethodTable) -> dict[str, Any]:
    """Every method as an OpenRPC document; the same table gives the same document."""
    methods = by_name(table)
    schemas = Schemas(type_ for method in methods for type_ in (method.params, method.result))
    described = [_openrpc_method(method, schemas) for method in methods]
    return {
        "openrpc": OPENRPC_VERSION,
        "info": {"title": "nexusd", "version": __version__},
        "methods": described,
        "components": {"schemas": schemas.reached(described)},
    }


def describe(table: MethodTable, name: str | None = None) -> dict[str, Any]:
    """For people: `{methods: [{name, summary}]}`, or all that there is to know to call one method.

    Each parameter's `type` is in words and its `schema` for programs, without references.

    Raises:
        MethodNotFound: there is no method of this name.
    """
    if name is None:
        return {"methods": [{"name": method.name, "summary": method.summary} for method in by_name(table)]}
    method = table.get(name)
    if method is None:
        raise no_such_method(name)
    schemas = Schemas((method.params, method.result))
    return {
        "name": method.name,
        "summary": method.summary,
        "role": method.role,
        "mutates": method.mutates,
        "params": [
            _described_parameter(parameter, schema, schemas, required=required)
            for parameter, schema, required in parameters(method, schemas)
        ],
        "result": schemas.words(schemas.of(method.result)),
        "errors": [{"code": e.code, "kind": e.kind, "message": inspect.getdoc(e)} for e in errors(method)],
        "example": method.example,
    }


def by_name(table: MethodTable) -> list[Method]:
    """The methods in the order in which they are told."""
    return sorted(table, key=lambda method: method.name)


def errors(method: Method) -> tuple[type[RpcError], ...]:
    """What it may answer in place of a result."""
    return (*_COMMON_ERRORS, *(error for error in method.errors if error not in _COMMON_ERRORS))


def parameters(method: Method, schemas: Schemas) -> list[tuple[str, Schema, bool]]:
    """Name, schema and whether it is required, in positional order."""
    properties, required = schemas.properties(method.params)
    return [(name, properties[name], name in required) for name in method.positions]


def _openrpc_method(method: Method, schemas: Schemas) -> dict[str, Any]:
    params = []
    for name, schema, required in parameters(method, schemas):
        param = {"name": name, "required": required, "schema": schema}
        if told := description(schema):
            param["description"] = told
        params.append(param)
    described: dict[str, Any] = {
        "name": method.name,
        "summary": method.summary,
        "paramStructure": "either",
        "params": params,
        "result": {"name": "result", "schema": schemas.of(method.result)},
        "errors": [
            {"code": e.code, "message": inspect.getdoc(e), "data": {"kind": e.kind, "retryable": e.retryable}}
            for e in errors(method)
        ],
        "x-role": method.role,
        "x-mutates": method.mutates,
    }
    if method.example is not None:
        given = [{"name": name, "value": value} for name, value in method.example.items()]
        described["examples"] = [{"name": "example", "params": given}]
    return described


def _described_parameter(name: str, schema: Schema, schemas: Schemas, *, required: bool) -> dict[str, Any]:
    described = {
        "name": name,
        "type": schemas.words(schema),
        "required": required,
        "description": description(schema),
        "schema": schemas.inlined(schema),
    }
    if not required and "default" in schema:
        described["default"] = schema["default"]
    return described

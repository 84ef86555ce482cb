"""The method reference as a page of Markdown, made from the structs that validate.

Owns the page's form. Knows no method; what it says of one is discovery's.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from itertools import groupby

import msgspec

from nexusd.errors import RpcError
from nexusd.wire.discovery import by_name, errors, parameters
from nexusd.wire.methods import Method, MethodTable
from nexusd.wire.schemas import Schema, Schemas, description

COMMAND = "./scripts/test tests/unit/wire/test_reference.py --update-readme"
_HEAD = f"""\
# Methods

Every method of nexusd, made from the structs that check the parameters and encode the results. Not edited by hand:
`{COMMAND}` writes it anew.
`nexusctl help METHOD` shows one method, `rpc.discover` answers the same as an OpenRPC document.

Parameters go by name, or by position in the order of the tables. Any method may also answer `invalid_params` and
`internal_error`, and what the state of the daemon brings (`starting`, `stopping`, `busy`, `disk_full`). A role covers
those before it: read, write, admin. What is *required* has no default; what may be left out and has none either is as
its description says. The fields of what a method answers stand under [Records](#records)."""


def reference(table: MethodTable) -> str:
    """The page; the same table gives the same page."""
    methods = by_name(table)
    schemas = Schemas(type_ for method in methods for type_ in (method.params, method.result))
    blocks = [_HEAD]
    for resource, group in groupby(methods, key=lambda method: method.name.rpartition(".")[0]):
        members = list(group)
        if resource:
            blocks.append(f"## {resource}")
        for method in members:
            blocks.extend(_method(method, schemas, level=3 if resource else 2))
    blocks.append("## Records")
    results = [schemas.of(method.result) for method in methods]
    for name, record in schemas.reached(results).items():
        blocks.extend(_record(name, record, schemas))
    return "\n\n".join(blocks) + "\n"


def _method(method: Method, schemas: Schemas, *, level: int) -> Iterator[str]:
    yield f"{'#' * level} {method.name}"
    key = "; takes `idempotencyKey`" if method.mutates else ""
    yield f"{method.summary} Role {method.role}{key}."
    rows = [
        row
        for name, schema, required in parameters(method, schemas)
        for row in _parameter(name, schema, schemas, required=required)
    ]
    if rows:
        yield _table(("parameter", "type", "default", "description"), rows)
    else:
        yield "No parameters."
    told = [f"Answers {_in_code(schemas.words(schemas.of(method.result), fields=False))}."]
    own = [error for error in errors(method) if error in method.errors]
    if own:
        told.append(f"Errors of its own: {', '.join(_error(error) for error in own)}.")
    yield " ".join(told)
    if method.example is not None:
        yield f"Example: `{msgspec.json.encode(method.example).decode()}`"


def _parameter(name: str, schema: Schema, schemas: Schemas, *, required: bool) -> Iterator[tuple[str, ...]]:
    """A row for a parameter, and one for each field of the objects in it."""
    default = "*required*" if required else _default(schema)
    yield f"`{name}`", _escaped(schemas.words(schema, fields=False)), default, _escaped(description(schema))
    for path, struct in _structs(name, schema):
        inner = schemas.resolved(struct)
        needed = inner.get("required", ())
        for field, part in inner["properties"].items():
            yield from _parameter(f"{path}.{field}", part, schemas, required=field in needed)


def _structs(path: str, schema: Schema) -> Iterator[tuple[str, Schema]]:
    """The objects with known fields that a value of this schema may be or hold, with their paths."""
    if "$ref" in schema:
        yield path, schema
    for part in schema.get("anyOf", ()):
        yield from _structs(path, part)
    if isinstance(schema.get("items"), dict):
        yield from _structs(f"{path}[]", schema["items"])


def _record(name: str, record: Schema, schemas: Schemas) -> Iterator[str]:
    yield f"### {record.get('title', name)}"
    if "description" in record:
        yield str(record["description"])
    rows = [
        (f"`{field}`", _escaped(schemas.words(part, fields=False)), _escaped(description(part)))
        for field, part in record.get("properties", {}).items()
    ]
    if rows:
        yield _table(("field", "type", "description"), rows)


def _default(schema: Schema) -> str:
    if "default" not in schema:
        return ""
    if "$ref" in schema:  # its fields have theirs, in rows of their own
        return ""
    return f"`{msgspec.json.encode(schema['default']).decode()}`"


def _error(error: type[RpcError]) -> str:
    return f"`{error.kind}` ({(inspect.getdoc(error) or '').rstrip('.')})"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in lines)


def _in_code(words: str) -> str:
    return f"`{words}`"


def _escaped(text: str) -> str:
    """Text for a cell: on one line, and without a bar that would end it."""
    return " ".join(text.split()).replace("|", "\\|")

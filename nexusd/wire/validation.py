"""Parameters as they came -> the struct that the method takes.

Owns the check and the account of what is wrong: every bad field at once, with its path and what was
expected there. Knows no method; values never appear in its messages, only names and expectations.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Struct

from nexusd.errors import InvalidParams
from nexusd.field_errors import FieldError

S = TypeVar("S", bound=Struct)

MAX_NAME_SHOWN = 64     # of a name that the client made up
MAX_FIELD_ERRORS = 50   # a list of thousands of bad items is understood from the first few


def validate(type_: type[S], given: object, *, positions: Sequence[str] = (), path: str = "") -> S:
    """An instance of `type_` from JSON: an object by wire names, or an array in the order of `positions`.

    Args:
        path: where `given` stands in the request, to begin the paths of bad fields (such as `items[3]`).

    Raises:
        InvalidParams: with every bad field.
    """
    if isinstance(given, list):
        given = by_name(given, positions)
    try:
        return msgspec.convert(given, type_, strict=True)
    except msgspec.ValidationError as error:
        fields = tuple(_first(MAX_FIELD_ERRORS, _bad_fields(given, type_, path, error)))
    raise InvalidParams(fields=fields)


def by_name(given: list[Any], positions: Sequence[str]) -> dict[str, Any]:
    """Parameters given by position, by name.

    Raises:
        InvalidParams: there are more than positions.
    """
    if len(given) > len(positions):
        expected = f"nothing: by position it takes {', '.join(positions) or 'nothing at all'}"
        surplus = range(len(positions), min(len(given), len(positions) + MAX_FIELD_ERRORS))
        fields = tuple(FieldError(f"[{place}]", expected) for place in surplus)
        raise InvalidParams(fields=fields)
    return dict(zip(positions, given, strict=False))


def _first(count: int, errors: Iterator[FieldError]) -> Iterator[FieldError]:
    for _, error in zip(range(count), errors, strict=False):
        yield error


def _bad_fields(value: object, type_: Any, path: str, error: msgspec.ValidationError) -> Iterator[FieldError]:
    """Go down to where it is wrong; what has no parts, or only good ones, is wrong itself."""
    found = False
    for part, part_type, part_path in _parts(value, type_, path):
        if isinstance(part, FieldError):
            found = True
            yield part
            continue
        try:
            msgspec.convert(part, part_type, strict=True)
        except msgspec.ValidationError as part_error:
            found = True
            yield from _bad_fields(part, part_type, part_path, part_error)
    if not found:
        yield FieldError(path, _expectation(type_, str(error)))


def _parts(value: object, type_: Any, path: str) -> Iterator[tuple[object, Any, str]]:
    """The parts of `value` with their types and paths; in place of a part, what is wrong with its name."""
    bare = _strip(type_)
    origin = get_origin(bare)
    if isinstance(value, list) and origin in (list, tuple, set, frozenset):
        item_type = get_args(bare)[0]
        for place, item in enumerate(value):
            yield item, item_type, f"{path}[{place}]"
    elif isinstance(value, dict) and origin is dict:
        value_type = get_args(bare)[1]
        for key, item in value.items():
            yield item, value_type, _join(path, key)
    elif isinstance(value, dict) and isinstance(origin or bare, type) and issubclass(origin or bare, Struct):
        yield from _struct_parts(value, bare, path)


def _struct_parts(value: dict[str, Any], struct: Any, path: str) -> Iterator[tuple[object, Any, str]]:
    known = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    for name, field in known.items():
        where = _join(path, name)
        if name in value:
            yield value[name], field.type, where
        elif field.default is NODEFAULT and field.default_factory is NODEFAULT:
            yield FieldError(where, "required"), None, where
    if struct.__struct_config__.forbid_unknown_fields:
        for name in value:
            if name in known:
                continue
            # comparing costs the product of both lengths
            near = difflib.get_close_matches(name, known, n=1) if len(name) <= MAX_NAME_SHOWN else []
            expected = f"no such name; did you mean {near[0]}?" if near else "no such name"
            yield FieldError(_join(path, name), expected), None, path


def _join(path: str, name: str) -> str:
    if len(name) > MAX_NAME_SHOWN:
        name = name[:MAX_NAME_SHOWN] + "..."
    return f"{path}.{name}" if path else name


def _strip(type_: Any) -> Any:
    """Without Annotated, and without the None and UNSET of a union that leaves one type."""
    while get_origin(type_) is Annotated:
        type_ = get_args(type_)[0]
    if get_origin(type_) in (Union, types.UnionType):
        real = [member for member in get_args(type_) if member not in (type(None), msgspec.UnsetType)]
        if len(real) == 1:
            return _strip(real[0])
    return type_


def _expectation(type_: Any, complaint: str) -> str:
    """What was expected, in words: msgspec's complaint, or the choices where it does not list them."""
    bare = _strip(type_)
    if get_origin(bare) is Literal:
        return f"one of {', '.join(repr(choice) for choice in get_args(bare))}".replace("'", '"')
    words = complaint.split(" - at `", 1)[0].replace("`", "")
    return words.removeprefix("Expected ").removeprefix("expected ")

"""A frame's bytes -> JSON-RPC 2.0 requests.

Owns the JSON that is accepted, and the rules of the envelope: version, method, params, id, batches. Pure.
Knows no method. Everything it refuses is an `RpcError`; a refused element of a batch, or a refused request
that had a valid id, keeps that id.
"""

from __future__ import annotations

import math
from typing import Any, Final

import jiter
from msgspec import Struct

from nexusd.errors import InvalidRequest, ParseError, RpcError, TooLarge

# JSON has no bound on numbers, we do: one that became infinite would be stored as null, and integers past 64
# bits fit neither SQLite nor the encoder. Either needs at least 19 digits in a row, or 3 in the exponent: looked for
# where every digit is a 0, which is far quicker than a regular expression.
_DIGITS_ALIKE = bytes.maketrans(b"123456789E", b"000000000e")
_LONG, _RAISED, _RAISED_PLUS = b"0" * 19, b"0e000", b"0e+000"
_MAX_INTEGER = 2**63 - 1
_CONTAINERS = frozenset({dict, list})

# Parsing holds the interpreter's lock, so that a thread of its own would hold up everybody just as well: what takes
# too long has to be refused before. A list or an object costs as much as so many numbers.
VALUES_A_CONTAINER = 10
DEFAULT_MAX_VALUES = 250_000

MAX_COMPLAINT = 200     # characters of the parser's words, which may hold a key of any length
TOO_DEEP = "The message is nested too deep."
BACKSLASHES = b"\\\\"     # two: an escaped one
QUOTED_QUOTE = b'\\"'
_JITER_DEPTH_MESSAGE = "recursion limit exceeded"   # its own limit is 200, above every max_depth


class _Absent:
    """The type of `NO_ID`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "NO_ID"


NO_ID: Final = _Absent()    # null is a valid id, so absence needs another value


class Request(Struct, frozen=True):
    """One request as it came: `id` is NO_ID in a notification; `params` is {} where there were none."""

    method: str
    params: dict[str, Any] | list[Any]
    id: Any


class Refused(Struct, frozen=True):
    """Something in place of a request that is none: the error, and its id where it had a valid one."""

    error: RpcError
    id: Any


def read_message(
    frame: bytes, *, max_depth: int, max_batch: int, max_values: int = DEFAULT_MAX_VALUES
) -> Request | Refused | list[Request | Refused]:
    """The request, or the elements of the batch, that this frame holds.

    Raises:
        ParseError: not JSON, not UTF-8, a duplicate key, NaN, or a number past 64 bits.
        InvalidRequest: an empty batch.
        TooLarge: nested too deep, too many values, or too many requests in the batch.
    """
    message = parse_json(frame, max_depth=max_depth, max_values=max_values)
    if not isinstance(message, list):
        return _read_request(message)
    if not message:
        raise InvalidRequest("A batch holds at least one request.")
    if len(message) > max_batch:
        raise TooLarge(f"A batch holds at most {max_batch} requests; this one holds {len(message)}.")
    return [_read_request(element) for element in message]


def parse_json(data: bytes, *, max_depth: int, max_values: int = DEFAULT_MAX_VALUES) -> Any:
    """Strict JSON: no duplicate keys, no NaN or infinity, no lone surrogates, nesting within `max_depth`.

    Raises:
        ParseError: it is not that.
        TooLarge: nested too deep, or more values than are taken.
    """
    if len(data) > max_values // 4:     # an empty list and its comma are three bytes, and count eleven
        _check_amount(data, max_values)
    try:
        value = jiter.from_json(data, allow_inf_nan=False, catch_duplicate_keys=True, cache_mode="keys")
    except ValueError as error:
        if _JITER_DEPTH_MESSAGE in str(error):
            raise TooLarge(TOO_DEEP) from None
        raise ParseError(f"The message is not valid JSON: {_shortened(str(error))}") from None
    # Walking is for the few messages whose bytes say that it may find something.
    if data.count(b"[") + data.count(b"{") > max_depth:
        _check_depth(value, max_depth)
    plain = data.translate(_DIGITS_ALIKE)
    if _LONG in plain or _RAISED in plain or _RAISED_PLUS in plain:
        _check_numbers(value)
    return value


def _check_amount(data: bytes, max_values: int) -> None:
    """Hold the number of values, without making any of them."""
    if _amount(data) <= max_values:
        return
    # Commas and brackets within texts were counted, too: once more without the texts.
    plain = data.replace(BACKSLASHES, b"").replace(QUOTED_QUOTE, b"")
    if plain.count(b'"') > 4 * max_values or _amount(b"".join(plain.split(b'"')[::2])) > max_values:
        raise TooLarge(f"A message holds at most {max_values} values; a list or an object counts as ten.")


def _amount(data: bytes) -> int:
    return data.count(b",") + VALUES_A_CONTAINER * (data.count(b"[") + data.count(b"{"))


def _shortened(complaint: str) -> str:
    """Without the middle of a long key that it names; the place in the message stands at its end."""
    return complaint if len(complaint) <= MAX_COMPLAINT else f"{complaint[:100]}...{complaint[-60:]}"


def _check_depth(value: Any, max_depth: int) -> None:
    """Hold the depth, level by level: of what is no container, which is nearly all, only the class is looked at."""
    level: list[Any] = [value] if value.__class__ in _CONTAINERS else []
    depth = 0
    while level:
        if depth == max_depth:
            raise TooLarge(TOO_DEEP)
        depth += 1
        level = [
            inner
            for outer in level
            for inner in (outer.values() if outer.__class__ is dict else outer)
            if inner.__class__ in _CONTAINERS
        ]


def _check_numbers(value: Any) -> None:
    """Hold the range of numbers. Recursion is bounded by the depth, which was looked at before."""
    if isinstance(value, dict | list):
        for element in value.values() if isinstance(value, dict) else value:
            _check_numbers(element)
    elif isinstance(value, float):
        if math.isinf(value):
            raise ParseError("The message holds a number that is out of range.")
    elif isinstance(value, int) and not -_MAX_INTEGER - 1 <= value <= _MAX_INTEGER:
        raise ParseError("The message holds an integer of more than 64 bits.")


def _read_request(message: Any) -> Request | Refused:
    if not isinstance(message, dict):
        return Refused(InvalidRequest("A request is an object."), None)
    request_id = message.get("id", NO_ID)
    if request_id.__class__ is not int and not _is_id(request_id):
        return Refused(InvalidRequest("`id` is a string, a number or null."), None)
    method = message.get("method")
    params = message.get("params", NO_ID)
    if params is NO_ID:
        params = {}
    if message.get("jsonrpc") != "2.0":
        problem = '`jsonrpc` is "2.0".'
    elif not isinstance(method, str):
        problem = "`method` is a string."
    elif not isinstance(params, dict | list):
        problem = "`params` is an object or an array."
    else:
        return Request(method, params, request_id)
    return Refused(InvalidRequest(problem), None if request_id is NO_ID else request_id)


def _is_id(value: Any) -> bool:
    if isinstance(value, bool):     # an int to Python, not to JSON-RPC
        return False
    return value is None or value is NO_ID or isinstance(value, str | int | float)

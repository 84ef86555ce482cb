"""One setting's value: checked against its type, described for people.

Owns durations with a unit, what a variable's text means, and the words for what was found and what was
expected. Knows no setting by name and no source.
"""

from __future__ import annotations

import difflib
import grp
import json
import re
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import inspect

MAX_SHOWN = 60  # characters of a wrong value in a message
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)")
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}


class WrongValueError(Exception):
    """The value is not what the setting takes. The message says what was found and expected."""


def check_value(value: object, text: str, expected: Any, *, unit: str | None) -> object:
    """The value of a file as the setting's type; `text` is how it was written, `unit` "s", "ms" or None.

    Raises:
        WrongValueError: it is not of that type, or outside its limits.
    """
    takes_text = _takes(expected, inspect.StrType)
    if takes_text and isinstance(value, int | float) and not isinstance(value, bool):
        value = text  # `mode: 0660` without quotes is an octal number to YAML
    if unit is not None and isinstance(value, str):
        value = _duration(value, unit)
    return _convert(value, expected, unit, strict=True)


def check_variable(text: str, expected: Any, *, unit: str | None) -> object:
    """The text of an environment variable as the setting's type. `null` unsets what may be unset.

    Raises:
        WrongValueError: it is not of that type, or outside its limits.
    """
    if text == "null" and _takes(expected, inspect.NoneType):
        return None
    if unit is not None and _DURATION.fullmatch(text.strip()):
        return _convert(_duration(text, unit), expected, unit, strict=True)
    return _convert(text, expected, unit, strict=False)


def describe_expected(expected: Any, unit: str | None = None) -> str:
    """What a setting takes, in words, such as `a whole number from 1 to 64`."""
    words = _describe(inspect.type_info(expected))
    return words if unit is None else f'{words} ({_UNIT_NAMES[unit]}), or one with a unit such as 30s or 24h'


def describe_found(value: object) -> str:
    """A wrong value as a message shows it: JSON where it is, and short."""
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}..."


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `name` was probably meant to be, if there is one."""
    by_plain = {_plain(candidate): candidate for candidate in candidates}
    match = difflib.get_close_matches(_plain(name), by_plain, n=1, cutoff=0.65)
    return by_plain[match[0]] if match else None


_UNIT_NAMES = {"s": "seconds", "ms": "milliseconds"}


def _plain(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).lower()  # max_batch and MAX-BATCH are meant as maxBatch


def _takes(expected: Any, kind: type) -> bool:
    info = inspect.type_info(expected)
    options = info.types if isinstance(info, inspect.UnionType) else (info,)
    return any(isinstance(o.type if isinstance(o, inspect.Metadata) else o, kind) for o in options)


def _duration(text: str, unit: str) -> object:
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        return text  # the type check says what was expected
    exact = float(match[1]) * _UNIT_MS[match[2]] / _UNIT_MS[unit]
    return int(exact) if exact.is_integer() else exact


def _convert(value: object, expected: Any, unit: str | None, *, strict: bool) -> object:
    try:
        return msgspec.convert(value, expected, strict=strict)
    except msgspec.ValidationError:
        words = describe_expected(expected, unit)
        raise WrongValueError(f"found {describe_found(value)}, expected {words}") from None
    except UnicodeEncodeError:  # a variable of bytes that are no text
        words = describe_expected(expected, unit)
        raise WrongValueError(f"found bytes that are not UTF-8, expected {words}") from None


def _describe(info: inspect.Type) -> str:
    match info:
        case inspect.Metadata(type=inner, extra=extra):
            words = str(extra["expected"]) if extra and "expected" in extra else _describe(inner)
        case inspect.UnionType(types=options):
            words = " or ".join(_describe(option) for option in options)
        case inspect.LiteralType(values=values):
            words = "one of " + ", ".join(str(value) for value in values)
        case inspect.IntType():
            words = "a whole number" + _bounds(info)
        case inspect.FloatType():
            words = "a number" + _bounds(info)
        case _:
            words = _PLAIN_WORDS[type(info)]
    return words


_PLAIN_WORDS = {inspect.BoolType: "true or false", inspect.StrType: "text", inspect.NoneType: "null"}


def _bounds(info: inspect.IntType | inspect.FloatType) -> str:
    low, high = info.ge, info.le
    if info.gt is not None:
        return f" above {info.gt}" + (f", at most {high}" if high is not None else "")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if low is not None:
        return f" of at least {low}"
    return f" of at most {high}" if high is not None else ""


def group_exists(name: str) -> bool:
    """Whether this system has a group of this name."""
    try:
        grp.getgrnam(name)
    except (KeyError, ValueError):  # ValueError: no name could hold that, such as a zero byte
        return False
    return True

"""Whether an answer is what was expected, to the type: 1 is not true, and nothing may be there that was not expected.

Where more than one answer is right the expectation says so with one of the small classes here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Either:
    """Any of these."""

    of: tuple[Any, ...]


@dataclass(frozen=True)
class Near:
    """This number, but for the last digits of a float32."""

    to: float


@dataclass(frozen=True)
class Refusal:
    """In place of one item of many: the error that it got."""

    kind: str


class Anything:
    """Whatever it is."""


def either(*of: Any) -> Any:
    """Any of these; the one itself if it is only one."""
    different = tuple(dict.fromkeys(of))
    return different[0] if len(different) == 1 else Either(different)


def difference(got: Any, wanted: Any, path: str = "") -> str | None:
    """Where the two differ first, and how; None where they do not."""
    match wanted:
        case Anything():
            return None
        case Either():
            fits = any(difference(got, one) is None for one in wanted.of)
        case Near():
            fits = isinstance(got, float | int) and math.isclose(got, wanted.to, abs_tol=1e-5)
        case Refusal():
            fits = isinstance(got, dict) and list(got) == ["error"] and got["error"]["data"]["kind"] == wanted.kind
        case dict() if isinstance(got, dict):
            if got.keys() != wanted.keys():
                return f"{path}: has {sorted(got)}, wanted {sorted(wanted)}"
            return _first(difference(got[key], wanted[key], f"{path}.{key}") for key in wanted)
        case list() if isinstance(got, list):
            if len(got) != len(wanted):
                return f"{path}: has {len(got)} items, wanted {len(wanted)}: {got} for {wanted}"
            parts = enumerate(zip(got, wanted, strict=True))
            return _first(difference(one, other, f"{path}[{place}]") for place, (one, other) in parts)
        case _:
            fits = type(got) is type(wanted) and got == wanted
    return None if fits else f"{path}: is {got!r}, wanted {wanted!r}"


def _first(found: Any) -> str | None:
    return next((one for one in found if one is not None), None)

"""How a point's payload is kept, and where a filter finds it; the same in every backend.

A point is found by equality through its terms: every (path, value) of the payload as a 63-bit hash, in one
indexed list. So any entry of any metadata is as fast to filter by as a session's id; Qdrant's own way
without an index reads every payload from disk, and with one a field each could not know metadata's keys.
It also spares us Qdrant's view of JSON, where a condition cannot name a boolean and 1 is not 1.0.
Two values of one hash would only let a candidate through that the rows refuse.

Numbers are kept as they are too, for ranges; only that of createdAt is indexed. Nothing else is stored:
nobody reads a payload back but for its version and its database's epoch. Knows no backend.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from hashlib import blake2b
from typing import Any

VERSION, EPOCH, TERMS, NUMBERS = "version", "epoch", "terms", "numbers"
CREATED_AT = f"{NUMBERS}.createdAt"
INDEXED_RANGES = frozenset({CREATED_AT})
MAX_TERMS = 1024  # a point, outermost entries first: one odd payload must not swell the index
SMALLEST, LARGEST = -(2**63), 2**63 - 1  # whole numbers of the engine
MIN_WHOLE, MAX_WHOLE = -(2**63), 2**64 - 1  # what a caller's whole numbers are kept as
LONGEST_REMEMBERED = 64  # characters of a text; a longer one is hardly in a second point
_QUOTE_STANDS_AS = "\x01"  # the engine's paths cannot name a key with a quote in it
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")

Path = tuple[str, ...]


def stored_payload(payload: dict[str, Any], version: int) -> dict[str, Any]:
    """What the engine keeps of a payload, and the row's version."""
    terms = {
        term(path, value) if isinstance(value, str) and len(value) > LONGEST_REMEMBERED else _remembered(path, value)
        for path, value in _entries(payload)
    }
    kept = {VERSION: version, TERMS: list(terms), NUMBERS: _numbers(payload)}
    if isinstance(epoch := payload.get(EPOCH), str):
        kept[EPOCH] = epoch
    return kept


def version_of(stored: dict[str, Any] | None) -> int:
    """The version that was stored with a point; 0 where there is none, as of a point that is not ours."""
    version = (stored or {}).get(VERSION, 0)
    return version if isinstance(version, int) else 0


def epoch_of(stored: dict[str, Any] | None) -> str:
    """The epoch that was stored with a point."""
    epoch = (stored or {}).get(EPOCH, "")
    return epoch if isinstance(epoch, str) else ""


def _entries(payload: dict[str, Any]) -> list[tuple[Path, Any]]:
    """Scalars with their paths, outermost first, as many as are kept; a list's elements have the list's path."""
    found: list[tuple[Path, Any]] = []
    level: list[tuple[Path, Any]] = [((key,), value) for key, value in payload.items()]
    while level and len(found) < MAX_TERMS:
        below: list[tuple[Path, Any]] = []
        for path, value in level:
            if isinstance(value, dict):
                below += [((*path, key), entry) for key, entry in value.items()]
            elif isinstance(value, list):
                below += [(path, entry) for entry in value if not isinstance(entry, (dict, list))]
            elif value is not None:
                found.append((path, value))
        level = below
    return found[:MAX_TERMS]


def term(path: Path, value: str | float) -> int:
    """The hash by which this value at this path is found."""
    if isinstance(value, bool):
        said = f"b{value:d}"
    elif isinstance(value, str):
        said = f"s{value}"
    elif isinstance(value, float) and value.is_integer():
        said = f"n{int(value)}"  # JSON does not tell 1 from 1.0
    else:
        said = f"n{value!r}"
    # keys are told apart by their length: any character may be in them
    place = "".join(f"{len(key)}:{key}" for key in path)
    digest = blake2b(f"{place}={said}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & LARGEST


# A session, a project, a role are in many points: to hash them again took a fifth of the time of an upsert. Typed, for
# true is not 1.
_remembered = lru_cache(maxsize=4096, typed=True)(term)


def _numbers(payload: dict[str, Any]) -> dict[str, Any]:
    """The payload with its numbers alone."""
    kept: dict[str, Any] = {}
    for key, value in payload.items():
        if isinstance(value, dict):
            if inner := _numbers(value):
                kept[_stored_key(key)] = inner
        elif isinstance(value, list):
            if numbers := [_number(entry) for entry in value if _is_number(entry)]:
                kept[_stored_key(key)] = numbers
        elif _is_number(value):
            kept[_stored_key(key)] = _number(value)
    return kept


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: float) -> float:
    if isinstance(value, int):
        return value if SMALLEST <= value <= LARGEST else float(value)
    return int(value) if value.is_integer() and SMALLEST <= value <= LARGEST else value


def _stored_key(key: str) -> str:
    return key.replace('"', _QUOTE_STANDS_AS)


def within_64_bits(value: Any) -> Any:
    """The same with whole numbers that are too large as the nearest float, or null past those."""
    if isinstance(value, int) and not MIN_WHOLE <= value <= MAX_WHOLE:
        try:
            return float(value)
        except OverflowError:
            return None
    if isinstance(value, dict):
        return {key: within_64_bits(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [within_64_bits(entry) for entry in value]
    return value


def range_key(path: Path) -> str:
    """Where the numbers of a path lie, in Qdrant's syntax: unusual parts are quoted."""
    parts = [NUMBERS, *(_stored_key(key) for key in path)]
    return ".".join(part if _PLAIN_KEY.fullmatch(part) else f'"{part}"' for part in parts)


def one_bound_a_side(
    gt: float | None, gte: float | None, lt: float | None, lte: float | None
) -> dict[str, float] | None:
    """The bounds of a range, the tighter of two on one side, for of two an index sees one only.

    None: nothing lies in it.
    """
    if gt is not None and gte is not None:
        gt, gte = (gt, None) if gt >= gte else (None, gte)
    if lt is not None and lte is not None:
        lt, lte = (lt, None) if lt <= lte else (None, lte)
    lowest, highest = gte if gt is None else gt, lte if lt is None else lt
    inclusive = gt is None and lt is None
    if lowest is not None and highest is not None and (
        lowest > highest or (lowest == highest and not inclusive)
    ):
        return None
    bounds = {"gt": gt, "gte": gte, "lt": lt, "lte": lte}
    return {name: bound for name, bound in bounds.items() if bound is not None}

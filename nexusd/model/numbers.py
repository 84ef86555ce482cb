"""A vector as callers give and get it, a list of numbers, and as everything here keeps it: float32, little-endian.

Owns the step between the two, and what a caller's vector must be. Knows no collection.
"""

from __future__ import annotations

import struct
from typing import Annotated

from msgspec import Meta

from nexusd.errors import DimensionMismatch, InvalidParams
from nexusd.field_errors import FieldError

FLOAT_BYTES = 4
FLOAT = struct.Struct("<f")
MAX_DIMENSION = 65_536
MAX_FLOAT = 3.4028234663852886e38  # the largest of float32

Numbers = Annotated[list[float], Meta(min_length=1, max_length=MAX_DIMENSION)]


def packed(numbers: list[float], dimension: int, field: str) -> bytes:
    """The vector that a caller gave in this field.

    Raises:
        DimensionMismatch: it has another dimension than the collection.
        InvalidParams: a number that is none in float32, or nothing but zeros.
    """
    if len(numbers) != dimension:
        raise DimensionMismatch(f"`{field}` has dimension {len(numbers)}, the embedding model {dimension}.")
    for place, number in enumerate(numbers):
        if not -MAX_FLOAT <= number <= MAX_FLOAT:
            raise InvalidParams(fields=(FieldError(f"{field}[{place}]", "a finite number that float32 can hold"),))
    vector = struct.pack(f"<{dimension}f", *numbers)
    if not any(struct.unpack(f"<{dimension}f", vector)):  # what is too small for float32 is zero in it
        raise InvalidParams(fields=(FieldError(field, "a vector with a direction: not all zero in float32"),))
    return vector


def unpacked(vector: bytes) -> list[float]:
    """The numbers in a short writing: what was given as 0.1 is told as 0.1, though float32 has no such number."""
    dimension = len(vector) // FLOAT_BYTES
    numbers = struct.unpack(f"<{dimension}f", vector)
    short = [float(f"{number:.7g}") for number in numbers]
    for place, number in enumerate(numbers):
        if not _same(short[place], number):
            longer = (float(f"{number:.{digits}g}") for digits in (8, 9))  # 9 are as many as it ever takes
            short[place] = next((each for each in longer if _same(each, number)), number)
    return short


def _same(short: float, number: float) -> bool:
    return abs(short) <= MAX_FLOAT and FLOAT.unpack(FLOAT.pack(short))[0] == number

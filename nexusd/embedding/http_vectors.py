"""The vectors of an answer, checked: as many as texts, numbers all, of one dimension.

Owns what makes an answer useless as a whole, and what is the matter with a single vector.
"""

from __future__ import annotations

import enum
import math
from array import array
from collections.abc import Sequence

from nexusd.embedding.embedder import Vector
from nexusd.embedding.http_dialects import Misshapen
from nexusd.errors import NexusError


class Flaw(enum.Enum):
    """What is the matter with one vector, while others may be fine."""

    EMPTY = "is empty"
    NOT_FINITE = "holds NaN, Inf or nothing where numbers belong"
    ZERO = "is all zero"


class OtherDimension(NexusError):
    """The vectors are of another dimension than the collection's."""

    def __init__(self, found: int) -> None:
        super().__init__()
        self.found = found


def read_vectors(found: Sequence[object], count: int, dimension: int) -> list[Vector | Flaw]:
    """One vector a text, as it came but in float32, or what is the matter with it.

    Raises:
        Misshapen: not as many vectors as texts, or no vectors at all.
        OtherDimension: one has another dimension.
    """
    if len(found) != count:
        raise Misshapen(f"{len(found)} vectors where {count} belong")
    return [_read(numbers, dimension) for numbers in found]


def _read(numbers: object, dimension: int) -> Vector | Flaw:
    if not isinstance(numbers, list):
        raise Misshapen("something that is no list where a vector belongs")
    if not numbers:
        return Flaw.EMPTY
    if len(numbers) != dimension:
        raise OtherDimension(len(numbers))
    try:
        vector = array("f", numbers)  # native order: little-endian on every platform that the engine is built for
    except OverflowError:
        return Flaw.NOT_FINITE
    except TypeError:
        if all(number is None or isinstance(number, int | float) for number in numbers):
            return Flaw.NOT_FINITE  # what JavaScript makes of NaN is null
        raise Misshapen("something that is no number in a vector") from None
    length = math.hypot(*vector)
    if not math.isfinite(length):
        return Flaw.NOT_FINITE
    return vector.tobytes() if length > 0 else Flaw.ZERO

"""What a vector must be before any backend sees it.

Owns the check (dimension, no NaN, no Inf, not all zero) and the scale. The embedded engine takes all of
these without complaint and then answers nonsense. Knows no backend, and no numpy: the daemon's main
process does without.
"""

from __future__ import annotations

import math
from array import array

from nexusd.errors import BadContent, DimensionMismatch
from nexusd.index.index import CollectionSpec, Vector

FLOAT_BYTES = 4
# The engine squares and adds in float32. Outside these lengths that sum drowns or overflows, and the engine
# would leave the vector as it is or make it NaN.
SHORTEST = 1e-3
LONGEST = 1e15


def checked_vector(vector: Vector, spec: CollectionSpec) -> Vector:
    """The vector, safe to hand to an engine; under Cosine an extreme one is scaled, its direction kept.

    Raises:
        DimensionMismatch: it is not of the collection's dimension.
        BadContent: it holds NaN or Inf, is all zero, or is too long to be compared.
    """
    if len(vector) != spec.dimension * FLOAT_BYTES:
        given = f"{len(vector) // FLOAT_BYTES}" if len(vector) % FLOAT_BYTES == 0 else f"{len(vector)} bytes"
        raise DimensionMismatch(f"expected {spec.dimension} dimensions for {spec.name}, got {given}")
    numbers = array("f", vector)  # native order: little-endian on every platform that the engine is built for
    length = math.hypot(*numbers)
    if not math.isfinite(length):
        raise BadContent("the vector holds NaN or Inf")
    if length == 0.0:
        raise BadContent("the vector is all zero")
    if SHORTEST <= length <= LONGEST:
        return vector
    if spec.distance == "Cosine":
        return array("f", [number / length for number in numbers]).tobytes()
    if length > LONGEST:
        raise BadContent(f"the vector is too long to be compared: {length:.3g}")
    return vector

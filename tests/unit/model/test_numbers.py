"""Vectors as lists of numbers and as float32."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from nexusd.model.numbers import MAX_FLOAT, packed, unpacked

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(FLOATS, min_size=1, max_size=8).filter(any))
def test_what_was_packed_is_told_as_the_same_float32(numbers: list[float]) -> None:
    vector = packed(numbers, len(numbers), "vector")
    assert vector == struct.pack(f"<{len(numbers)}f", *numbers)
    assert packed(unpacked(vector), len(numbers), "vector") == vector


@given(st.integers(-9_999_999, 9_999_999).filter(bool), st.integers(-8, 8))
def test_a_number_of_few_digits_is_told_as_it_was_given(digits: int, places: int) -> None:
    number = float(f"{digits}e{places}")
    assert unpacked(packed([number], 1, "vector")) == [number]


def test_the_largest_number_survives() -> None:
    told = unpacked(packed([MAX_FLOAT, -MAX_FLOAT], 2, "vector"))
    assert packed(told, 2, "vector") == packed([MAX_FLOAT, -MAX_FLOAT], 2, "vector")

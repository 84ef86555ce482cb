"""What a vector must be before any backend sees it."""

import math
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusd.errors import BadContent, DimensionMismatch
from nexusd.index.index import CollectionSpec
from nexusd.index.vectors import checked_vector

SPEC = CollectionSpec("episodes", 3)


def packed(*numbers: float) -> bytes:
    return array("f", numbers).tobytes()


@given(st.lists(st.floats(width=32), min_size=3, max_size=3))
def test_a_vector_passes_exactly_when_it_has_a_direction(numbers: list[float]) -> None:
    vector = packed(*numbers)
    if all(math.isfinite(number) for number in numbers) and any(numbers):
        checked = array("f", checked_vector(vector, SPEC))
        length = math.hypot(*checked)
        assert 1e-3 <= length <= 1e15
        before = math.hypot(*array("f", vector))
        for number, kept in zip(array("f", vector), checked, strict=True):
            assert math.isclose(number / before, kept / length, rel_tol=1e-5, abs_tol=1e-6)
    else:
        with pytest.raises(BadContent):
            checked_vector(vector, SPEC)


def test_an_ordinary_vector_is_handed_on_as_the_same_bytes() -> None:
    vector = packed(0.6, 0.8, 0.0)
    assert checked_vector(vector, SPEC) is vector


@pytest.mark.parametrize("vector", [b"", packed(1.0), packed(1.0, 2.0, 3.0, 4.0), b"\x00" * 11])
def test_another_dimension_is_refused(vector: bytes) -> None:
    with pytest.raises(DimensionMismatch, match="expected 3 dimensions for episodes"):
        checked_vector(vector, SPEC)


def test_where_length_means_something_it_is_not_changed_and_too_much_of_it_is_refused() -> None:
    spec = CollectionSpec("episodes", 3, "Dot")
    short = packed(1e-20, 0.0, 0.0)
    assert checked_vector(short, spec) is short
    with pytest.raises(BadContent, match="too long"):
        checked_vector(packed(1e30, 0.0, 0.0), spec)

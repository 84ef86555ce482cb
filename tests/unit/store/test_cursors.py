from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusd.errors import InvalidParams
from nexusd.field_errors import FieldError
from nexusd.store.cursors import decode_cursor, decode_text_cursor, encode_cursor

numbers = st.integers(-(2**63), 2**63 - 1)


@given(numbers, numbers)
def test_cursor_carries_its_place(created_at: int, row_id: int) -> None:
    cursor = encode_cursor("episodes.asc", created_at, row_id)
    assert decode_cursor("episodes.asc", cursor, 2) == (created_at, row_id)
    assert len(cursor) <= 512


@given(st.text(max_size=512))
def test_any_text_is_a_place_or_is_refused_by_name(text: str) -> None:
    refused: tuple[FieldError, ...] = ()
    try:
        decode_cursor("sessions", text, 1)
    except InvalidParams as error:
        refused = error.fields
    assert [field.path for field in refused] in ([], ["cursor"])


@given(st.binary(max_size=64))
def test_a_damaged_cursor_does_not_break_out(noise: bytes) -> None:
    cursor = bytearray(encode_cursor("sessions", 7).encode())
    for position, byte in enumerate(noise):
        cursor[position % len(cursor)] ^= byte % 128
    try:
        (place,) = decode_cursor("sessions", cursor.decode("latin-1"), 1)
    except InvalidParams:
        return
    assert -(2**63) <= place < 2**63


@pytest.mark.parametrize(
    ("listing", "cursor", "parts"),
    [
        ("sessions", encode_cursor("outbox", 1), 1),
        ("episodes.desc", encode_cursor("episodes.asc", 1, 2), 2),
        ("sessions", encode_cursor("sessions", 1, 2), 1),
        ("sessions", encode_cursor("sessions"), 1),
        ("sessions", "", 1),
    ],
)
def test_cursor_of_another_listing_is_refused(listing: str, cursor: str, parts: int) -> None:
    with pytest.raises(InvalidParams):
        decode_cursor(listing, cursor, parts)


@given(st.text(max_size=512), st.integers(-(2**63), 2**63 - 1))
def test_a_place_by_text_and_number_comes_back_and_fits_its_field(text: str, number: int) -> None:
    cursor = encode_cursor("l", text, number)
    assert decode_text_cursor("l", cursor) == (text, number)
    assert len(cursor) <= 4096


@pytest.mark.parametrize("key", [(1, 2), ("a",), ("a", "b"), (1, "a"), ("a", 1, 2), ("a", 2**63)])
def test_a_place_of_another_shape_is_no_place_by_text(key: tuple[int | str, ...]) -> None:
    with pytest.raises(InvalidParams):
        decode_text_cursor("l", encode_cursor("l", *key))
    with pytest.raises(InvalidParams):
        decode_text_cursor("other", encode_cursor("l", "a", 1))
    with pytest.raises(InvalidParams):
        decode_cursor("l", encode_cursor("l", "a", 1), 1)

"""Cursors: the place after the last item of a page, as a short opaque text.

A cursor names the sort key of the last item, so a page goes on there whatever was inserted or deleted
meanwhile. Callers may send anything: what is not one of ours is refused by name.
"""

from __future__ import annotations

import base64
import binascii

import msgspec

from nexusd.errors import InvalidParams
from nexusd.field_errors import FieldError


def encode_cursor(listing: str, *key: int | str) -> str:
    """The cursor after the item with this sort key, good for this listing only."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode((listing, *key))).rstrip(b"=").decode()


def decode_cursor(listing: str, cursor: str, parts: int) -> tuple[int, ...]:
    """The sort key in the cursor, `parts` numbers.

    Raises:
        InvalidParams: it is not a cursor of this listing.
    """
    key = _key(listing, cursor)
    numbers = tuple(part for part in key if isinstance(part, int))
    if len(numbers) != parts or len(key) != parts:
        raise _bad_cursor()
    return numbers


def decode_text_cursor(listing: str, cursor: str) -> tuple[str, int]:
    """The sort key in the cursor of a listing by a text, and by a number where texts are equal.

    Raises:
        InvalidParams: it is not a cursor of this listing.
    """
    match _key(listing, cursor):
        case [str(text), int(number)]:
            return text, number
    raise _bad_cursor()


def _key(listing: str, cursor: str) -> list[str | int]:
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        name, *key = msgspec.msgpack.decode(raw, type=tuple[str | int, ...])
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        raise _bad_cursor() from None
    if name != listing or not all(isinstance(part, str) or -(2**63) <= part < 2**63 for part in key):
        raise _bad_cursor()
    return key


def _bad_cursor() -> InvalidParams:
    return InvalidParams(fields=(FieldError("cursor", "nextCursor of the page before, as it was answered"),))

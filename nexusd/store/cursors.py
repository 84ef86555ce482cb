"""Cursors: the place after the last item of a page, as a short opaque text.

A cursor names the sort key of the last item, so a page goes on there whatever was inserted or deleted
meanwhile. Callers may send anything: what is not one of ours is refused by name.
"""

from __future__ import annotations

import base64
import binascii

import msgspec

from nexusd.errors import FieldError, InvalidParams


def encode_cursor(listing: str, *key: int) -> str:
    """The cursor after the item with this sort key, good for this listing only."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode((listing, *key))).rstrip(b"=").decode()


def decode_cursor(listing: str, cursor: str, parts: int) -> tuple[int, ...]:
    """The sort key in the cursor, `parts` numbers.

    Raises:
        InvalidParams: it is not a cursor of this listing.
    """
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        name, *key = msgspec.msgpack.decode(raw, type=tuple[str | int, ...])
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        raise _bad_cursor() from None
    numbers = tuple(part for part in key if isinstance(part, int) and -(2**63) <= part < 2**63)
    if name != listing or len(numbers) != parts or len(key) != parts:
        raise _bad_cursor()
    return numbers


def _bad_cursor() -> InvalidParams:
    return InvalidParams(fields=(FieldError("cursor", "nextCursor of the page before, as it was answered"),))

"""Pages of lists that are ordered by name.

Owns the cursor after a name. Knows no kind of file.
"""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
from collections.abc import Sequence

import msgspec

from nexusd.errors import InvalidParams
from nexusd.field_errors import FieldError
from nexusd.model.fields import Page


def names_of_page(listing: str, names: Sequence[str], page: Page) -> list[str]:
    """The names from where the page begins on, one more than fits if there are more. `names` are sorted.

    Raises:
        InvalidParams: the cursor is none of this listing.
    """
    start = page.offset or 0 if page.cursor is None else bisect_right(names, _name_in(listing, page.cursor))
    return list(names[start : start + page.limit + 1])


def cursor_after(listing: str, name: str) -> str:
    """The cursor after this name, good for this listing only."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode((listing, name))).rstrip(b"=").decode()


def _name_in(listing: str, cursor: str) -> str:
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        of, name = msgspec.msgpack.decode(raw, type=tuple[str, str])
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        of, name = "", ""
    if of != listing:
        raise InvalidParams(fields=(FieldError("cursor", "nextCursor of the page before, as it was answered"),))
    return name

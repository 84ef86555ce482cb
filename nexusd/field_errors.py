"""What is wrong with the fields of a request.

Owns one such field, and the words for several. Knows no error that carries them.
"""

from __future__ import annotations

import msgspec

FIELDS_TOLD = 5  # in the message, for people; an error's `fields` has more


class FieldError(msgspec.Struct, frozen=True):
    """One bad field of a request: its path and what was expected there."""

    path: str
    expected: str


def what_is_wrong(fields: tuple[FieldError, ...]) -> str | None:
    """A sentence about the first of them; None where there are none."""
    if not fields:
        return None
    told = "; ".join(f"{one.path}: {one.expected}" if one.path else one.expected for one in fields[:FIELDS_TOLD])
    return f"Invalid params: {told}{'; ...' if len(fields) > FIELDS_TOLD else ''}"

"""Many items in one call: how they are given, and what is answered.

Owns the shape alone; each resource brings the struct of an item.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, TypeVar

from msgspec import Meta, Struct

T = TypeVar("T")

MAX_ITEMS = 500

# As they came: each is checked by itself, so that a bad one spoils none of the others.
Items = Annotated[
    list[dict[str, Any]],
    Meta(
        min_length=1,
        max_length=MAX_ITEMS,
        description="Each as the method for one takes it; each gets its row or its own error.",
    ),
]


class ItemError(Struct, frozen=True):
    """Why one item was not taken; same shape as a reply's error."""

    error: dict[str, Any]


class Answers(Struct, Generic[T], frozen=True):
    """What a method for many items answers, in the order of the request: rows, and `{"error": {...}}` for the rest."""

    items: list[T | ItemError]

"""The field types that more than one resource uses, and the two bases of all parameter structs.

Owns the limits that a single field can break. Knows no resource.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

T = TypeVar("T")

MAX_SAFE_INTEGER = 2**53 - 1  # past this a JavaScript client silently rounds
MAX_PAGE = 500
DEFAULT_PAGE = 50

Id = Annotated[int, Meta(ge=1, le=MAX_SAFE_INTEGER, description="Row id; never used twice.")]
TimeMs = Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER, description="Milliseconds since 1970, UTC.")]
Name = Annotated[str, Meta(min_length=1, max_length=512)]
Limit = Annotated[int, Meta(ge=1, le=MAX_PAGE, description="How many items at most.")]
Offset = Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER, description="Items to pass over; not with cursor.")]
# long enough for the longest name, by which a list may be sorted
Cursor = Annotated[str, Meta(max_length=4096, description="nextCursor of the page before; not with offset.")]
Metadata = dict[str, Any]
VectorState = Literal["indexed", "pending", "dead", "none"]
IndexedCollection = Literal["episodes", "entities", "summaries", "messages", "vectors"]
Key = Annotated[str, Meta(min_length=1, max_length=512)] | Annotated[
    int, Meta(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER)
]  # a caller's own id; 5 and "5" are two


class Record(Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of what the store holds and the wire answers."""


class Params(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Base of a method's parameters: unknown names are refused."""


class Mutation(Params, frozen=True, kw_only=True):
    """Base of the parameters of every method that changes something."""

    idempotency_key: Annotated[
        str | None,
        Meta(description="The same key and parameters within 24 h get the same reply; nothing is done twice."),
    ] = None

    def __post_init__(self) -> None:
        """Hold the key's length here: a constraint on a union of str and None binds to neither."""
        if self.idempotency_key is not None and not 1 <= len(self.idempotency_key) <= 200:
            raise ValueError("expected `idempotencyKey` of 1 to 200 characters")


class Page(Params, frozen=True, kw_only=True):
    """Base of the parameters of a list."""

    limit: Limit = DEFAULT_PAGE
    cursor: Cursor | None = None
    offset: Offset | None = None

    def __post_init__(self) -> None:
        """A page begins in one place."""
        if self.cursor is not None and self.offset is not None:
            raise ValueError("expected one of `cursor` and `offset`, got both")


class NoParams(Params, frozen=True, kw_only=True):
    """For a method that takes nothing."""


class Listing(Struct, Generic[T], frozen=True, kw_only=True, rename="camel"):
    """What a list answers."""

    items: list[T]
    next_cursor: str | None = None


class Deletion(Record, frozen=True, kw_only=True):
    """The receipt of a delete: rows that went, by table, and points queued for removal from the index.

    `outbox.wait {throughSeq: outboxSeq}` tells when these points are gone; 0 where none was queued.
    """

    deleted: dict[str, int]
    points_queued: int
    outbox_seq: int = 0


class Wait(Mutation, frozen=True, kw_only=True):
    """Base of the parameters of a write that will be indexed."""

    wait_for: Annotated[
        Literal["indexed"] | None, Meta(description='"indexed" answers when the row is in the vector index.')
    ] = None
    timeout_ms: Annotated[
        int, Meta(ge=1, le=60_000, description="How long waitFor waits; then the reply says pending.")
    ] = 10_000


UNSET = msgspec.UNSET
UnsetType = msgspec.UnsetType

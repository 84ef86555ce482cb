"""The outbox as callers see it: work that the index still owes to the rows."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from nexusd.model.fields import MAX_SAFE_INTEGER, Id, Mutation, Page, Params, Record, TimeMs

OutboxState = Literal["pending", "inflight", "dead"]
Seq = Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)]
BreakerState = Literal["closed", "open", "half_open"]


class OutboxRow(Record, frozen=True, kw_only=True):
    """One row that waits for the index, or was given up (state dead) and why."""

    seq: int
    collection: str
    row_id: Id
    version: int
    op: Literal["upsert", "delete"]
    state: OutboxState
    attempts: int
    not_before: TimeMs
    error_kind: str | None
    error: str | None
    created_at: TimeMs


class ListOutbox(Page, frozen=True, kw_only=True):
    """Parameters of outbox.list: oldest first."""

    state: Annotated[OutboxState | None, Meta(description="Only rows in this state.")] = None
    collection: Annotated[str | None, Meta(description="Only rows of this collection.")] = None


class BreakerReport(Struct, frozen=True, kw_only=True, rename="camel"):
    """A part that rows are delivered with: whether it is asked, or left alone for a while after a failure.

    `retryInMs` null: nothing keeps it from being asked. `failures` in a row, the last of which is `lastError`.
    """

    state: BreakerState
    failures: int
    last_error: str | None
    retry_in_ms: int | None


class OutboxStatus(Struct, frozen=True, kw_only=True, rename="camel"):
    """How far the index is behind the rows."""

    pending: int
    inflight: int
    dead: int
    oldest_age_ms: int | None
    rows_per_second: float
    drain_estimate_ms: int | None
    embedder: BreakerState
    index: BreakerState
    embedder_breaker: BreakerReport
    index_breaker: BreakerReport


class OutboxBacklog(Struct, frozen=True, kw_only=True, rename="camel"):
    """Rows that wait for the index. `oldestAgeMs` null: none waits."""

    pending: int
    inflight: int
    dead: int
    oldest_age_ms: int | None


class OutboxCollection(OutboxBacklog, frozen=True, kw_only=True):
    """What of one collection waits for the index."""

    collection: str


class OutboxReport(OutboxStatus, frozen=True, kw_only=True):
    """What outbox.status answers. `collections` are those that have rows in the outbox.

    `next`: what the next embedding model's collections still lack; null where none is being filled.
    """

    collections: list[OutboxCollection]
    next: OutboxBacklog | None


class WaitOutbox(Params, frozen=True, kw_only=True):
    """Parameters of outbox.wait: until the named rows, all rows, or the deletes of a receipt have left the outbox."""

    collection: Annotated[str | None, Meta(description="With rowIds: their collection.")] = None
    row_ids: Annotated[list[Id], Meta(max_length=500, description="Rows to wait for; all if empty.")] = []
    through_seq: Annotated[
        Seq | None, Meta(description="outboxSeq of a delete's receipt: wait for the deletes queued up to it alone.")
    ] = None
    erased: Annotated[
        bool,
        Meta(description="With throughSeq: also until nothing of what was deleted is in a file. Needs secureDelete."),
    ] = False
    timeout_ms: Annotated[int, Meta(ge=1, le=60_000, description="How long to wait at most.")] = 10_000

    def __post_init__(self) -> None:
        """A row is named by its collection and id together; a receipt by its number alone."""
        if self.row_ids and self.collection is None:
            raise ValueError("expected `collection` beside `rowIds`")
        if self.through_seq is not None and self.collection is not None:
            raise ValueError("expected `throughSeq` without `collection` and `rowIds`")
        if self.erased and self.through_seq is None:
            raise ValueError("expected `throughSeq` beside `erased`")


class WaitedOutbox(Struct, frozen=True, kw_only=True, rename="camel"):
    """What outbox.wait answers: done, or what is still pending or dead when the time was up.

    `erased`, where that was asked: whether what was deleted has left the files of the database and of the index.
    """

    done: bool
    pending: int
    dead: int
    erased: bool | None = None


class RetryOutbox(Mutation, frozen=True, kw_only=True):
    """Parameters of outbox.retry: the named dead letters, or all."""

    seqs: Annotated[list[Id], Meta(max_length=500, description="Which; all dead letters if empty.")] = []


class RetriedOutbox(Struct, frozen=True, kw_only=True, rename="camel"):
    """What outbox.retry answers."""

    retried: int

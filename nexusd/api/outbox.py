"""outbox.*: how far the index is behind the rows, and what was given up."""

from __future__ import annotations

from typing import Any

import apsw
import msgspec

from nexusd.api.receipts import receipt_for
from nexusd.clock import Clock
from nexusd.errors import InvalidParams, OutboxRowNotFound
from nexusd.field_errors import FieldError
from nexusd.model.fields import Listing, NoParams
from nexusd.model.outbox import (
    ListOutbox,
    OutboxBacklog,
    OutboxCollection,
    OutboxReport,
    OutboxRow,
    RetriedOutbox,
    RetryOutbox,
    WaitedOutbox,
    WaitOutbox,
)
from nexusd.store.backlog import count_collections, count_next
from nexusd.store.database import Database
from nexusd.store.idempotency import kept_reply
from nexusd.store.outbox import OutboxCounts, list_outbox, retry_dead, retry_next_dead
from nexusd.sync.erasing import Erasing
from nexusd.sync.worker import OutboxWorker
from nexusd.wire.methods import Call, Method

RETRIED = 1000  # rows a transaction: nobody's write waits for a hundred thousand of them


class OutboxApi:
    """The methods on the outbox."""

    def __init__(
        self, store: Database, worker: OutboxWorker, collections: tuple[str, ...], clock: Clock, erasing: Erasing
    ) -> None:
        self._erasing = erasing
        self._collections = collections
        self._store = store
        self._worker = worker
        self._clock = clock

    async def status(self, _call: Call, _params: NoParams) -> OutboxReport:
        """How far the index is behind."""
        collections, next_ = await self._store.read(_backlogs)
        now_ms = self._clock.now_ms()
        return OutboxReport(
            **msgspec.structs.asdict(self._worker.status()),
            collections=[
                OutboxCollection(collection=name, **_backlog(counts, now_ms))
                for name, counts in sorted(collections.items())
            ],
            next=None if next_ is None else OutboxBacklog(**_backlog(next_, now_ms)),
        )

    async def page(self, _call: Call, params: ListOutbox) -> Listing[OutboxRow]:
        """A page of rows still pending or dead."""
        self._known(params.collection)
        return await self._store.read(list_outbox, params)

    async def wait(self, _call: Call, params: WaitOutbox) -> WaitedOutbox:
        """Until the rows are indexed, or the points of a delete are gone, or the time is up."""
        if params.through_seq is not None:
            return await self._wait_for_deletes(params.through_seq, params.timeout_ms / 1000, erased=params.erased)
        self._known(params.collection)
        return await self._worker.wait_for(params.collection, params.row_ids, params.timeout_ms / 1000)

    def _known(self, collection: str | None) -> None:
        """Nothing ever waits under a name that was mistyped, and to say so would be a false comfort.

        Raises:
            InvalidParams: there is no such collection.
        """
        if collection is not None and collection not in self._collections:
            raise InvalidParams(fields=(FieldError("collection", f"one of {', '.join(self._collections)}"),))

    async def _wait_for_deletes(self, through_seq: int, timeout_s: float, *, erased: bool) -> WaitedOutbox:
        if erased and not self._erasing.on:
            raise InvalidParams(fields=(FieldError("erased", "false, or storage.secureDelete: true in the settings"),))
        began_s = self._clock.monotonic_s()
        waited = await self._worker.wait_for_deletes(through_seq, timeout_s)
        if not erased:
            return waited
        left_s = max(0.0, timeout_s - (self._clock.monotonic_s() - began_s))
        gone = waited.done and await self._erasing.wait(left_s)  # the index is told first: its files follow
        return WaitedOutbox(done=gone, pending=waited.pending, dead=waited.dead, erased=gone)

    async def retry(self, call: Call, params: RetryOutbox) -> RetriedOutbox | msgspec.Raw:
        """Queue dead letters again."""
        receipt, now_ms = receipt_for(call, "outbox.retry", params), self._clock.now_ms()
        retried = 0
        if not params.seqs and (receipt is None or self._store.peek(kept_reply, receipt, now_ms) is None):
            after: int | None = 0
            while after is not None:  # what a crash leaves is done by the same call again
                some, after = await self._store.write(retry_next_dead, after, RETRIED, now_ms)
                retried += some
        return await self._store.write_once(receipt, _retry, params, now_ms, retried)

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="outbox.status",
                summary="Tell how far the vector index is behind the rows, and how fast it catches up.",
                params=NoParams,
                result=OutboxReport,
                handler=self.status,
                role="read",
                example={},
            ),
            Method(
                name="outbox.list",
                summary="List the rows that are not indexed yet (pending, inflight) or given up (dead).",
                params=ListOutbox,
                result=Listing[OutboxRow],
                handler=self.page,
                role="read",
                example={"limit": 10},
            ),
            Method(
                name="outbox.wait",
                summary="Wait until the named rows, or all, are indexed, or until the points of a delete are gone.",
                params=WaitOutbox,
                result=WaitedOutbox,
                handler=self.wait,
                role="read",
                waits=True,
                example={"timeoutMs": 1000},
            ),
            Method(
                name="outbox.retry",
                summary="Queue dead letters again: the named ones, or all.",
                params=RetryOutbox,
                result=RetriedOutbox,
                handler=self.retry,
                role="write",
                mutates=True,
                errors=(OutboxRowNotFound,),
                example={},
                subject=lambda params, result: {"seqs": params.seqs, "retried": result.retried},
            ),
        ]


def _backlogs(db: apsw.Connection) -> tuple[dict[str, OutboxCounts], OutboxCounts | None]:
    return count_collections(db), count_next(db)


def _backlog(counts: OutboxCounts, now_ms: int) -> dict[str, Any]:
    """The fields of an OutboxBacklog."""
    return {
        "pending": counts.pending,
        "inflight": counts.inflight,
        "dead": counts.dead,
        "oldest_age_ms": None if counts.oldest_ms is None else max(0, now_ms - counts.oldest_ms),
    }


def _retry(db: apsw.Connection, params: RetryOutbox, now_ms: int, already: int) -> RetriedOutbox:
    return RetriedOutbox(retried=already + retry_dead(db, params.seqs, now_ms))

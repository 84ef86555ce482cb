"""outbox.*: how far the index is behind the rows, and what was given up."""

from __future__ import annotations

import apsw
import msgspec

from nexusd.api.receipts import receipt_for
from nexusd.clock import Clock
from nexusd.errors import FieldError, InvalidParams, OutboxRowNotFound
from nexusd.model.fields import Listing, NoParams
from nexusd.model.outbox import (
    ListOutbox,
    OutboxRow,
    OutboxStatus,
    RetriedOutbox,
    RetryOutbox,
    WaitedOutbox,
    WaitOutbox,
)
from nexusd.store.database import Database
from nexusd.store.outbox import list_outbox, retry_dead
from nexusd.sync.worker import OutboxWorker
from nexusd.wire.methods import Call, Method


class OutboxApi:
    """The methods on the outbox."""

    def __init__(
        self, store: Database, worker: OutboxWorker, collections: tuple[str, ...], clock: Clock
    ) -> None:
        self._collections = collections
        self._store = store
        self._worker = worker
        self._clock = clock

    def status(self, _call: Call, _params: NoParams) -> OutboxStatus:
        """How far the index is behind."""
        return self._worker.status()

    async def page(self, _call: Call, params: ListOutbox) -> Listing[OutboxRow]:
        """A page of rows still pending or dead."""
        return await self._store.read(list_outbox, params)

    async def wait(self, _call: Call, params: WaitOutbox) -> WaitedOutbox:
        """Until the rows are indexed, or the time is up."""
        if params.collection is not None and params.collection not in self._collections:
            expected = f"one of {', '.join(self._collections)}"
            raise InvalidParams(fields=(FieldError("collection", expected),))
        return await self._worker.wait_for(params.collection, params.row_ids, params.timeout_ms / 1000)

    async def retry(self, call: Call, params: RetryOutbox) -> RetriedOutbox | msgspec.Raw:
        """Queue dead letters again."""
        receipt = receipt_for(call, "outbox.retry", params)
        return await self._store.write_once(receipt, _retry, params, self._clock.now_ms())

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="outbox.status",
                summary="Tell how far the vector index is behind the rows, and how fast it catches up.",
                params=NoParams,
                result=OutboxStatus,
                handler=self.status,
                role="read",
                immediate=True,
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
                summary="Wait until the named rows, or all, are indexed.",
                params=WaitOutbox,
                result=WaitedOutbox,
                handler=self.wait,
                role="read",
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


def _retry(db: apsw.Connection, params: RetryOutbox, now_ms: int) -> RetriedOutbox:
    return RetriedOutbox(retried=retry_dead(db, params.seqs, now_ms))

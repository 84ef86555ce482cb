"""summaries.*: condensed runs of a session's exchanges."""

from __future__ import annotations

import msgspec

from nexusd.api.receipts import receipt_for
from nexusd.api.vector_wait import VectorWait
from nexusd.clock import Clock
from nexusd.errors import SessionNotFound, SummaryNotFound
from nexusd.model.fields import Deletion, Listing
from nexusd.model.summaries import (
    CreateSummary,
    DeleteSummary,
    GetSummary,
    ListPendingSummaries,
    ListSummaries,
    PendingSummary,
    Summary,
)
from nexusd.store.database import Database
from nexusd.store.summaries import delete_summary, insert_summary, list_summaries, select_summary
from nexusd.store.unsummarised import list_unsummarised
from nexusd.sync.worker import OutboxWorker
from nexusd.wire.methods import Call, Method


class SummariesApi:
    """The methods on summaries."""

    def __init__(self, store: Database, worker: OutboxWorker, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._wait = VectorWait(store, worker, "summaries", Summary, select_summary)

    async def create(self, call: Call, params: CreateSummary) -> Summary | msgspec.Raw:
        """Store a summary."""
        receipt = receipt_for(call, "summaries.create", params)
        stored = await self._store.write_once(receipt, insert_summary, params, self._clock.now_ms())
        return await self._wait.one(stored, params)

    async def page(self, _call: Call, params: ListSummaries) -> Listing[Summary]:
        """A page of a session's summaries, newest first."""
        return await self._store.read(list_summaries, params)

    def get(self, _call: Call, params: GetSummary) -> Summary:
        """One summary by its id."""
        return self._store.peek(select_summary, params.id)

    async def delete(self, call: Call, params: DeleteSummary) -> Deletion | msgspec.Raw:
        """Remove a summary."""
        receipt = receipt_for(call, "summaries.delete", params)
        return await self._store.write_once(receipt, delete_summary, params.id)

    async def pending(self, _call: Call, params: ListPendingSummaries) -> Listing[PendingSummary]:
        """Sessions with exchanges that no summary covers."""
        return await self._store.read(list_unsummarised, params)

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="summaries.create",
                summary="Store a summary of a session, or of a run of its exchanges.",
                params=CreateSummary,
                result=Summary,
                handler=self.create,
                role="write",
                mutates=True,
                errors=(SessionNotFound,),
            ),
            Method(
                name="summaries.list",
                summary="List the summaries of a session, newest first.",
                params=ListSummaries,
                result=Listing[Summary],
                handler=self.page,
                role="read",
                errors=(SessionNotFound,),
            ),
            Method(
                name="summaries.get",
                summary="Get a summary by its id.",
                params=GetSummary,
                result=Summary,
                handler=self.get,
                role="read",
                immediate=True,
                errors=(SummaryNotFound,),
            ),
            Method(
                name="summaries.delete",
                summary="Delete a summary; answers what went.",
                params=DeleteSummary,
                result=Deletion,
                handler=self.delete,
                role="write",
                mutates=True,
                errors=(SummaryNotFound,),
            ),
            Method(
                name="summaries.pending",
                summary="List the sessions with exchanges that no summary covers, the longest waiting first.",
                params=ListPendingSummaries,
                result=Listing[PendingSummary],
                handler=self.pending,
                role="read",
                example={"minEpisodes": 10},
            ),
        ]

"""`waitFor: "indexed"`: replies that are held back until the row can be found by meaning.

Owns what such a reply says: the row as it was written, with the state of its vector as it is then. A repeated
call waits as the first one did, and its reply stays JSON: so the wire knows that nothing was changed this time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, cast

import apsw
import msgspec

from nexusd.api.bulk import kept_answers
from nexusd.errors import NotFound
from nexusd.model.bulk import Answers, ItemError
from nexusd.model.fields import IndexedCollection, VectorState, Wait
from nexusd.store.database import Database
from nexusd.sync.worker import OutboxWorker


class IndexedRecord(Protocol):
    """A row of a table that is kept in the index."""

    @property
    def id(self) -> int:
        """The row's id."""

    @property
    def vector(self) -> VectorState:
        """Whether the index holds it."""


R = TypeVar("R", bound=IndexedRecord)


class VectorWait(Generic[R]):
    """The waiting of one resource; `select` answers the row of an id as it is now."""

    def __init__(
        self,
        store: Database,
        worker: OutboxWorker,
        collection: IndexedCollection,
        record: type[R],
        select: Callable[[apsw.Connection, int], IndexedRecord],
    ) -> None:
        self._store = store
        self._worker = worker
        self._collection = collection
        self._record = record
        self._select = select

    async def one(self, stored: R | msgspec.Raw, params: Wait) -> R | msgspec.Raw:
        """The reply to a write of one row."""
        if params.wait_for is None:
            return stored
        if isinstance(stored, msgspec.Raw):
            kept = msgspec.json.decode(stored, type=self._record)
            return msgspec.Raw(msgspec.json.encode(await self._waited(kept, params)))
        return await self._waited(stored, params)

    async def each(self, stored: Answers[R] | msgspec.Raw, params: Wait) -> Answers[R] | msgspec.Raw:
        """The reply to a write of many rows."""
        if params.wait_for is None:
            return stored
        if isinstance(stored, msgspec.Raw):
            kept = kept_answers(stored, self._record)
            return msgspec.Raw(msgspec.json.encode(await self._each_waited(kept, params)))
        return await self._each_waited(stored, params)

    async def _waited(self, stored: R, params: Wait) -> R:
        await self._worker.wait_for(self._collection, [stored.id], params.timeout_ms / 1000)
        return self._now(stored)

    async def _each_waited(self, stored: Answers[R], params: Wait) -> Answers[R]:
        ids = [item.id for item in stored.items if not isinstance(item, ItemError)]
        if ids:     # none would mean all
            await self._worker.wait_for(self._collection, ids, params.timeout_ms / 1000)
        return Answers([item if isinstance(item, ItemError) else self._now(item) for item in stored.items])

    def _now(self, stored: R) -> R:
        try:
            state = self._store.peek(self._select, stored.id).vector
        except NotFound:    # deleted while we waited; the write that we answer for stood
            state = "none"
        row: R = msgspec.structs.replace(cast("Any", stored), vector=state)  # a struct, which no protocol can say
        return row

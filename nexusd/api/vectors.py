"""vectors.*: texts under the caller's own ids, found by what they mean or by the caller's own vectors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import apsw
import msgspec

from nexusd.api.bulk import checked_items, ids_of, kept_answers, write_each
from nexusd.api.receipts import receipt_for
from nexusd.clock import Clock
from nexusd.errors import DimensionMismatch, EmbedderUnavailable, IndexUnavailable, VectorNotFound
from nexusd.model.bulk import Answers, ItemError
from nexusd.model.fields import Deletion, Listing, Wait
from nexusd.model.numbers import packed
from nexusd.model.vectors import (
    DeleteVector,
    GetVector,
    ListVectors,
    NewVector,
    SearchVectors,
    SimilarText,
    SimilarTexts,
    StoredText,
    StoredVector,
    StoreVector,
    StoreVectors,
)
from nexusd.retrieval.filter_json import parse_filter
from nexusd.retrieval.similar import SimilaritySearch
from nexusd.store.database import Database
from nexusd.store.indexed import vector_states
from nexusd.store.vectors import (
    count_pending,
    delete_vector,
    list_vectors,
    select_texts,
    select_vector,
    upsert_vector,
)
from nexusd.sync.worker import OutboxWorker
from nexusd.wire.methods import Call, Method

COLLECTION: Final = "vectors"


class VectorsApi:
    """The methods on texts with vectors."""

    def __init__(self, store: Database, worker: OutboxWorker, similar: SimilaritySearch, clock: Clock) -> None:
        self._store = store
        self._worker = worker
        self._similar = similar
        self._clock = clock

    async def store(self, call: Call, params: StoreVector) -> StoredText | msgspec.Raw:
        """Store a text under its id."""
        receipt = receipt_for(call, "vectors.store", params)
        stored = await self._store.write_once(
            receipt, _upsert, params, self._similar.space, self._clock.now_ms()
        )
        if params.wait_for is None:
            return stored
        if isinstance(stored, msgspec.Raw):  # a repeated call waits as the first one did, and its reply stays JSON
            (kept,) = await self._indexed([msgspec.json.decode(stored, type=StoredText)], params)
            return msgspec.Raw(msgspec.json.encode(kept))
        (stored,) = await self._indexed([stored], params)
        return stored

    async def store_many(self, call: Call, params: StoreVectors) -> Answers[StoredText] | msgspec.Raw:
        """Store many texts in one transaction, each with its row or its own error."""
        receipt = receipt_for(call, "vectors.storeMany", params)
        items = checked_items(NewVector, params.items, call)
        stored = await self._store.write_once(
            receipt, write_each, items, call.request_id, _upsert, self._similar.space, self._clock.now_ms()
        )
        if params.wait_for is None:
            return stored
        if isinstance(stored, msgspec.Raw):
            kept = await self._each_indexed(kept_answers(stored, StoredText), params)
            return msgspec.Raw(msgspec.json.encode(kept))
        return await self._each_indexed(stored, params)

    async def get(self, _call: Call, params: GetVector) -> StoredVector:
        """One text by the caller's id, with the caller's own vector."""
        return await self._store.read(select_vector, params.id)

    async def page(self, _call: Call, params: ListVectors) -> Listing[StoredText]:
        """A page of texts, newest first."""
        return await self._store.read(list_vectors, params)

    async def delete(self, call: Call, params: DeleteVector) -> Deletion | msgspec.Raw:
        """Remove a text."""
        receipt = receipt_for(call, "vectors.delete", params)
        return await self._store.write_once(receipt, delete_vector, params.id)

    async def search(self, _call: Call, params: SearchVectors) -> SimilarTexts:
        """The nearest texts."""
        where = parse_filter(params.filter, COLLECTION)
        # before the search: what is indexed during it may be in it
        pending = await self._store.read(count_pending)
        if params.query_embedding is not None:
            vector = packed(params.query_embedding, self._similar.dimension, "queryEmbedding")
            found = await self._similar.near(COLLECTION, vector, params.limit, where, select_texts)
        else:
            found = await self._similar.near_text(COLLECTION, params.query or "", params.limit, where, select_texts)
        return SimilarTexts(
            items=[SimilarText(**msgspec.structs.asdict(text), similarity=score) for text, score in found.hits],
            pending=pending,
            degraded=found.degraded,
            truncated=found.truncated,
        )

    async def _each_indexed(self, stored: Answers[StoredText], params: Wait) -> Answers[StoredText]:
        rest = iter(await self._indexed([i for i in stored.items if not isinstance(i, ItemError)], params))
        return Answers([item if isinstance(item, ItemError) else next(rest) for item in stored.items])

    async def _indexed(self, stored: Iterable[StoredText], params: Wait) -> list[StoredText]:
        """The rows as they were written, with the states of their vectors when they are indexed or the time is up."""
        texts = list(stored)
        row_ids = [text.row_id for text in texts]
        if row_ids:  # none would mean all
            await self._worker.wait_for(COLLECTION, row_ids, params.timeout_ms / 1000)
        states = self._store.peek(vector_states, COLLECTION, row_ids)
        return [msgspec.structs.replace(text, vector=states.get(text.row_id, "none")) for text in texts]

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="vectors.store",
                summary="Store a text under an id of your own, or replace it; with your own vector or embedded here.",
                params=StoreVector,
                result=StoredText,
                handler=self.store,
                role="write",
                mutates=True,
                errors=(DimensionMismatch,),
                example={"id": "note-1", "text": "The key lies under the flowerpot."},
            ),
            Method(
                name="vectors.storeMany",
                summary="Store up to 500 texts in one transaction, each with its row or its own error.",
                params=StoreVectors,
                result=Answers[StoredText],
                handler=self.store_many,
                role="write",
                mutates=True,
                example={"items": [{"id": 5, "text": "by number"}, {"id": "5", "text": "by name"}]},
                subject=ids_of,
            ),
            Method(
                name="vectors.search",
                summary="Find the texts nearest to a vector or a text, best first.",
                params=SearchVectors,
                result=SimilarTexts,
                handler=self.search,
                role="read",
                errors=(DimensionMismatch, IndexUnavailable, EmbedderUnavailable),
                example={"query": "where is the key?", "limit": 3},
            ),
            Method(
                name="vectors.get",
                summary="Get a text by its id, with the vector that was given for it.",
                params=GetVector,
                result=StoredVector,
                handler=self.get,
                role="read",
                errors=(VectorNotFound,),
            ),
            Method(
                name="vectors.list",
                summary="List the texts, newest first, without their vectors.",
                params=ListVectors,
                result=Listing[StoredText],
                handler=self.page,
                role="read",
                example={"limit": 10},
            ),
            Method(
                name="vectors.delete",
                summary="Delete a text; answers what went.",
                params=DeleteVector,
                result=Deletion,
                handler=self.delete,
                role="write",
                mutates=True,
                errors=(VectorNotFound,),
            ),
        ]


def _upsert(db: apsw.Connection, new: NewVector | StoreVector, space: tuple[str, int], now_ms: int) -> StoredText:
    model, dimension = space
    embedding = None if new.embedding is None else packed(new.embedding, dimension, "embedding")
    return upsert_vector(db, new, embedding, model, now_ms)

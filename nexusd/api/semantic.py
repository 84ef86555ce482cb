"""semantic.*: the collections of the vector index as such."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import apsw
import msgspec

from nexusd.api.receipts import receipt_for
from nexusd.clock import Clock
from nexusd.errors import DimensionMismatch, EmbedderUnavailable, IndexUnavailable, RowNotFound
from nexusd.model.fields import Deletion
from nexusd.model.memory import (
    Collection,
    EntityHit,
    EpisodeHit,
    MemoryFilter,
    MemoryHit,
    MemoryRecord,
    MessageHit,
    SummaryHit,
)
from nexusd.model.numbers import packed
from nexusd.model.semantic import DeletePoint, PointState, SearchPoints, SimilarMemories, UpsertPoint
from nexusd.retrieval.filter_json import parse_filter
from nexusd.retrieval.similar import SimilaritySearch
from nexusd.store.database import Database
from nexusd.store.indexed import vector_states
from nexusd.store.recall import select_memories
from nexusd.store.text_budget import TextBudget
from nexusd.sync.points import put_point, remove_point
from nexusd.sync.worker import OutboxWorker
from nexusd.wire.methods import Call, Method


class SemanticApi:
    """The methods on points. A caller's own vector belongs to the model that serves when it is given."""

    def __init__(
        self, store: Database, worker: OutboxWorker, similar: SimilaritySearch, clock: Clock
    ) -> None:
        self._store = store
        self._worker = worker
        self._similar = similar
        self._clock = clock

    async def upsert(self, call: Call, params: UpsertPoint) -> PointState | msgspec.Raw:
        """Put a row into the index, and wait for it."""
        model, dimension = self._similar.space
        vector = None if params.vector is None else packed(params.vector, dimension, "vector")
        # How long to wait changes nothing that is stored: it makes no other call of it.
        receipt = receipt_for(call, "semantic.upsert", msgspec.structs.replace(params, timeout_ms=1))
        queued = await self._store.write_once(
            receipt, put_point, params.collection, params.id, vector, model, self._clock.now_ms()
        )
        await self._worker.wait_for(params.collection, [params.id], params.timeout_ms / 1000)
        states = self._store.peek(vector_states, params.collection, [params.id])
        # without a state it was deleted while we waited
        state = PointState(collection=params.collection, id=params.id, vector=states.get(params.id, "none"))
        # the reply of a repeated call stays JSON, so that the wire knows that nothing was changed this time
        return msgspec.Raw(msgspec.json.encode(state)) if isinstance(queued, msgspec.Raw) else state

    async def delete(self, call: Call, params: DeletePoint) -> Deletion | msgspec.Raw:
        """Take a row's point out of the index, and wait for it."""
        receipt = receipt_for(call, "semantic.delete", msgspec.structs.replace(params, timeout_ms=1))
        deletion = await self._store.write_once(
            receipt, remove_point, params.collection, params.id, self._clock.now_ms()
        )
        await self._worker.wait_for(params.collection, [params.id], params.timeout_ms / 1000)
        return deletion

    async def search(self, _call: Call, params: SearchPoints) -> SimilarMemories:
        """The nearest rows of a collection."""
        collection = params.collection
        where = parse_filter(params.filter, collection)

        def select(db: apsw.Connection, ids: Sequence[int], budget: TextBudget) -> Mapping[int, MemoryRecord]:
            found = select_memories(db, [(collection, id_) for id_ in ids], MemoryFilter(), budget)
            return {id_: record for (_, id_), record in found.items()}

        if params.vector is not None:
            vector = packed(params.vector, self._similar.dimension, "vector")
            found = await self._similar.near(collection, vector, params.top_k, where, select)
        else:
            found = await self._similar.near_text(collection, params.query or "", params.top_k, where, select)
        return SimilarMemories(
            items=[_hit(collection, record, score) for record, score in found.hits],
            degraded=found.degraded,
            truncated=found.truncated,
        )

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="semantic.upsert",
                summary="Put a row into the vector index, embedded anew or with the vector given, and wait for it.",
                params=UpsertPoint,
                result=PointState,
                handler=self.upsert,
                role="write",
                mutates=True,
                errors=(RowNotFound, DimensionMismatch),
                subject=_point,
            ),
            Method(
                name="semantic.search",
                summary="Find the rows of a collection nearest to a text or a vector, with a filter in Qdrant's JSON.",
                params=SearchPoints,
                result=SimilarMemories,
                handler=self.search,
                role="read",
                errors=(DimensionMismatch, IndexUnavailable, EmbedderUnavailable),
                example={"collection": "episodes", "query": "the vegetable garden", "topK": 3},
            ),
            Method(
                name="semantic.delete",
                summary="Take a row's point out of the vector index, and wait for it; the row stays.",
                params=DeletePoint,
                result=Deletion,
                handler=self.delete,
                role="write",
                mutates=True,
                errors=(RowNotFound,),
                subject=_point,
            ),
        ]


def _point(params: UpsertPoint | DeletePoint, _result: object) -> dict[str, Any]:
    return {"collection": params.collection, "id": params.id}


def _hit(collection: Collection, record: MemoryRecord, score: float) -> MemoryHit:
    hit: Any = _HITS[collection]  # which record it takes, the table says and no type can
    made: MemoryHit = hit(id=record.id, score=score, record=record)
    return made


_HITS: dict[Collection, type[MemoryHit]] = {
    "episodes": EpisodeHit, "entities": EntityHit, "summaries": SummaryHit, "messages": MessageHit,
}  # fmt: skip

"""The nearest rows of one collection to a vector or a text, with a filter.

Owns the course of such a search: that every hit is a live row which passes the filter as it is now, and how long
the parts may take. There is no other engine to serve: a part that is down is the caller's error. Knows no SQL and
no wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from nexusd.embedding.serving import Serving
from nexusd.errors import EmbedderUnavailable, IndexUnavailable
from nexusd.index.filters import Filter, passes
from nexusd.index.index import Hit, Index, Vector
from nexusd.model.fields import IndexedCollection
from nexusd.model.memory import Part
from nexusd.retrieval.ghosts import OnDropped, nobody_minds
from nexusd.store.connection import Connection
from nexusd.store.database import Database
from nexusd.store.text_budget import TextBudget
from nexusd.store.unindexed import select_unindexed

PATIENCE_S = 10.0  # for either part: a model that was never asked before is loaded first
DEEPER = 4  # where hits turn out to be gone, look this many times as deep again
MAX_DEPTH = 10_000


class Versioned(Protocol):
    """A record of a row whose changes are counted."""

    @property
    def version(self) -> int:
        """How often it changed, and one."""


R = TypeVar("R", bound=Versioned)
Select = Callable[[Connection, Sequence[int], TextBudget], Mapping[int, R]]
Payloads = Callable[[Connection, str, Sequence[int]], Mapping[int, Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Similar(Generic[R]):
    """Records with their similarity, the nearest first. `truncated`: there was no room for more of the hits."""

    hits: list[tuple[R, float]]
    degraded: list[Part]
    truncated: bool


class SimilaritySearch:
    """Search of single collections.

    `complete` tells whether the index holds all that
    the outbox does not owe it. `payloads` are what rows would have in the index as they are now: by these the filter
    is asked again where the index holds an older version. `on_dropped` is told of hits whose row is gone.
    """

    def __init__(
        self,
        store: Database,
        index: Index,
        serving: Serving,
        *,
        payloads: Payloads,
        complete: Callable[[], bool] = lambda: True,
        on_dropped: OnDropped = nobody_minds,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._store = store
        self._index = index
        self._serving = serving
        self._payloads = payloads
        self._complete = complete
        self._on_dropped = on_dropped
        self._patience_s = patience_s

    @property
    def dimension(self) -> int:
        """Of every vector here."""
        return self._serving.model.embedder.fingerprint.dimension

    @property
    def space(self) -> tuple[str, int]:
        """What vectors given now are kept under, and their dimension: of one model, whatever begins to serve."""
        model = self._serving.model
        return model.key, model.embedder.fingerprint.dimension

    async def near_text(
        self, collection: IndexedCollection, query: str, limit: int, where: Filter | None, select: Select[R]
    ) -> Similar[R]:
        """The rows nearest to a text; `select` reads the rows of some ids, in order, as far as the budget goes.

        Raises:
            EmbedderUnavailable, IndexUnavailable: not now.
        """
        model = self._serving.model  # once: the vector means something among this model's alone
        try:
            async with asyncio.timeout(self._patience_s):
                vector = await model.embedder.embed_query(query)
        except TimeoutError:
            raise EmbedderUnavailable(f"The embedding model took longer than {self._patience_s:g} s.") from None
        return await self._near(model.physical(collection), collection, vector, limit, where, select)

    async def near(
        self, collection: IndexedCollection, vector: Vector, limit: int, where: Filter | None, select: Select[R]
    ) -> Similar[R]:
        """The rows nearest to a vector.

        Raises:
            IndexUnavailable: not now.
        """
        physical = self._serving.model.physical(collection)
        return await self._near(physical, collection, vector, limit, where, select)

    async def _near(
        self,
        physical: str,
        collection: IndexedCollection,
        vector: Vector,
        limit: int,
        where: Filter | None,
        select: Select[R],
    ) -> Similar[R]:
        depth = limit
        while True:
            complete = self._complete()
            hits = await self._hits(physical, vector, depth, where)
            # also after it: an index that was lost meanwhile comes up empty, and answers
            degraded: list[Part] = [] if complete and self._complete() else ["index"]
            budget = TextBudget()
            rows, gone = await self._store.read(self._live_rows, collection, hits, where, select, budget)
            live = [(rows[hit.id], hit.score) for hit in hits if hit.id in rows]
            if len(live) >= limit or budget.exhausted or len(hits) < depth or depth >= MAX_DEPTH:
                if gone:
                    self._on_dropped(collection, gone)
                return Similar(live[:limit], degraded, truncated=budget.exhausted and len(live) < limit)
            depth = min(DEEPER * depth, MAX_DEPTH)

    async def _hits(self, physical: str, vector: Vector, depth: int, where: Filter | None) -> list[Hit]:
        try:
            async with asyncio.timeout(self._patience_s):
                return await self._index.search(physical, vector, depth, where)
        except TimeoutError:
            raise IndexUnavailable(f"The vector index took longer than {self._patience_s:g} s.") from None

    def _live_rows(
        self,
        db: Connection,
        collection: str,
        hits: Sequence[Hit],
        where: Filter | None,
        select: Select[R],
        budget: TextBudget,
    ) -> tuple[dict[int, R], list[int]]:
        """Those of the rows that are there, are to be in the index, and pass the filter as they are now.

        And the hits that the index should not hold any more.
        """
        out = select_unindexed(db, collection, [hit.id for hit in hits])
        rows = dict(select(db, [hit.id for hit in hits if hit.id not in out], budget))
        gone = [] if budget.exhausted else [hit.id for hit in hits if hit.id not in rows]
        if where is not None:
            changed = [hit.id for hit in hits if hit.id in rows and rows[hit.id].version != hit.version]
            for row_id, payload in self._payloads(db, collection, changed).items():
                if not passes(where, row_id, payload):
                    del rows[row_id]
        return rows, gone

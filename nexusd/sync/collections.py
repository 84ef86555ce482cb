"""The physical collections of one embedding model, and whether they are complete.

Owns the comparison of rows and points. A physical collection is named for its model's key, so that vectors of two
models never meet in one search. Where the model serves, deletes go to the collections that are kept of others too,
and other readers of the index find the collections under their logical names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import apsw
import structlog

from nexusd.embedding.serving import KeyedModel
from nexusd.errors import DimensionMismatch, RpcError
from nexusd.index.index import CollectionSpec, Index, PointVersion
from nexusd.index.server_errors import CollectionTaken, ForeignCollection
from nexusd.store.database import Database
from nexusd.store.meta import get_meta, incarnation_of, set_meta
from nexusd.store.outbox import Queue, requeue_collection
from nexusd.store.reconciling import (
    RowVersion,
    count_queued,
    count_rows,
    queue_deletes,
    queue_upserts,
    row_versions,
)
from nexusd.sync.sources import LOADERS

SLICE_ROWS = 2000  # one slice is one short read transaction


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a walk over rows and points found, and queued for mending."""

    rows: int
    missing: int
    stale: int
    orphaned: int

    @property
    def agrees(self) -> bool:
        """Whether the index held exactly the rows."""
        return self.missing == self.stale == self.orphaned == 0


class Collections:
    """The collections of one embedding model. `kept` are those of others that deletes go to as well."""

    def __init__(
        self,
        store: Database,
        index: Index,
        model: KeyedModel,
        *,
        queue: Queue = "outbox",
        kept: Callable[[str], Sequence[CollectionSpec]] = lambda _collection: (),
    ) -> None:
        self._store = store
        self._index = index
        self._model = model
        self._queue: Queue = queue
        self._kept = kept
        self._incarnations: dict[str, str] = {}
        self._lost: set[str] = set()  # kept collections that cannot be used
        self._refused: dict[str, str] = {}  # logical collections that cannot be filled, and why
        self._log = structlog.get_logger("nexusd.collections")

    def physical(self, collection: str) -> str:
        """The physical collection that serves this logical one."""
        return self._model.physical(collection)

    @property
    def logical(self) -> tuple[str, ...]:
        """All logical collections."""
        return tuple(LOADERS)

    @property
    def usable(self) -> tuple[str, ...]:
        """Those that can be filled, as `prepare` found them."""
        return tuple(name for name in LOADERS if name not in self._refused)

    @property
    def trouble(self) -> str:
        """Why the others cannot be filled; empty where there are none."""
        return "; ".join(dict.fromkeys(self._refused.values()))

    def holders(self, collection: str) -> list[str]:
        """The physical collections that may hold a row's point."""
        kept = [spec.name for spec in self._kept(collection)]
        return [self.physical(collection), *(name for name in kept if name not in self._lost)]

    def adopt(self, other: Collections) -> None:
        """Stand for another model's collections from now on, which are in order as far as they themselves know."""
        self._model, self._incarnations, self._refused = other._model, other._incarnations, other._refused

    async def prepare(self, now_ms: int) -> None:
        """Make the physical collections where missing, and mend what the index lost or kept too long.

        One that cannot be used needs people; the others need not wait for them.

        Raises:
            IndexUnavailable: it does not answer, or no collection can be used.
            DimensionMismatch: all collections of these names have another dimension.
        """
        for collection in self.logical:
            try:
                await self._prepare(collection, now_ms)
            except (DimensionMismatch, ForeignCollection, CollectionTaken) as error:
                self._refuse(collection, error)
                if not self.usable:
                    raise
            else:
                self._refused.pop(collection, None)
        if self._queue == "outbox":
            await self._open_kept()
            await self._index.publish({collection: self.physical(collection) for collection in self.usable})

    async def _prepare(self, collection: str, now_ms: int) -> None:
        target = self.physical(collection)
        incarnation = await self._index.ensure(CollectionSpec(target, self._model.embedder.fingerprint.dimension))
        points = await self._index.count(target)
        if points and await self._store.read(get_meta, incarnation_of(target)) != incarnation:
            # filled from another database, or by a run that this one does not remember: versions prove nothing
            await self._store.write(requeue_collection, collection, now_ms, queue=self._queue)
        if not await self._store.read(_looks_complete, collection, target, incarnation, points, self._queue):
            found = await self.compare(collection, now_ms)
            if not found.agrees:
                self._log.warning(
                    "index differs from the rows; mending", collection=collection, missing=found.missing,
                    stale=found.stale, orphaned=found.orphaned,
                )
            await self._store.write(set_meta, incarnation_of(target), incarnation)
        self._incarnations[target] = incarnation

    def _refuse(self, collection: str, error: RpcError) -> None:
        if self._refused.get(collection) != error.message:
            self._log.error("collection cannot be used", collection=collection, reason=error.message)
        self._refused[collection] = error.message
        self._incarnations.pop(self.physical(collection), None)

    async def _open_kept(self) -> None:
        for spec in [spec for collection in self.logical for spec in self._kept(collection)]:
            try:
                await self._index.ensure(spec)
            except (DimensionMismatch, ForeignCollection, CollectionTaken) as error:
                # somebody else's by now: no row of ours is in it, and what serves need not wait for it
                if spec.name not in self._lost:
                    self._log.error("kept collection cannot be used", collection=spec.name, reason=error.message)
                self._lost.add(spec.name)
            else:
                self._lost.discard(spec.name)

    def intact(self) -> bool:
        """Whether the index still holds the collections that `prepare` found in order."""
        now = self._index.health().incarnations
        return all(now.get(target, known) == known for target, known in self._incarnations.items())

    async def compare(self, collection: str, now_ms: int) -> Comparison:
        """Walk rows and points side by side by id; what differs and is not queued yet is queued."""
        target = self.physical(collection)
        after, rows, missing, stale, orphaned = 0, 0, 0, 0, 0
        while True:
            points = await self._index.scroll(target, after, SLICE_ROWS)
            versions = await self._store.read(row_versions, collection, after, SLICE_ROWS)
            if not points and not versions:
                return Comparison(rows, missing, stale, orphaned)
            # Both sides are complete up to here; what lies beyond belongs to the next slice.
            ends = [side[-1].id for side in (points, versions) if len(side) == SLICE_ROWS]
            until = min(ends) if ends else max(side[-1].id for side in (points, versions) if side)
            differences = list(_differences(points, versions, until))
            lost = [row_id for kind, row_id in differences if kind != "orphaned"]
            extra = [row_id for kind, row_id in differences if kind == "orphaned"]
            # A row that waits in the outbox anyway is no difference: the index is visibly behind, not wrong.
            write, queue = self._store.write, self._queue
            queued = set(await write(queue_upserts, collection, lost, now_ms, queue=queue)) if lost else set()
            removed = await write(queue_deletes, collection, extra, now_ms, queue=queue) if extra else []
            rows += sum(1 for row in versions if row.id <= until)
            missing += sum(1 for kind, row_id in differences if kind == "missing" and row_id in queued)
            stale += sum(1 for kind, row_id in differences if kind == "stale" and row_id in queued)
            orphaned += len(removed)
            after = until


def _looks_complete(
    db: apsw.Connection, collection: str, target: str, incarnation: str, points: int, queue: Queue
) -> bool:
    """The cheap check: the same collection as last time, and no more points off than the outbox explains."""
    if get_meta(db, incarnation_of(target)) != incarnation:
        return False
    return abs(count_rows(db, collection) - points) <= count_queued(db, collection, queue=queue)


def _differences(
    points: Sequence[PointVersion], rows: Sequence[RowVersion], until: int
) -> Iterator[tuple[str, int]]:
    """A sorted merge of two ascending lists, up to and including id `until`."""
    held = {point.id: point.version for point in points if point.id <= until}
    for row in rows:
        if row.id > until:
            break
        version = held.pop(row.id, None)
        if version is None:
            yield "missing", row.id
        elif version != row.version:
            yield "stale", row.id
    for row_id in held:
        yield "orphaned", row_id

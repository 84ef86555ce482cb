"""Which physical collection of the index stands behind each logical one, and whether it is complete.

Owns the pointers (kept in the store) and the comparison of rows and points. A physical collection is
named for the embedding's fingerprint, so that vectors of two models never meet in one search.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import apsw
import structlog

from nexusd.embedding.serving import KeyedModel
from nexusd.index.index import CollectionSpec, Index, PointVersion
from nexusd.store.database import Database
from nexusd.store.meta import get_meta, set_meta
from nexusd.store.outbox import requeue_collection
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


def _pointer(collection: str) -> str:
    return f"collection.{collection}"


def _incarnation(collection: str) -> str:
    return f"incarnation.{collection}"


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
    """The pointers from logical to physical collections, for one embedding model."""

    def __init__(self, store: Database, index: Index, model: KeyedModel) -> None:
        self._store = store
        self._index = index
        self._model = model
        self._fingerprint = model.embedder.fingerprint
        self._incarnations: dict[str, str] = {}
        self._log = structlog.get_logger("nexusd.collections")

    def physical(self, collection: str) -> str:
        """The physical collection that serves this logical one."""
        return self._model.physical(collection)

    @property
    def logical(self) -> tuple[str, ...]:
        """All logical collections."""
        return tuple(LOADERS)

    async def point(self, now_ms: int) -> None:
        """Let the pointers name this fingerprint's collections; rows of another model are queued anew."""
        targets = {collection: self.physical(collection) for collection in self.logical}
        for collection, queued in (await self._store.write(_repoint, targets, now_ms)).items():
            self._log.warning(
                "embedding model changed; all rows are embedded again",
                collection=collection, model=self._fingerprint.model, rows=queued,
            )

    async def prepare(self, now_ms: int) -> None:
        """Make the physical collections where missing, and mend what the index lost or kept too long.

        Raises:
            IndexUnavailable: it does not answer; nothing was changed.
            DimensionMismatch: a collection of this name has another dimension.
        """
        for collection in self.logical:
            target = self.physical(collection)
            incarnation = await self._index.ensure(CollectionSpec(target, self._fingerprint.dimension))
            points = await self._index.count(target)
            if points and await self._store.read(get_meta, _incarnation(collection)) != incarnation:
                # filled from another database, or by a run that this one does not remember: versions prove nothing
                await self._store.write(requeue_collection, collection, now_ms)
            if not await self._store.read(_looks_complete, collection, incarnation, points):
                found = await self.compare(collection, now_ms)
                if not found.agrees:
                    self._log.warning(
                        "index differs from the rows; mending", collection=collection, missing=found.missing,
                        stale=found.stale, orphaned=found.orphaned,
                    )
                await self._store.write(set_meta, _incarnation(collection), incarnation)
            self._incarnations[target] = incarnation

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
            queued = set(await self._store.write(queue_upserts, collection, lost, now_ms)) if lost else set()
            removed = await self._store.write(queue_deletes, collection, extra, now_ms) if extra else []
            rows += sum(1 for row in versions if row.id <= until)
            missing += sum(1 for kind, row_id in differences if kind == "missing" and row_id in queued)
            stale += sum(1 for kind, row_id in differences if kind == "stale" and row_id in queued)
            orphaned += len(removed)
            after = until


def _repoint(db: apsw.Connection, targets: Mapping[str, str], now_ms: int) -> dict[str, int]:
    """Set the pointers; of those that named another collection before, the number of rows queued."""
    requeued = {}
    for collection, target in targets.items():
        before = get_meta(db, _pointer(collection))
        if before == target:
            continue
        set_meta(db, _pointer(collection), target)
        if before is not None:
            requeued[collection] = requeue_collection(db, collection, now_ms)
    return requeued


def _looks_complete(db: apsw.Connection, collection: str, incarnation: str, points: int) -> bool:
    """The cheap check: the same collection as last time, and no more points off than the outbox explains."""
    if get_meta(db, _incarnation(collection)) != incarnation:
        return False
    return abs(count_rows(db, collection) - points) <= count_queued(db, collection)


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

"""The walk over rows and index side by side: a sorted merge by id, in slices.

Owns the order of reading, and what counts as a difference. Rows, stored vectors and full text of a slice are read at
one moment, in one short transaction. Points cannot be: so what differs there is only suspected, and counts when it is
found again twice, each time between two looks at the row that find it unchanged and not queued. A row that changes
while the walk passes is queued by its very transaction, and leaves the outbox when the index has it on disk; so none is
reported that is merely on its way.

Between two slices the walk rests, so that writes get their share. Knows neither who asked nor when.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from nexusd.embedding.serving import KeyedModel, Serving
from nexusd.index.index import Index, PointVersion
from nexusd.model.fields import IndexedCollection
from nexusd.store.connection import Connection
from nexusd.store.database import Database
from nexusd.store.verifying import LAST_ID, RowState, Slice, read_slice, row_states, serving_key
from nexusd.sync.findings import Difference, Findings, Kind
from nexusd.sync.sources import TEXTS, content_hash, is_blank

SLICE_ROWS = 1000
BEFORE_ALL = -1  # a point of our own is never 0, but somebody else's may be
CONFIRMATIONS = 2  # one would do, but for a row that is taken out and put back between two looks
REST_S = 0.05  # after a slice, which takes some 15 ms: most of the time is the others'

Points = Mapping[int, Sequence[PointVersion]]
Suspect = tuple[RowState, Kind]  # as the row was when it was suspected, and of what
OnSlice = Callable[["Seen"], Awaitable[None]]


class Seen:
    """A slice as it was found: what was read of the store, and what differs."""

    def __init__(self, model: KeyedModel, read: Slice, stored: Difference, hashes: Mapping[int, str]) -> None:
        self.model = model
        self.read = read
        self.outdated = hashes  # of stored vectors that are of another text than their row
        self.difference: dict[Kind, list[int]] = {kind: list(ids) for kind, ids in stored.items()}


class ModelChangedError(Exception):
    """Another model began to serve: what was found of the one before says nothing."""


class Walk:
    """Walks over collections of one database; `epoch` is its own."""

    def __init__(self, store: Database, index: Index, serving: Serving) -> None:
        self._store = store
        self._index = index
        self._serving = serving

    async def over(self, collection: IndexedCollection, epoch: str, findings: Findings, on_slice: OnSlice) -> None:
        """Walk over a collection from end to end; each slice is told when it is counted.

        Raises:
            IndexUnavailable, Busy: not now.
            ModelChangedError: begin anew.
        """
        model = self._serving.model
        target = model.physical(collection)
        after = BEFORE_ALL
        while after < LAST_ID:
            points = await self._index.scroll(target, after, SLICE_ROWS)
            end = points[-1].id if len(points) >= SLICE_ROWS else LAST_ID
            seen = await self._store.read(_look, collection, model, after, end)
            until = seen.read.until
            held = [point for point in points if point.id <= until]
            suspects = _suspects(held, seen.read, epoch)
            seen.difference |= await self._confirmed(collection, target, epoch, suspects)
            if any(seen.difference.values()) and await self._store.read(serving_key) not in (None, model.key):
                await asyncio.sleep(REST_S)  # the outbox is another model's already, and that is about to serve
                raise ModelChangedError
            if self._serving.model is not model:
                raise ModelChangedError
            findings.points += len(held)
            _count(findings, seen)
            await on_slice(seen)
            after = until
            if after < LAST_ID:
                await asyncio.sleep(REST_S)

    async def orphans(self, collection: IndexedCollection, ids: Sequence[int]) -> list[int]:
        """Those of the ids that the index holds, though there is no such row and nothing is queued for it.

        Raises:
            IndexUnavailable, Busy: not now.
        """
        states = await self._store.read(row_states, collection, ids)
        target = self._serving.model.physical(collection)
        found = []
        for row_id in ids:
            if states[row_id] == RowState(None, queued=False):
                points = await self._index.scroll(target, row_id - 1, 1)
                found += [point.id for point in points if point.id == row_id]
        return found

    async def _confirmed(
        self, collection: IndexedCollection, target: str, epoch: str, suspects: dict[int, Suspect]
    ) -> dict[Kind, list[int]]:
        """Those of the suspects whose points really differ from the rows, by how they do."""
        for _ in range(CONFIRMATIONS):
            if not suspects:
                break
            held = await self._points(target, min(suspects), max(suspects))
            now = await self._store.read(row_states, collection, list(suspects))
            suspects = {
                row_id: suspect
                for row_id, suspect in suspects.items()
                if suspect == (now[row_id], _kind(now[row_id], held.get(row_id, ()), epoch))
            }
        confirmed: dict[Kind, list[int]] = {}
        for row_id, (_, kind) in suspects.items():
            confirmed.setdefault(kind, []).append(row_id)
        return confirmed

    async def _points(self, target: str, first: int, last: int) -> Points:
        """All points from the first id to the last."""
        found: list[PointVersion] = []
        after = first - 1
        while after < last:
            page = await self._index.scroll(target, after, SLICE_ROWS)
            found += page
            if len(page) < SLICE_ROWS:
                break
            after = page[-1].id
        return _by_id(point for point in found if point.id <= last)


def _look(db: Connection, collection: IndexedCollection, model: KeyedModel, after: int, end: int) -> Seen:
    """A slice of the store, and what in it differs from the rows."""
    read = read_slice(db, collection, model.key, after, end, SLICE_ROWS)
    text_of = TEXTS[collection]
    missing, outdated = [], {}
    for row_id, _, own_vector, *parts in read.rows:
        # A row that waits will get its vector; one that stays out, or whose vector is the caller's, needs none, and
        # what is kept of an earlier text is of no harm.
        if own_vector or row_id in read.queued or row_id in read.out:
            continue
        kept = read.hashes.get(row_id)
        text = text_of(*parts)
        if kept is None:
            if not is_blank(text):
                missing.append(row_id)
        elif kept != content_hash(text).hex():
            outdated[row_id] = kept
    stored: dict[Kind, list[int]] = {
        "vectorsMissing": missing,
        "vectorsOutdated": list(outdated),
        "vectorsWrongModel": read.unknown_models,
        "vectorsOrphaned": read.orphaned_vectors,
    }
    if read.worded is not None:
        ids = {row[0] for row in read.rows}
        stored["fullTextMissing"] = sorted(ids - read.worded)
        stored["fullTextOrphaned"] = sorted(read.worded - ids)
    return Seen(model, read, stored, outdated)


def _suspects(held: Sequence[PointVersion], read: Slice, epoch: str) -> dict[int, Suspect]:
    """What seems to differ between the points and the rows of a slice. Where all is well, this takes no step a row."""
    expected = {row[0]: row[1] for row in read.rows if row[0] not in read.out}
    versions = {point.id: point.version for point in held}
    ids = {row_id for row_id, _ in expected.items() ^ versions.items()}
    if len(versions) < len(held) or not {point.epoch for point in held} <= {"", epoch}:
        ids = expected.keys() | versions.keys()
    if not ids:
        return {}
    points = _by_id(held)
    suspects = {}
    for row_id in sorted(ids):
        state = RowState(expected.get(row_id), row_id in read.queued)
        if (kind := _kind(state, points.get(row_id, ()), epoch)) is not None:
            suspects[row_id] = (state, kind)
    return suspects


def _kind(row: RowState, points: Sequence[PointVersion], epoch: str) -> Kind | None:
    """How the points of an id differ from what the index should hold of it."""
    if row.queued:
        return None
    if not points:
        return None if row.version is None else "missing"
    if len(points) > 1:
        return "duplicated"
    (point,) = points
    if point.epoch not in ("", epoch):
        return "foreign"
    if row.version is None:
        return "orphaned"
    return None if point.version == row.version else "stale"


def _by_id(points: Iterable[PointVersion]) -> Points:
    found: dict[int, list[PointVersion]] = {}
    for point in points:
        found.setdefault(point.id, []).append(point)
    return found


def _count(findings: Findings, seen: Seen) -> None:
    read = seen.read
    findings.rows += len(read.rows)
    findings.unindexed += len(read.out)
    findings.dead += sum(state == "dead" for state in read.queued.values())
    findings.queued += sum(state != "dead" for state in read.queued.values())
    findings.stored_vectors += len(read.hashes)
    findings.add(seen.difference)

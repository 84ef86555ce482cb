"""Prepared loads go to the index, durably, and are then struck off the outbox.

Owns the order of these steps and what each failure of the index means for the rows. Knows neither texts nor the
embedder.

A load goes in slices, a few of them at a time, so that the index puts one on disk while it takes the next; rows of a
slice share its fate, rows of another do not. Nothing is struck off before the index has it on disk; the index need not
wait for that, so it is a step of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import structlog

from nexusd.errors import BadContent, Busy, DimensionMismatch, DiskFull, IndexUnavailable, ReadOnly, RpcError
from nexusd.index.index import Index, IndexDied, Point
from nexusd.store.database import Database
from nexusd.store.embeddings import forget_vectors
from nexusd.store.outbox import OutboxEntry, Queue, finish_batch
from nexusd.store.unindexed import finish_without_point
from nexusd.sync.preparing import Load
from nexusd.sync.setbacks import Setbacks
from nexusd.sync.throughput import Throughput

LANES = 2  # slices under way at a time: one is applied while another goes to disk; more would only be more in doubt


@dataclass(slots=True)
class Done:
    """Rows that the index has on disk, or has nothing of where it is to have nothing."""

    with_point: list[OutboxEntry] = field(default_factory=list)
    without_point: list[OutboxEntry] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows that share one call. No points: the index is to hold nothing of these rows."""

    entries: list[OutboxEntry]
    points: list[Point]


class Sending:
    """From loads to an index that holds them, for one model's collections."""

    def __init__(
        self,
        store: Database,
        index: Index,
        holders: Callable[[str], Sequence[str]],
        model: str,
        setbacks: Setbacks,
        throughput: Throughput,
        *,
        slice_rows: int,
        queue: Queue,
        answered: Callable[[], None],
        failed: Callable[[IndexUnavailable], None],
        reached: Callable[[str], None],
    ) -> None:
        """`holders` names collections of the index: the first takes points, deletes go to all of them. `model` is the
        key of its vectors. `answered` and `failed` are told how the index took it.
        """
        self._store = store
        self._index = index
        self._holders = holders
        self._model = model
        self._setbacks = setbacks
        self._throughput = throughput
        self._slice_rows = slice_rows
        self._queue: Queue = queue
        self._answered = answered
        self._failed = failed
        self._reached = reached
        self._away = False
        self._log = structlog.get_logger("nexusd.outbox")

    async def send(self, loads: Sequence[Load], done: Done) -> None:
        """Every row of the loads is in `done`, to be struck off, or was given back, postponed or buried.

        Raises:
            Busy, DiskFull, ReadOnly: the store did not take one of the latter; what is in `done` arrived for all that.
        """
        self._away = False
        waiting = deque(loads)
        while waiting and not self._away:
            await self._send_load(waiting.popleft(), done)
        if waiting:
            await self._setbacks.release([entry for load in waiting for entry in load.entries])

    async def strike_off(self, done: Done) -> None:
        """These rows owe the index nothing any more; those that have changed meanwhile stay."""
        if done.with_point:
            self._throughput.add(await self._store.write(finish_batch, done.with_point, queue=self._queue))
            self._reached("finished")
        if done.without_point:
            self._throughput.add(await self._store.write(finish_without_point, done.without_point, queue=self._queue))
            self._reached("finished_without_point")

    async def _send_load(self, load: Load, done: Done) -> None:
        blank = {entry.seq for entry in load.blank}
        waiting = deque(self._slices(load))
        arrived: list[OutboxEntry] = []

        async def lane() -> None:
            while waiting and not self._away:
                arrived.extend(await self._send_slice(load.collection, waiting.popleft()))

        outcomes = await asyncio.gather(*(lane() for _ in range(LANES)), return_exceptions=True)
        for outcome in outcomes:  # only now: nothing may be under way when the caller learns that the store refuses
            if outcome is not None:
                raise outcome
        if waiting:
            await self._setbacks.release([entry for each in waiting for entry in each.entries])
        if arrived and not self._away:  # a full index still removes, and is away for all that
            self._answered()
        self._setbacks.cleared(arrived)
        for entry in arrived:
            (done.without_point if entry.seq in blank else done.with_point).append(entry)

    def _slices(self, load: Load) -> Iterator[Slice]:
        for entries in (load.gone, load.blank):
            for at in range(0, len(entries), self._slice_rows):
                yield Slice(entries[at : at + self._slice_rows], [])
        for at in range(0, len(load.changed), self._slice_rows):
            changed = load.changed[at : at + self._slice_rows]
            yield Slice([entry for entry, _ in changed], [point for _, point in changed])

    async def _send_slice(self, collection: str, slice_: Slice) -> list[OutboxEntry]:
        """What of the slice the index has on disk; the rest was dealt with."""
        entries, holders = slice_.entries, self._holders(collection)
        try:
            if slice_.points:
                refused = await self._upsert(holders[0], slice_.points)
                self._reached("upserted")
            else:
                refused = {}
                for holder in holders:
                    await self._index.delete(holder, [entry.row_id for entry in entries])
                self._reached("deleted")
            if refused:
                await self._bury(entries, refused)
        except IndexUnavailable as error:
            if not self._away:  # another lane may have noticed
                self._away = True
                self._failed(error)
            if isinstance(error, IndexDied):
                await self._setbacks.suspect(entries, error.message)
            else:
                await self._setbacks.release(entries)
            return []
        except (Busy, DiskFull, ReadOnly):  # of the store
            raise
        except Exception as error:  # noqa: BLE001 - the top of a supervised task: logged, and the rows survive it
            self._log.exception("delivery failed")
            await self._setbacks.suspect(entries, type(error).__name__)
            return []
        return [entry for entry in entries if entry.row_id not in refused]

    async def _upsert(self, target: str, points: list[Point]) -> dict[int, RpcError]:
        """Send the points; answers those that the index will never take, found by halving."""
        try:
            await self._index.upsert(target, points)
        except (BadContent, DimensionMismatch) as error:
            if len(points) == 1:
                return {points[0].id: error}
            middle = len(points) // 2
            return await self._upsert(target, points[:middle]) | await self._upsert(target, points[middle:])
        return {}

    async def _bury(self, entries: Sequence[OutboxEntry], refused: dict[int, RpcError]) -> None:
        """Their stored vectors are what was refused: a retry must not meet them again."""
        collection = entries[0].collection
        await self._store.write(forget_vectors, collection, list(refused), self._model)
        for entry in entries:
            if (error := refused.get(entry.row_id)) is not None:
                await self._setbacks.bury(entry, error.kind, error.message)

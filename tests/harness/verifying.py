"""A verifier over a bench of the outbox, and every way to make index and rows differ."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from harness.outbox_bench import Bench

from nexusd.clock import Clock, SystemClock
from nexusd.config_sections import IndexConfig
from nexusd.index.index import Point
from nexusd.model.index import IndexReport
from nexusd.store.meta import get_epoch
from nexusd.sync.verify import Verifier

PATIENCE_S = 60.0


class Watched(Verifier):
    """One that tells when it has nothing to do."""

    rested: asyncio.Event

    async def _pause(self) -> None:
        self.rested.set()
        await super()._pause()


class Verifying:
    """One run of a verifier; `told` are its events."""

    def __init__(self, bench: Bench, clock: Clock, **config: Any) -> None:
        self.bench = bench
        self.complete = True
        self.told: list[Mapping[str, Any]] = []
        self.verifier = Watched(
            bench.store, bench.index, bench.serving, IndexConfig(**config), clock,
            complete=lambda: self.complete, publish=lambda topic, data: self.told.append({"topic": topic, **data}),
        )
        self.verifier.rested = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def verify(self, *collections: Any) -> IndexReport:
        return await self._done("verify", collections)

    async def repair(self, *collections: Any) -> IndexReport:
        return await self._done("repair", collections)

    async def _done(self, kind: Any, collections: Any) -> IndexReport:
        report = await self.verifier.check(kind, collections, PATIENCE_S)
        assert (report.state, report.error) == ("done", None)
        return report

    async def told_states(self, count: int) -> list[Any]:
        """The first so many events, as (job, state)."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.told) < count:
                await asyncio.sleep(0)
        return [(each["job"], each["state"]) for each in self.told]

    async def turn(self) -> None:
        """Let the task look what is due, do it, and come to rest again."""
        for _ in range(2):  # it may have been about to rest
            self.verifier.rested.clear()
            self.verifier._work.set()
            async with asyncio.timeout(PATIENCE_S):
                await self.verifier.rested.wait()


@contextlib.asynccontextmanager
async def verifying(bench: Bench, clock: Clock | None = None, **config: Any) -> AsyncIterator[Verifying]:
    """A verifier whose task runs."""
    made = Verifying(bench, clock or SystemClock(), **config)
    made.task = asyncio.create_task(made.verifier.run())
    try:
        yield made
    finally:
        made.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await made.task


# --- damage, each to a row of the exchanges that is settled ---


def vector(axis: int = 0) -> bytes:
    return struct.pack("<32f", *(float(n == axis) for n in range(32)))


async def _put(bench: Bench, row_id: int, version: int, epoch: str) -> None:
    target = bench.collections.physical("episodes")
    await bench.index.upsert(target, [Point(row_id, version, vector(), {"epoch": epoch})])


async def lose_point(bench: Bench, row_id: int) -> None:
    await bench.index.delete(bench.collections.physical("episodes"), [row_id])


async def age_point(bench: Bench, row_id: int) -> None:
    await _put(bench, row_id, 77, await bench.store.read(get_epoch))


async def haunt(bench: Bench, row_id: int) -> None:
    await _put(bench, row_id + 5000, 1, await bench.store.read(get_epoch))


async def swap_point(bench: Bench, row_id: int) -> None:
    await _put(bench, row_id, 1, "another database")


async def intrude(bench: Bench, row_id: int) -> None:
    await _put(bench, row_id + 5000, 1, "another database")


def _sql(*statements: str) -> Callable[[Bench, int], Awaitable[None]]:
    async def damage(bench: Bench, row_id: int) -> None:
        def run(db: Any) -> None:
            for statement in statements:
                db.execute(statement, {"id": row_id} if ":id" in statement else None)

        await bench.store.write(run)

    return damage


Damage = Callable[[Bench, int], Awaitable[None]]
# What is done to a row, how the report calls it, and how often the row is embedded to mend it.
DAMAGES: dict[str, tuple[Damage, str, int]] = {
    "a point is lost": (lose_point, "missing", 0),
    "a point is of another version": (age_point, "stale", 0),
    "a point has no row": (haunt, "orphaned", 0),
    "a row has another database's point": (swap_point, "foreign", 0),
    "another database's point has no row": (intrude, "foreign", 0),
    "a stored vector is lost": (_sql("DELETE FROM embeddings WHERE row_id = :id"), "vectorsMissing", 1),
    "a stored vector is of another text": (
        _sql("UPDATE embeddings SET content_hash = x'00112233445566778899aabbccddeeff' WHERE row_id = :id"),
        "vectorsOutdated", 1,
    ),
    "a stored vector has no row": (
        _sql("INSERT INTO embeddings VALUES ('episodes', 5000 + :id, 'x', 1, x'00', zeroblob(4))"),
        "vectorsOrphaned", 0,
    ),
    "a stored vector is of a model that nobody knows": (
        _sql("INSERT INTO embeddings VALUES ('episodes', :id, 'x', 1, x'00', zeroblob(4))"), "vectorsWrongModel", 0,
    ),
    "full text lacks a row": (
        _sql(
            "INSERT INTO episodes_fts (episodes_fts, rowid, user_message, ai_response)"
            " SELECT 'delete', id, user_message, ai_response FROM episodes WHERE id = :id"
        ),
        "fullTextMissing", 0,
    ),
    "full text has a row that there is not": (
        _sql("INSERT INTO episodes_fts (rowid, user_message, ai_response) VALUES (5000 + :id, 'ghost', 'ghost')"),
        "fullTextOrphaned", 0,
    ),
    "full text is empty": (_sql("INSERT INTO episodes_fts (episodes_fts) VALUES ('delete-all')"), "fullTextMissing", 0),
    "full text has other words": (
        _sql("INSERT INTO episodes_fts (rowid, user_message, ai_response) VALUES (:id, 'ghost', 'ghost')"), "", 0,
    ),
}  # fmt: skip

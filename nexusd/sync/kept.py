"""Embedding models that served before: kept so that going back costs nothing, and then let go.

Owns when a kept model goes, and in which order what belongs to it does: its collections, its stored vectors, its name.
A crash in between leaves the name, and what is left goes with it later.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import apsw
import structlog

from nexusd.clock import Clock
from nexusd.errors import Busy, DimensionMismatch, DiskFull, IndexUnavailable, ReadOnly
from nexusd.index.index import CollectionSpec, Index
from nexusd.index.server_errors import CollectionTaken, ForeignCollection
from nexusd.model.index import ForgottenModels
from nexusd.store.database import Database
from nexusd.store.indexed import TABLES
from nexusd.store.models import StoredModel, count_vectors, delete_model, delete_vectors, expire
from nexusd.sync.models import Models
from nexusd.sync.worker import OutboxWorker

SLICE_ROWS = 500  # vectors in one transaction: a megabyte or two
RETRY_S = 10.0  # while the index or the store does not take it
MAX_REST_S = 3600.0  # the clock may be set

Reached = Callable[[str], None]  # told each step, for tests that end the process there


class KeptModels:
    """Lets kept models go when their time is over, or when it is asked for."""

    def __init__(
        self,
        store: Database,
        index: Index,
        models: Models,
        worker: OutboxWorker,
        clock: Clock,
        *,
        reached: Reached = lambda _step: None,
    ) -> None:
        self._store = store
        self._index = index
        self._models = models
        self._worker = worker
        self._clock = clock
        self._reached = reached
        self._work = asyncio.Event()
        self._gone = asyncio.Event()
        self._log = structlog.get_logger("nexusd.models")

    def wake(self) -> None:
        """A model was set aside, or is to go."""
        self._work.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._work.clear()
            rest_s = await self._models.close_retired()
            try:
                for model in self._models.due():
                    await self._drop(model)
            except (IndexUnavailable, Busy, DiskFull, ReadOnly) as error:
                self._log.warning("a kept embedding model cannot be removed now", reason=error.message)
                rest_s = RETRY_S
            await self._rest(rest_s)

    async def _rest(self, at_most_s: float | None) -> None:
        due_ms = self._models.next_due_ms()
        waits = [MAX_REST_S] if at_most_s is None else [at_most_s]
        if due_ms is not None and at_most_s is None:
            waits.append(max(0.0, (due_ms - self._clock.now_ms()) / 1000))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(waits)):
                await self._work.wait()

    async def _drop(self, model: StoredModel) -> None:
        self._models.leaving.add(model.key)
        try:
            async with self._worker.paused():  # no delete is on its way to what goes
                for collection in TABLES:
                    await self._drop_collection(CollectionSpec(f"{collection}-{model.key}", model.dimension))
        except BaseException:
            self._models.leaving.discard(model.key)
            raise
        self._reached("collections dropped")
        vectors = 0
        for collection in TABLES:
            part: tuple[int, int] | None = (0, 0)
            while part is not None:
                vectors += part[1]
                part = await self._store.write(delete_vectors, collection, model.key, part[0], SLICE_ROWS)
        await self._store.write(delete_model, model.key)
        self._reached("dropped")
        await self._models.look_again()
        self._models.leaving.discard(model.key)
        self._log.info("embedding model forgotten", key=model.key, model=model.model, vectors=vectors)
        self._gone.set()
        self._gone = asyncio.Event()

    async def _drop_collection(self, spec: CollectionSpec) -> None:
        if spec.dimension:  # else it is not known, and nobody can say whether it is what it was
            try:
                await self._index.ensure(spec)
            except (DimensionMismatch, ForeignCollection, CollectionTaken) as error:
                self._log.error("collection is not ours any more and stays", collection=spec.name, reason=error.message)
                return
        await self._index.drop(spec.name)

    async def gone(self, keys: list[str], timeout_s: float) -> bool:
        """Wait until these models are gone, or the time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    progress = self._gone
                    if not any(model.key in keys for model in self._models.kept()):
                        return True
                    self.wake()
                    await progress.wait()
        return False


def forget(db: apsw.Connection, key: str | None) -> ForgottenModels:
    """Let a kept model go, or all kept ones; in a transaction.

    Raises:
        RowNotFound: there is no such model.
        Conflict: it is in use.
    """
    keys = expire(db, key)
    return ForgottenModels(forgotten=keys, vectors_deleted=count_vectors(db, keys))

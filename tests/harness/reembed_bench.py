"""A daemon's store, workers and models without its wire: started with one model, ended at any moment, and again.

The index and the embedding models are fakes that outlive a run, as a server and a service do. They hold that vectors of
two models never meet: a vector is known by the model that made it, and a collection takes, and is asked, its own alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fakes.embedder import FakeEmbedder, text_vector
from fakes.index import FakeIndex

from nexusd.clock import Clock, SystemClock
from nexusd.config_sections import EmbeddingConfig, OutboxConfig, StorageConfig
from nexusd.embedding.embedder import Vector
from nexusd.errors import ConfigError, IndexUnavailable
from nexusd.index.filters import Filter
from nexusd.index.index import Hit, Point
from nexusd.model.conversations import CreateConversation
from nexusd.model.entities import NewEntity
from nexusd.model.episodes import NewEpisode
from nexusd.model.messages import NewMessage
from nexusd.model.sessions import CreateSession
from nexusd.model.vectors import NewVector
from nexusd.store.conversations import insert_conversation
from nexusd.store.database import Database
from nexusd.store.entities import upsert_entity
from nexusd.store.episodes import insert_episode
from nexusd.store.messages import insert_messages
from nexusd.store.models import StoredModel, select_models
from nexusd.store.outbox import count_outbox
from nexusd.store.reconciling import row_versions
from nexusd.store.sessions import insert_session
from nexusd.store.vectors import upsert_vector
from nexusd.sync.collections import Collections
from nexusd.sync.kept import KeptModels
from nexusd.sync.models import Models
from nexusd.sync.reembed import Reembedding
from nexusd.sync.worker import OutboxWorker

PATIENCE_S = 30
COLLECTIONS = ("episodes", "entities", "summaries", "messages", "vectors")


class Crash(Exception):
    """The process ends here."""


class Mixed(AssertionError):
    """A vector of one model met a collection of another."""


class SaltedEmbedder(FakeEmbedder):
    """A model of its own kind: what it makes of a text is far from what any other makes of it."""

    def __init__(self, name: str, dimension: int, makers: dict[Vector, str]) -> None:
        super().__init__(dimension, model=name)
        self.queries._entries = 0
        self._makers = makers

    def _vector(self, text: str, position: int) -> Vector:
        super()._vector(text, position)  # refuses what is to be refused
        salted = " ".join(f"{self.fingerprint.model}_{word}" for word in text.lower().split())
        dimension = self.fingerprint.dimension
        vector = struct.pack(f"<{dimension}f", *text_vector(salted, dimension))
        self._makers[vector] = self.fingerprint.short
        return vector


class WatchfulIndex(FakeIndex):
    """Tells who asks a collection for what another model made."""

    def __init__(self, makers: dict[Vector, str]) -> None:
        super().__init__()
        self._makers = makers
        self.searches = 0
        self.stuck: set[str] = set()  # keys of models whose collections cannot be changed

    def _check(self, collection: str, vector: Vector) -> None:
        key = collection.partition("-")[2].partition("-")[0]
        if (maker := self._makers.get(vector)) is not None and maker != key:
            raise Mixed(f"{collection} met a vector of {maker}")

    def _check_moves(self, collection: str) -> None:
        if collection.partition("-")[2] in self.stuck:
            raise IndexUnavailable(f"{collection} is stuck")

    async def delete(self, collection: str, ids: Sequence[int]) -> None:
        self._check_moves(collection)
        await super().delete(collection, ids)

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        self._check_moves(collection)
        for point in points:
            self._check(collection, point.vector)
        await super().upsert(collection, points)

    async def search(self, collection: str, vector: Vector, limit: int, where: Filter | None) -> list[Hit]:
        self._check(collection, vector)
        self.searches += 1
        await asyncio.sleep(0)  # between the question and the answer anything may happen
        return await super().search(collection, vector, limit, where)


class ReembedBench:
    """What outlives a run, and the parts of the present one."""

    def __init__(self, directory: Path, clock: Clock | None = None) -> None:
        self.makers: dict[Vector, str] = {}
        self.index = WatchfulIndex(self.makers)
        self.embedders: dict[tuple[str, int], SaltedEmbedder] = {}
        self.unmakable: set[str] = set()  # models that are not there any more
        self.told: list[tuple[str, Mapping[str, Any]]] = []
        self.steps: list[str] = []
        self.crash_at: Callable[[str], bool] = lambda _step: False
        self.session = self.conversation = 0
        self.clock: Clock = clock or SystemClock()
        self._directory = directory
        self._tasks: list[asyncio.Task[None]] = []
        self.store: Database
        self.models: Models
        self.collections: Collections
        self.worker: OutboxWorker
        self.kept: KeptModels
        self.reembedding: Reembedding

    def embedder(self, name: str, dimension: int = 32) -> SaltedEmbedder:
        """The one embedder of this name and dimension."""
        key = (name, dimension)
        if key not in self.embedders:
            self.embedders[key] = SaltedEmbedder(name, dimension, self.makers)
        return self.embedders[key]

    def key(self, name: str, dimension: int = 32) -> str:
        return self.embedder(name, dimension).fingerprint.short

    def _made(self, config: EmbeddingConfig, _on_answering: Callable[[bool], None]) -> SaltedEmbedder:
        if config.model_name in self.unmakable:
            raise ConfigError(f"there is no model {config.model_name}")
        embedder = self.embedder(config.model_name, config.dimension or 32)
        embedder.closed = False
        return embedder

    def _reached(self, step: str) -> None:
        self.steps.append(step)
        if self.crash_at(step):
            raise Crash(step)

    async def open(self, name: str, dimension: int = 32, **embedding: Any) -> None:
        """Build everything, as `Parts` does, with this model configured; nothing runs yet."""
        retire_after_s = embedding.pop("retire_after_s", 0.0)
        config = EmbeddingConfig(provider="ollama", model=name, dimension=dimension, **embedding)
        outbox = OutboxConfig(max_backoff_s=0.2)
        chance = random.Random(7)
        self.store = Database(
            self._directory / "nexus.db", StorageConfig(synchronous="NORMAL"), self.clock,
            on_commit=self._committed, on_fatal=_fatal,
        )  # fmt: skip
        self.models = Models(self.store, config, self.clock, self._made, retire_after_s=retire_after_s)
        serving = self.models.serving
        self.collections = Collections(self.store, self.index, serving.model, kept=self.models.kept_collections)
        self.worker = OutboxWorker(
            self.store, self.index, serving.model, self.collections, outbox, self.clock, chance
        )
        self.kept = KeptModels(
            self.store, self.index, self.models, self.worker, self.clock, reached=self._reached
        )
        self.reembedding = Reembedding(
            self.store, self.index, self.models, self.worker, self.collections, outbox, self.clock, chance,
            lambda topic, data: self.told.append((topic, data)), on_swapped=self.kept.wake, reached=self._reached,
        )  # fmt: skip
        await self.store.open()
        await self.models.open()
        self.collections.adopt(Collections(self.store, self.index, serving.model))
        self.worker.adopt(serving.model, self.collections)
        await self.models.start()
        if not self.session:
            self.session = (await self.store.write(insert_session, CreateSession(external_id="s"), 1)).id
            self.conversation = (await self.store.write(insert_conversation, CreateConversation(), 1)).id

    def run(self) -> None:
        """Let the tasks run."""
        for work in (self.worker.run, self.kept.run, self.reembedding.run):
            self._tasks.append(asyncio.create_task(work()))

    async def start(self, name: str, dimension: int = 32, **embedding: Any) -> None:
        await self.open(name, dimension, **embedding)
        self.run()

    async def stop(self) -> None:
        """End whatever runs, at whatever step it is."""
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self.models.close()
        await self.store.close()
        wrong = [each for each in ended if isinstance(each, Exception) and not isinstance(each, Crash)]
        assert not wrong, wrong

    async def stop_open(self) -> None:
        """End what was opened and never ran."""
        await self.models.close()
        await self.store.close()

    async def crashed(self) -> None:
        """Until a step has ended the process."""
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        await self.stop()

    def _committed(self) -> None:
        self.worker.wake()
        self.reembedding.wake()

    # --- rows ---

    async def add(self, text: str) -> int:
        new = NewEpisode(session_id=self.session, user_message=text, ai_response="ok")
        return (await self.store.write(insert_episode, new, self.clock.now_ms())).id

    async def entity(self, name: str) -> int:
        return (await self.store.write(upsert_entity, NewEntity(name=name, type="person"), self.clock.now_ms())).id

    async def message(self, content: str) -> int:
        new = NewMessage(conversation_id=self.conversation, role="user", content=content)
        (message,) = await self.store.write(insert_messages, [new], self.clock.now_ms())
        assert not isinstance(message, Exception)
        return message.id

    async def text(self, key: str, text: str, vector: Vector | None = None) -> int:
        """A text, with the caller's own vector for the model that serves."""
        model = self.models.serving.model.key
        stored = await self.store.write(
            upsert_vector, NewVector(id=key, text=text), vector, model, self.clock.now_ms()
        )
        return stored.row_id

    # --- what is so ---

    async def roles(self) -> dict[str, str]:
        """The states of the models by their keys."""
        return {row.key: row.state for row in await self.rows_of_models()}

    async def rows_of_models(self) -> list[StoredModel]:
        return await self.store.read(select_models)

    async def until(self, fulfilled: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not fulfilled():
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.002)

    async def settled(self, name: str, dimension: int = 32) -> None:
        """Until this model serves, and nothing waits for it any more."""
        await self.until(
            lambda: self.models.next is None and self.reembedding._next_worker is None and not self.models.due()
        )
        fingerprint = self.models.serving.model.embedder.fingerprint
        assert (fingerprint.model, fingerprint.dimension) == (name, dimension)
        await self.drained()

    async def drained(self) -> None:
        waited = await self.worker.wait_for(None, [], PATIENCE_S)
        assert waited.pending == 0, waited

    def held(self, key: str, collection: str = "episodes") -> dict[int, int]:
        """What a model's collection holds: versions by id."""
        return self.index.versions(f"{collection}-{key}")

    async def agree(self, key: str | None = None) -> None:
        """The collections of the model that serves hold exactly the rows, made by that model."""
        key = key or self.models.serving.model.key
        counts = await self.store.read(count_outbox)
        dead = {
            (collection, row_id)
            for collection, row_id in await self.store.read(
                lambda db: list(db.execute("SELECT collection, row_id FROM outbox WHERE state = 'dead'"))
            )
        }
        assert counts.pending + counts.inflight == 0
        for collection in COLLECTIONS:
            rows = await self.store.read(row_versions, collection, 0, 1_000_000)
            wanted = {row.id: row.version for row in rows if (collection, row.id) not in dead}
            assert self.held(key, collection) == wanted, collection
        assert await self.store.read(count_outbox, queue="outbox_next") == type(counts)(0, 0, 0, None)


def _fatal(error: Exception) -> None:
    raise AssertionError(error)


@contextlib.asynccontextmanager
async def reembed_bench(directory: Path, clock: Clock | None = None) -> AsyncIterator[ReembedBench]:
    """A bench with nothing started; what runs at the end is stopped."""
    directory.mkdir(parents=True, exist_ok=True)
    bench = ReembedBench(directory, clock)
    try:
        yield bench
    finally:
        if bench._tasks:
            await bench.stop()

"""A store, an outbox worker and what it works with, in one process; everything but the store is a fake."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fakes.embedder import FakeEmbedder
from fakes.index import FakeIndex

from nexusd.clock import Clock, SystemClock
from nexusd.config_sections import OutboxConfig, StorageConfig
from nexusd.embedding.serving import KeyedModel, Serving
from nexusd.model.conversations import CreateConversation
from nexusd.model.entities import NewEntity, UpsertedEntity
from nexusd.model.episodes import NewEpisode
from nexusd.model.fields import VectorState
from nexusd.model.messages import NewMessage
from nexusd.model.sessions import CreateSession
from nexusd.model.summaries import CreateSummary
from nexusd.model.vectors import NewVector, StoredText
from nexusd.store.conversations import insert_conversation
from nexusd.store.database import Database
from nexusd.store.entities import upsert_entity
from nexusd.store.episodes import insert_episode
from nexusd.store.indexed import vector_states
from nexusd.store.messages import insert_messages
from nexusd.store.reconciling import row_versions
from nexusd.store.sessions import insert_session
from nexusd.store.summaries import insert_summary
from nexusd.store.vectors import upsert_vector
from nexusd.sync.collections import Collections
from nexusd.sync.worker import OutboxWorker, tell_nothing

NOW_MS = 1_700_000_000_000


@dataclass
class Bench:
    """A store, a worker, and what it works with."""

    store: Database
    index: FakeIndex
    embedder: FakeEmbedder
    serving: Serving
    collections: Collections
    worker: OutboxWorker
    session: int
    told: list[tuple[str, Mapping[str, Any]]]  # events
    task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.task = asyncio.create_task(self.worker.run())

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task
            self.task = None

    async def add(self, text: str) -> int:
        """An exchange."""
        new = NewEpisode(session_id=self.session, user_message=text, ai_response="ok")
        return (await self.store.write(insert_episode, new, NOW_MS)).id

    async def entity(self, name: str, **fields: Any) -> UpsertedEntity:
        new = NewEntity(name=name, type="person", **fields)
        return await self.store.write(upsert_entity, new, NOW_MS)

    async def summary(self, content: str, **fields: Any) -> int:
        new = CreateSummary(session_id=self.session, content=content, **fields)
        return (await self.store.write(insert_summary, new, NOW_MS)).id

    async def message(self, content: str, role: str = "user", **fields: Any) -> int:
        """A message in a conversation of its own."""
        conversation = await self.store.write(insert_conversation, CreateConversation(), NOW_MS)
        new = NewMessage(conversation_id=conversation.id, role=role, content=content, **fields)
        (message,) = await self.store.write(insert_messages, [new], NOW_MS)
        assert not isinstance(message, Exception)
        return message.id

    async def text(
        self, key: str | int, text: str, embedding: bytes | None = None, **fields: Any
    ) -> StoredText:
        """A text under an id of its own."""
        new = NewVector(id=key, text=text, **fields)
        return await self.store.write(upsert_vector, new, embedding, self.serving.model.key, NOW_MS)

    async def drained(self) -> None:
        waited = await self.worker.wait_for(None, [], 20)
        assert waited.pending == 0

    @property
    def held(self) -> dict[int, int]:
        """The exchanges that the index holds: versions by id."""
        return self.holds("episodes")

    def holds(self, collection: str) -> dict[int, int]:
        return self.index.versions(self.collections.physical(collection))

    def payload(self, collection: str, row_id: int) -> dict[str, Any]:
        return self.index.payload(self.collections.physical(collection), row_id)

    async def rows(self, collection: str = "episodes") -> dict[int, int]:
        """What the index should hold in the end."""
        return {row.id: row.version for row in await self.store.read(row_versions, collection, 0, 100_000)}

    def state(self, collection: str, row_id: int) -> VectorState:
        return self.store.peek(vector_states, collection, [row_id])[row_id]


@contextlib.asynccontextmanager
async def make_bench(
    directory: Path,
    *,
    index: FakeIndex | None = None,
    embedder: Any = None,  # another one than the fake, for tests that are about it
    chance: random.Random | None = None,
    clock: Clock | None = None,  # the worker's; the store goes by the real one
    reached: Callable[[str], None] = tell_nothing,
    **config: object,
) -> AsyncIterator[Bench]:
    directory.mkdir(exist_ok=True)
    worker: OutboxWorker | None = None

    def committed() -> None:
        if worker is not None:
            worker.wake()

    def fatal(error: Exception) -> None:
        raise AssertionError(error)

    store = Database(directory / "nexus.db", StorageConfig(), SystemClock(), on_commit=committed, on_fatal=fatal)
    await store.open()
    index, embedder = index or FakeIndex(), embedder or FakeEmbedder()
    model = KeyedModel(embedder.fingerprint.short, embedder)
    collections = Collections(store, index, model)
    settings = OutboxConfig(**({"max_backoff_s": 0.2} | config))  # type: ignore[arg-type]  # made of keywords
    told: list[tuple[str, Mapping[str, Any]]] = []
    worker = OutboxWorker(
        store, index, model, collections, settings, clock or SystemClock(), chance or random.Random(7),
        lambda topic, data: told.append((topic, data)), reached=reached,
    )
    try:
        session = await store.write(insert_session, CreateSession(external_id=f"s{random.random()}"), NOW_MS)
        bench = Bench(store, index, embedder, Serving(model), collections, worker, session.id, told)
        yield bench
        await bench.stop()
    finally:
        await store.close()

"""A store, an index and an embedding model with memories in them, for tests of retrieval."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fakes.embedder import FakeEmbedder
from fakes.index import FakeIndex
from harness.database import open_database

from nexusd.clock import SystemClock
from nexusd.embedding.serving import KeyedModel, Serving
from nexusd.index.index import CollectionSpec, Point
from nexusd.model.conversations import CreateConversation
from nexusd.model.entities import Entity, NewEntity
from nexusd.model.episodes import Episode, NewEpisode
from nexusd.model.memory import COLLECTIONS, Collection, MemoryHits, SearchMemory
from nexusd.model.messages import Message, NewMessage
from nexusd.model.projects import CreateProject
from nexusd.model.relationships import NewRelationship
from nexusd.model.sessions import CreateSession
from nexusd.model.summaries import CreateSummary, Summary
from nexusd.retrieval.search import MemorySearch
from nexusd.store.conversations import insert_conversation
from nexusd.store.database import Database
from nexusd.store.entities import upsert_entity
from nexusd.store.episodes import insert_episode
from nexusd.store.messages import insert_message
from nexusd.store.projects import insert_project
from nexusd.store.recall import Key
from nexusd.store.relationships import upsert_relationship
from nexusd.store.sessions import insert_session
from nexusd.store.summaries import insert_summary
from nexusd.sync.sources import LOADERS

NOW_MS = 1_700_000_000_000
MODEL = "test"


def physical(collection: str) -> str:
    """The collection of the index behind a logical one."""
    return f"{collection}-{MODEL}"


COLLECTION = physical("episodes")


@dataclass
class Memory:
    """What a search works with. Each memory is a minute after the one before."""

    store: Database
    index: FakeIndex
    embedder: FakeEmbedder
    search: MemorySearch
    now_ms: int = NOW_MS
    sessions: dict[str, int] = field(default_factory=dict)
    conversations: dict[str, int] = field(default_factory=dict)

    async def session(self, name: str, project: str | None = None) -> int:
        """The session of this name, made when it is first asked for."""
        if name not in self.sessions:
            project_id = None
            if project is not None:
                new_project = CreateProject(name=project)
                project_id = (await self.store.write(insert_project, new_project, self.now_ms)).id
            new = CreateSession(external_id=name, project_id=project_id)
            self.sessions[name] = (await self.store.write(insert_session, new, self.now_ms)).id
        return self.sessions[name]

    async def remember(
        self,
        said: str,
        answered: str = "",
        *,
        session: str = "main",
        metadata: dict[str, Any] | None = None,
        indexed: bool = True,
    ) -> Episode:
        """Store an exchange, and its point unless it is to be pending."""
        self.now_ms += 60_000
        new = NewEpisode(
            session_id=await self.session(session),
            user_message=said,
            ai_response=answered,
            metadata=metadata or {},
            created_at=self.now_ms,
        )
        episode = await self.store.write(insert_episode, new, self.now_ms)
        if indexed:
            await self.put(episode.id)
        return episode

    async def know(
        self, name: str, kind: str, notes: str | None = None, *, metadata: dict[str, Any] | None = None,
        indexed: bool = True,
    ) -> Entity:  # fmt: skip
        """Store an entity, and its point."""
        self.now_ms += 60_000
        new = NewEntity(name=name, type=kind, notes=notes, metadata=metadata or {})
        entity = await self.store.write(upsert_entity, new, self.now_ms)
        if indexed:
            await self.put(entity.id, "entities")
        return entity

    async def relate(self, source: Entity, label: str, target: Entity) -> None:
        """Store a relationship."""
        new = NewRelationship(from_id=source.id, to_id=target.id, label=label)
        await self.store.write(upsert_relationship, new, self.now_ms)

    async def sum_up(self, content: str, *, session: str = "main", **run: Any) -> Summary:
        """Store a summary of a session, and its point."""
        self.now_ms += 60_000
        new = CreateSummary(session_id=await self.session(session), content=content, **run)
        summary = await self.store.write(insert_summary, new, self.now_ms)
        await self.put(summary.id, "summaries")
        return summary

    async def say(self, content: str, *, role: str = "user", conversation: str = "main") -> Message:
        """Store a message, and its point."""
        self.now_ms += 60_000
        if conversation not in self.conversations:
            made = CreateConversation(title=conversation)
            self.conversations[conversation] = (await self.store.write(insert_conversation, made, self.now_ms)).id
        new = NewMessage(conversation_id=self.conversations[conversation], role=role, content=content)
        message = await self.store.write(insert_message, new, self.now_ms)
        await self.put(message.id, "messages")
        return message

    async def put(self, row_id: int, collection: Collection = "episodes") -> None:
        """Bring the row's point up to date, as the outbox worker does."""
        (document,) = await self.store.read(LOADERS[collection], [row_id], "an epoch")
        (vector,) = await self.embedder.embed_documents([document.text])
        point = Point(document.id, document.version, vector, document.payload)
        await self.index.upsert(physical(collection), [point])

    async def find(self, query: str, **how: Any) -> MemoryHits:
        """Search."""
        return await self.search.search(SearchMemory(query=query, **how))

    async def found(self, query: str, **how: Any) -> list[int]:
        """The ids of the hits, best first."""
        return [hit.id for hit in (await self.find(query, **how)).items]

    async def keys(self, query: str, **how: Any) -> list[Key]:
        """The keys of the hits, best first."""
        return [(hit.collection, hit.id) for hit in (await self.find(query, **how)).items]


@contextlib.asynccontextmanager
async def empty_memory(directory: Path, **search: Any) -> AsyncIterator[Memory]:
    """A memory that holds nothing yet."""
    async with open_database(directory / "nexus.db") as store:
        index, embedder = FakeIndex(), FakeEmbedder()
        for collection in COLLECTIONS:
            await index.ensure(CollectionSpec(physical(collection), embedder.fingerprint.dimension))
        find = MemorySearch(store, index, Serving(KeyedModel(MODEL, embedder)), SystemClock(), **search)
        yield Memory(store, index, embedder, find)

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
from nexusd.index.index import CollectionSpec, Point
from nexusd.model.episodes import Episode, NewEpisode
from nexusd.model.memory import MemoryHits, SearchMemory
from nexusd.model.projects import CreateProject
from nexusd.model.sessions import CreateSession
from nexusd.retrieval.search import MemorySearch
from nexusd.store.database import Database
from nexusd.store.episodes import insert_episode, select_episode_sources
from nexusd.store.projects import insert_project
from nexusd.store.sessions import insert_session
from nexusd.sync.sources import episode_document

NOW_MS = 1_700_000_000_000
COLLECTION = "episodes-test"


@dataclass
class Memory:
    """What a search works with. Each exchange is a minute after the one before."""

    store: Database
    index: FakeIndex
    embedder: FakeEmbedder
    search: MemorySearch
    now_ms: int = NOW_MS
    sessions: dict[str, int] = field(default_factory=dict)

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

    async def put(self, episode_id: int) -> None:
        """Bring the row's point up to date, as the outbox worker does."""
        (source,) = await self.store.read(select_episode_sources, [episode_id])
        document = episode_document(source, "an epoch")
        (vector,) = await self.embedder.embed_documents([document.text])
        await self.index.upsert(COLLECTION, [Point(document.id, document.version, vector, document.payload)])

    async def find(self, query: str, **how: Any) -> MemoryHits:
        """Search."""
        return await self.search.search(SearchMemory(query=query, **how))

    async def found(self, query: str, **how: Any) -> list[int]:
        """The ids of the hits, best first."""
        return [hit.id for hit in (await self.find(query, **how)).items]


@contextlib.asynccontextmanager
async def empty_memory(directory: Path, **search: Any) -> AsyncIterator[Memory]:
    """A memory that holds nothing yet."""
    async with open_database(directory / "nexus.db") as store:
        index, embedder = FakeIndex(), FakeEmbedder()
        await index.ensure(CollectionSpec(COLLECTION, embedder.fingerprint.dimension))
        find = MemorySearch(store, index, embedder, lambda _: COLLECTION, SystemClock(), **search)
        yield Memory(store, index, embedder, find)

"""episodes.*: exchanges, stored and found by keyword."""

from __future__ import annotations

import msgspec

from nexusd.api.bulk import checked_items, ids_of, write_together
from nexusd.api.receipts import receipt_for
from nexusd.api.vector_wait import VectorWait
from nexusd.clock import Clock
from nexusd.errors import EpisodeNotFound, SessionNotFound
from nexusd.model.bulk import Answers
from nexusd.model.episodes import (
    CreateEpisode,
    CreateEpisodes,
    DeleteEpisode,
    Episode,
    EpisodeMatches,
    GetEpisode,
    ListEpisodes,
    NewEpisode,
    SearchEpisodes,
    UpdateEpisode,
)
from nexusd.model.fields import Deletion, Listing
from nexusd.store.database import Database
from nexusd.store.episode_search import search_episodes
from nexusd.store.episodes import (
    delete_episode,
    insert_episode,
    insert_episodes,
    list_episodes,
    select_episode,
    update_episode,
)
from nexusd.sync.worker import OutboxWorker
from nexusd.wire.methods import Call, Method


class EpisodesApi:
    """The methods on episodes."""

    def __init__(self, store: Database, worker: OutboxWorker, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._wait = VectorWait(store, worker, "episodes", Episode, select_episode)

    async def create(self, call: Call, params: CreateEpisode) -> Episode | msgspec.Raw:
        """Store an exchange."""
        receipt = receipt_for(call, "episodes.create", params)
        stored = await self._store.write_once(receipt, insert_episode, params, self._clock.now_ms())
        return await self._wait.one(stored, params)

    async def create_many(self, call: Call, params: CreateEpisodes) -> Answers[Episode] | msgspec.Raw:
        """Store many exchanges in one transaction, each with its row or its own error."""
        receipt = receipt_for(call, "episodes.createMany", params)
        items = checked_items(NewEpisode, params.items, call)
        stored = await self._store.write_once(
            receipt, write_together, items, call.request_id, insert_episodes, self._clock.now_ms()
        )
        return await self._wait.each(stored, params)

    def get(self, _call: Call, params: GetEpisode) -> Episode:
        """One exchange by its id."""
        return self._store.peek(select_episode, params.id)

    async def page(self, _call: Call, params: ListEpisodes) -> Listing[Episode]:
        """A page of a session's exchanges."""
        return await self._store.read(list_episodes, params)

    async def update(self, call: Call, params: UpdateEpisode) -> Episode | msgspec.Raw:
        """Change an exchange."""
        receipt = receipt_for(call, "episodes.update", params)
        stored = await self._store.write_once(receipt, update_episode, params, self._clock.now_ms())
        return await self._wait.one(stored, params)

    async def delete(self, call: Call, params: DeleteEpisode) -> Deletion | msgspec.Raw:
        """Remove an exchange."""
        receipt = receipt_for(call, "episodes.delete", params)
        return await self._store.write_once(receipt, delete_episode, params.id)

    async def search(self, _call: Call, params: SearchEpisodes) -> EpisodeMatches:
        """Exchanges that hold every word, best first."""
        return await self._store.read(search_episodes, params)

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="episodes.create",
                summary="Store an exchange; the reply means that it is on disk.",
                params=CreateEpisode,
                result=Episode,
                handler=self.create,
                role="write",
                mutates=True,
                errors=(SessionNotFound,),
            ),
            Method(
                name="episodes.createMany",
                summary="Store up to 500 exchanges in one transaction, each with its row or its own error.",
                params=CreateEpisodes,
                result=Answers[Episode],
                handler=self.create_many,
                role="write",
                mutates=True,
                subject=ids_of,
            ),
            Method(
                name="episodes.get",
                summary="Get an exchange by its id.",
                params=GetEpisode,
                result=Episode,
                handler=self.get,
                role="read",
                immediate=True,
                errors=(EpisodeNotFound,),
            ),
            Method(
                name="episodes.list",
                summary="List the exchanges of a session, newest first.",
                params=ListEpisodes,
                result=Listing[Episode],
                handler=self.page,
                role="read",
                errors=(SessionNotFound,),
            ),
            Method(
                name="episodes.update",
                summary="Change an exchange; what is not given stays as it is.",
                params=UpdateEpisode,
                result=Episode,
                handler=self.update,
                role="write",
                mutates=True,
                errors=(EpisodeNotFound,),
            ),
            Method(
                name="episodes.delete",
                summary="Delete an exchange; answers what went.",
                params=DeleteEpisode,
                result=Deletion,
                handler=self.delete,
                role="write",
                mutates=True,
                errors=(EpisodeNotFound,),
            ),
            Method(
                name="episodes.search",
                summary="Find the exchanges that hold every word of the query, best first.",
                params=SearchEpisodes,
                result=EpisodeMatches,
                handler=self.search,
                role="read",
                example={"query": "tomatoes"},
            ),
        ]

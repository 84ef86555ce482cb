"""episodes.*: exchanges, stored and found by keyword."""

from __future__ import annotations

from dataclasses import dataclass

import apsw
import msgspec

from nexusd.api.receipts import receipt_for
from nexusd.clock import Clock
from nexusd.errors import EpisodeNotFound, InvalidParams, RpcError, SessionNotFound
from nexusd.model.episodes import (
    CreatedEpisodes,
    CreateEpisode,
    CreateEpisodes,
    DeleteEpisode,
    Episode,
    EpisodeMatches,
    GetEpisode,
    ItemError,
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
from nexusd.wire.replies import error_object
from nexusd.wire.validation import validate

COLLECTION = "episodes"


@dataclass(frozen=True, slots=True)
class _Batch:
    """The items of a createMany after validation; a bad one is its error already."""

    items: list[NewEpisode | ItemError]
    request_id: str
    now_ms: int


class EpisodesApi:
    """The methods on episodes."""

    def __init__(self, store: Database, worker: OutboxWorker, clock: Clock) -> None:
        self._store = store
        self._worker = worker
        self._clock = clock

    async def create(self, call: Call, params: CreateEpisode) -> Episode | msgspec.Raw:
        """Store an exchange."""
        receipt = receipt_for(call, "episodes.create", params)
        stored = await self._store.write_once(receipt, insert_episode, params, self._clock.now_ms())
        return await self._indexed(stored, params.timeout_ms) if params.wait_for else stored

    async def create_many(self, call: Call, params: CreateEpisodes) -> CreatedEpisodes | msgspec.Raw:
        """Store many exchanges in one transaction, each with its row or its own error."""
        receipt = receipt_for(call, "episodes.createMany", params)
        batch = _Batch([_item(i, item, call) for i, item in enumerate(params.items)], call.request_id,
                       self._clock.now_ms())
        stored = await self._store.write_once(receipt, _insert_episodes, batch)
        if not params.wait_for:
            return stored
        if isinstance(stored, msgspec.Raw):  # a repeated call: it waits as the first one did
            stored = _created(stored)
        ids = [item.id for item in stored.items if isinstance(item, Episode)]
        await self._worker.wait_for(COLLECTION, ids, params.timeout_ms / 1000)
        return CreatedEpisodes([self._now(i) if isinstance(i, Episode) else i for i in stored.items])

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
        return await self._indexed(stored, params.timeout_ms) if params.wait_for else stored

    async def delete(self, call: Call, params: DeleteEpisode) -> Deletion | msgspec.Raw:
        """Remove an exchange."""
        receipt = receipt_for(call, "episodes.delete", params)
        return await self._store.write_once(receipt, delete_episode, params.id)

    async def search(self, _call: Call, params: SearchEpisodes) -> EpisodeMatches:
        """Exchanges that hold every word, best first."""
        return await self._store.read(search_episodes, params)

    async def _indexed(self, stored: Episode | msgspec.Raw, timeout_ms: int) -> Episode:
        if isinstance(stored, msgspec.Raw):  # a repeated call: it waits as the first one did
            stored = msgspec.json.decode(stored, type=Episode)
        await self._worker.wait_for(COLLECTION, [stored.id], timeout_ms / 1000)
        return self._now(stored)

    def _now(self, stored: Episode) -> Episode:
        """The row as it was written, with the state of its vector as it is now."""
        try:
            return msgspec.structs.replace(stored, vector=self._store.peek(select_episode, stored.id).vector)
        except EpisodeNotFound:  # deleted while we waited; the write that we answer for stood
            return msgspec.structs.replace(stored, vector="none")

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
                result=CreatedEpisodes,
                handler=self.create_many,
                role="write",
                mutates=True,
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


def _created(reply: msgspec.Raw) -> CreatedEpisodes:
    """The kept reply as records; told apart by the key `error`, which no episode has."""
    items = msgspec.json.decode(reply)["items"]
    return CreatedEpisodes([
        msgspec.convert(item, ItemError) if "error" in item else msgspec.convert(item, Episode) for item in items
    ])


def _item(position: int, item: dict[str, object], call: Call) -> NewEpisode | ItemError:
    try:
        return validate(NewEpisode, item, path=f"items[{position}]")
    except InvalidParams as error:
        return ItemError(error_object(error, call.request_id))


def _insert_episodes(db: apsw.Connection, batch: _Batch) -> CreatedEpisodes:
    """Insert what is valid, and put each answer where its item stood."""
    valid = [item for item in batch.items if isinstance(item, NewEpisode)]
    answers = iter(insert_episodes(db, valid, batch.now_ms))
    return CreatedEpisodes([
        item if isinstance(item, ItemError) else _answer(next(answers), batch.request_id) for item in batch.items
    ])


def _answer(inserted: Episode | RpcError, request_id: str) -> Episode | ItemError:
    return ItemError(error_object(inserted, request_id)) if isinstance(inserted, RpcError) else inserted

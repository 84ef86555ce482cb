"""entities.*: named things that the system learns about."""

from __future__ import annotations

import msgspec

from nexusd.api.bulk import checked_items, ids_of, write_each
from nexusd.api.receipts import receipt_for
from nexusd.api.vector_wait import VectorWait
from nexusd.clock import Clock
from nexusd.errors import EntityNotFound
from nexusd.model.bulk import Answers
from nexusd.model.entities import (
    DeleteEntity,
    Entity,
    EntityMatches,
    GetEntity,
    ListEntities,
    ListEntitiesByType,
    NewEntity,
    SearchEntities,
    UpsertedEntity,
    UpsertEntities,
    UpsertEntity,
)
from nexusd.model.fields import Deletion, Listing
from nexusd.store.cascades import ENTITY
from nexusd.store.database import Database
from nexusd.store.entities import (
    list_entities,
    list_entities_by_type,
    search_entities,
    select_entity,
    upsert_entity,
)
from nexusd.sync.worker import OutboxWorker
from nexusd.wire.methods import Call, Method


class EntitiesApi:
    """The methods on entities."""

    def __init__(self, store: Database, worker: OutboxWorker, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._wait = VectorWait(store, worker, "entities", UpsertedEntity, select_entity)

    async def upsert(self, call: Call, params: UpsertEntity) -> UpsertedEntity | msgspec.Raw:
        """Make an entity, or change the one of this name and type."""
        receipt = receipt_for(call, "entities.upsert", params)
        stored = await self._store.write_once(receipt, upsert_entity, params, self._clock.now_ms())
        return await self._wait.one(stored, params)

    async def upsert_many(self, call: Call, params: UpsertEntities) -> Answers[UpsertedEntity] | msgspec.Raw:
        """Upsert many entities in one transaction, each with its row or its own error."""
        receipt = receipt_for(call, "entities.upsertMany", params)
        items = checked_items(NewEntity, params.items, call)
        stored = await self._store.write_once(
            receipt, write_each, items, call.request_id, upsert_entity, self._clock.now_ms()
        )
        return await self._wait.each(stored, params)

    def get(self, _call: Call, params: GetEntity) -> Entity:
        """One entity by its id."""
        return self._store.peek(select_entity, params.id)

    async def page(self, _call: Call, params: ListEntities) -> Listing[Entity]:
        """A page of entities, newest first."""
        return await self._store.read(list_entities, params)

    async def page_by_type(self, _call: Call, params: ListEntitiesByType) -> Listing[Entity]:
        """A page of the entities of a type, by name."""
        return await self._store.read(list_entities_by_type, params)

    async def search(self, _call: Call, params: SearchEntities) -> EntityMatches:
        """Entities that hold every word, best first."""
        return await self._store.read(search_entities, params)

    async def delete(self, call: Call, params: DeleteEntity) -> Deletion | msgspec.Raw:
        """Remove an entity with its relationships."""
        receipt = receipt_for(call, "entities.delete", params)
        return await self._store.delete_in_slices(receipt, ENTITY, lambda _db: params.id)

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="entities.upsert",
                summary="Make an entity, or change the one of this name and type; what is not given stays as it is.",
                params=UpsertEntity,
                result=UpsertedEntity,
                handler=self.upsert,
                role="write",
                mutates=True,
                example={"name": "NexusAI", "type": "project", "notes": "My AI memory project"},
            ),
            Method(
                name="entities.upsertMany",
                summary="Upsert up to 500 entities in one transaction, each with its row or its own error.",
                params=UpsertEntities,
                result=Answers[UpsertedEntity],
                handler=self.upsert_many,
                role="write",
                mutates=True,
                subject=ids_of,
                example={"items": [{"name": "Ada", "type": "person"}, {"name": "Greenhouse", "type": "place"}]},
            ),
            Method(
                name="entities.get",
                summary="Get an entity by its id.",
                params=GetEntity,
                result=Entity,
                handler=self.get,
                role="read",
                immediate=True,
                errors=(EntityNotFound,),
            ),
            Method(
                name="entities.list",
                summary="List entities, newest first.",
                params=ListEntities,
                result=Listing[Entity],
                handler=self.page,
                role="read",
                example={"limit": 10},
            ),
            Method(
                name="entities.listByType",
                summary="List the entities of a type, by name.",
                params=ListEntitiesByType,
                result=Listing[Entity],
                handler=self.page_by_type,
                role="read",
                example={"type": "person"},
            ),
            Method(
                name="entities.search",
                summary="Find the entities that hold every word of the query in name, type or notes, best first.",
                params=SearchEntities,
                result=EntityMatches,
                handler=self.search,
                role="read",
                example={"query": "memory project"},
            ),
            Method(
                name="entities.delete",
                summary="Delete an entity with the relationships at both its ends; answers what went.",
                params=DeleteEntity,
                result=Deletion,
                handler=self.delete,
                role="write",
                mutates=True,
                errors=(EntityNotFound,),
            ),
        ]

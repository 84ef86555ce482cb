"""relationships.*: directed, labelled links between entities."""

from __future__ import annotations

import msgspec

from nexusd.api.bulk import checked_items, ids_of, write_each
from nexusd.api.receipts import receipt_for
from nexusd.clock import Clock
from nexusd.errors import EntityNotFound, RelationshipNotFound
from nexusd.model.bulk import Answers
from nexusd.model.fields import Deletion, Listing
from nexusd.model.relationships import (
    DeleteRelationship,
    Link,
    ListLinksFrom,
    ListLinksTo,
    NewRelationship,
    UpsertedRelationship,
    UpsertRelationship,
    UpsertRelationships,
)
from nexusd.store.database import Database
from nexusd.store.relationships import (
    delete_relationship,
    list_links_from,
    list_links_to,
    upsert_relationship,
)
from nexusd.wire.methods import Call, Method


class RelationshipsApi:
    """The methods on relationships."""

    def __init__(self, store: Database, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def upsert(self, call: Call, params: UpsertRelationship) -> UpsertedRelationship | msgspec.Raw:
        """Make a link, or replace its metadata."""
        receipt = receipt_for(call, "relationships.upsert", params)
        return await self._store.write_once(receipt, upsert_relationship, params, self._clock.now_ms())

    async def upsert_many(
        self, call: Call, params: UpsertRelationships
    ) -> Answers[UpsertedRelationship] | msgspec.Raw:
        """Upsert many links in one transaction, each with its row or its own error."""
        receipt = receipt_for(call, "relationships.upsertMany", params)
        items = checked_items(NewRelationship, params.items, call)
        return await self._store.write_once(
            receipt, write_each, items, call.request_id, upsert_relationship, self._clock.now_ms()
        )

    async def page_from(self, _call: Call, params: ListLinksFrom) -> Listing[Link]:
        """A page of the links that begin in an entity."""
        return await self._store.read(list_links_from, params)

    async def page_to(self, _call: Call, params: ListLinksTo) -> Listing[Link]:
        """A page of the links that end in an entity."""
        return await self._store.read(list_links_to, params)

    async def delete(self, call: Call, params: DeleteRelationship) -> Deletion | msgspec.Raw:
        """Remove a link."""
        receipt = receipt_for(call, "relationships.delete", params)
        return await self._store.write_once(receipt, delete_relationship, params)

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="relationships.upsert",
                summary="Link two entities by a label, or replace the metadata of the link that is there.",
                params=UpsertRelationship,
                result=UpsertedRelationship,
                handler=self.upsert,
                role="write",
                mutates=True,
                errors=(EntityNotFound,),
            ),
            Method(
                name="relationships.upsertMany",
                summary="Upsert up to 500 relationships in one transaction, each with its row or its own error.",
                params=UpsertRelationships,
                result=Answers[UpsertedRelationship],
                handler=self.upsert_many,
                role="write",
                mutates=True,
                subject=ids_of,
            ),
            Method(
                name="relationships.listFrom",
                summary="List the relationships that begin in an entity, by label, with the entity at the other end.",
                params=ListLinksFrom,
                result=Listing[Link],
                handler=self.page_from,
                role="read",
                errors=(EntityNotFound,),
            ),
            Method(
                name="relationships.listTo",
                summary="List the relationships that end in an entity, by label, with the entity at the other end.",
                params=ListLinksTo,
                result=Listing[Link],
                handler=self.page_to,
                role="read",
                errors=(EntityNotFound,),
            ),
            Method(
                name="relationships.delete",
                summary="Delete the relationship of these ends and label; answers what went.",
                params=DeleteRelationship,
                result=Deletion,
                handler=self.delete,
                role="write",
                mutates=True,
                errors=(RelationshipNotFound,),
                subject=lambda params, _result: {
                    "fromId": params.from_id, "toId": params.to_id, "label": params.label,
                },
            ),
        ]

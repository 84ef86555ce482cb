"""groups.*: named configurations of conversations."""

from __future__ import annotations

import msgspec

from nexusd.api.receipts import receipt_for
from nexusd.clock import Clock
from nexusd.errors import GroupNotFound
from nexusd.model.fields import Deletion, Listing
from nexusd.model.groups import CreateGroup, DeleteGroup, GetGroup, Group, ListGroups, UpdateGroup
from nexusd.store.database import Database
from nexusd.store.groups import delete_group, insert_group, list_groups, select_group, update_group
from nexusd.wire.methods import Call, Method


class GroupsApi:
    """The methods on groups."""

    def __init__(self, store: Database, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def create(self, call: Call, params: CreateGroup) -> Group | msgspec.Raw:
        """Make a group."""
        receipt = receipt_for(call, "groups.create", params)
        return await self._store.write_once(receipt, insert_group, params, self._clock.now_ms())

    async def page(self, _call: Call, params: ListGroups) -> Listing[Group]:
        """A page of groups, newest first."""
        return await self._store.read(list_groups, params)

    def get(self, _call: Call, params: GetGroup) -> Group:
        """One group by its id."""
        return self._store.peek(select_group, params.id)

    async def update(self, call: Call, params: UpdateGroup) -> Group | msgspec.Raw:
        """Change a group."""
        receipt = receipt_for(call, "groups.update", params)
        return await self._store.write_once(receipt, update_group, params, self._clock.now_ms())

    async def delete(self, call: Call, params: DeleteGroup) -> Deletion | msgspec.Raw:
        """Remove a group."""
        receipt = receipt_for(call, "groups.delete", params)
        return await self._store.write_once(receipt, delete_group, params.id)

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="groups.create",
                summary="Make a group: a named configuration that conversations can belong to.",
                params=CreateGroup,
                result=Group,
                handler=self.create,
                role="write",
                mutates=True,
                example={"name": "Family", "config": {"model": "small"}},
            ),
            Method(
                name="groups.list",
                summary="List groups, newest first.",
                params=ListGroups,
                result=Listing[Group],
                handler=self.page,
                role="read",
                example={"limit": 10},
            ),
            Method(
                name="groups.get",
                summary="Get a group by its id.",
                params=GetGroup,
                result=Group,
                handler=self.get,
                role="read",
                immediate=True,
                errors=(GroupNotFound,),
            ),
            Method(
                name="groups.update",
                summary="Change a group's name or configuration.",
                params=UpdateGroup,
                result=Group,
                handler=self.update,
                role="write",
                mutates=True,
                errors=(GroupNotFound,),
            ),
            Method(
                name="groups.delete",
                summary="Delete a group; its conversations stay, without one. Answers what went.",
                params=DeleteGroup,
                result=Deletion,
                handler=self.delete,
                role="write",
                mutates=True,
                errors=(GroupNotFound,),
            ),
        ]

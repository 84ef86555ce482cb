"""users.*: settings of users."""

from __future__ import annotations

import msgspec

from nexusd.api.receipts import receipt_for
from nexusd.clock import Clock
from nexusd.errors import TooLarge, UserNotFound
from nexusd.model.fields import Deletion, Listing
from nexusd.model.users import DeleteUser, GetUser, ListUsers, SetUser, User
from nexusd.store.database import Database
from nexusd.store.users import delete_user, list_users, select_user, set_user
from nexusd.wire.methods import Call, Method


class UsersApi:
    """The methods on users."""

    def __init__(self, store: Database, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def get(self, _call: Call, params: GetUser) -> User:
        """One user's settings."""
        return self._store.peek(select_user, params.id)

    async def set(self, call: Call, params: SetUser) -> User | msgspec.Raw:
        """Keep or change a user's settings."""
        receipt = receipt_for(call, "users.set", params)
        return await self._store.write_once(receipt, set_user, params, self._clock.now_ms())

    async def page(self, _call: Call, params: ListUsers) -> Listing[User]:
        """A page of users, newest first."""
        return await self._store.read(list_users, params)

    async def delete(self, call: Call, params: DeleteUser) -> Deletion | msgspec.Raw:
        """Forget a user's settings."""
        receipt = receipt_for(call, "users.delete", params)
        return await self._store.write_once(receipt, delete_user, params.id)

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="users.get",
                summary="Get a user's settings by the caller's own id.",
                params=GetUser,
                result=User,
                handler=self.get,
                role="read",
                immediate=True,
                errors=(UserNotFound,),
            ),
            Method(
                name="users.set",
                summary="Replace a user's settings, or merge into them (RFC 7396); makes the user where there is none.",
                params=SetUser,
                result=User,
                handler=self.set,
                role="write",
                mutates=True,
                errors=(TooLarge,),
                example={"id": "anna", "settings": {"theme": "dark"}, "merge": True},
            ),
            Method(
                name="users.list",
                summary="List users with their settings, newest first.",
                params=ListUsers,
                result=Listing[User],
                handler=self.page,
                role="read",
                example={"limit": 10},
            ),
            Method(
                name="users.delete",
                summary="Forget a user's settings; conversations keep the id. Answers what went.",
                params=DeleteUser,
                result=Deletion,
                handler=self.delete,
                role="write",
                mutates=True,
                errors=(UserNotFound,),
            ),
        ]

"""sessions.*: the containers of conversations."""

from __future__ import annotations

from functools import partial

import msgspec

from nexusd.api.receipts import receipt_for
from nexusd.clock import Clock
from nexusd.errors import Conflict, ProjectNotFound, SessionNotFound
from nexusd.model.fields import Deletion, Listing
from nexusd.model.sessions import (
    CreateSession,
    DeleteSession,
    GetSession,
    GetSessionByExternalId,
    ListSessions,
    Session,
    UpdateSession,
)
from nexusd.store.cascades import SESSION
from nexusd.store.database import Database
from nexusd.store.sessions import (
    insert_session,
    list_sessions,
    select_session,
    select_session_by_external_id,
    session_to_delete,
    update_session,
)
from nexusd.wire.methods import Call, Method


class SessionsApi:
    """The methods on sessions."""

    def __init__(self, store: Database, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def create(self, call: Call, params: CreateSession) -> Session | msgspec.Raw:
        """Make a session under the caller's own id."""
        receipt = receipt_for(call, "sessions.create", params)
        return await self._store.write_once(receipt, insert_session, params, self._clock.now_ms())

    async def page(self, _call: Call, params: ListSessions) -> Listing[Session]:
        """A page of sessions, newest first."""
        return await self._store.read(list_sessions, params)

    def get(self, _call: Call, params: GetSession) -> Session:
        """One session by its row id."""
        return self._store.peek(select_session, params.id)

    def get_by_external_id(self, _call: Call, params: GetSessionByExternalId) -> Session:
        """One session by the caller's own id."""
        return self._store.peek(select_session_by_external_id, params.external_id)

    async def update(self, call: Call, params: UpdateSession) -> Session | msgspec.Raw:
        """Change a session's name, project or metadata."""
        receipt = receipt_for(call, "sessions.update", params)
        return await self._store.write_once(receipt, update_session, params, self._clock.now_ms())

    async def delete(self, call: Call, params: DeleteSession) -> Deletion | msgspec.Raw:
        """Remove a session with its episodes and summaries."""
        receipt = receipt_for(call, "sessions.delete", params)
        return await self._store.delete_in_slices(receipt, SESSION, partial(session_to_delete, params))

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="sessions.create",
                summary="Make a session, the container of a conversation, under the caller's own id.",
                params=CreateSession,
                result=Session,
                handler=self.create,
                role="write",
                mutates=True,
                errors=(Conflict, ProjectNotFound),
                example={"externalId": "kitchen-tablet"},
            ),
            Method(
                name="sessions.list",
                summary="List sessions, newest first.",
                params=ListSessions,
                result=Listing[Session],
                handler=self.page,
                role="read",
                example={"limit": 10},
            ),
            Method(
                name="sessions.get",
                summary="Get a session by its row id.",
                params=GetSession,
                result=Session,
                handler=self.get,
                role="read",
                immediate=True,
                errors=(SessionNotFound,),
            ),
            Method(
                name="sessions.getByExternalId",
                summary="Get a session by the caller's own id.",
                params=GetSessionByExternalId,
                result=Session,
                handler=self.get_by_external_id,
                role="read",
                immediate=True,
                errors=(SessionNotFound,),
            ),
            Method(
                name="sessions.update",
                summary="Change a session's name, project or metadata.",
                params=UpdateSession,
                result=Session,
                handler=self.update,
                role="write",
                mutates=True,
                errors=(SessionNotFound, ProjectNotFound),
            ),
            Method(
                name="sessions.delete",
                summary="Delete a session with its episodes and summaries; answers what went.",
                params=DeleteSession,
                result=Deletion,
                handler=self.delete,
                role="write",
                mutates=True,
                errors=(SessionNotFound,),
            ),
        ]

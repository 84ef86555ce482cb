"""conversations.*: chats of messages."""

from __future__ import annotations

import msgspec

from nexusd.api.receipts import receipt_for
from nexusd.clock import Clock
from nexusd.errors import ConversationNotFound, GroupNotFound
from nexusd.model.conversations import (
    Conversation,
    CreateConversation,
    DeleteConversation,
    GetConversation,
    ListConversations,
    UpdateConversation,
)
from nexusd.model.fields import Deletion, Listing
from nexusd.store.cascades import CONVERSATION
from nexusd.store.conversations import (
    insert_conversation,
    list_conversations,
    select_conversation,
    update_conversation,
)
from nexusd.store.database import Database
from nexusd.wire.methods import Call, Method


class ConversationsApi:
    """The methods on conversations."""

    def __init__(self, store: Database, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def create(self, call: Call, params: CreateConversation) -> Conversation | msgspec.Raw:
        """Begin a conversation."""
        receipt = receipt_for(call, "conversations.create", params)
        return await self._store.write_once(receipt, insert_conversation, params, self._clock.now_ms())

    async def page(self, _call: Call, params: ListConversations) -> Listing[Conversation]:
        """A page of conversations, the latest first."""
        return await self._store.read(list_conversations, params)

    def get(self, _call: Call, params: GetConversation) -> Conversation:
        """One conversation by its id."""
        return self._store.peek(select_conversation, params.id)

    async def update(self, call: Call, params: UpdateConversation) -> Conversation | msgspec.Raw:
        """Change a conversation."""
        receipt = receipt_for(call, "conversations.update", params)
        return await self._store.write_once(receipt, update_conversation, params, self._clock.now_ms())

    async def delete(self, call: Call, params: DeleteConversation) -> Deletion | msgspec.Raw:
        """Remove a conversation with its messages."""
        receipt = receipt_for(call, "conversations.delete", params)
        return await self._store.delete_in_slices(receipt, CONVERSATION, lambda _db: params.id)

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="conversations.create",
                summary="Begin a conversation, a chat of messages.",
                params=CreateConversation,
                result=Conversation,
                handler=self.create,
                role="write",
                mutates=True,
                errors=(GroupNotFound,),
                example={"title": "Holiday plans", "userId": "anna"},
            ),
            Method(
                name="conversations.list",
                summary="List conversations, the newest or the last active first.",
                params=ListConversations,
                result=Listing[Conversation],
                handler=self.page,
                role="read",
                example={"order": "active", "limit": 10},
            ),
            Method(
                name="conversations.get",
                summary="Get a conversation by its id.",
                params=GetConversation,
                result=Conversation,
                handler=self.get,
                role="read",
                immediate=True,
                errors=(ConversationNotFound,),
            ),
            Method(
                name="conversations.update",
                summary="Change a conversation; what is not given stays, null clears title, userId and groupId.",
                params=UpdateConversation,
                result=Conversation,
                handler=self.update,
                role="write",
                mutates=True,
                errors=(ConversationNotFound, GroupNotFound),
            ),
            Method(
                name="conversations.delete",
                summary="Delete a conversation with its messages; tool logs stay, without it. Answers what went.",
                params=DeleteConversation,
                result=Deletion,
                handler=self.delete,
                role="write",
                mutates=True,
                errors=(ConversationNotFound,),
            ),
        ]

"""messages.*: what was said in conversations."""

from __future__ import annotations

import msgspec

from nexusd.api.bulk import checked_items, ids_of, write_together
from nexusd.api.receipts import receipt_for
from nexusd.api.vector_wait import VectorWait
from nexusd.clock import Clock
from nexusd.errors import ConversationNotFound, MessageNotFound
from nexusd.model.bulk import Answers
from nexusd.model.fields import Deletion, Listing
from nexusd.model.memory import FoundMessages, SearchMessages
from nexusd.model.messages import (
    CreateMessage,
    CreateMessages,
    DeleteMessage,
    GetMessage,
    ListMessages,
    Message,
    NewMessage,
)
from nexusd.retrieval.search import MemorySearch
from nexusd.store.database import Database
from nexusd.store.messages import delete_message, insert_message, insert_messages, list_messages, select_message
from nexusd.sync.worker import OutboxWorker
from nexusd.wire.methods import Call, Method


class MessagesApi:
    """The methods on messages."""

    def __init__(self, store: Database, worker: OutboxWorker, search: MemorySearch, clock: Clock) -> None:
        self._store = store
        self._search = search
        self._clock = clock
        self._wait = VectorWait(store, worker, "messages", Message, select_message)

    async def create(self, call: Call, params: CreateMessage) -> Message | msgspec.Raw:
        """Store a message."""
        receipt = receipt_for(call, "messages.create", params)
        stored = await self._store.write_once(receipt, insert_message, params, self._clock.now_ms())
        return await self._wait.one(stored, params)

    async def create_many(self, call: Call, params: CreateMessages) -> Answers[Message] | msgspec.Raw:
        """Store many messages in one transaction, each with its row or its own error."""
        receipt = receipt_for(call, "messages.createMany", params)
        items = checked_items(NewMessage, params.items, call)
        stored = await self._store.write_once(
            receipt, write_together, items, call.request_id, insert_messages, self._clock.now_ms()
        )
        return await self._wait.each(stored, params)

    def get(self, _call: Call, params: GetMessage) -> Message:
        """One message by its id."""
        return self._store.peek(select_message, params.id)

    async def page(self, _call: Call, params: ListMessages) -> Listing[Message]:
        """A page of a conversation's messages."""
        return await self._store.read(list_messages, params)

    async def delete(self, call: Call, params: DeleteMessage) -> Deletion | msgspec.Raw:
        """Remove a message."""
        receipt = receipt_for(call, "messages.delete", params)
        return await self._store.write_once(receipt, delete_message, params.id)

    async def search(self, _call: Call, params: SearchMessages) -> FoundMessages:
        """Messages by meaning and by words."""
        return await self._search.search_messages(params)

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="messages.create",
                summary="Store a message; the reply means that it is on disk.",
                params=CreateMessage,
                result=Message,
                handler=self.create,
                role="write",
                mutates=True,
                errors=(ConversationNotFound,),
            ),
            Method(
                name="messages.createMany",
                summary="Store up to 500 messages in one transaction, each with its row or its own error.",
                params=CreateMessages,
                result=Answers[Message],
                handler=self.create_many,
                role="write",
                mutates=True,
                subject=ids_of,
            ),
            Method(
                name="messages.get",
                summary="Get a message by its id.",
                params=GetMessage,
                result=Message,
                handler=self.get,
                role="read",
                immediate=True,
                errors=(MessageNotFound,),
            ),
            Method(
                name="messages.list",
                summary="List the messages of a conversation, oldest first.",
                params=ListMessages,
                result=Listing[Message],
                handler=self.page,
                role="read",
                errors=(ConversationNotFound,),
            ),
            Method(
                name="messages.delete",
                summary="Delete a message; answers what went.",
                params=DeleteMessage,
                result=Deletion,
                handler=self.delete,
                role="write",
                mutates=True,
                errors=(MessageNotFound,),
            ),
            Method(
                name="messages.search",
                summary="Find messages by meaning and by words, best first.",
                params=SearchMessages,
                result=FoundMessages,
                handler=self.search,
                role="read",
                example={"query": "Where did we leave the key?", "limit": 5},
            ),
        ]

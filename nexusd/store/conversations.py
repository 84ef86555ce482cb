"""Conversations in SQLite. Their `updated_at` follows the messages by a trigger, in the same transaction."""

from __future__ import annotations

from typing import Any

import apsw
import msgspec

from nexusd.errors import ConversationNotFound, GroupNotFound
from nexusd.model.conversations import Conversation, CreateConversation, ListConversations, UpdateConversation
from nexusd.model.fields import UNSET, Deletion, Listing
from nexusd.store.cascades import CONVERSATION
from nexusd.store.connection import Connection, is_foreign_key
from nexusd.store.cursors import decode_cursor, encode_cursor
from nexusd.store.paging import AFTER_ALL, take_page
from nexusd.store.same_json import same_json
from nexusd.store.slices import delete_whole

_COLUMNS = "id, title, user_id, group_id, metadata, created_at, updated_at"
_TEXTS = (1, 4)

# a new conversation
INSERT_CONVERSATION = f"""
INSERT INTO conversations (title, user_id, group_id, metadata, created_at, updated_at)
VALUES (?, ?, ?, ?, ?, ?) RETURNING {_COLUMNS}"""

# one conversation
SELECT_CONVERSATION = f"SELECT {_COLUMNS} FROM conversations WHERE id = ?"

# the latest conversations before a place, of those that pass the filters
LIST_CONVERSATIONS = f"""
SELECT {_COLUMNS} FROM conversations
WHERE ({{time}}, id) < (?, ?){{conditions}}
ORDER BY {{time}} DESC, id DESC LIMIT ? OFFSET ?"""

# only of this user, of this group
OF_USER = " AND user_id = ?"
OF_GROUP = " AND group_id = ?"

# change what may change
UPDATE_CONVERSATION = f"""
UPDATE conversations SET title = ?, user_id = ?, group_id = ?, metadata = ?, updated_at = ? WHERE id = ?
RETURNING {_COLUMNS}"""

_TIMES = {"newest": "created_at", "active": "updated_at"}


def _conversation(row: tuple[Any, ...]) -> Conversation:
    return Conversation(
        id=row[0],
        title=row[1],
        user_id=row[2],
        group_id=row[3],
        metadata=msgspec.json.decode(row[4]),
        created_at=row[5],
        updated_at=row[6],
    )


def insert_conversation(db: Connection, new: CreateConversation, now_ms: int) -> Conversation:
    """Make a conversation. One with a `createdAt` was last active then, until its messages say otherwise.

    Raises:
        GroupNotFound: the group does not exist.
    """
    created_at = now_ms if new.created_at is None else new.created_at
    metadata = msgspec.json.encode(new.metadata).decode()
    values = (new.title, new.user_id, new.group_id, metadata, created_at, min(created_at, now_ms))
    try:
        return _conversation(db.execute(INSERT_CONVERSATION, values).fetchall()[0])
    except apsw.ConstraintError as error:
        if is_foreign_key(error):
            raise GroupNotFound from None
        raise


def select_conversation(db: Connection, conversation_id: int) -> Conversation:
    """One conversation.

    Raises:
        ConversationNotFound: there is none of this id.
    """
    row = db.execute(SELECT_CONVERSATION, (conversation_id,)).fetchone()
    if row is None:
        raise ConversationNotFound
    return _conversation(row)


def list_conversations(db: Connection, page: ListConversations) -> Listing[Conversation]:
    """A page of conversations, the latest first.

    Raises:
        InvalidParams: the cursor is none of this listing.
    """
    listing = f"conversations.{page.order}"
    place = decode_cursor(listing, page.cursor, 2) if page.cursor is not None else AFTER_ALL
    conditions, values = "", list[Any]()
    for condition, value in ((OF_USER, page.user_id), (OF_GROUP, page.group_id)):
        if value is not None:
            conditions += condition
            values.append(value)
    sql = LIST_CONVERSATIONS.format(time=_TIMES[page.order], conditions=conditions)
    rows = db.execute(sql, (*place, *values, page.limit + 1, page.offset or 0))
    items, more = take_page(rows, page.limit, _conversation, _TEXTS)
    next_cursor = None
    if more:
        last = items[-1]
        next_cursor = encode_cursor(
            listing, last.created_at if page.order == "newest" else last.updated_at, last.id
        )
    return Listing(items=items, next_cursor=next_cursor)


def update_conversation(db: Connection, change: UpdateConversation, now_ms: int) -> Conversation:
    """Change what is given. A change that changes nothing leaves `updated_at` as it is.

    Raises:
        ConversationNotFound: there is none of this id.
        GroupNotFound: the new group does not exist.
    """
    old = select_conversation(db, change.id)
    title = old.title if change.title is UNSET else change.title
    user_id = old.user_id if change.user_id is UNSET else change.user_id
    group_id = old.group_id if change.group_id is UNSET else change.group_id
    metadata = old.metadata if change.metadata is UNSET else change.metadata
    before = (old.title, old.user_id, old.group_id)
    if (title, user_id, group_id) == before and same_json(metadata, old.metadata):
        return old
    values = (title, user_id, group_id, msgspec.json.encode(metadata).decode(), now_ms, old.id)
    try:
        return _conversation(db.execute(UPDATE_CONVERSATION, values).fetchall()[0])
    except apsw.ConstraintError as error:
        if is_foreign_key(error):
            raise GroupNotFound from None
        raise


def delete_conversation(db: Connection, conversation_id: int) -> Deletion:
    """Delete a conversation with its messages at once; their points are queued for removal. Tool logs stay, without it.

    Raises:
        ConversationNotFound: there is none of this id.
    """
    return delete_whole(db, CONVERSATION, conversation_id)

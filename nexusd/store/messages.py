"""Messages in SQLite. Full text, outbox and the conversation's activity follow by triggers, in the same transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw
import msgspec

from nexusd.errors import ConversationNotFound, MessageNotFound, RpcError
from nexusd.model.fields import Deletion, Listing
from nexusd.model.messages import CreateMessage, ListMessages, Message, NewMessage
from nexusd.store.batch import Groupable
from nexusd.store.connection import Connection, is_foreign_key
from nexusd.store.cursors import decode_cursor, encode_cursor
from nexusd.store.deletions import deletion
from nexusd.store.indexed import vector_column, vector_state
from nexusd.store.paging import AFTER_ALL, BEFORE_ALL, take_page
from nexusd.store.values import in_powers_of_two, placeholders

# The columns of a record of `messages m`.
MESSAGE_COLUMNS = f"""
m.id, m.conversation_id, m.role, m.content, m.metadata, m.version, m.created_at, m.updated_at,
{vector_column('messages', 'm')}"""
_TEXTS = (3, 4)

# a new message
INSERT_MESSAGE = """
INSERT INTO messages (conversation_id, role, content, metadata, created_at, updated_at)
VALUES (?, ?, ?, ?, ?, ?) RETURNING id"""

# the last id ever given
SELECT_LAST_ID = "SELECT seq FROM sqlite_sequence WHERE name = 'messages'"

# new messages with ids that follow it: there is one writer, so they are free
INSERT_MESSAGES = """
INSERT INTO messages (id, conversation_id, role, content, metadata, created_at, updated_at)
VALUES {rows}"""

# one message
SELECT_MESSAGE = f"SELECT {MESSAGE_COLUMNS} FROM messages m WHERE m.id = ?"

# a conversation's messages, newest first, before a place
LIST_MESSAGES_DOWN = f"""
SELECT {MESSAGE_COLUMNS} FROM messages m
WHERE m.conversation_id = ? AND (m.created_at, m.id) < (?, ?)
ORDER BY m.created_at DESC, m.id DESC LIMIT ? OFFSET ?"""

# a conversation's messages, oldest first, after a place
LIST_MESSAGES_UP = f"""
SELECT {MESSAGE_COLUMNS} FROM messages m
WHERE m.conversation_id = ? AND (m.created_at, m.id) > (?, ?)
ORDER BY m.created_at, m.id LIMIT ? OFFSET ?"""

# whether there is such a conversation
SELECT_CONVERSATION_EXISTS = "SELECT 1 FROM conversations WHERE id = ?"

# one message; its point is queued for removal (trigger)
DELETE_MESSAGE = "DELETE FROM messages WHERE id = ?"


def message_from_row(row: tuple[Any, ...]) -> Message:
    """The record of a row of MESSAGE_COLUMNS."""
    return Message(
        id=row[0],
        conversation_id=row[1],
        role=row[2],
        content=row[3],
        metadata=msgspec.json.decode(row[4]),
        version=row[5],
        created_at=row[6],
        updated_at=row[7],
        vector=vector_state(row[8]),
    )


def _inserted(message_id: int, new: NewMessage | CreateMessage, now_ms: int) -> Message:
    return Message(
        id=message_id,
        conversation_id=new.conversation_id,
        role=new.role,
        content=new.content,
        metadata=new.metadata,
        version=1,
        created_at=now_ms if new.created_at is None else new.created_at,
        updated_at=now_ms,
        vector="pending",
    )


def _values(new: NewMessage | CreateMessage, now_ms: int) -> tuple[Any, ...]:
    return (
        new.conversation_id,
        new.role,
        new.content,
        msgspec.json.encode(new.metadata).decode() if new.metadata else "{}",
        now_ms if new.created_at is None else new.created_at,
        now_ms,
    )


def _insert_one(db: Connection, new: NewMessage | CreateMessage, now_ms: int) -> Message:
    """Insert the message and queue it for embedding. One transaction: both or neither.

    Raises:
        ConversationNotFound: the conversation does not exist.
    """
    try:
        message_id: int = db.execute(INSERT_MESSAGE, _values(new, now_ms)).get
    except apsw.ConstraintError as error:
        if is_foreign_key(error):
            raise ConversationNotFound from None
        raise
    return _inserted(message_id, new, now_ms)


def _insert_all(db: Connection, calls: Sequence[tuple[Any, ...]]) -> list[Message]:
    """Insert the messages of many callers, (new, now_ms) each; one that fails raises for all."""
    last_id: int = db.execute(SELECT_LAST_ID).get or 0
    messages: list[Message] = []
    for run in in_powers_of_two(calls):
        values: list[Any] = []
        for new, now_ms in run:
            last_id += 1
            values.append(last_id)
            values += _values(new, now_ms)
            messages.append(_inserted(last_id, new, now_ms))
        db.execute(INSERT_MESSAGES.format(rows=placeholders(len(run), 7)), values)
    return messages


insert_message = Groupable(_insert_one, _insert_all)


def insert_messages(db: Connection, items: Sequence[NewMessage], now_ms: int) -> list[Message | RpcError]:
    """Insert the messages, in order; each answers its row, or its own error while the others stand."""
    results: list[Message | RpcError] = []
    for run in in_powers_of_two(items):
        try:
            # a failed statement undoes itself, and a run of at most 64 rows is one statement
            results += _insert_all(db, [(new, now_ms) for new in run])
        except apsw.ConstraintError:
            results += [_insert_or_error(db, new, now_ms) for new in run]
    return results


def _insert_or_error(db: Connection, new: NewMessage, now_ms: int) -> Message | RpcError:
    try:
        return _insert_one(db, new, now_ms)
    except RpcError as error:
        return error


def select_message(db: Connection, message_id: int) -> Message:
    """One message.

    Raises:
        MessageNotFound: there is none of this id.
    """
    row = db.execute(SELECT_MESSAGE, (message_id,)).fetchone()
    if row is None:
        raise MessageNotFound
    return message_from_row(row)


def list_messages(db: Connection, page: ListMessages) -> Listing[Message]:
    """A page of a conversation's messages by createdAt.

    Raises:
        ConversationNotFound: there is no such conversation.
        InvalidParams: the cursor is none of this listing.
    """
    listing = f"messages.{page.order}"
    if page.cursor is not None:
        place = decode_cursor(listing, page.cursor, 2)
    else:
        place = AFTER_ALL if page.order == "desc" else BEFORE_ALL
    sql = LIST_MESSAGES_DOWN if page.order == "desc" else LIST_MESSAGES_UP
    rows = db.execute(sql, (page.conversation_id, *place, page.limit + 1, page.offset or 0))
    items, more = take_page(rows, page.limit, message_from_row, _TEXTS)
    if not items and db.execute(SELECT_CONVERSATION_EXISTS, (page.conversation_id,)).fetchone() is None:
        raise ConversationNotFound
    next_cursor = encode_cursor(listing, items[-1].created_at, items[-1].id) if more else None
    return Listing(items=items, next_cursor=next_cursor)


def delete_message(db: Connection, message_id: int) -> Deletion:
    """Delete a message; its point is queued for removal.

    Raises:
        MessageNotFound: there is none of this id.
    """
    db.execute(DELETE_MESSAGE, (message_id,))
    if db.changes() == 0:
        raise MessageNotFound
    return deletion(db, 1, messages=1)

from __future__ import annotations

import random

import pytest

from nexusd.errors import ConversationNotFound, MessageNotFound
from nexusd.model.conversations import Conversation, CreateConversation
from nexusd.model.messages import CreateMessage, ListMessages, Message, NewMessage
from nexusd.store.connection import Connection
from nexusd.store.conversations import insert_conversation, select_conversation
from nexusd.store.messages import (
    LIST_MESSAGES_DOWN,
    LIST_MESSAGES_UP,
    delete_message,
    insert_message,
    insert_messages,
    list_messages,
    select_message,
)
from nexusd.store.outbox import bury, claim_batch, finish_batch


@pytest.fixture
def chat(db: Connection) -> Conversation:
    return insert_conversation(db, CreateConversation(title="chat"), 1_000)


def new(chat: Conversation, text: str = "hello", **more: object) -> NewMessage:
    return NewMessage(conversation_id=chat.id, role="user", content=text, **more)  # type: ignore[arg-type]


def found(db: Connection, words: str) -> list[int]:
    sql = "SELECT rowid FROM messages_fts WHERE messages_fts MATCH ? ORDER BY 1"
    return [row_id for (row_id,) in db.execute(sql, (words,))]


def active(db: Connection, chat: Conversation) -> int:
    return select_conversation(db, chat.id).updated_at


def test_message_comes_back_as_it_was_made(db: Connection, chat: Conversation) -> None:
    params = CreateMessage(
        conversation_id=chat.id, role="narrator", content="naïve \U0001f600\x00x",
        metadata={"k": {"deep": [1.5, "é"]}}, created_at=7,
    )
    made = insert_message(db, params, 2_000)
    assert made == Message(
        id=made.id, conversation_id=chat.id, role="narrator", content=params.content, metadata=params.metadata,
        version=1, created_at=7, updated_at=2_000, vector="pending",
    )
    assert select_message(db, made.id) == made


def test_a_message_of_nothing_is_kept(db: Connection, chat: Conversation) -> None:
    made = insert_message(db, new(chat, ""), 1)
    assert select_message(db, made.id) == made
    assert made.content == ""


def test_many_together_are_the_same_as_one_by_one(db: Connection, chat: Conversation) -> None:
    calls = [(new(chat, f"m{i}", metadata={"i": i}), 2_000 + i) for i in range(70)]
    rows = insert_message.many(db, calls)
    assert [row.id for row in rows] == sorted(row.id for row in rows)
    for (item, now_ms), row in zip(calls, rows, strict=True):
        assert row == select_message(db, row.id)
        assert (row.content, row.metadata, row.created_at) == (item.content, item.metadata, now_ms)
    assert found(db, "m69") == [rows[-1].id]
    assert active(db, chat) == 2_069
    assert insert_message(db, new(chat), 1).id == rows[-1].id + 1


def test_unknown_conversation_is_named_and_the_others_stand(db: Connection, chat: Conversation) -> None:
    stranger = NewMessage(conversation_id=99, role="user", content="x")
    with pytest.raises(ConversationNotFound):
        insert_message(db, stranger, 1)
    results = insert_messages(db, [new(chat, "a"), stranger, new(chat, "b")], 1)
    assert [type(result) for result in results] == [Message, ConversationNotFound, Message]
    assert found(db, "a OR b OR x") == [results[0].id, results[2].id]   # type: ignore[union-attr]


def test_ids_are_never_used_twice(db: Connection, chat: Conversation) -> None:
    first = insert_message(db, new(chat), 1)
    delete_message(db, first.id)
    second = insert_message.many(db, [(new(chat), 1)])[0]
    delete_message(db, second.id)
    assert first.id < second.id < insert_message(db, new(chat), 1).id


def test_vector_says_what_the_outbox_owes(db: Connection, chat: Conversation) -> None:
    one, two = (insert_message(db, new(chat), 1) for _ in range(2))
    entries = {entry.row_id: entry for entry in claim_batch(db, 10, 10**15, 0, ["messages"])}
    assert select_message(db, one.id).vector == "pending"
    finish_batch(db, [entries[one.id]])
    bury(db, entries[two.id], "bad_content", "why")
    assert [select_message(db, m.id).vector for m in (one, two)] == ["indexed", "dead"]


def test_what_is_said_makes_the_conversation_active_but_not_before_its_time(
    db: Connection, chat: Conversation
) -> None:
    other = insert_conversation(db, CreateConversation(), 1)
    insert_message(db, new(chat, created_at=500), 2_000)        # imported: said before the conversation changed
    assert active(db, chat) == 1_000
    insert_message(db, new(chat), 2_000)
    assert active(db, chat) == 2_000
    insert_message(db, new(chat, created_at=10**12), 3_000)     # a clock of somebody's own
    assert active(db, chat) == 3_000
    delete_message(db, insert_message(db, new(chat), 4_000).id)
    assert active(db, chat) == 4_000
    assert active(db, other) == 1


def test_what_is_not_there_is_not_found(db: Connection) -> None:
    with pytest.raises(MessageNotFound):
        select_message(db, 1)
    with pytest.raises(MessageNotFound):
        delete_message(db, 1)
    with pytest.raises(ConversationNotFound):
        list_messages(db, ListMessages(conversation_id=1))


def test_delete_takes_the_words_and_queues_the_point(db: Connection, chat: Conversation) -> None:
    made = insert_message(db, new(chat, "apples"), 1)
    finish_batch(db, claim_batch(db, 10, 10**15, 0, ["messages"]))
    gone = delete_message(db, made.id)
    assert (gone.deleted, gone.points_queued) == ({"messages": 1}, 1)
    assert found(db, "apples") == []
    assert db.execute("SELECT op, row_id FROM outbox").fetchall() == [("delete", made.id)]


def test_a_chat_is_read_from_its_beginning(db: Connection, chat: Conversation) -> None:
    ids = [insert_message(db, new(chat), now_ms).id for now_ms in (1, 2, 3)]
    assert [m.id for m in list_messages(db, ListMessages(conversation_id=chat.id)).items] == ids


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_follow_created_at_and_stay_stable(db: Connection, chat: Conversation, order: str) -> None:
    chance = random.Random(5)
    times = [chance.randrange(1, 5) for _ in range(20)]    # many equal times
    rows = insert_messages(db, [new(chat, f"m{i}", created_at=t) for i, t in enumerate(times)], 50)
    other = insert_conversation(db, CreateConversation(), 1)
    insert_messages(db, [new(other, created_at=2)], 50)
    expected = sorted((row.created_at, row.id) for row in rows)     # type: ignore[union-attr]
    if order == "desc":
        expected.reverse()
    seen, cursor = list[tuple[int, int]](), None
    while True:
        page = list_messages(db, ListMessages(conversation_id=chat.id, limit=3, cursor=cursor, order=order))
        seen += [(m.created_at, m.id) for m in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
        # a row before the cursor comes and the cursor's own row goes: neither moves what follows
        insert_message(db, new(chat, "late", created_at=0 if order == "asc" else 1_000), 60)
        delete_message(db, page.items[-1].id)
    assert seen == expected
    assert list_messages(db, ListMessages(conversation_id=chat.id, offset=10**9)).items == []


@pytest.mark.parametrize("sql", [LIST_MESSAGES_DOWN, LIST_MESSAGES_UP])
def test_a_page_is_read_from_the_index_without_sorting(db: Connection, sql: str) -> None:
    plan = " ".join(row[3] for row in db.execute("EXPLAIN QUERY PLAN " + sql, (1, 1, 1, 1, 0)))
    assert "messages_by_conversation" in plan
    assert "TEMP B-TREE" not in plan

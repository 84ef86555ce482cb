from __future__ import annotations

import random

import pytest

from nexusd.errors import ConversationNotFound, GroupNotFound, InvalidParams
from nexusd.model.conversations import Conversation, CreateConversation, ListConversations, UpdateConversation
from nexusd.model.groups import CreateGroup
from nexusd.model.messages import NewMessage
from nexusd.model.tool_logs import AppendToolLog
from nexusd.store.connection import Connection
from nexusd.store.conversations import (
    LIST_CONVERSATIONS,
    OF_GROUP,
    OF_USER,
    delete_conversation,
    insert_conversation,
    list_conversations,
    select_conversation,
    update_conversation,
)
from nexusd.store.groups import insert_group
from nexusd.store.messages import insert_messages
from nexusd.store.outbox import claim_batch, finish_batch, unfinished
from nexusd.store.tool_logs import insert_tool_log, select_tool_log


def make(db: Connection, now_ms: int = 1, **given: object) -> Conversation:
    return insert_conversation(db, CreateConversation(**given), now_ms)  # type: ignore[arg-type]


def listed(db: Connection, **how: object) -> list[int]:
    return [found.id for found in list_conversations(db, ListConversations(**how)).items]  # type: ignore[arg-type]


def test_conversation_comes_back_as_it_was_made(db: Connection) -> None:
    group = insert_group(db, CreateGroup(name="g"), 1)
    made = make(db, 5, title="é\U0001f600", user_id="anna", group_id=group.id, metadata={"a": [1, None]})
    assert made == Conversation(
        id=made.id, title="é\U0001f600", user_id="anna", group_id=group.id, metadata={"a": [1, None]}, created_at=5,
        updated_at=5,
    )
    assert select_conversation(db, made.id) == made
    assert make(db).title is None


def test_one_that_began_earlier_was_last_active_then(db: Connection) -> None:
    assert (make(db, 100, created_at=7).created_at, make(db, 100, created_at=7).updated_at) == (7, 7)
    assert make(db, 100, created_at=10**12).updated_at == 100   # nothing is active in the future


def test_the_number_5_and_the_text_5_are_two_users(db: Connection) -> None:
    number, text = make(db, user_id=5), make(db, user_id="5")
    assert (select_conversation(db, number.id).user_id, select_conversation(db, text.id).user_id) == (5, "5")
    assert listed(db, user_id=5) == [number.id]
    assert listed(db, user_id="5") == [text.id]
    assert update_conversation(db, UpdateConversation(id=number.id, user_id="5"), 9).updated_at == 9


def test_unknown_groups_are_named(db: Connection) -> None:
    with pytest.raises(GroupNotFound):
        make(db, group_id=9)
    made = make(db)
    with pytest.raises(GroupNotFound):
        update_conversation(db, UpdateConversation(id=made.id, group_id=9), 2)


def test_unknown_conversations_are_not_found(db: Connection) -> None:
    with pytest.raises(ConversationNotFound):
        select_conversation(db, 1)
    with pytest.raises(ConversationNotFound):
        update_conversation(db, UpdateConversation(id=1, title="x"), 1)
    with pytest.raises(ConversationNotFound):
        delete_conversation(db, 1)


def test_filters_hold_together_and_nobodys_are_left_out(db: Connection) -> None:
    group = insert_group(db, CreateGroup(name="g"), 1)
    both = make(db, user_id="anna", group_id=group.id)
    of_user = make(db, user_id="anna")
    of_group = make(db, group_id=group.id)
    assert listed(db) == [of_group.id, of_user.id, both.id]
    assert listed(db, user_id="anna") == [of_user.id, both.id]
    assert listed(db, group_id=group.id) == [of_group.id, both.id]
    assert listed(db, user_id="anna", group_id=group.id) == [both.id]
    assert listed(db, user_id="bert") == []


@pytest.mark.parametrize("order", ["newest", "active"])
def test_pages_follow_the_order_and_stay_stable(db: Connection, order: str) -> None:
    chance = random.Random(3)
    for _ in range(20):     # many equal times, and activity in another order than the beginnings
        made = make(db, 50, created_at=chance.randrange(1, 5))
        insert_messages(db, [NewMessage(conversation_id=made.id, role="user", content="x",
                                        created_at=chance.randrange(5, 9))], 50)
    every = list_conversations(db, ListConversations(limit=500, order=order)).items
    time = "created_at" if order == "newest" else "updated_at"
    expected = sorted(((getattr(c, time), c.id) for c in every), reverse=True)
    assert [(getattr(c, time), c.id) for c in every] == expected
    seen: list[int] = []
    cursor = None
    while True:
        page = list_conversations(db, ListConversations(limit=3, cursor=cursor, order=order))
        seen += [c.id for c in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
        make(db, 1_000)     # a new one is before the cursor
        delete_conversation(db, page.items[-1].id)  # the row that the cursor stands on
    assert seen == [row_id for _, row_id in expected]
    assert listed(db, offset=10**9, order=order) == []


def test_a_cursor_of_the_other_order_is_refused(db: Connection) -> None:
    for _ in range(2):
        make(db)
    cursor = list_conversations(db, ListConversations(limit=1)).next_cursor
    with pytest.raises(InvalidParams):
        list_conversations(db, ListConversations(cursor=cursor, order="active"))


@pytest.mark.parametrize("time", ["created_at", "updated_at"])
@pytest.mark.parametrize("conditions", ["", OF_USER, OF_GROUP, OF_USER + OF_GROUP])
def test_a_page_is_read_from_an_index_without_sorting(db: Connection, time: str, conditions: str) -> None:
    sql = "EXPLAIN QUERY PLAN " + LIST_CONVERSATIONS.format(time=time, conditions=conditions)
    (step,) = (row[3] for row in db.execute(sql, (1, 1, *[1] * conditions.count("?"), 10, 0)))
    assert step.startswith("SEARCH conversations USING INDEX")
    assert f"{time}<?" in step


def test_update_changes_what_is_given_and_null_clears(db: Connection) -> None:
    group = insert_group(db, CreateGroup(name="g"), 1)
    made = make(db, 1, title="old", user_id=7, group_id=group.id, metadata={"a": 1})
    changed = update_conversation(db, UpdateConversation(id=made.id, title="new"), 2)
    assert (changed.title, changed.user_id, changed.group_id, changed.metadata) == ("new", 7, group.id, {"a": 1})
    assert changed.updated_at == 2
    cleared = update_conversation(db, UpdateConversation(id=made.id, title=None, user_id=None, group_id=None), 3)
    assert (cleared.title, cleared.user_id, cleared.group_id, cleared.metadata) == (None, None, None, {"a": 1})
    for value in (True, 1):     # equal to Python, not to JSON
        update_conversation(db, UpdateConversation(id=made.id, metadata={"a": value}), 4)
        assert select_conversation(db, made.id).metadata["a"] is value


def test_update_that_changes_nothing_changes_nothing(db: Connection) -> None:
    made = make(db, 1, title="t", metadata={"a": 1})
    assert update_conversation(db, UpdateConversation(id=made.id, title="t", metadata={"a": 1}), 9) == made


def test_update_wants_something_to_change() -> None:
    with pytest.raises(ValueError, match="at least one of"):
        UpdateConversation(id=1)


def test_delete_takes_the_messages_and_their_points_and_leaves_the_tool_logs(db: Connection) -> None:
    made, other = make(db), make(db)
    items = [NewMessage(conversation_id=c, role="user", content="x") for c in (made.id, made.id, other.id)]
    mine = [row.id for row in insert_messages(db, items, 1)][:2]
    log = insert_tool_log(db, AppendToolLog(tool="t", conversation_id=made.id), 1)
    finish_batch(db, claim_batch(db, 10, 10**15, 0, ["messages"]))
    gone = delete_conversation(db, made.id)
    assert gone.deleted == {"conversations": 1, "messages": 2}
    assert gone.points_queued == 2
    assert unfinished(db, "messages", [1, 2, 3]) == dict.fromkeys(mine, "pending")
    assert {op for (op,) in db.execute("SELECT op FROM outbox")} == {"delete"}
    assert db.execute("SELECT count(*) FROM messages").get == 1
    assert select_tool_log(db, log.id).conversation_id is None
    assert make(db).id > other.id

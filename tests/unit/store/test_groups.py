from __future__ import annotations

import pytest

from nexusd.errors import GroupNotFound, InvalidParams
from nexusd.model.conversations import CreateConversation
from nexusd.model.groups import CreateGroup, Group, ListGroups, UpdateGroup
from nexusd.store.connection import Connection
from nexusd.store.conversations import insert_conversation, select_conversation
from nexusd.store.groups import delete_group, insert_group, list_groups, select_group, update_group


def test_group_comes_back_as_it_was_made(db: Connection) -> None:
    made = insert_group(db, CreateGroup(name="é", config={"a": [1, None]}), 5)
    assert made == Group(id=made.id, name="é", config={"a": [1, None]}, created_at=5, updated_at=5)
    assert select_group(db, made.id) == made
    assert insert_group(db, CreateGroup(name="é"), 6).id > made.id     # names need not be unique


def test_unknown_groups_are_not_found(db: Connection) -> None:
    with pytest.raises(GroupNotFound):
        select_group(db, 1)
    with pytest.raises(GroupNotFound):
        update_group(db, UpdateGroup(id=1, name="x"), 1)
    with pytest.raises(GroupNotFound):
        delete_group(db, 1)


def test_update_changes_what_is_given(db: Connection) -> None:
    made = insert_group(db, CreateGroup(name="a", config={"a": 1}), 1)
    assert update_group(db, UpdateGroup(id=made.id, name="a", config={"a": 1}), 9) == made
    renamed = update_group(db, UpdateGroup(id=made.id, name="b"), 2)
    assert (renamed.name, renamed.config, renamed.updated_at) == ("b", {"a": 1}, 2)
    for value in (True, 1):     # equal to Python, not to JSON
        update_group(db, UpdateGroup(id=made.id, config={"a": value}), 3)
        assert select_group(db, made.id).config["a"] is value
    with pytest.raises(ValueError, match="at least one of"):
        UpdateGroup(id=made.id)


def test_pages_are_stable_under_inserts_and_deletes(db: Connection) -> None:
    ids = [insert_group(db, CreateGroup(name=f"g{i}"), 1).id for i in range(7)]
    first = list_groups(db, ListGroups(limit=3))
    insert_group(db, CreateGroup(name="new"), 1)
    delete_group(db, first.items[-1].id)
    second = list_groups(db, ListGroups(limit=3, cursor=first.next_cursor))
    third = list_groups(db, ListGroups(limit=3, cursor=second.next_cursor))
    assert [group.id for page in (first, second, third) for group in page.items] == ids[::-1]
    assert third.next_cursor is None
    assert [group.id for group in list_groups(db, ListGroups(limit=1, offset=2)).items] == [ids[5]]
    with pytest.raises(InvalidParams):
        list_groups(db, ListGroups(cursor="nonsense"))


def test_deleting_a_group_keeps_its_conversations(db: Connection) -> None:
    group, other = (insert_group(db, CreateGroup(name="g"), 1) for _ in range(2))
    inside = insert_conversation(db, CreateConversation(group_id=group.id), 1)
    outside = insert_conversation(db, CreateConversation(group_id=other.id), 1)
    gone = delete_group(db, group.id)
    assert (gone.deleted, gone.points_queued) == ({"groups": 1}, 0)
    assert select_conversation(db, inside.id).group_id is None
    assert select_conversation(db, outside.id) == outside

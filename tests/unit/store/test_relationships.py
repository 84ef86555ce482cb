from __future__ import annotations

from typing import Any

import pytest
from harness.examples import undone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexusd.errors import EntityNotFound, InvalidParams, RelationshipNotFound
from nexusd.model.entities import NewEntity
from nexusd.model.fields import UNSET, UnsetType
from nexusd.model.relationships import (
    DeleteRelationship,
    Link,
    LinkedEntity,
    ListLinksFrom,
    ListLinksTo,
    NewRelationship,
    UpsertedRelationship,
)
from nexusd.store.connection import Connection
from nexusd.store.entities import delete_entity, upsert_entity
from nexusd.store.integrity import check_integrity
from nexusd.store.relationships import (
    delete_relationship,
    list_links_from,
    list_links_to,
    upsert_relationship,
)
from nexusd.wire.validation import validate


@pytest.fixture
def people(db: Connection) -> list[int]:
    """Four entities, ids in the order of their names."""
    return [upsert_entity(db, NewEntity(name=name, type="person"), 1).id for name in ("Ada", "Ben", "Cat", "Dan")]


def link(
    db: Connection, from_id: int, to_id: int, label: str = "knows",
    metadata: dict[str, Any] | UnsetType = UNSET, now_ms: int = 1,
) -> UpsertedRelationship:
    new = NewRelationship(from_id=from_id, to_id=to_id, label=label, metadata=metadata)
    return upsert_relationship(db, new, now_ms)


def test_a_link_comes_back_as_it_was_made_with_the_entity_at_its_other_end(db: Connection, people: list[int]) -> None:
    ada, ben, *_ = people
    made = link(db, ada, ben, "knows", {"since": 1843}, now_ms=5)
    assert made == UpsertedRelationship(
        id=made.id, from_id=ada, to_id=ben, label="knows", metadata={"since": 1843}, created_at=5, updated_at=5,
        created=True,
    )
    link_there = Link(
        id=made.id, from_id=ada, to_id=ben, label="knows", metadata={"since": 1843}, created_at=5, updated_at=5,
        entity=LinkedEntity(id=ben, name="Ben", type="person"),
    )
    assert list_links_from(db, ListLinksFrom(from_id=ada)).items == [link_there]
    (back,) = list_links_to(db, ListLinksTo(to_id=ben)).items
    assert back.entity == LinkedEntity(id=ada, name="Ada", type="person")
    assert list_links_from(db, ListLinksFrom(from_id=ben)).items == []
    assert list_links_to(db, ListLinksTo(to_id=ada)).items == []


def test_an_upsert_of_the_same_key_replaces_the_metadata_if_given(db: Connection, people: list[int]) -> None:
    ada, ben, *_ = people
    first = link(db, ada, ben, metadata={"a": 1})
    same = link(db, ada, ben, now_ms=2)
    assert (same.created, same.id, same.metadata, same.updated_at) == (False, first.id, {"a": 1}, 1)
    assert link(db, ada, ben, metadata={"a": 1}, now_ms=3).updated_at == 1
    changed = link(db, ada, ben, metadata={"a": True}, now_ms=4)
    assert (changed.created, changed.metadata, changed.created_at, changed.updated_at) == (False, {"a": True}, 1, 4)
    (stored,) = list_links_from(db, ListLinksFrom(from_id=ada)).items
    assert (stored.metadata, stored.updated_at) == ({"a": True}, 4)
    assert link(db, ada, ben, "likes").created
    assert link(db, ben, ada).created    # the other way round is another link


def test_an_entity_may_be_linked_to_itself(db: Connection, people: list[int]) -> None:
    made = link(db, people[0], people[0])
    assert [one.id for one in list_links_from(db, ListLinksFrom(from_id=people[0])).items] == [made.id]
    assert [one.id for one in list_links_to(db, ListLinksTo(to_id=people[0])).items] == [made.id]


@pytest.mark.parametrize(
    ("from_known", "to_known", "paths"),
    [(False, True, ["fromId"]), (True, False, ["toId"]), (False, False, ["fromId", "toId"])],
)
def test_a_missing_end_is_named(
    db: Connection, people: list[int], *, from_known: bool, to_known: bool, paths: list[str]
) -> None:
    with pytest.raises(EntityNotFound) as refused:
        link(db, people[0] if from_known else 98, people[1] if to_known else 99)
    assert [field.path for field in refused.value.fields] == paths


def test_links_of_an_unknown_entity_are_not_found(db: Connection) -> None:
    with pytest.raises(EntityNotFound) as refused:
        list_links_from(db, ListLinksFrom(from_id=1))
    assert [field.path for field in refused.value.fields] == ["fromId"]
    with pytest.raises(EntityNotFound) as refused:
        list_links_to(db, ListLinksTo(to_id=1))
    assert [field.path for field in refused.value.fields] == ["toId"]


def test_links_are_listed_by_label_and_then_by_the_other_end(db: Connection, people: list[int]) -> None:
    ada, ben, cat, dan = people
    for to_id, label in ((dan, "knows"), (ben, "likes"), (cat, "knows"), (ben, "knows")):
        link(db, ada, to_id, label)
        link(db, to_id, ada, label)
    keys = [(one.label, one.to_id) for one in list_links_from(db, ListLinksFrom(from_id=ada)).items]
    assert keys == [("knows", ben), ("knows", cat), ("knows", dan), ("likes", ben)]
    keys = [(one.label, one.from_id) for one in list_links_to(db, ListLinksTo(to_id=ada)).items]
    assert keys == [("knows", ben), ("knows", cat), ("knows", dan), ("likes", ben)]
    (one,) = list_links_from(db, ListLinksFrom(from_id=ada, label="likes")).items
    assert one.entity.name == "Ben"
    assert list_links_to(db, ListLinksTo(to_id=ada, label="hates")).items == []


@pytest.mark.parametrize("label", [None, "knows"])
def test_pages_of_links_go_on_where_the_last_one_ended(
    db: Connection, people: list[int], label: str | None
) -> None:
    ada = people[0]
    for to_id in people:
        for one_label in ("knows", "likes") if label is None else (label,):
            link(db, ada, to_id, one_label)
            link(db, to_id, ada, one_label)
    out = list_links_from(db, ListLinksFrom(from_id=ada, label=label)).items
    first = list_links_from(db, ListLinksFrom(from_id=ada, label=label, limit=2))
    last = first.items[-1]
    delete_relationship(db, DeleteRelationship(from_id=ada, to_id=last.to_id, label=last.label))
    rest = list_links_from(db, ListLinksFrom(from_id=ada, label=label, cursor=first.next_cursor))
    assert first.items + rest.items == out
    back = list_links_to(db, ListLinksTo(to_id=ada, label=label)).items
    first_back = list_links_to(db, ListLinksTo(to_id=ada, label=label, limit=2))
    rest_back = list_links_to(db, ListLinksTo(to_id=ada, label=label, cursor=first_back.next_cursor))
    assert first_back.items + rest_back.items == back
    assert list_links_to(db, ListLinksTo(to_id=ada, label=label, offset=1, limit=1)).items == back[1:2]
    with pytest.raises(InvalidParams):
        list_links_to(db, ListLinksTo(to_id=ada, cursor=first.next_cursor))     # of another listing


def test_a_link_is_deleted_by_its_key_once(db: Connection, people: list[int]) -> None:
    ada, ben, *_ = people
    link(db, ada, ben)
    link(db, ada, ben, "likes")
    which = DeleteRelationship(from_id=ada, to_id=ben, label="knows")
    gone = delete_relationship(db, which)
    assert (gone.deleted, gone.points_queued) == ({"relationships": 1}, 0)
    assert [one.label for one in list_links_from(db, ListLinksFrom(from_id=ada)).items] == ["likes"]
    with pytest.raises(RelationshipNotFound):
        delete_relationship(db, which)


@pytest.mark.parametrize("wrong", [{"fromId": 0}, {"toId": "1"}, {"label": ""}, {"metadata": []}, {"weight": 1}])
def test_what_no_link_may_be_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidParams) as refused:
        validate(NewRelationship, {"fromId": 1, "toId": 1, "label": "l", **wrong})
    assert [field.path for field in refused.value.fields] == list(wrong)


ENDS = st.integers(0, 3)
STEPS = st.lists(
    st.tuples(st.sampled_from(["link", "link", "link", "unlink", "delete"]), ENDS, ENDS, st.sampled_from("ab")),
    max_size=25,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_links_are_those_of_a_plain_set_and_none_outlives_its_ends(
    db: Connection, people: list[int], steps: list[tuple[str, int, int, str]]
) -> None:
    with undone(db):
        follow(db, people, steps)
        assert check_integrity(db) == []


def follow(db: Connection, people: list[int], steps: list[tuple[str, int, int, str]]) -> None:
    there = set(people)
    links: set[tuple[int, int, str]] = set()
    for step, from_index, to_index, label in steps:
        from_id, to_id = people[from_index], people[to_index]
        key = from_id, to_id, label
        if step == "link":
            if {from_id, to_id} <= there:
                assert link(db, *key).created == (key not in links)
                links.add(key)
            else:
                with pytest.raises(EntityNotFound):
                    link(db, *key)
        elif step == "unlink" and key in links:
            delete_relationship(db, DeleteRelationship(from_id=from_id, to_id=to_id, label=label))
            links.remove(key)
        elif step == "delete" and from_id in there:
            gone = {one for one in links if from_id in one[:2]}
            assert delete_entity(db, from_id).deleted["relationships"] == len(gone)
            there.remove(from_id)
            links -= gone
    for person in there:
        out = list_links_from(db, ListLinksFrom(from_id=person)).items
        assert [(one.from_id, one.to_id, one.label) for one in out] == sorted(
            (one for one in links if one[0] == person), key=lambda one: (one[2], one[1])
        )
        back = list_links_to(db, ListLinksTo(to_id=person)).items
        assert [(one.from_id, one.to_id, one.label) for one in back] == sorted(
            (one for one in links if one[1] == person), key=lambda one: (one[2], one[0])
        )
    assert db.execute("SELECT count(*) FROM relationships").get == len(links)

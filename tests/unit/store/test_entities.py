from __future__ import annotations

from typing import Any

import pytest
from harness.examples import undone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexusd.errors import EntityNotFound, InvalidParams
from nexusd.model.entities import (
    Entity,
    ListEntities,
    ListEntitiesByType,
    NewEntity,
    SearchEntities,
    UpsertedEntity,
    UpsertEntity,
)
from nexusd.model.fields import UNSET, UnsetType
from nexusd.model.relationships import NewRelationship
from nexusd.store.connection import Connection
from nexusd.store.entities import (
    delete_entity,
    list_entities,
    list_entities_by_type,
    search_entities,
    select_entities,
    select_entity,
    upsert_entity,
)
from nexusd.store.integrity import check_integrity
from nexusd.store.relationships import upsert_relationship
from nexusd.store.text_budget import TextBudget
from nexusd.wire.validation import validate


def add(
    db: Connection,
    name: str,
    type_: str = "person",
    notes: str | UnsetType | None = UNSET,
    metadata: dict[str, Any] | UnsetType = UNSET,
    now_ms: int = 1,
) -> UpsertedEntity:
    return upsert_entity(db, NewEntity(name=name, type=type_, notes=notes, metadata=metadata), now_ms)


def stored(db: Connection, entity_id: int) -> tuple[str | None, dict[str, Any], int, int]:
    entity = select_entity(db, entity_id)
    return entity.notes, entity.metadata, entity.version, entity.updated_at


def test_an_entity_comes_back_as_it_was_made(db: Connection) -> None:
    made = upsert_entity(db, UpsertEntity(name="Ada", type="person", notes="n", metadata={"a": [1, None]}), 5)
    assert made == UpsertedEntity(
        id=made.id, name="Ada", type="person", notes="n", metadata={"a": [1, None]}, version=1, created_at=5,
        updated_at=5, vector="pending", created=True,
    )
    fields = {name: getattr(made, name) for name in Entity.__struct_fields__}
    assert select_entity(db, made.id) == Entity(**fields)


def test_the_same_name_of_another_type_is_another_entity(db: Connection) -> None:
    assert add(db, "Mercury", "planet").id != add(db, "Mercury", "metal").id
    assert add(db, "mercury", "planet").created    # names are told apart by case


def test_an_upsert_changes_what_is_given_and_null_takes_the_notes_away(db: Connection) -> None:
    made = add(db, "Ada", notes="n", metadata={"a": 1})
    assert add(db, "Ada", metadata={"a": 2}, now_ms=2) == UpsertedEntity(
        id=made.id, name="Ada", type="person", notes="n", metadata={"a": 2}, version=2, created_at=1, updated_at=2,
        vector="pending", created=False,
    )
    assert stored(db, made.id) == ("n", {"a": 2}, 2, 2)
    add(db, "Ada", notes="other", now_ms=3)
    assert stored(db, made.id) == ("other", {"a": 2}, 3, 3)
    add(db, "Ada", notes=None, now_ms=4)
    assert stored(db, made.id) == (None, {"a": 2}, 4, 4)


@pytest.mark.parametrize("same", [{}, {"notes": "n"}, {"metadata": {"b": 2, "a": True}}])
def test_an_upsert_that_changes_nothing_queues_nothing(db: Connection, same: dict[str, Any]) -> None:
    made = add(db, "Ada", notes="n", metadata={"a": True, "b": 2})
    db.execute("DELETE FROM outbox")
    again = add(db, "Ada", now_ms=9, **same)
    assert (again.created, again.version, again.updated_at, again.vector) == (False, 1, 1, "indexed")
    assert stored(db, made.id)[2:] == (1, 1)
    assert db.execute("SELECT count(*) FROM outbox").get == 0


def test_true_and_1_are_two_to_json(db: Connection) -> None:
    made = add(db, "Ada", metadata={"a": True})
    assert add(db, "Ada", metadata={"a": 1}).version == 2
    assert select_entity(db, made.id).metadata["a"] is not True


def test_a_change_is_queued_and_found_by_its_new_words(db: Connection) -> None:
    made = add(db, "Ada", notes="mathematician")
    db.execute("DELETE FROM outbox")
    add(db, "Ada", notes="programmer")
    assert db.execute("SELECT collection, row_id, version, op FROM outbox").fetchall() == [
        ("entities", made.id, 2, "upsert")
    ]
    assert found(db, "mathematician") == []
    assert found(db, "programmer") == [made.id]


def test_unknown_entities_are_not_found(db: Connection) -> None:
    with pytest.raises(EntityNotFound):
        select_entity(db, 1)
    with pytest.raises(EntityNotFound):
        delete_entity(db, 1)


def test_a_deleted_entity_takes_its_links_at_both_ends_and_its_point_along(db: Connection) -> None:
    ada, ben, eve = (add(db, name).id for name in ("Ada", "Ben", "Eve"))
    for from_id, to_id in ((ada, ben), (eve, ada), (ada, ada), (eve, ben)):
        upsert_relationship(db, NewRelationship(from_id=from_id, to_id=to_id, label="knows"), 1)
    db.execute("DELETE FROM outbox")
    gone = delete_entity(db, ada)
    assert (gone.deleted, gone.points_queued) == ({"entities": 1, "relationships": 3}, 1)
    assert db.execute("SELECT from_id, to_id FROM relationships").fetchall() == [(eve, ben)]
    assert db.execute("SELECT collection, row_id, op FROM outbox").fetchall() == [("entities", ada, "delete")]
    assert add(db, "Ada").id > eve     # its id is never used again


def test_newest_come_first_by_cursor_and_by_offset(db: Connection) -> None:
    ids = [add(db, f"e{i}", "ab"[i % 2]).id for i in range(7)][::-1]
    first = list_entities(db, ListEntities(limit=3))
    delete_entity(db, first.items[-1].id)   # the one that the cursor stands on
    add(db, "new")
    rest = list_entities(db, ListEntities(limit=9, cursor=first.next_cursor))
    assert [entity.id for entity in first.items + rest.items] == ids
    assert rest.next_cursor is None
    assert [entity.id for entity in list_entities(db, ListEntities(offset=1, limit=2)).items] == ids[:2]
    of_a = list_entities(db, ListEntities(type="a", limit=1))
    more = list_entities(db, ListEntities(type="a", cursor=of_a.next_cursor))
    assert [entity.name for entity in of_a.items + more.items] == ["e6", "e2", "e0"]
    with pytest.raises(InvalidParams):
        list_entities(db, ListEntities(cursor="x"))


def test_a_type_is_listed_by_name_as_people_sort(db: Connection) -> None:
    for name in ("bob", "Ann", "Émile", "alf", "Bob"):
        add(db, name)
    add(db, "Anchor", "thing")
    assert [e.name for e in list_entities_by_type(db, ListEntitiesByType(type="person")).items] == [
        "alf", "Ann", "bob", "Bob", "Émile",
    ]
    assert list_entities_by_type(db, ListEntitiesByType(type="nothing")).items == []


def test_pages_by_name_go_on_after_names_that_differ_in_case_only_and_after_deleted_ones(db: Connection) -> None:
    names = ["x" * 512, "X" * 512, "\U0001f331" * 512, "a", "A", "aa"]
    ids = {name: add(db, name).id for name in names}
    wanted = sorted(names, key=lambda name: (name.lower(), ids[name]))
    listed, cursor = [], None
    while True:
        page = list_entities_by_type(db, ListEntitiesByType(type="person", limit=1, cursor=cursor))
        listed += [entity.name for entity in page.items]
        delete_entity(db, page.items[-1].id)    # the one that the cursor stands on
        cursor = page.next_cursor
        if cursor is None:
            break
        validate(ListEntitiesByType, {"type": "person", "cursor": cursor})     # it can be sent as it was answered
    assert listed == wanted


def test_a_page_by_name_takes_an_offset_and_goes_on_by_cursor(db: Connection) -> None:
    for name in "abcde":
        add(db, name)
    page = list_entities_by_type(db, ListEntitiesByType(type="person", limit=2, offset=1))
    rest = list_entities_by_type(db, ListEntitiesByType(type="person", cursor=page.next_cursor))
    assert [entity.name for entity in page.items + rest.items] == list("bcde")
    for cursor in (list_entities(db, ListEntities(limit=1)).next_cursor, "x"):
        with pytest.raises(InvalidParams):
            list_entities_by_type(db, ListEntitiesByType(type="person", cursor=cursor))


def found(db: Connection, query: str, **options: Any) -> list[int]:
    return [match.entity.id for match in search_entities(db, SearchEntities(query=query, **options)).items]


def test_search_finds_every_word_in_name_type_or_notes(db: Connection) -> None:
    house = add(db, "Greenhouse", "place", "tomatoes grow here").id
    add(db, "Cellar", "place", "potatoes lie here")
    assert found(db, "tomato") == [house]
    assert found(db, "place growing") == [house]
    assert found(db, "greenhouse potatoes") == []
    assert len(found(db, "place")) == 2
    assert found(db, "place", limit=1) != []
    assert found(db, "here", type="person") == []
    assert len(found(db, "here", type="place")) == 2


@pytest.mark.parametrize("query", ['"', "name:ada", "a AND", "ada*", "NEAR(a b)", "-", "\0", "(", "^ada", "\U0001f331"])
def test_nothing_in_a_query_is_syntax(db: Connection, query: str) -> None:
    add(db, "Ada", notes="name and")
    search_entities(db, SearchEntities(query=query))


def test_an_answer_holds_so_much_text_and_says_what_it_left_out(db: Connection) -> None:
    for i in range(10):
        add(db, f"long {i}", notes="x" * 1_000_000)
    answer = search_entities(db, SearchEntities(query="long"))
    assert (len(answer.items), answer.truncated) == (8, True)
    page = list_entities(db, ListEntities(limit=10))
    assert len(page.items) == 8
    assert page.next_cursor is not None
    assert list(select_entities(db, [3, 99, 1], TextBudget(1_000_010))) == [3]


@pytest.mark.parametrize(
    "wrong", [{"name": ""}, {"type": ""}, {"notes": "x" * (1024 * 1024 + 1)}, {"metadata": None}, {"colour": "red"}]
)
def test_what_no_entity_may_be_is_refused_by_name(wrong: dict[str, Any]) -> None:
    for params in (NewEntity, UpsertEntity):
        with pytest.raises(InvalidParams) as refused:
            validate(params, {"name": "n", "type": "t", **wrong})
        assert [field.path for field in refused.value.fields] == list(wrong)


NAMES = st.sampled_from(["Ada", "ada", "A\0a", "\U0001f331"])
STEPS = st.lists(
    st.tuples(
        NAMES,
        st.sampled_from(["person", "place"]),
        st.sampled_from([UNSET, None, "n", "m"]),
        st.sampled_from([UNSET, {}, {"a": 1}, {"a": True}]),
        st.booleans(),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_however_often_it_is_upserted_an_entity_is_one(db: Connection, steps: list[tuple[Any, ...]]) -> None:
    with undone(db):
        follow(db, steps)
        assert check_integrity(db) == []


def follow(db: Connection, steps: list[tuple[Any, ...]]) -> None:
    model: dict[tuple[str, str], tuple[str | None, dict[str, Any], int]] = {}
    ids: dict[tuple[str, str], int] = {}
    for name, type_, notes, metadata, drop in steps:
        key = name, type_
        if drop and key in model:
            delete_entity(db, ids.pop(key))
            del model[key]
            continue
        answer = add(db, name, type_, notes, metadata)
        assert answer.created == (key not in model)
        assert ids.setdefault(key, answer.id) == answer.id
        old_notes, old_metadata, version = model.get(key, (None, {}, 0))
        new_notes = old_notes if notes is UNSET else notes
        new_metadata = old_metadata if metadata is UNSET else metadata
        changed = repr((new_notes, new_metadata)) != repr((old_notes, old_metadata)) or version == 0
        model[key] = new_notes, new_metadata, version + changed
    rows = list_entities(db, ListEntities()).items
    assert {(row.name, row.type): (row.notes, row.metadata, row.version) for row in rows} == model
    assert {(row.name, row.type): row.id for row in rows} == ids

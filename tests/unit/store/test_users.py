from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexusd.errors import InvalidParams, TooLarge, UserNotFound
from nexusd.model.fields import Key
from nexusd.model.users import MAX_SETTINGS, ListUsers, SetUser, User
from nexusd.store.connection import Connection
from nexusd.store.users import delete_user, list_users, select_user, set_user


def put(db: Connection, user_id: Key, given: dict[str, Any], now_ms: int = 1, *, merge: bool = False) -> User:
    return set_user(db, SetUser(id=user_id, settings=given, merge=merge), now_ms)


def as_json(value: Any) -> bytes:
    """For comparing: to Python, 1, 1.0 and True are equal."""
    return msgspec.json.encode(value, order="sorted")


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2, as it stands there."""
    if not isinstance(patch, dict):
        return patch
    if not isinstance(target, dict):
        target = {}
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        else:
            target[name] = merge_patch(target.get(name), value)
    return target


def test_settings_come_back_as_they_were_set(db: Connection) -> None:
    settings_ = {"theme": "dark", "nested": {"a": [1, None, 2.5, "é\U0001f600\x00"]}, "none": None, "": 10**30}
    made = put(db, "anna", settings_, 5)
    assert made == User(id="anna", settings=settings_, created_at=5, updated_at=5)
    assert select_user(db, "anna") == made


def test_set_replaces_all_and_keeps_the_beginning(db: Connection) -> None:
    put(db, 1, {"a": 1, "b": 2}, 5)
    assert put(db, 1, {"c": 3}, 6) == User(id=1, settings={"c": 3}, created_at=5, updated_at=6)


@pytest.mark.parametrize("merge", [False, True])
def test_set_that_changes_nothing_changes_nothing(db: Connection, merge: bool) -> None:
    made = put(db, "anna", {"a": {"b": 1}}, 5)
    assert put(db, "anna", {"a": {"b": 1}}, 9, merge=merge) == made
    assert put(db, "anna", {"a": {"b": True}}, 9, merge=merge).updated_at == 9    # 1 is true to Python, not to JSON


def test_the_number_5_and_the_text_5_are_two_users(db: Connection) -> None:
    put(db, 5, {"is": "number"})
    put(db, "5", {"is": "text"})
    assert select_user(db, 5).settings == {"is": "number"}
    assert select_user(db, "5") == User(id="5", settings={"is": "text"}, created_at=1, updated_at=1)
    assert delete_user(db, 5).deleted == {"users": 1}
    assert [user.id for user in list_users(db, ListUsers()).items] == ["5"]


def test_unknown_users_are_not_found(db: Connection) -> None:
    with pytest.raises(UserNotFound):
        select_user(db, "x")
    with pytest.raises(UserNotFound):
        delete_user(db, "x")


def test_a_patch_of_nobody_makes_the_user_without_its_nulls(db: Connection) -> None:
    assert put(db, "anna", {"a": None, "b": {"c": None, "d": 1}}, merge=True).settings == {"b": {"d": 1}}


def test_merges_may_not_pile_up_without_end(db: Connection) -> None:
    most = {"a": "x" * (MAX_SETTINGS - 8)}
    assert len(msgspec.json.encode(put(db, 1, most).settings)) == MAX_SETTINGS
    for settings_, merge in (({"b": 1}, True), ({"a": "x" * MAX_SETTINGS}, False)):
        with pytest.raises(TooLarge):
            put(db, 1, settings_, merge=merge)
    assert put(db, 1, {"a": None, "b": 1}, merge=True).settings == {"b": 1}


def test_pages_are_newest_first_and_stable(db: Connection) -> None:
    ids: list[Key] = [f"u{i}" if i % 2 else i for i in range(7)]
    for user_id in ids:
        put(db, user_id, {})
    first = list_users(db, ListUsers(limit=3))
    put(db, "new", {})
    put(db, ids[0], {"changed": True})      # a change moves nobody
    delete_user(db, first.items[-1].id)
    second = list_users(db, ListUsers(limit=3, cursor=first.next_cursor))
    third = list_users(db, ListUsers(limit=3, cursor=second.next_cursor))
    assert [user.id for page in (first, second, third) for user in page.items] == ids[::-1]
    assert third.next_cursor is None
    assert [user.id for user in list_users(db, ListUsers(limit=1, offset=2)).items] == [ids[5]]
    with pytest.raises(InvalidParams):
        list_users(db, ListUsers(cursor="nonsense"))


# few keys, so that patches meet what is there; every kind of value; keys that JSON must escape
KEYS = st.sampled_from(["", "a", "b", 'q"uote', "back\\slash", "\x00", "é", "\U0001f600", "$.a", "0"])
NUMBERS = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=12,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=4)


@given(first=OBJECTS, patches=st.lists(OBJECTS, min_size=1, max_size=4))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])  # each has its own user
def test_merge_is_rfc_7396(db: Connection, first: dict[str, Any], patches: list[dict[str, Any]]) -> None:
    user_id = db.execute("SELECT count(*) FROM users").get
    before = put(db, user_id, first, 1)
    expected: Any = copy.deepcopy(first)
    for now_ms, patch in enumerate(patches, 2):
        merged = put(db, user_id, patch, now_ms, merge=True)
        expected = merge_patch(expected, copy.deepcopy(patch))
        assert as_json(merged.settings) == as_json(expected)
        assert select_user(db, user_id) == merged
        changed = as_json(merged.settings) != as_json(before.settings)
        assert merged.updated_at == (now_ms if changed else before.updated_at)
        before = merged


@pytest.mark.parametrize(
    ("original", "patch", "result"),
    [   # RFC 7396, appendix A: those of objects
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_the_examples_of_rfc_7396_hold(
    db: Connection, original: dict[str, Any], patch: dict[str, Any], result: dict[str, Any]
) -> None:
    put(db, 1, original)
    assert put(db, 1, patch, merge=True).settings == result

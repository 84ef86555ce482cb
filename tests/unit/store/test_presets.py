from __future__ import annotations

import pytest

from nexusd.errors import PresetNotFound
from nexusd.store.connection import Connection
from nexusd.store.presets import (
    delete_preset,
    mirror_presets,
    select_preset,
    select_preset_by_id,
    select_preset_names,
    upsert_preset,
)


def test_a_preset_keeps_its_id_and_the_time_it_was_made(db: Connection) -> None:
    first = upsert_preset(db, "Küche", '{"a":1}', 10)
    assert (first.content, first.state, first.created_at, first.updated_at) == ({"a": 1}, "ok", 10, 10)
    second = upsert_preset(db, "Küche", '{"a":2}', 20)
    assert (second.id, second.content, second.created_at, second.updated_at) == (first.id, {"a": 2}, 10, 20)
    assert select_preset(db, "Küche") == select_preset_by_id(db, second.id or 0) == second


def test_the_same_content_changes_nothing(db: Connection) -> None:
    first = upsert_preset(db, "a", '{"a":1}', 10)
    assert upsert_preset(db, "a", '{"a":1}', 20) == first


def test_true_is_not_one(db: Connection) -> None:
    upsert_preset(db, "a", '{"a":1}', 10)
    assert upsert_preset(db, "a", '{"a":true}', 20).updated_at == 20


def test_the_mirror_says_what_changed(db: Connection) -> None:
    for name in "abc":
        upsert_preset(db, name, "{}", 10)
    changed = mirror_presets(db, [("a", "{}"), ("b", '{"x":1}'), ("d", "{}")], ["c", "nothing"], 20)
    assert changed == ["b", "d", "c"]
    assert select_preset_names(db) == ["a", "b", "d"]
    assert select_preset(db, "a").updated_at == 10


def test_ids_are_never_used_twice(db: Connection) -> None:
    first = upsert_preset(db, "a", "{}", 10)
    assert delete_preset(db, "a")
    assert not delete_preset(db, "a")
    with pytest.raises(PresetNotFound):
        select_preset(db, "a")
    with pytest.raises(PresetNotFound):
        select_preset_by_id(db, first.id or 0)
    assert (upsert_preset(db, "a", "{}", 10).id or 0) > (first.id or 0)

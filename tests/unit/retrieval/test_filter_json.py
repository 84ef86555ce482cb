"""Qdrant's JSON for filters: what is understood, and what is refused by name and place."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusd.errors import InvalidParams
from nexusd.index.filters import Filter, HasId, Match, Range, passes
from nexusd.model.fields import IndexedCollection
from nexusd.retrieval.filter_json import (
    KEYS,
    MAX_CONDITIONS,
    MAX_FAULTS,
    MAX_PATH,
    MAX_PATH_KEYS,
    MAX_VALUES,
    parse_filter,
)
from nexusd.store.episodes import EpisodeSource
from nexusd.store.sources import EntitySource, MessageSource, SummarySource, VectorSource
from nexusd.sync.sources import (
    entity_document,
    episode_document,
    message_document,
    summary_document,
    vector_document,
)

TOPIC = {"key": "metadata.topic", "match": {"value": "tea"}}
IS_TEA = Match("metadata.topic", ("tea",))


def faults(given: dict[str, Any], collection: IndexedCollection = "episodes") -> dict[str, str]:
    with pytest.raises(InvalidParams) as caught:
        parse_filter(given, collection)
    assert "nothing" not in str(caught.value.fields[0].path)
    return {fault.path: fault.expected for fault in caught.value.fields}


def test_no_filter_is_no_filter() -> None:
    assert parse_filter(None, "episodes") is None


def test_every_clause_and_every_condition_that_can_be_said() -> None:
    given = {
        "must": [TOPIC, {"key": "createdAt", "range": {"gt": 1, "gte": 2.5, "lt": None, "lte": 9}}],
        "should": [{"key": "sessionId", "match": {"any": [1, 2.0]}}, {"has_id": [3, 4]}],
        "must_not": [{"must": [TOPIC], "should": None}],
    }
    assert parse_filter(given, "episodes") == Filter(
        must=(IS_TEA, Range("createdAt", gt=1, gte=2.5, lte=9)),
        should=(Match("sessionId", (1, 2)), HasId((3, 4))),
        must_not=(Filter(must=(IS_TEA,)),),
    )


@pytest.mark.parametrize("clause", ["must", "should", "must_not"])
def test_one_condition_may_stand_where_a_list_may(clause: str) -> None:
    assert parse_filter({clause: TOPIC}, "episodes") == parse_filter({clause: [TOPIC]}, "episodes")
    assert parse_filter({clause: None}, "episodes") == parse_filter({clause: []}, "episodes") == Filter()


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("createdAt", "createdAt"),
        ("metadata.a.b", "metadata.a.b"),
        ('metadata."a.b"', 'metadata."a.b"'),
        ('metadata."a b"."c"', "metadata.a b.c"),
        ("metadata.tags[]", "metadata.tags"),
        ("metadata.ä-1_x", "metadata.ä-1_x"),
    ],
)
def test_paths_are_qdrants(key: str, expected: str) -> None:
    assert parse_filter({"must": {"key": key, "match": {"value": 1}}}, "episodes") == Filter((Match(expected, (1,)),))


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"min_should": {}}, "filter.min_should"),
        ({"must": {"nested": {}}}, "filter.must.nested"),
        ({"must": [TOPIC, {"is_empty": {"key": "metadata.a"}}]}, "filter.must[1].is_empty"),
        ({"must": [{"key": "metadata.a", "geo_radius": {}}]}, "filter.must[0].geo_radius"),
        ({"must": [{"key": "metadata.a", "values_count": {"gt": 1}}]}, "filter.must[0].values_count"),
        ({"must": [{"key": "metadata.a", "match": {"text": "tea"}}]}, "filter.must[0].match.text"),
        ({"must": [{"key": "metadata.a", "match": {"except": ["tea"]}}]}, "filter.must[0].match.except"),
        ({"must": [{"key": "metadata.a", "match": {"value": 1, "any": [1]}}]}, "filter.must[0].match"),
        ({"must": [{"key": "metadata.a", "match": {"value": 0.5}}]}, "filter.must[0].match.value"),
        ({"must": [{"key": "metadata.a", "match": {"value": None}}]}, "filter.must[0].match.value"),
        ({"must": [{"key": "metadata.a", "match": {"any": "tea"}}]}, "filter.must[0].match.any"),
        ({"must": [{"key": "metadata.a", "match": "tea"}]}, "filter.must[0].match"),
        ({"must": [{"key": "metadata.a"}]}, "filter.must[0]"),
        ({"must": [{**TOPIC, "range": {"gt": 1}}]}, "filter.must[0]"),
        ({"must": [{"key": "createdAt", "range": {"from": 1}}]}, "filter.must[0].range.from"),
        ({"must": [{"key": "createdAt", "range": {"gt": "2024"}}]}, "filter.must[0].range.gt"),
        ({"must": [{"key": "createdAt", "range": {"gt": True}}]}, "filter.must[0].range.gt"),
        ({"must": [{"key": "createdAt", "range": [1, 2]}]}, "filter.must[0].range"),
        ({"must": [{"key": "createdAt"}, TOPIC]}, "filter.must[0]"),
        ({"must": [{"key": "sessionid", "match": {"value": 1}}]}, "filter.must[0].key"),
        ({"must": [{"key": "", "match": {"value": 1}}]}, "filter.must[0].key"),
        ({"must": [{"key": 7, "match": {"value": 1}}]}, "filter.must[0].key"),
        ({"must": [{"key": "metadata.", "match": {"value": 1}}]}, "filter.must[0].key"),
        ({"must": [{"key": "metadata..a", "match": {"value": 1}}]}, "filter.must[0].key"),
        ({"must": [{"key": 'metadata."a', "match": {"value": 1}}]}, "filter.must[0].key"),
        ({"must": [{"key": "metadata.a[0]", "match": {"value": 1}}]}, "filter.must[0].key"),
        ({"must": [{"key": "metadata.a[].b", "match": {"value": 1}}]}, "filter.must[0].key"),
        ({"must": [{"has_id": 3}]}, "filter.must[0].has_id"),
        ({"must": [{"has_id": ["550e8400-e29b-41d4-a716-446655440000"]}]}, "filter.must[0].has_id"),
        ({"must": [{"has_id": [True]}]}, "filter.must[0].has_id"),
        ({"must": [{"has_id": [-1]}]}, "filter.must[0].has_id"),
        ({"must": [{"has_id": [1], "key": "createdAt"}]}, "filter.must[0].has_id"),
        ({"must": [[TOPIC]]}, "filter.must[0]"),
        ({"must": "tea"}, "filter.must"),
        ({"should": [{"must_not": [{"x": 1}]}]}, "filter.should[0].must_not[0].x"),
    ],
)
def test_what_cannot_be_said_is_refused_with_its_place(given: dict[str, Any], path: str) -> None:
    assert list(faults(given)) == [path]


def test_every_fault_is_told_at_once() -> None:
    given = {"must": [{"geo": 1}, TOPIC, {"key": "x", "match": {"value": 1}}], "min_should": 1}
    assert set(faults(given)) == {"filter.min_should", "filter.must[0].geo", "filter.must[2].key"}


def test_filters_have_an_end() -> None:
    assert faults({"must": [TOPIC] * (MAX_CONDITIONS + 1)}) == {
        "filter": f"at most {MAX_CONDITIONS} conditions in all"
    }
    assert faults({"must": {"has_id": [1] * (MAX_VALUES + 1)}}) == {"filter": f"at most {MAX_VALUES} values in all"}
    deep: dict[str, Any] = TOPIC
    for _ in range(100):
        deep = {"must": deep}
    assert parse_filter({"must": deep}, "episodes") is not None


@pytest.mark.parametrize(
    "clause", [[{}] * 1_000_000, range(1_000_000), [{"has_id": 0}] * 1_000_000], ids=["right", "wrong", "the same"]
)
def test_no_more_of_a_filter_is_read_than_can_matter(clause: Iterable[Any]) -> None:
    conditions = list(clause)
    began_s = time.process_time()
    told = faults({"must": conditions})
    assert time.process_time() - began_s < 1    # all of it takes many seconds, on the event loop
    assert 1 <= len(told) <= MAX_FAULTS


def test_unknown_clauses_are_told_up_to_a_number() -> None:
    assert len(faults({f"clause{number}": [] for number in range(10 * MAX_FAULTS)})) == MAX_FAULTS


def test_a_path_has_an_end() -> None:
    longest = "metadata." + "a" * (MAX_PATH - len("metadata."))
    assert parse_filter({"must": {"key": longest, "match": {"value": 1}}}, "episodes") is not None
    assert faults({"must": {"key": longest + "a", "match": {"value": 1}}}) == {
        "filter.must.key": f"a path of at most {MAX_PATH} characters"
    }
    deepest = ".".join(["metadata", *"a" * (MAX_PATH_KEYS - 1)])
    assert parse_filter({"must": {"key": deepest, "match": {"value": 1}}}, "episodes") is not None
    assert faults({"must": {"key": f"{deepest}.a", "match": {"value": 1}}}) == {
        "filter.must.key": f"a path of at most {MAX_PATH_KEYS} keys"
    }


def test_has_id_means_the_callers_own_ids_where_there_are_such() -> None:
    assert parse_filter({"must": {"has_id": ["a", 5]}}, "vectors") == Filter((Match("id", ("a", 5)),))
    assert list(faults({"must": {"has_id": [0.5]}}, "vectors")) == ["filter.must.has_id"]


def test_the_keys_that_filters_may_ask_for_are_those_that_payloads_have() -> None:
    payloads = {
        "episodes": episode_document(EpisodeSource(1, 1, 1, 1, "", "", {}, 1), "e").payload,
        "entities": entity_document(EntitySource(1, 1, "", "", None, {}, 1), "e").payload,
        "summaries": summary_document(SummarySource(1, 1, 1, 1, "", {}, 1), "e").payload,
        "messages": message_document(MessageSource(1, 1, 1, "", "", {}, 1), "e").payload,
        "vectors": vector_document(VectorSource(1, 1, "k", "", None, None, {}, 1), "e").payload,
    }
    assert {name: {*keys, "epoch"} for name, keys in KEYS.items()} == {
        name: set(payload) for name, payload in payloads.items()
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["must", "should", "must_not", "key", "match", "range", "has_id", "value", "any", "gt", "x"]),
        inner, max_size=3,
    ),
    max_leaves=12,
)


@given(given=st.dictionaries(st.sampled_from(["must", "should", "must_not", "min_should"]), JSON, max_size=3))
def test_whatever_is_given_is_a_filter_or_is_refused_with_places(given: dict[str, Any]) -> None:
    refused, where = (), None
    try:
        where = parse_filter(given, "vectors")
    except InvalidParams as error:
        refused = error.fields
    assert (where is None) == bool(refused)
    assert all(fault.path.startswith("filter") for fault in refused)
    if where is not None:
        passes(where, 1, {"createdAt": 1, "metadata": {}})

"""A filter in Qdrant's JSON, over the embedded index and over rows in plain Python: one meaning."""

from __future__ import annotations

import random
from array import array
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexusd.clock import SystemClock
from nexusd.config_sections import IndexConfig
from nexusd.index.embedded import EmbeddedIndex
from nexusd.index.filters import passes
from nexusd.index.index import CollectionSpec, Point
from nexusd.retrieval.filter_json import parse_filter

pytestmark = pytest.mark.anyio
SPEC = CollectionSpec("episodes-1a2b", 4)

NAMES = ["topic", "a b", "x.y", "ä", "deep"]
SCALARS = st.one_of(st.booleans(), st.integers(-2, 2), st.sampled_from(["", "1", "true", "x"]))
NUMBERS = st.one_of(st.integers(-2, 3), st.sampled_from([0.5, 1.0, -1.5]))
VALUES = st.one_of(
    SCALARS, st.none(), st.sampled_from([0.5, 1.0]), st.lists(SCALARS | NUMBERS, max_size=3),
    st.dictionaries(st.sampled_from(["topic", "inner"]), SCALARS, max_size=2),
)
PAYLOADS = st.fixed_dictionaries(
    {"sessionId": st.integers(1, 3), "createdAt": st.integers(0, 5)},
    optional={"metadata": st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3)},
)
KEYS = st.sampled_from(
    ["sessionId", "createdAt", "projectId", "metadata.topic", 'metadata."a b"', 'metadata."x.y"', "metadata.ä",
     "metadata.topic[]", "metadata.deep.inner", "metadata.deep"]
)
RANGE = st.dictionaries(st.sampled_from(["gt", "gte", "lt", "lte"]), NUMBERS | st.none(), max_size=3)
CONDITIONS = st.one_of(
    st.builds(lambda key, value: {"key": key, "match": {"value": value}}, KEYS, SCALARS),
    st.builds(lambda key, values: {"key": key, "match": {"any": values}}, KEYS, st.lists(SCALARS, max_size=3)),
    st.builds(lambda key, bounds: {"key": key, "range": bounds}, KEYS, RANGE),
    st.builds(lambda ids: {"has_id": ids}, st.lists(st.integers(1, 12), max_size=4)),
)
OFTEN_MET = st.one_of(
    st.builds(lambda value: {"key": "sessionId", "match": {"value": value}}, st.integers(1, 3)),
    st.builds(lambda bound: {"key": "createdAt", "range": {"gte": bound}}, st.integers(0, 5)),
)


def filters(conditions: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    clause = st.one_of(conditions, st.lists(conditions, min_size=1, max_size=2), st.sampled_from([None, []]))
    return st.dictionaries(st.sampled_from(["must", "should", "must_not"]), clause, max_size=2)


# Weighted so that about half of the points pass: conditions that nothing meets would prove little.
NESTED = filters(CONDITIONS | OFTEN_MET)
FILTERS = filters(st.one_of(CONDITIONS, OFTEN_MET, NESTED, filters(NESTED)))


def holds(where: dict[str, Any], id_: int, payload: dict[str, Any]) -> bool:
    """The meaning of the JSON, said as plainly as possible."""
    if "has_id" in where:
        return id_ in where["has_id"]
    if "key" in where:
        value: Any = payload
        for key in where["key"].removesuffix("[]").replace('"x.y"', "x/y").replace('"', "").split("."):
            value = value.get(key.replace("/", ".")) if isinstance(value, dict) else None
        values = value if isinstance(value, list) else [value]
        if "match" in where:
            wanted = where["match"].get("any", [where["match"].get("value")])
            return any(equal(one, other) for one in values for other in wanted)
        numbers = [each for each in values if type(each) in (int, float)]
        return any(all(within(name, bound, each) for name, bound in where["range"].items()) for each in numbers)
    must, should, must_not = (listed(where.get(name)) for name in ("must", "should", "must_not"))
    return (
        all(holds(each, id_, payload) for each in must)
        and (not should or any(holds(each, id_, payload) for each in should))
        and not any(holds(each, id_, payload) for each in must_not)
    )


def listed(clause: Any) -> list[Any]:
    return clause if isinstance(clause, list) else [] if clause is None else [clause]


def equal(one: Any, other: Any) -> bool:
    return (type(one) is bool) == (type(other) is bool) and one == other


def within(name: str, bound: float | None, value: float) -> bool:
    if bound is None:
        return True
    return {"gt": value > bound, "gte": value >= bound, "lt": value < bound, "lte": value <= bound}[name]


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[EmbeddedIndex]:
    index = EmbeddedIndex(tmp_path, IndexConfig(), SystemClock())
    await index.start()
    await index.ensure(SPEC)
    yield index
    await index.close()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])  # emptied by each
@given(payloads=st.lists(PAYLOADS, min_size=4, max_size=10), wheres=st.lists(FILTERS, min_size=8, max_size=8))
async def test_the_index_and_plain_python_let_the_same_through(
    index: EmbeddedIndex, payloads: list[dict[str, Any]], wheres: list[dict[str, Any]]
) -> None:
    await index.delete(SPEC.name, [each.id for each in await index.scroll(SPEC.name, 0, 100)])
    chance = random.Random(3)
    vectors = [array("f", [chance.gauss(0, 1) for _ in range(4)]).tobytes() for _ in payloads]
    points = [Point(id_, 1, *each) for id_, each in enumerate(zip(vectors, payloads, strict=True), start=1)]
    await index.upsert(SPEC.name, points)
    for asked in wheres:
        expected = {point.id for point in points if holds(asked, point.id, point.payload)}
        where = parse_filter(asked, "episodes")
        assert {hit.id for hit in await index.search(SPEC.name, vectors[0], 50, where)} == expected
        assert where is not None
        assert {point.id for point in points if passes(where, point.id, point.payload)} == expected


async def test_a_filter_as_deep_as_a_message_may_be_is_answered(index: EmbeddedIndex) -> None:
    vector = array("f", [1, 0, 0, 0]).tobytes()
    await index.upsert(SPEC.name, [Point(1, 1, vector, {"sessionId": 1}), Point(2, 1, vector, {"sessionId": 2})])
    deep: dict[str, Any] = {"key": "sessionId", "match": {"value": 2}}
    for _ in range(190):
        deep = {"must": deep}
    hits = await index.search(SPEC.name, vector, 5, parse_filter({"must": deep}, "episodes"))
    assert [hit.id for hit in hits] == [2]
    assert index.health().restarts == 0

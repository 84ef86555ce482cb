"""What every vector index must do, over each implementation there is."""

from __future__ import annotations

import asyncio
import math
import os
import random
import signal
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fakes.qdrant_server import FakeQdrant
from harness.server_index import REAL_SERVER, InMemoryClient, in_memory_index, own_prefix, real_config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexusd.clock import SystemClock
from nexusd.config_sections import IndexConfig
from nexusd.errors import BadContent, BadName, DimensionMismatch, IndexUnavailable
from nexusd.index.embedded import EmbeddedIndex
from nexusd.index.filters import Filter, HasId, Match, Range, path
from nexusd.index.index import CollectionSpec, Index, Point, PointVersion
from nexusd.index.server import ServerIndex

pytestmark = pytest.mark.anyio

DIMENSION = 8
SPEC = CollectionSpec("episodes-1a2b", DIMENSION)
Factory = Callable[[Path], Index]


def embedded(directory: Path) -> Index:
    return EmbeddedIndex(directory, IndexConfig(), SystemClock())


BACKENDS = ["embedded", "server_in_memory", "server_over_http", *(["server"] if REAL_SERVER in os.environ else [])]


@pytest.fixture(params=BACKENDS)
async def factory(request: pytest.FixtureRequest) -> AsyncIterator[Factory]:
    """Makes an index; called again, one that finds what the one before has stored."""
    if request.param == "embedded":
        yield embedded
    elif request.param == "server_in_memory":
        client = InMemoryClient()
        yield lambda _: in_memory_index(client)
    elif request.param == "server_over_http":
        fake = FakeQdrant()
        await fake.start()
        yield lambda _: ServerIndex(IndexConfig(backend="server", url=fake.url), SystemClock())
        await fake.stop()
    else:
        async with own_prefix() as prefix:
            yield lambda _: ServerIndex(real_config(prefix), SystemClock())


@asynccontextmanager
async def opened(factory: Factory, directory: Path, *specs: CollectionSpec) -> AsyncIterator[Index]:
    index = factory(directory)
    await index.start()
    try:
        for spec in specs:
            await index.ensure(spec)
        yield index
    finally:
        await index.close()


@pytest.fixture
async def index(factory: Factory, tmp_path: Path) -> AsyncIterator[Index]:
    async with opened(factory, tmp_path, SPEC) as index:
        yield index


def vector(seed: int, dimension: int = DIMENSION) -> bytes:
    chance = random.Random(seed)
    return array("f", [chance.gauss(0, 1) for _ in range(dimension)]).tobytes()


def point(id_: int, version: int = 1, **payload: Any) -> Point:
    return Point(id_, version, vector(id_), payload)


def cosine(one: bytes, other: bytes) -> float:
    left, right = array("f", one), array("f", other)
    return sum(a * b for a, b in zip(left, right, strict=True)) / math.hypot(*left) / math.hypot(*right)


async def versions(index: Index, collection: str = SPEC.name) -> dict[int, int]:
    found: list[PointVersion] = []
    while page := await index.scroll(collection, found[-1].id if found else 0, 100):
        found += page
    assert [each.id for each in found] == sorted({each.id for each in found})
    return {each.id: each.version for each in found}


async def test_a_point_is_found_by_its_own_vector_with_its_version(index: Index) -> None:
    await index.upsert(SPEC.name, [point(id_, version=id_ + 10) for id_ in range(1, 50)])
    best = (await index.search(SPEC.name, vector(7), 3, None))[0]
    assert (best.id, best.version) == (7, 17)
    assert best.score == pytest.approx(1.0, abs=1e-4)


async def test_names_for_other_readers_are_given_and_given_again_and_change_nothing_here(index: Index) -> None:
    other = CollectionSpec("episodes-3c4d", DIMENSION)
    await index.ensure(other)
    await index.upsert(SPEC.name, [point(1)])
    for target in (SPEC.name, SPEC.name, other.name):
        await index.publish({"episodes": target})
        assert await versions(index) == {1: 1}
        assert await versions(index, other.name) == {}
    await index.drop(SPEC.name)
    await index.publish({"episodes": other.name})
    assert set(index.health().incarnations) == {other.name}


async def test_hits_are_the_nearest_in_order(index: Index) -> None:
    points = [point(id_) for id_ in range(1, 400)]
    await index.upsert(SPEC.name, points)
    query = vector(100_000)
    expected = sorted(points, key=lambda each: -cosine(query, each.vector))[:20]
    hits = await index.search(SPEC.name, query, 20, None)
    assert [hit.id for hit in hits] == [each.id for each in expected]
    for hit, each in zip(hits, expected, strict=True):
        assert hit.score == pytest.approx(cosine(query, each.vector), abs=1e-4)


@pytest.mark.parametrize("distance", ["Cosine", "Dot", "Euclid"])
async def test_higher_is_nearer_under_every_distance(factory: Factory, tmp_path: Path, distance: Any) -> None:
    spec = CollectionSpec("vectors", 2, distance)
    near, far = array("f", [1.0, 0.1]).tobytes(), array("f", [-1.0, 3.0]).tobytes()
    async with opened(factory, tmp_path, spec) as index:
        await index.upsert("vectors", [Point(1, 1, far, {}), Point(2, 1, near, {})])
        first, second = await index.search("vectors", array("f", [1.0, 0.0]).tobytes(), 2, None)
    assert (first.id, second.id) == (2, 1)
    assert first.score > second.score


async def test_overwriting_keeps_one_point_with_the_new_version_vector_and_payload(index: Index) -> None:
    await index.upsert(SPEC.name, [Point(1, 1, vector(1), {"sessionId": 1})])
    await index.upsert(SPEC.name, [Point(1, 2, vector(2), {"sessionId": 2})])
    assert await index.count(SPEC.name) == 1
    assert await versions(index) == {1: 2}
    (hit,) = await index.search(SPEC.name, vector(2), 5, Filter(must=(Match("sessionId", (2,)),)))
    assert hit.score == pytest.approx(1.0, abs=1e-4)
    assert await index.search(SPEC.name, vector(2), 5, Filter(must=(Match("sessionId", (1,)),))) == []


async def test_deleted_points_are_gone_and_unknown_ids_are_no_error(index: Index) -> None:
    await index.upsert(SPEC.name, [point(1), point(2), point(3)])
    await index.delete(SPEC.name, [2, 3, 4_000_000])
    assert await versions(index) == {1: 1}
    assert [hit.id for hit in await index.search(SPEC.name, vector(2), 5, None)] == [1]


async def test_nothing_asked_is_nothing_done(index: Index) -> None:
    await index.upsert(SPEC.name, [])
    await index.delete(SPEC.name, [])
    assert await index.count(SPEC.name) == 0
    assert await index.search(SPEC.name, vector(1), 5, None) == []


async def test_scroll_walks_every_id_once_in_order(index: Index) -> None:
    ids = random.Random(3).sample(range(1, 10**9), 1300)
    await index.upsert(SPEC.name, [point(id_, version=id_ % 7 + 1) for id_ in ids])
    expected = [PointVersion(id_, id_ % 7 + 1) for id_ in sorted(ids)]
    assert await index.scroll(SPEC.name, 0, 5000) == expected  # more than the engine is asked for at once
    assert await index.scroll(SPEC.name, expected[599].id, 3) == expected[600:603]
    assert await index.scroll(SPEC.name, -5, 2) == expected[:2]
    assert await index.scroll(SPEC.name, expected[-1].id, 2) == []
    assert await index.count(SPEC.name) == 1300


async def test_acknowledged_writes_are_there_after_kill_9_and_a_new_start(
    factory: Factory, tmp_path: Path
) -> None:
    for id_ in range(1, 6):
        async with opened(factory, tmp_path, SPEC) as index:
            await index.upsert(SPEC.name, [point(id_, version=9), point(100 + id_)])
            await index.delete(SPEC.name, [100 + id_])
            for process_id in index.health().process_ids:
                os.kill(process_id, signal.SIGKILL)
    async with opened(factory, tmp_path, SPEC) as index:
        assert await versions(index) == dict.fromkeys(range(1, 6), 9)


async def test_bad_vectors_are_refused_and_nothing_of_their_batch_is_stored(index: Index) -> None:
    bad = {
        "NaN": (array("f", [math.nan] + [1.0] * 7).tobytes(), BadContent),
        "Inf": (array("f", [math.inf] + [1.0] * 7).tobytes(), BadContent),
        "zero": (bytes(4 * DIMENSION), BadContent),
        "short": (vector(1)[:-4], DimensionMismatch),
        "long": (vector(1) + b"\x00" * 4, DimensionMismatch),
    }
    for bytes_, error in bad.values():
        with pytest.raises(error):
            await index.upsert(SPEC.name, [point(1), Point(2, 1, bytes_, {})])
        with pytest.raises(error):
            await index.search(SPEC.name, bytes_, 5, None)
    assert await index.count(SPEC.name) == 0


async def test_bad_ids_are_refused_and_nothing_of_their_batch_is_stored(index: Index) -> None:
    for id_ in (-1, 2**63):
        with pytest.raises(BadContent):
            await index.upsert(SPEC.name, [point(1), Point(id_, 1, vector(1), {})])
    assert await index.count(SPEC.name) == 0


async def test_vectors_of_extreme_length_are_compared_by_direction(index: Index) -> None:
    for id_, factor in ((1, 1e-30), (2, 1e30), (3, 1.0)):
        numbers = array("f", [number * factor for number in array("f", vector(id_))])
        await index.upsert(SPEC.name, [Point(id_, 1, numbers.tobytes(), {})])
    for id_ in (1, 2, 3):
        best = (await index.search(SPEC.name, vector(id_), 1, None))[0]
        assert (best.id, best.score) == (id_, pytest.approx(1.0, abs=1e-3))


async def test_ensuring_twice_keeps_the_collection_and_its_incarnation(
    factory: Factory, tmp_path: Path
) -> None:
    async with opened(factory, tmp_path) as index:
        incarnation = await index.ensure(SPEC)
        await index.upsert(SPEC.name, [point(1)])
        assert await index.ensure(SPEC) == incarnation
        assert index.health().incarnations[SPEC.name] == incarnation
    async with opened(factory, tmp_path) as index:
        assert await index.ensure(SPEC) == incarnation
        assert await index.count(SPEC.name) == 1


@pytest.mark.parametrize(
    "other", [CollectionSpec(SPEC.name, DIMENSION + 1), CollectionSpec(SPEC.name, DIMENSION, "Dot")]
)
async def test_ensuring_with_another_dimension_or_distance_is_refused(
    factory: Factory, tmp_path: Path, other: CollectionSpec
) -> None:
    async with opened(factory, tmp_path, SPEC) as index:
        await index.upsert(SPEC.name, [point(1)])
        with pytest.raises(DimensionMismatch):
            await index.ensure(other)
    async with opened(factory, tmp_path) as index:
        with pytest.raises(DimensionMismatch):
            await index.ensure(other)
        await index.ensure(SPEC)
        assert await index.count(SPEC.name) == 1


@pytest.mark.parametrize("name", ["", "..", "a/b", "a.b", ".hidden", "x" * 200, "-x", "a\n"])
async def test_names_that_could_reach_elsewhere_are_refused(index: Index, name: str) -> None:
    with pytest.raises(BadName):
        await index.ensure(CollectionSpec(name, 3))
    with pytest.raises(BadName):
        await index.drop(name)


async def test_a_dropped_collection_is_gone_and_made_anew_is_empty(index: Index) -> None:
    before = await index.ensure(SPEC)
    await index.upsert(SPEC.name, [point(1)])
    await index.drop(SPEC.name)
    await index.drop(SPEC.name)
    await index.drop("never-made")
    with pytest.raises(IndexUnavailable):
        await index.count(SPEC.name)
    assert await index.ensure(SPEC) != before
    assert await index.count(SPEC.name) == 0


async def test_a_point_says_which_database_it_is_of(index: Index) -> None:
    ours, other = "0123456789abcdef" * 2, "another"
    await index.upsert(SPEC.name, [point(1, epoch=ours), point(2, epoch=other), point(3), point(4, epoch=5)])
    expected = [PointVersion(1, 1, ours), PointVersion(2, 1, other), PointVersion(3, 1), PointVersion(4, 1)]
    assert await index.scroll(SPEC.name, 0, 10) == expected
    await index.upsert(SPEC.name, [point(2, version=2, epoch=ours)])
    assert await index.scroll(SPEC.name, 1, 1) == [PointVersion(2, 2, ours)]
    where = Filter(must=(Match("epoch", (ours,)),))
    assert {hit.id for hit in await index.search(SPEC.name, vector(1), 9, where)} == {1, 2}


async def test_collections_do_not_share_points(factory: Factory, tmp_path: Path) -> None:
    other = CollectionSpec("entities", 3)
    async with opened(factory, tmp_path, SPEC, other) as index:
        await index.upsert(SPEC.name, [point(1), point(2)])
        await index.upsert(other.name, [Point(1, 5, vector(1, 3), {})])
        await index.drop(SPEC.name)
        assert await versions(index, other.name) == {1: 5}


@pytest.mark.parametrize(
    "call",
    [
        lambda index: index.search("nowhere", vector(1), 5, None),
        lambda index: index.scroll("nowhere", 0, 5),
        lambda index: index.count("nowhere"),
        lambda index: index.upsert("nowhere", [point(1)]),
        lambda index: index.delete("nowhere", [1]),
    ],
)
async def test_a_collection_that_was_not_ensured_is_unavailable_not_empty(
    index: Index, call: Callable[[Index], Awaitable[Any]]
) -> None:
    with pytest.raises(IndexUnavailable):
        await call(index)


async def test_after_close_every_call_is_refused_at_once(factory: Factory, tmp_path: Path) -> None:
    async with opened(factory, tmp_path, SPEC) as index:
        pass
    async with asyncio.timeout(2):
        with pytest.raises(IndexUnavailable):
            await index.count(SPEC.name)
    assert not index.health().available


async def test_health_names_the_processes_and_their_memory(index: Index) -> None:
    if isinstance(index, ServerIndex):
        assert index.health().available
        assert (index.health().process_ids, index.health().restarts, index.health().resident_bytes) == ((), 0, 0)
        return  # a server's processes are its own
    async with asyncio.timeout(20):
        while not index.health().resident_bytes:
            await asyncio.sleep(0.01)
    health = index.health()
    assert health.available
    assert not health.rebuilding
    assert health.process_ids
    assert 10 * 2**20 < health.resident_bytes < 2**30


# filters

KEYS = ["topic", "a b", 'q"q', "x.y", "ä", "n[0]"]
SCALARS = st.one_of(
    st.booleans(), st.integers(-2, 2), st.sampled_from(["", "1", "true", "x"]), st.sampled_from([2**63, -(2**70)])
)
VALUES = st.one_of(
    SCALARS, st.none(), st.sampled_from([0.5, 1.0, -2.0]), st.lists(SCALARS, max_size=3), st.just({"inner": 1})
)
PAYLOADS = st.fixed_dictionaries(
    {"sessionId": st.integers(1, 3), "createdAt": st.integers(0, 5)},
    optional={
        "projectId": st.integers(1, 2),
        "metadata": st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3),
    },
)
MATCHES = st.one_of(
    st.builds(Match, st.just("sessionId"), st.lists(st.integers(1, 4), max_size=2).map(tuple)),
    st.builds(Match, st.just("projectId"), st.integers(1, 3).map(lambda value: (value,))),
    st.builds(
        Match, st.sampled_from(KEYS).map(lambda key: path("metadata", key)), st.lists(SCALARS, max_size=3).map(tuple)
    ),
)
BOUNDS = {name: st.none() | st.integers(-1, 5).map(float) for name in ("gt", "gte", "lt", "lte")}
RANGES = st.one_of(
    st.builds(Range, st.just("createdAt"), **BOUNDS),
    st.builds(Range, st.sampled_from(KEYS).map(lambda key: path("metadata", key)), **BOUNDS),
)
CONDITIONS = st.one_of(
    MATCHES, RANGES, st.builds(HasId, st.lists(st.integers(-1, 12), max_size=4).map(tuple))
)


def filters(conditions: st.SearchStrategy[Any]) -> st.SearchStrategy[Filter]:
    some = st.lists(conditions, max_size=2).map(tuple)
    return st.builds(Filter, must=some, should=some, must_not=some)


NESTED = st.builds(Filter, **dict.fromkeys(("must", "should", "must_not"), st.lists(MATCHES, max_size=1).map(tuple)))
FILTERS = filters(CONDITIONS | NESTED)


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return (type(one) in (int, float) and type(other) in (int, float) and float(one) == float(other)) or one == other


def values_at(payload: dict[str, Any], key: str) -> list[Any]:
    value: Any = payload
    keys = [key] if not key.startswith("metadata") else ["metadata", KEYS_BY_PATH[key]]
    for each in keys:
        value = value.get(each) if isinstance(value, dict) else None
    return value if isinstance(value, list) else [value]


KEYS_BY_PATH = {path("metadata", key): key for key in KEYS}


def holds(condition: Any, id_: int, payload: dict[str, Any]) -> bool:
    """The meaning of a condition, said as plainly as possible."""
    if isinstance(condition, Filter):
        return passes(condition, id_, payload)
    if isinstance(condition, HasId):
        return id_ in condition.ids
    found = values_at(payload, condition.key)
    if isinstance(condition, Match):
        return any(equal(value, wanted) for value in found for wanted in condition.any_of if value is not None)
    numbers = [value for value in found if isinstance(value, (int, float)) and not isinstance(value, bool)]
    return any(
        (condition.gt is None or number > condition.gt)
        and (condition.gte is None or number >= condition.gte)
        and (condition.lt is None or number < condition.lt)
        and (condition.lte is None or number <= condition.lte)
        for number in numbers
    )


def passes(where: Filter, id_: int, payload: dict[str, Any]) -> bool:
    return (
        all(holds(each, id_, payload) for each in where.must)
        and (not where.should or any(holds(each, id_, payload) for each in where.should))
        and not any(holds(each, id_, payload) for each in where.must_not)
    )


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])  # emptied by each
@given(payloads=st.lists(PAYLOADS, min_size=1, max_size=10), filters=st.lists(FILTERS, min_size=3, max_size=3))
async def test_a_filter_lets_exactly_those_through_that_the_model_does(
    factory: Factory, shared: dict[Any, Index], payloads: list[dict[str, Any]], filters: list[Filter]
) -> None:
    index = shared[factory]
    await index.delete(SPEC.name, [each.id for each in await index.scroll(SPEC.name, 0, 100)])
    await index.upsert(
        SPEC.name, [Point(id_, 1, vector(id_), payload) for id_, payload in enumerate(payloads, start=1)]
    )
    for where in filters:
        found = {hit.id for hit in await index.search(SPEC.name, vector(5), 50, where)}
        assert found == {id_ for id_, payload in enumerate(payloads, start=1) if passes(where, id_, payload)}


@pytest.fixture
async def shared(factory: Factory, tmp_path: Path) -> AsyncIterator[dict[Any, Index]]:
    """One index for all of a test's examples, each of which empties it."""
    async with opened(factory, tmp_path, SPEC) as index:
        yield {factory: index}


@pytest.mark.parametrize("key", ["", '"', '"open', "..."])
async def test_a_key_that_is_no_path_is_refused_and_the_index_lives_on(index: Index, key: str) -> None:
    await index.upsert(SPEC.name, [point(1)])
    with pytest.raises(BadContent):
        await index.search(SPEC.name, vector(1), 1, Filter(must=(Match(key, (1,)),)))
    assert await index.count(SPEC.name) == 1
    assert index.health().restarts == 0


async def test_a_payload_that_json_cannot_say_is_refused_and_the_index_lives_on(index: Index) -> None:
    for odd in ("\ud800", object()):
        with pytest.raises(BadContent):
            await index.upsert(SPEC.name, [Point(1, 1, vector(1), {"odd": odd})])
    assert await index.count(SPEC.name) == 0
    assert index.health().restarts == 0


async def test_many_refused_neighbours_do_not_hide_the_few_that_pass(index: Index) -> None:
    chance = random.Random(11)
    centre = array("f", vector(1))

    def near(distance: float) -> bytes:
        return array("f", [number + chance.gauss(0, distance) for number in centre]).tobytes()

    crowd = [Point(id_, 1, near(0.01), {"sessionId": 1}) for id_ in range(1, 4101)]
    valid = [Point(id_, 1, near(2.0), {"sessionId": 2}) for id_ in range(5001, 5006)]
    await index.upsert(SPEC.name, crowd + valid)
    hits = await index.search(SPEC.name, centre.tobytes(), 5, Filter(must=(Match("sessionId", (2,)),)))
    expected = sorted(valid, key=lambda each: -cosine(centre.tobytes(), each.vector))
    assert [hit.id for hit in hits] == [each.id for each in expected]

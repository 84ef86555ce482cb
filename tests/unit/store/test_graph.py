from __future__ import annotations

import pytest
from harness.examples import undone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexusd.errors import EntityNotFound, InvalidParams
from nexusd.model.entities import NewEntity
from nexusd.model.graph import FindNeighbours, Neighbourhood
from nexusd.model.relationships import NewRelationship
from nexusd.store import graph
from nexusd.store.connection import Connection
from nexusd.store.entities import upsert_entity
from nexusd.store.graph import find_neighbours
from nexusd.store.relationships import upsert_relationship
from nexusd.wire.validation import validate

NODES = 8
Edge = tuple[int, int, str]


@pytest.fixture
def ids(db: Connection) -> list[int]:
    return [upsert_entity(db, NewEntity(name=f"n{i}", type="t", notes="x" * i), 1).id for i in range(NODES)]


def link(db: Connection, from_id: int, to_id: int, label: str = "l") -> int:
    return upsert_relationship(db, NewRelationship(from_id=from_id, to_id=to_id, label=label), 1).id


def reached(answer: Neighbourhood) -> list[tuple[int, int]]:
    return [(node.entity.id, node.depth) for node in answer.nodes]


def test_an_entity_without_links_is_its_own_neighbourhood(db: Connection, ids: list[int]) -> None:
    answer = find_neighbours(db, FindNeighbours(id=ids[3], depth=6))
    (node,) = answer.nodes
    assert (node.entity.name, node.entity.notes, node.depth, node.via) == ("n3", "xxx", 0, None)
    assert (answer.edges, answer.truncated) == ([], False)


def test_an_unknown_entity_is_not_found(db: Connection) -> None:
    with pytest.raises(EntityNotFound):
        find_neighbours(db, FindNeighbours(id=1))


def test_a_circle_is_walked_once_the_nearest_first(db: Connection, ids: list[int]) -> None:
    links = [link(db, ids[i], ids[(i + 1) % 4]) for i in range(4)]
    link(db, ids[0], ids[0])
    out = find_neighbours(db, FindNeighbours(id=ids[0], depth=6, direction="out"))
    assert reached(out) == [(ids[0], 0), (ids[1], 1), (ids[2], 2), (ids[3], 3)]
    assert [node.via for node in out.nodes] == [None, *links[:3]]
    assert [edge.id for edge in out.edges] == [*links, links[-1] + 1]
    assert not out.truncated
    back = find_neighbours(db, FindNeighbours(id=ids[0], depth=2, direction="in"))
    assert reached(back) == [(ids[0], 0), (ids[3], 1), (ids[2], 2)]
    both = find_neighbours(db, FindNeighbours(id=ids[0], depth=2))
    assert reached(both) == [(ids[0], 0), (ids[1], 1), (ids[3], 1), (ids[2], 2)]


def test_only_links_of_the_labels_are_followed_and_answered(db: Connection, ids: list[int]) -> None:
    wanted = link(db, ids[0], ids[1], "a"), link(db, ids[1], ids[2], "b")
    link(db, ids[0], ids[2], "c")
    link(db, ids[0], ids[3], "c")
    answer = find_neighbours(db, FindNeighbours(id=ids[0], depth=3, labels=["b", "a", "none"]))
    assert reached(answer) == [(ids[0], 0), (ids[1], 1), (ids[2], 2)]
    assert tuple(edge.id for edge in answer.edges) == wanted


def test_the_limit_keeps_the_nearest_and_says_that_there_are_more(db: Connection, ids: list[int]) -> None:
    for other in ids[1:6]:
        link(db, ids[0], other)
    link(db, ids[1], ids[6])
    some = find_neighbours(db, FindNeighbours(id=ids[0], depth=2, limit=2))
    assert (reached(some)[1:], some.truncated) == ([(ids[1], 1), (ids[2], 1)], True)
    near = find_neighbours(db, FindNeighbours(id=ids[0], depth=1, limit=5))
    assert (len(near.nodes), near.truncated) == (6, False)
    full = find_neighbours(db, FindNeighbours(id=ids[0], depth=2, limit=5))
    assert (len(full.nodes), full.truncated) == (6, True)   # the sixth is one link further
    whole = find_neighbours(db, FindNeighbours(id=ids[0], depth=2, limit=6))
    assert (len(whole.nodes), whole.truncated) == (7, False)


@pytest.mark.parametrize(
    ("name", "most", "whole"), [("MAX_LINKS_OF_ONE", 5, True), ("MAX_LINKS_OF_ONE", 4, False),
                                ("MAX_LINKS", 5, True), ("MAX_LINKS", 4, False)],
)
@pytest.mark.parametrize("direction", ["out", "in"])
def test_of_an_entity_with_very_many_links_the_first_are_followed(
    db: Connection, ids: list[int], monkeypatch: pytest.MonkeyPatch, direction: str, name: str, most: int, *,
    whole: bool,
) -> None:
    for other in ids[5:0:-1]:
        link(db, *((ids[0], other) if direction == "out" else (other, ids[0])))
    monkeypatch.setattr(graph, name, most)
    answer = find_neighbours(db, FindNeighbours(id=ids[0], direction=direction))
    assert (reached(answer)[1:], answer.truncated) == ([(other, 1) for other in ids[1 : most + 1]], not whole)


def test_the_links_of_a_walk_are_bounded_over_all_its_steps(
    db: Connection, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for from_index, to_index in ((0, 1), (0, 2), (1, 3), (2, 4)):
        link(db, ids[from_index], ids[to_index])
    monkeypatch.setattr(graph, "MAX_LINKS", 3)
    answer = find_neighbours(db, FindNeighbours(id=ids[0], depth=3, direction="out"))
    assert reached(answer) == [(ids[0], 0), (ids[1], 1), (ids[2], 1), (ids[3], 2)]
    assert answer.truncated


def test_however_many_entities_a_step_begins_at_each_is_gone_on_from(db: Connection, ids: list[int]) -> None:
    more = [upsert_entity(db, NewEntity(name=f"more {i}", type="t"), 1).id for i in range(5 * graph.SLICE + 2)]
    near, far = more[::2], more[1::2]
    for one, other in zip(near, far, strict=True):
        link(db, ids[0], one)
        link(db, one, other)
    answer = find_neighbours(db, FindNeighbours(id=ids[0], depth=2))
    assert reached(answer) == [(ids[0], 0), *((one, 1) for one in near), *((one, 2) for one in far)]


def test_links_past_the_most_that_are_answered_leave_those_that_lead_there(
    db: Connection, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for label in "abcdef":
        link(db, ids[0], ids[1], label)
    way = link(db, ids[1], ids[2])
    monkeypatch.setattr(graph, "MAX_EDGES", 3)
    answer = find_neighbours(db, FindNeighbours(id=ids[0], depth=2))
    assert answer.truncated
    assert len(answer.edges) == 4
    assert {node.via for node in answer.nodes[1:]} <= {edge.id for edge in answer.edges}
    assert answer.edges[-1].id == way


def test_an_answer_holds_so_much_text_and_says_so(db: Connection, ids: list[int]) -> None:
    for i in range(10):
        long = upsert_entity(db, NewEntity(name=f"long {i}", type="t", notes="x" * 1_000_000), 1).id
        link(db, ids[0], long)
    answer = find_neighbours(db, FindNeighbours(id=ids[0]))
    assert (len(answer.nodes), len(answer.edges), answer.truncated) == (7, 6, True)


@pytest.mark.parametrize(
    ("wrong", "path"),
    [({"depth": 7}, "depth"), ({"depth": 0}, "depth"), ({"limit": 501}, "limit"), ({"direction": "up"}, "direction"),
     ({"labels": []}, ""), ({"labels": ["x"] * 65}, ""), ({"labels": ["a", ""]}, "labels[1]")],
)
def test_bounds_of_a_walk_are_refused_by_name(wrong: dict[str, object], path: str) -> None:
    with pytest.raises(InvalidParams) as refused:
        validate(FindNeighbours, {"id": 1, **wrong})
    assert [field.path for field in refused.value.fields] == [path]


# ---- against the plainest walk there is

EDGES = st.sets(
    st.tuples(st.integers(0, NODES - 1), st.integers(0, NODES - 1), st.sampled_from("ab")), max_size=16
)


def plain_walk(
    edges: dict[Edge, int], start: int, depth: int, direction: str, labels: set[str], limit: int
) -> tuple[dict[int, int], dict[int, int | None], bool]:
    """Depth of each node, the least link that leads there, and whether any was left out."""
    depths: dict[int, int] = {start: 0}
    via: dict[int, int | None] = {start: None}
    truncated = False
    for level in range(1, depth + 1):
        found: dict[int, list[int]] = {}
        for (from_id, to_id, label), id_ in edges.items():
            if label in labels and direction in {"out", "both"} and depths.get(from_id) == level - 1:
                found.setdefault(to_id, []).append(id_)
            if label in labels and direction in {"in", "both"} and depths.get(to_id) == level - 1:
                found.setdefault(from_id, []).append(id_)
        new = sorted(node for node in found if node not in depths)
        room = limit - (len(depths) - 1)
        truncated = truncated or len(new) > room
        for node in new[:room]:
            depths[node], via[node] = level, min(found[node])
    return depths, via, truncated


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    EDGES, st.integers(1, 6), st.sampled_from(["out", "in", "both"]), st.sampled_from([None, ["a"], ["b", "a"]]),
    st.integers(1, NODES),
)
def test_the_walk_is_the_plain_one(
    db: Connection, ids: list[int], edges: set[Edge], depth: int, direction: str, labels: list[str] | None, limit: int
) -> None:
    with undone(db):
        made = {(ids[a], ids[b], label): link(db, ids[a], ids[b], label) for a, b, label in sorted(edges)}
        params = FindNeighbours(id=ids[0], depth=depth, direction=direction, labels=labels, limit=limit)
        answer = find_neighbours(db, params)
    chosen = set(labels or "ab")
    depths, via, truncated = plain_walk(made, ids[0], depth, direction, chosen, limit)
    assert reached(answer) == sorted(depths.items(), key=lambda node: (node[1], node[0]))
    assert {node.entity.id: node.via for node in answer.nodes} == via
    assert [edge.id for edge in answer.edges] == sorted(
        id_ for (a, b, label), id_ in made.items() if a in depths and b in depths and label in chosen
    )
    assert answer.truncated == truncated

"""The table of REST routes: all that the specification has, each for a method that is there."""

from __future__ import annotations

from typing import get_origin

import msgspec
import pytest
from harness.methods import real_table

from nexusd.api.rest_routes import rest_routes
from nexusd.model.episodes import Episode, EpisodeMatch, EpisodeMatches
from nexusd.model.fields import Listing
from nexusd.model.system import Health
from nexusd.wire.routes import Route, Router

SPECIFIED = """
GET /health
POST /sessions                                  GET /sessions
GET /sessions/:                                 GET /sessions/by-external/:
PATCH /sessions/by-external/:                   DELETE /sessions/by-external/:
GET /sessions/:/episodes                        POST /episodes
GET /episodes/search                            GET /episodes/:                 DELETE /episodes/:
POST /projects                                  GET /projects                   GET /projects/:
PATCH /projects/:                               DELETE /projects/:
POST /entities                                  GET /entities/by-type/:
GET /entities/:                                 DELETE /entities/:
GET /entities/:/relationships                   POST /relationships             DELETE /relationships
"""
GET_ALL = {"/projects", "/entities/by-type/:", "/entities/:/relationships"}
ROUTES = {f"{route.verb} {route.path}": route for route in rest_routes()}


def bare(path: str) -> str:
    """With parameters that have no names."""
    return "/".join(":" if segment.startswith(":") else segment for segment in path.split("/"))


def test_every_route_of_the_specification_is_there_and_no_other() -> None:
    assert sorted(f"{route.verb} {bare(route.path)}" for route in rest_routes()) == sorted(
        part.strip() for line in SPECIFIED.strip().splitlines() for part in line.split("  ") if part.strip()
    )


def test_no_route_hides_another() -> None:
    router: Router[Route] = Router()
    for route in rest_routes():
        router.add(route.verb, route.path, route)
    for route in rest_routes():
        values = {segment[1:]: "7" for segment in route.path.split("/") if segment.startswith(":")}
        asked = "/".join("7" if segment.startswith(":") else segment for segment in route.path.split("/"))
        assert router.find(route.verb, asked) == (route, values)


@pytest.mark.parametrize("name", ROUTES)
def test_a_route_stands_for_a_method_that_is_there_and_names_its_parameters(name: str) -> None:
    route = ROUTES[name]
    method = real_table().get(route.method)
    assert method is not None
    in_path = {segment[1:] for segment in route.path.split("/") if segment.startswith(":")}
    assert in_path | set(route.names.values()) <= set(method.positions)
    assert method.mutates == (route.verb not in {"GET"})
    assert route.status == {"POST": 201, "DELETE": 204}.get(route.verb, 200)


@pytest.mark.parametrize("name", ROUTES)
def test_a_list_is_told_as_an_array_and_all_of_it_where_the_specification_says_all(name: str) -> None:
    route = ROUTES[name]
    method = real_table().get(route.method)
    assert method is not None
    assert route.is_list == (get_origin(method.result) is Listing or method.result is EpisodeMatches)
    assert route.whole == (route.verb == "GET" and bare(route.path) in GET_ALL)
    assert not route.whole or {"limit", "cursor", "offset"} <= set(method.positions)


@pytest.mark.parametrize(("health", "status"), [
    (Health(status="ok", reasons=[]), 200), (Health(status="degraded", reasons=["index"]), 200),
    (Health(status="degraded", reasons=["disk"], writes=False), 503),
    (Health(status="starting", reasons=[], writes=False), 503), (Health(status="stopping", reasons=[]), 503),
])
def test_health_says_by_its_status_whether_anything_should_be_sent(health: Health, status: int) -> None:
    status_of = ROUTES["GET /health"].status_of
    assert status_of is not None
    assert status_of(health) == status


def test_a_hit_of_the_search_is_the_exchange_with_its_score() -> None:
    episode = Episode(
        id=1, session_id=2, user_message="u", ai_response="a", token_count=None, metadata={"k": 1}, version=1,
        created_at=3, updated_at=4, vector="pending",
    )
    item = ROUTES["GET /episodes/search"].item
    assert item is not None
    assert item(EpisodeMatch(episode=episode, score=1.5)) == {**msgspec.to_builtins(episode), "score": 1.5}

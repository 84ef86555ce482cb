"""A path finds its route."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusd.wire.http_errors import HttpRefusal
from nexusd.wire.routes import Router

ROUTES = [
    "GET /", "POST /sessions", "GET /sessions", "GET /sessions/:id", "GET /sessions/by-external/:externalId",
    "PATCH /sessions/by-external/:externalId", "GET /sessions/:sessionId/episodes", "GET /episodes/search",
    "GET /episodes/:id", "DELETE /episodes/:id",
]


@pytest.fixture
def router() -> Router[str]:
    router: Router[str] = Router()
    for route in ROUTES:
        verb, path = route.split()
        router.add(verb, path, route)
    return router


@pytest.mark.parametrize(("asked", "route", "values"), [
    ("GET /", "GET /", {}),
    ("GET /sessions", "GET /sessions", {}),
    ("GET /sessions/", "GET /sessions", {}),
    ("POST /sessions", "POST /sessions", {}),
    ("GET /sessions/5", "GET /sessions/:id", {"id": "5"}),
    ("GET /sessions/5/", "GET /sessions/:id", {"id": "5"}),
    ("GET /sessions/5/episodes", "GET /sessions/:sessionId/episodes", {"sessionId": "5"}),
    ("GET /sessions/by-external/x", "GET /sessions/by-external/:externalId", {"externalId": "x"}),
    ("GET /sessions/by-external/episodes", "GET /sessions/by-external/:externalId", {"externalId": "episodes"}),
    ("GET /sessions/by-external", "GET /sessions/:id", {"id": "by-external"}),
    ("PATCH /sessions/by-external/x", "PATCH /sessions/by-external/:externalId", {"externalId": "x"}),
    ("GET /episodes/search", "GET /episodes/search", {}),
    ("HEAD /episodes/7", "GET /episodes/:id", {"id": "7"}),
    ("DELETE /episodes/7", "DELETE /episodes/:id", {"id": "7"}),
    ("GET /sessions/a%20b%2Fc%25", "GET /sessions/:id", {"id": "a b/c%"}),
    ("GET /sessions/a+b", "GET /sessions/:id", {"id": "a+b"}),
    ("GET /se%73sions/%C3%BC", "GET /sessions/:id", {"id": "ü"}),
])
def test_a_path_finds_its_route(router: Router[str], asked: str, route: str, values: dict[str, str]) -> None:
    assert router.find(*asked.split()) == (route, values)


@pytest.mark.parametrize("path", [
    "/nothing", "/sessions/5/nothing", "/sessions/5/episodes/6", "/sessions//episodes", "/Sessions",
    "/sessions%2F5", "/sessions//", "*",
])
def test_a_path_that_is_none_is_not_found(router: Router[str], path: str) -> None:
    with pytest.raises(HttpRefusal) as raised:
        router.find("GET", path)
    assert (raised.value.status, raised.value.error.kind) == (404, "not_found")


@pytest.mark.parametrize(("asked", "allow"), [
    ("DELETE /sessions", "GET, HEAD, POST"), ("POST /sessions/5", "GET, HEAD"),
    ("PUT /episodes/5", "DELETE, GET, HEAD"), ("DELETE /episodes/search", "GET, HEAD"),
    ("OPTIONS /sessions", "GET, HEAD, POST"),
    ("OPTIONS /nothing", "GET, HEAD, POST, PATCH, DELETE"), ("OPTIONS *", "GET, HEAD, POST, PATCH, DELETE"),
])
def test_a_path_that_is_there_for_something_else_says_for_what(router: Router[str], asked: str, allow: str) -> None:
    with pytest.raises(HttpRefusal) as raised:
        router.find(*asked.split())
    assert (raised.value.status, raised.value.allow) == (405, allow)


def test_a_path_that_is_not_utf_8_is_refused(router: Router[str]) -> None:
    with pytest.raises(HttpRefusal) as raised:
        router.find("GET", "/sessions/%FF")
    assert raised.value.status == 400


def test_a_long_path_is_shown_shortened(router: Router[str]) -> None:
    with pytest.raises(HttpRefusal) as raised:
        router.find("GET", "/" + "x" * 5000)
    assert len(raised.value.error.message) < 200


def test_a_route_is_there_once(router: Router[str]) -> None:
    with pytest.raises(ValueError, match="twice"):
        router.add("GET", "/sessions/:other", "again")


@given(st.text(min_size=1))
def test_whatever_stands_in_a_segment_arrives(value: str) -> None:
    router: Router[str] = Router()
    router.add("GET", "/x/:value", "found")
    assert router.find("GET", "/x/" + quote(value, safe="")) == ("found", {"value": value})

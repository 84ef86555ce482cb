"""REST is the methods by another name: parameters out of path, query and body, results as bodies."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import isawaitable
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from nexusd.clock import SystemClock
from nexusd.config_sections import LimitsConfig
from nexusd.errors import Busy, NotFound
from nexusd.model.fields import UNSET, Id, Key, Listing, Mutation, Name, NoParams, Page, Params, UnsetType
from nexusd.wire.dispatch import Dispatcher
from nexusd.wire.gate import Gate
from nexusd.wire.http_heads import Head
from nexusd.wire.http_requests import HttpRequest
from nexusd.wire.http_responses import Response
from nexusd.wire.http_rest import RestEndpoint
from nexusd.wire.http_service import HttpService
from nexusd.wire.methods import Call, Method, MethodTable, Principal
from nexusd.wire.routes import Route

pytestmark = pytest.mark.anyio
ADMIN = Principal("uid:1", "admin")
READER = Principal("uid:2", "read")


class Make(Mutation, frozen=True, kw_only=True):
    name: Name
    note: str = ""
    parent: Id | None = None
    data: dict[str, Any] = {}


class Change(Mutation, frozen=True, kw_only=True):
    id: Id
    icon: Annotated[str | UnsetType | None, Meta(description="x")] = UNSET
    name: Name | UnsetType = UNSET


class Find(Page, frozen=True, kw_only=True):
    query: Name = "all"
    order: Literal["asc", "desc"] = "asc"
    deep: bool = False


class Get(Params, frozen=True, kw_only=True):
    id: Id


class GetByKey(Params, frozen=True, kw_only=True):
    key: Key


class Row(msgspec.Struct, rename="camel"):
    row_id: int


ROUTES = (
    Route("POST", "/things", "things.make", 201),
    Route("PATCH", "/things/:id", "things.change"),
    Route("DELETE", "/things/:id", "things.change", 204),
    Route("GET", "/things/:id", "things.get"),
    Route("GET", "/keys/:key", "things.getByKey"),
    Route("GET", "/things", "things.find", names={"q": "query"}, is_list=True,
          item=lambda row: {"id": row.row_id}),
    Route("GET", "/all", "things.find", is_list=True, whole=True),
    Route("GET", "/state", "state", status_of=lambda state: 503 if state == "bad" else 200),
    Route("GET", "/missing", "not.there"),
)


@dataclass
class House:
    """A service whose methods answer what they were called with."""

    service: HttpService
    dispatcher: Dispatcher
    seen: list[Any]
    changed: list[str]

    async def ask(
        self, verb: str, path: str, body: object = None, *, principal: Principal = ADMIN, raw: bytes | None = None,
        **headers: str,
    ) -> Response:
        data = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        path, _, query = path.partition("?")
        named: Mapping[bytes, bytes] = {
            b"content-type": b"application/json",
            **{name.replace("_", "-").encode(): value.encode() for name, value in headers.items()},
        }
        head = Head(verb, path, query, named, len(data), is_chunked=False, keeps_alive=True)
        accepted = self.service.accept(head, lambda: None, lambda _head: principal)
        answer = self.service.begin(HttpRequest(head, data, accepted))
        return await answer if isawaitable(answer) else answer


def fields_of(response: Response) -> dict[str, str]:
    """What is wrong with which field."""
    error = json.loads(response.body)["error"]
    assert (response.status, error["data"]["kind"]) == (400, "invalid_params")
    return {field["path"]: field["expected"] for field in error["data"]["fields"]}


@pytest.fixture
def open_house() -> Callable[..., House]:
    def opened(*, rows: int = 5, gate: Gate | None = None, **limits: Any) -> House:
        seen: list[Any] = []

        async def remember(_call: Call, params: Any) -> Any:
            seen.append(params)
            if getattr(params, "name", None) == "kept":
                return msgspec.Raw(b'{"kept":true}')
            return {"did": True}

        async def find(_call: Call, params: Find) -> Listing[Row]:
            seen.append(params)
            first = int(params.cursor) if params.cursor is not None else params.offset or 0
            last = min(first + min(params.limit, 2), rows)
            return Listing(items=[Row(n) for n in range(first, last)], next_cursor=str(last) if last < rows else None)

        def get(_call: Call, params: Get) -> Any:
            seen.append(params)
            if params.id == 404:
                raise NotFound
            if params.id == 503:
                raise Busy(retry_after_ms=1500)
            if params.id == 500:
                raise ValueError("secret")
            return object() if params.id == 501 else {"id": params.id}

        def state(call: Call, _params: NoParams) -> str:
            return "bad" if call.principal is READER else "good"

        table = MethodTable()
        table.register([
            Method("things.make", "s", Make, Any, remember, "write", mutates=True),
            Method("things.change", "s", Change, Any, remember, "write", mutates=True),
            Method("things.find", "s", Find, Listing[Row], find, "read"),
            Method("things.get", "s", Get, Any, get, "read", immediate=True),
            Method("things.getByKey", "s", GetByKey, Any, remember, "read"),
            Method("state", "s", NoParams, str, state, "read", immediate=True),
        ])
        changed: list[str] = []
        config = LimitsConfig(**limits)
        dispatcher = Dispatcher(
            table, config, gate=gate if gate is not None else Gate(is_open=True),
            on_change=lambda method, _params, _result: changed.append(method.name),
        )
        return House(HttpService(dispatcher, table, config, SystemClock(), routes=ROUTES), dispatcher, seen, changed)

    return opened


OpenHouse = Callable[..., House]


async def test_a_body_is_the_parameters_and_the_result_is_the_body(open_house: OpenHouse) -> None:
    house = open_house()
    response = await house.ask("POST", "/things", {"name": "a", "note": "b", "parent": 7, "data": {"x": None}})
    assert (response.status, response.body) == (201, b'{"did":true}')
    assert house.seen == [Make(name="a", note="b", parent=7, data={"x": None})]
    assert house.changed == ["things.make"]


async def test_path_and_query_are_given_the_types_of_the_parameters(open_house: OpenHouse) -> None:
    house = open_house()
    await house.ask("GET", "/things/5")
    await house.ask("GET", "/things?q=a+b%26c%C3%BC&limit=3&offset=2&order=desc&deep=true")
    await house.ask("GET", "/things?q=17&cursor=0")
    await house.ask("GET", "/keys/17")
    assert house.seen == [
        Get(id=5), Find(query="a b&cü", limit=3, offset=2, order="desc", deep=True), Find(query="17", cursor="0"),
        GetByKey(key="17"),
    ]


async def test_what_is_wrong_is_named_as_the_request_named_it(open_house: OpenHouse) -> None:
    house = open_house()
    assert fields_of(await house.ask("GET", "/things/abc")) == {"id": "int, got str"}
    assert fields_of(await house.ask("GET", "/things/0")) == {"id": "int >= 1"}
    assert fields_of(await house.ask("GET", "/things?q=&limit=x")) == {
        "q": "str of length >= 1", "limit": "int, got str",
    }
    assert fields_of(await house.ask("GET", "/things?limit=501")) == {"limit": "int <= 500"}
    assert fields_of(await house.ask("GET", "/things?limt=5")) == {"limt": "no such name; did you mean limit?"}
    assert fields_of(await house.ask("GET", "/things?limit=5&limit=6")) == {"limit": "only once"}
    assert fields_of(await house.ask("GET", "/things?q=a&query=a")) == {"query": "only once"}
    assert fields_of(await house.ask("POST", "/things", {"name": 5, "x": 1})) == {
        "name": "str, got int", "x": "no such name",
    }
    assert house.seen == []


async def test_a_parameter_in_two_places_must_be_the_same_in_both(open_house: OpenHouse) -> None:
    house = open_house()
    assert (await house.ask("PATCH", "/things/5", {"id": 5, "name": "a"})).status == 200
    assert fields_of(await house.ask("PATCH", "/things/5", {"id": 6, "name": "a"})) == {"id": "the same as in the path"}


async def test_null_counts_as_not_given_where_it_is_no_value(open_house: OpenHouse) -> None:
    house = open_house()
    await house.ask("POST", "/things", {"name": "a", "note": None, "parent": None, "data": None})
    await house.ask("PATCH", "/things/5", {"icon": None, "name": None, "idempotencyKey": None})
    assert house.seen == [Make(name="a"), Change(id=5, icon=None)]
    assert fields_of(await house.ask("POST", "/things", {"name": None})) == {"name": "required"}
    assert fields_of(await house.ask("POST", "/things", {"name": "a", "x": None})) == {"x": "no such name"}


@pytest.mark.parametrize(("raw", "status", "kind"), [
    (b'{"name": ', 400, "parse_error"), (b"", 400, "invalid_params"), (b"[]", 400, "invalid_params"),
    (b'"a"', 400, "invalid_params"), (b'{"name":"a","name":"b"}', 400, "parse_error"),
    (b'{"name":"\xff"}', 400, "parse_error"), (b'{"data":' + b"[" * 100 + b"]" * 100 + b"}", 413, "too_large"),
    (b'{"data":{"x":NaN}}', 400, "parse_error"),
])
async def test_a_body_that_cannot_be_read_is_refused(
    open_house: OpenHouse, raw: bytes, status: int, kind: str
) -> None:
    house = open_house()
    response = await house.ask("POST", "/things", raw=raw)
    assert (response.status, json.loads(response.body)["error"]["data"]["kind"]) == (status, kind)
    assert house.seen == []


async def test_a_query_that_is_not_utf_8_is_refused(open_house: OpenHouse) -> None:
    assert (await open_house().ask("GET", "/things?q=%FF")).status == 400


@pytest.mark.parametrize(("id_", "status", "retry"), [(404, 404, b""), (503, 503, b"Retry-After: 2\r\n")])
async def test_an_error_has_the_status_of_its_kind(
    open_house: OpenHouse, id_: int, status: int, retry: bytes
) -> None:
    response = await open_house().ask("GET", f"/things/{id_}")
    assert (response.status, response.headers) == (status, retry)


@pytest.mark.parametrize("id_", [500, 501])
async def test_an_unforeseen_error_or_result_says_nothing_but_its_id(open_house: OpenHouse, id_: int) -> None:
    response = await open_house().ask("GET", f"/things/{id_}")
    error = json.loads(response.body)["error"]
    assert (response.status, error["data"].keys()) == (500, {"kind", "retryable", "requestId"})
    assert b"secret" not in response.body


async def test_a_delete_answers_nothing(open_house: OpenHouse) -> None:
    response = await open_house().ask("DELETE", "/things/5")
    assert (response.status, response.body) == (204, b"")


async def test_a_kept_reply_is_passed_on_as_it_is_and_nothing_changed(open_house: OpenHouse) -> None:
    house = open_house()
    response = await house.ask("POST", "/things", {"name": "kept"})
    assert (response.status, response.body) == (201, b'{"kept":true}')
    assert house.changed == []


async def test_the_status_may_depend_on_the_result(open_house: OpenHouse) -> None:
    house = open_house()
    assert (await house.ask("GET", "/state")).status == 200
    bad = await house.ask("GET", "/state", principal=READER)
    assert (bad.status, bad.body) == (503, b'"bad"')


async def test_a_list_is_an_array_and_the_cursor_a_header(open_house: OpenHouse) -> None:
    house = open_house()
    first = await house.ask("GET", "/things?limit=2")
    assert (json.loads(first.body), first.headers) == ([{"id": 0}, {"id": 1}], b"X-Next-Cursor: 2\r\n")
    last = await house.ask("GET", "/things?limit=2&cursor=4")
    assert (json.loads(last.body), last.headers) == ([{"id": 4}], b"")


async def test_a_whole_list_is_followed_to_its_end(open_house: OpenHouse) -> None:
    house = open_house()
    response = await house.ask("GET", "/all?offset=1")
    assert (json.loads(response.body), response.headers) == ([{"rowId": n} for n in range(1, 5)], b"")
    assert [(one.offset, one.cursor, one.limit) for one in house.seen] == [(1, None, 500), (None, "3", 500)]


async def test_with_a_limit_it_is_one_page_like_any_other(open_house: OpenHouse) -> None:
    response = await open_house().ask("GET", "/all?limit=2")
    assert (json.loads(response.body), response.headers) == ([{"rowId": 0}, {"rowId": 1}], b"X-Next-Cursor: 2\r\n")


async def test_an_empty_whole_list_is_an_empty_array(open_house: OpenHouse) -> None:
    assert (await open_house(rows=0).ask("GET", "/all")).body == b"[]"


async def test_a_whole_list_past_the_memory_of_a_reply_ends_with_the_cursor_of_the_rest(open_house: OpenHouse) -> None:
    response = await open_house(rows=50_000, max_write_buffer_bytes=65536).ask("GET", "/all")
    items = json.loads(response.body)
    assert 60_000 < len(response.body) < 66_000
    assert response.headers == b"X-Next-Cursor: %d\r\n" % len(items)


class LongPages:
    """Answers eight pages of a million characters each."""

    def invoke(self, _method: str, params: dict[str, Any], _principal: Principal, shape: Any, **_more: Any) -> Any:
        place = int(params.get("cursor", 0))
        return shape.result(Listing(items=["x" * 1_000_000], next_cursor=None if place == 7 else str(place + 1)))


async def test_a_whole_list_is_put_together_in_one_copy() -> None:
    route = Route("GET", "/long", "long", is_list=True, whole=True)
    endpoint = RestEndpoint(route, MethodTable(), LongPages(), LimitsConfig())
    head = Head("GET", "/long", "", {}, None, is_chunked=False, keeps_alive=True)
    tracemalloc.start()
    try:
        response = await endpoint.begin(HttpRequest(head, b"", None), {}, ADMIN)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [len(text) for text in json.loads(response.body)] == [1_000_000] * 8
    assert peak < 22_000_000    # the pages, and all of them as one; 25 and more with each copy besides


async def test_a_whole_list_that_was_begun_is_answered_although_the_daemon_stops_meanwhile() -> None:
    gate = Gate(is_open=True)

    async def find(_call: Call, params: Find) -> Listing[Row]:
        gate.stop()
        place = int(params.cursor or 0)
        return Listing(items=[Row(place)], next_cursor=None if place == 3 else str(place + 1))

    table = MethodTable()
    table.register([Method("things.find", "s", Find, Listing[Row], find, "read")])
    dispatcher = Dispatcher(table, LimitsConfig(), gate=gate)
    route = Route("GET", "/all", "things.find", is_list=True, whole=True)
    house = House(HttpService(dispatcher, table, LimitsConfig(), SystemClock(), routes=[route]), dispatcher, [], [])
    assert json.loads((await house.ask("GET", "/all")).body) == [{"rowId": n} for n in range(4)]
    for path in ("/all", "/all?cursor=1"):
        assert (await house.ask("GET", path)).status == 503


async def test_an_error_on_the_way_through_a_whole_list_is_the_response(open_house: OpenHouse) -> None:
    assert fields_of(await open_house().ask("GET", "/all?query=")) == {"query": "str of length >= 1"}


async def test_the_idempotency_key_may_come_as_a_header(open_house: OpenHouse) -> None:
    house = open_house()
    await house.ask("POST", "/things", {"name": "a"}, idempotency_key="k")
    await house.ask("POST", "/things", {"name": "a", "idempotencyKey": "k"}, idempotency_key="k")
    await house.ask("DELETE", "/things/5?idempotencyKey=k")
    assert [one.idempotency_key for one in house.seen] == ["k", "k", "k"]
    differing = await house.ask("POST", "/things", {"name": "a", "idempotencyKey": "other"}, idempotency_key="k")
    assert fields_of(differing) == {"idempotencyKey": "the same as the Idempotency-Key header"}
    too_long = await house.ask("POST", "/things", {"name": "a"}, idempotency_key="k" * 201)
    assert too_long.status == 400
    assert (await house.ask("GET", "/things/5", idempotency_key="k")).status == 200   # which needs none


async def test_roles_the_gate_and_the_figures_hold_as_on_every_way_in(open_house: OpenHouse) -> None:
    gate = Gate()
    house = open_house(gate=gate)
    starting = await house.ask("GET", "/things/5")
    assert (starting.status, starting.headers) == (503, b"Retry-After: 1\r\n")
    gate.open()
    assert (await house.ask("POST", "/things", {"name": "a"}, principal=READER)).status == 403
    assert (await house.ask("GET", "/things/404")).status == 404
    assert house.dispatcher.counters.snapshot()["things.get"]["errors"] == {"starting": 1, "not_found": 1}


async def test_a_route_whose_method_is_not_there_is_not_found(open_house: OpenHouse) -> None:
    response = await open_house().ask("GET", "/missing")
    assert (response.status, json.loads(response.body)["error"]["data"]["kind"]) == (404, "method_not_found")


async def test_the_body_of_a_get_is_nothing_to_it(open_house: OpenHouse) -> None:
    assert (await open_house().ask("GET", "/things/5", {"id": 6})).body == b'{"id":5}'

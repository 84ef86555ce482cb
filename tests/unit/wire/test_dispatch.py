"""The dispatcher: one boundary, where whatever happens becomes the right reply and nothing leaks."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from inspect import isawaitable
from typing import Any

import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from nexusd.config_sections import LimitsConfig
from nexusd.errors import Busy, EpisodeNotFound, InvalidParams, RpcError
from nexusd.field_errors import FieldError
from nexusd.model.fields import Id, Mutation, NoParams, Params
from nexusd.wire.dispatch import UNKNOWN_METHOD, Dispatcher
from nexusd.wire.gate import Gate
from nexusd.wire.methods import Call, Method, MethodTable, Principal, Role

pytestmark = pytest.mark.anyio

ADMIN = Principal("uid:1", "admin")
Handler = Callable[[Call, Any], Awaitable[Any]]


class Get(Params, frozen=True, kw_only=True):
    id: Id
    note: str = ""


class HandClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now_ms(self) -> int:
        return 0

    def monotonic_s(self) -> float:
        return self.seconds


async def echo(_call: Call, params: Get) -> int:
    return params.id


def method(name: str, handler: Handler, role: Role = "read", params: type[Params] = Get) -> Method:
    return Method(name, "s", params, Any, handler, role)


def dispatcher_of(*methods: Method, is_open: bool = True, **kwargs: Any) -> Dispatcher:
    table = MethodTable()
    table.register(methods)
    return Dispatcher(table, LimitsConfig(max_batch=5), gate=Gate(is_open=is_open), **kwargs)


def failing(error: Exception) -> Handler:
    async def fail(_call: Call, _params: Any) -> None:
        raise error

    return fail


def request(name: str, params: object = None, id_: object = 1) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "method": name, "params": params or {}, "id": id_}).encode()


async def ask(dispatcher: Dispatcher, frame: bytes, principal: Principal = ADMIN) -> Any:
    reply = await dispatcher.handle(frame, principal)
    return None if reply is None else json.loads(reply)


async def test_a_result_of_raw_json_is_passed_through() -> None:
    async def raw(_call: Call, _params: Any) -> msgspec.Raw:
        return msgspec.Raw(b'{"as":  "it is"}')

    reply = await dispatcher_of(method("raw", raw, params=NoParams)).handle(request("raw"), ADMIN)
    assert reply == b'{"jsonrpc":"2.0","result":{"as":  "it is"},"id":1}'


@pytest.mark.parametrize("id_", [0, -1, 2**63 - 1, -2**63, 1.5, "", "ü\n\"", None])
async def test_the_id_comes_back_as_it_was_sent(id_: object) -> None:
    assert await ask(dispatcher_of(method("get", echo)), request("get", {"id": 7}, id_)) == {
        "jsonrpc": "2.0", "result": 7, "id": id_,
    }


async def test_an_error_raised_on_purpose_is_told_with_kind_and_retry_advice() -> None:
    dispatcher = dispatcher_of(
        method("a", failing(EpisodeNotFound())), method("b", failing(Busy(retry_after_ms=50)))
    )

    not_found = (await ask(dispatcher, request("a", {"id": 1})))["error"]
    busy = (await ask(dispatcher, request("b", {"id": 1})))["error"]

    assert (not_found["code"], not_found["message"]) == (-32010, "No episode has this id.")
    assert not_found["data"].keys() == {"kind", "retryable", "requestId"}
    assert (not_found["data"]["kind"], not_found["data"]["retryable"]) == ("not_found", False)
    assert (busy["code"], busy["data"]["retryable"], busy["data"]["retryAfterMs"]) == (-32004, True, 50)


async def test_bad_parameters_are_listed_field_by_field() -> None:
    error = (await ask(dispatcher_of(method("get", echo)), request("get", {"note": 1, "x": 2})))["error"]
    assert error["code"] == -32602
    assert error["data"]["fields"] == [
        {"path": "id", "expected": "required"},
        {"path": "note", "expected": "str, got int"},
        {"path": "x", "expected": "no such name"},
    ]


async def test_fields_that_a_handler_names_are_told_too() -> None:
    error = InvalidParams("no", fields=(FieldError("query", "a word"),))
    reply = await ask(dispatcher_of(method("m", failing(error))), request("m", {"id": 1}))
    assert reply["error"]["data"]["fields"] == [{"path": "query", "expected": "a word"}]


async def test_an_unforeseen_error_says_nothing_but_the_id_under_which_the_log_has_it() -> None:
    dispatcher = dispatcher_of(method("m", failing(ValueError("inner secret"))))
    with structlog.testing.capture_logs() as entries:
        dispatcher.log = structlog.get_logger()
        reply = await dispatcher.handle(request("m", {"id": 1, "note": "private words"}), ADMIN)

    assert reply is not None
    assert b"inner secret" not in reply
    data = json.loads(reply)["error"]["data"]
    assert data == {"kind": "internal_error", "retryable": False, "requestId": entries[0]["request_id"]}
    assert isinstance(entries[0]["exc_info"], ValueError)
    assert "private words" not in str(entries)


async def test_a_result_that_cannot_be_encoded_is_an_internal_error() -> None:
    async def unencodable(_call: Call, _params: Any) -> object:
        return object()

    reply = await ask(dispatcher_of(method("m", unencodable, params=NoParams)), request("m"))
    assert reply["error"]["code"] == -32603
    assert reply["id"] == 1


@pytest.mark.parametrize("error", [KeyError("x"), AssertionError(), TypeError("1 argument"), RpcError("odd")])
async def test_the_library_underneath_never_logs_or_words_an_error(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        reply = await ask(dispatcher_of(method("m", failing(error))), request("m", {"id": 1}))
    assert reply["error"]["code"] == -32603
    assert "requestId" in reply["error"]["data"]
    assert [record for record in caplog.records if record.name.startswith("jsonrpcserver")] == []


@pytest.mark.parametrize("name", ["get", "boom", "nothing.of.the.kind"])
async def test_a_notification_is_carried_out_and_never_answered(name: str) -> None:
    calls: list[int] = []

    async def note(_call: Call, params: Get) -> None:
        calls.append(params.id)

    dispatcher = dispatcher_of(method("get", note), method("boom", failing(ValueError())))
    assert await ask(dispatcher, b'{"jsonrpc":"2.0","method":"%s","params":{"id":4}}' % name.encode()) is None
    assert calls == ([4] if name == "get" else [])


async def test_a_batch_is_carried_out_in_order_one_after_the_other() -> None:
    steps: list[str] = []

    async def slow_when_first(_call: Call, params: Get) -> int:
        steps.append(f"begin {params.id}")
        for _ in range(5 - params.id):
            await asyncio.sleep(0)
        steps.append(f"end {params.id}")
        return params.id

    dispatcher = dispatcher_of(method("m", slow_when_first))
    batch = b"[" + b",".join(request("m", {"id": n}, n) for n in (1, 2, 3)) + b"]"

    assert [reply["result"] for reply in await ask(dispatcher, batch)] == [1, 2, 3]
    assert steps == ["begin 1", "end 1", "begin 2", "end 2", "begin 3", "end 3"]


async def test_a_bad_element_spoils_only_itself() -> None:
    batch = b"[" + request("get", [0]) + b',{"id":"x"},' + request("get", [5], 2) + b"]"
    replies = await ask(dispatcher_of(method("get", echo)), batch)
    codes = [(one["id"], one.get("error", {}).get("code")) for one in replies]
    assert codes == [(1, -32602), ("x", -32600), (2, None)]


async def test_a_batch_past_the_limit_is_refused_as_a_whole_and_nothing_of_it_done() -> None:
    reply = await ask(dispatcher_of(method("get", failing(AssertionError()))), b"[1,2,3,4,5,6]")
    assert (reply["error"]["code"], reply["id"]) == (-32005, None)


@pytest.mark.parametrize(("has", "needs", "allowed"), [
    ("read", "read", True), ("read", "write", False), ("read", "admin", False),
    ("write", "read", True), ("write", "write", True), ("write", "admin", False),
    ("admin", "read", True), ("admin", "write", True), ("admin", "admin", True),
])
async def test_a_role_covers_those_below_it(has: Role, needs: Role, *, allowed: bool) -> None:
    reply = await ask(dispatcher_of(method("m", echo, needs)), request("m", [1]), Principal("tcp:x", has))
    assert ("result" in reply) == allowed
    if not allowed:
        assert reply["error"]["code"] == -32002


async def test_only_health_is_answered_while_the_gate_is_closed() -> None:
    dispatcher = dispatcher_of(method("health", echo), method("get", echo), is_open=False)

    async def codes() -> list[int | None]:
        replies = [await ask(dispatcher, request(name, [1])) for name in ("health", "get")]
        return [reply.get("error", {}).get("code") for reply in replies]

    assert await codes() == [None, -32007]
    dispatcher.gate.open()
    assert await codes() == [None, None]
    dispatcher.gate.stop()
    assert await codes() == [None, -32006]
    dispatcher.gate.open()      # a start that finishes after the stop was asked for
    assert await codes() == [None, -32006]


async def test_the_figures_count_calls_errors_by_kind_and_time() -> None:
    clock = HandClock()

    async def takes_a_second(_call: Call, _params: Any) -> None:
        clock.seconds += 1

    slow = method("slow", takes_a_second, params=NoParams)
    dispatcher = dispatcher_of(method("get", echo), slow, clock=clock)
    for frame in (request("get", [1]), request("get", [0]), request("slow"), request("x1"), request("x2")):
        await dispatcher.handle(frame, ADMIN)

    assert dispatcher.counters.snapshot() == {
        "get": {"count": 2, "errors": {"invalid_params": 1}, "totalMs": 0.0},
        "slow": {"count": 1, "errors": {}, "totalMs": 1000.0},
        UNKNOWN_METHOD: {"count": 2, "errors": {"method_not_found": 2}, "totalMs": 0.0},
    }
    assert dispatcher.counters.total == 5


async def test_a_request_that_waits_as_long_as_its_caller_asks_is_not_slow() -> None:
    clock = HandClock()

    async def takes_a_second(_call: Call, _params: Any) -> None:
        clock.seconds += 1

    with structlog.testing.capture_logs() as entries:
        waiting = replace(method("wait", takes_a_second), waits=True)
        dispatcher = dispatcher_of(waiting, clock=clock, slow_request_ms=900)
        await dispatcher.handle(request("wait", [1]), ADMIN)
    assert entries == []


async def test_a_slow_request_is_logged_without_its_parameters() -> None:
    clock = HandClock()

    async def takes_a_second(_call: Call, _params: Any) -> None:
        clock.seconds += 1

    with structlog.testing.capture_logs() as entries:
        methods = method("m", takes_a_second), method("quick", echo)
        dispatcher = dispatcher_of(*methods, clock=clock, slow_request_ms=900)
        await dispatcher.handle(request("m", {"id": 1, "note": "private words"}), ADMIN)
        await dispatcher.handle(request("quick", [1]), ADMIN)

    assert [(entry["event"], entry["method"], entry["duration_ms"]) for entry in entries] == [
        ("slow request", "m", 1000.0)
    ]
    assert "private words" not in str(entries)


async def test_request_ids_are_unique_also_between_runs() -> None:
    seen: list[str] = []

    async def remember(call: Call, _params: Any) -> None:
        seen.append(call.request_id)

    for _ in range(2):
        dispatcher = dispatcher_of(method("m", remember))
        for _ in range(3):
            await dispatcher.handle(request("m", [1]), ADMIN)
    assert len(set(seen)) == 6


async def test_the_handler_learns_who_calls() -> None:
    callers: list[Principal] = []

    async def remember(call: Call, _params: Any) -> None:
        callers.append(call.principal)

    await dispatcher_of(method("m", remember)).handle(request("m", [1]), ADMIN)
    assert callers == [ADMIN]


async def test_a_long_name_of_no_method_is_shown_shortened() -> None:
    reply = await ask(dispatcher_of(), request("x" * 10_000))
    assert len(reply["error"]["message"]) < 300


async def test_cancellation_is_not_turned_into_a_reply() -> None:
    begun = asyncio.Event()

    async def hang(_call: Call, _params: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(dispatcher_of(method("m", hang)).handle(request("m", [1]), ADMIN))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        dispatcher_of(method("m", echo), method("m", echo))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2**65, 2**65) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)
REQUESTS = st.fixed_dictionaries({}, optional={
    "jsonrpc": st.just("2.0"), "method": st.sampled_from(["get", "none", "boom"]) | JSON,
    "params": st.fixed_dictionaries({"id": st.integers(0, 3)}) | JSON, "id": st.integers() | JSON,
})


@given(st.lists(REQUESTS | JSON, max_size=6) | REQUESTS | JSON)
def test_whatever_is_sent_gets_replies_of_the_right_form(message: object) -> None:
    dispatcher = dispatcher_of(method("get", echo), method("boom", failing(ValueError())))
    dispatcher.log = structlog.get_logger().bind()
    with structlog.testing.capture_logs():
        reply = asyncio.run(dispatcher.handle(json.dumps(message).encode(), ADMIN))
    if reply is None:
        return
    answer = msgspec.json.decode(reply)
    for one in answer if isinstance(answer, list) else [answer]:
        assert one["jsonrpc"] == "2.0"
        assert ("result" in one) != ("error" in one)
        assert not isinstance(one["id"], bool | dict | list)
        if "error" in one:
            assert one["error"]["code"] in (-32700, -32600, -32601, -32602, -32603, -32005)
            assert one["error"]["data"]["requestId"]


class Noted(Mutation, frozen=True, kw_only=True):
    id: Id


class Words:
    """A shape that a test reads."""

    def result(self, result: Any) -> str:
        return f"result {msgspec.json.encode(result).decode()}"

    def error(self, error: RpcError, request_id: str) -> str:
        return f"error {error.kind} {request_id}"


def immediate(_call: Call, params: Get) -> int:
    return params.id


async def invoked(dispatcher: Dispatcher, name: str, params: dict[str, Any], **kwargs: Any) -> str:
    outcome = dispatcher.invoke(name, params, ADMIN, Words(), **kwargs)
    return await outcome if isawaitable(outcome) else outcome


async def test_a_call_by_name_has_its_outcome_in_the_shape_of_its_caller() -> None:
    dispatcher = dispatcher_of(
        method("get", echo), Method("now", "s", Get, Any, immediate, "read", immediate=True),
        method("fail", failing(EpisodeNotFound())),
    )
    assert [await invoked(dispatcher, name, {"id": 3}) for name in ("get", "now")] == ["result 3", "result 3"]
    for name, kind in (("fail", "not_found"), ("nothing", "method_not_found")):
        assert (await invoked(dispatcher, name, {"id": 3})).startswith(f"error {kind} ")
    assert (await invoked(dispatcher, "get", {"id": 0})).startswith("error invalid_params ")
    assert dispatcher.counters.total == 5


async def test_a_result_that_the_shape_cannot_tell_is_an_internal_error() -> None:
    async def unencodable(_call: Call, _params: Any) -> object:
        return object()

    outcome = await invoked(dispatcher_of(method("m", unencodable, params=NoParams)), "m", {})
    assert outcome.startswith("error internal_error ")


@pytest.mark.parametrize("params", [{"id": 1}, [1], {"id": 1, "idempotencyKey": "k"}, [1, "k"]])
async def test_an_idempotency_key_beside_the_frame_is_one_of_its_parameters(params: object) -> None:
    keys: list[str | None] = []

    async def note(_call: Call, given: Noted) -> None:
        keys.append(given.idempotency_key)

    dispatcher = dispatcher_of(Method("m", "s", Noted, Any, note, "read", mutates=True))
    answer = dispatcher.begin(request("m", params), ADMIN, None, "k")
    assert isawaitable(answer)
    assert b'"result":' in (await answer or b"")
    assert keys == ["k"]


async def test_an_idempotency_key_beside_the_frame_must_be_the_one_in_it() -> None:
    dispatcher = dispatcher_of(Method("m", "s", Noted, Any, echo, "read", mutates=True))
    answer = dispatcher.begin(request("m", {"id": 1, "idempotencyKey": "a"}), ADMIN, None, "b")
    assert isawaitable(answer)
    assert b"idempotencyKey" in (await answer or b"")


async def test_an_idempotency_key_beside_a_batch_is_refused() -> None:
    dispatcher = dispatcher_of(Method("m", "s", Noted, Any, echo, "read", mutates=True))
    answer = dispatcher.begin(b"[" + request("m", {"id": 1}) + b"]", ADMIN, None, "b")
    assert isinstance(answer, bytes)
    assert json.loads(answer)["error"]["code"] == -32600


async def test_new_limits_and_a_new_threshold_hold_from_the_next_request_on() -> None:
    clock = HandClock()

    async def takes_a_second(_call: Call, _params: Any) -> None:
        clock.seconds += 1

    dispatcher = dispatcher_of(method("m", takes_a_second), clock=clock, slow_request_ms=5000)
    batch = b"[%b]" % b",".join([request("m", [1])] * 3)
    assert len(json.loads(await dispatcher.handle(batch, ADMIN) or b"")) == 3
    dispatcher.set_limits(LimitsConfig(max_batch=2))
    refused = json.loads(await dispatcher.handle(batch, ADMIN) or b"")
    assert refused["error"]["data"]["kind"] == "too_large"
    with structlog.testing.capture_logs() as entries:
        await dispatcher.handle(request("m", [1]), ADMIN)
        dispatcher.set_slow_request(1000)
        await dispatcher.handle(request("m", [1]), ADMIN)
    assert [entry["event"] for entry in entries] == ["slow request"]


async def test_what_is_logged_of_a_request_says_which_and_whose_it_was() -> None:
    clock = HandClock()

    async def fails_slowly(_call: Call, params: Get) -> None:
        clock.seconds += 1
        raise ZeroDivisionError if params.id == 1 else Busy

    with structlog.testing.capture_logs() as entries:
        dispatcher = dispatcher_of(method("m", fails_slowly), clock=clock, slow_request_ms=900)
        for id_ in (1, 2):
            await dispatcher.handle(request("m", [id_]), ADMIN)
    assert [(entry["event"], entry.get("kind")) for entry in entries] == [
        ("unforeseen error", "internal_error"), ("slow request", None), ("request failed", "busy"),
        ("slow request", None),
    ]  # fmt: skip
    assert {(entry["method"], entry["peer"]) for entry in entries} == {("m", ADMIN.name)}
    ids = [entry["request_id"] for entry in entries]
    assert ids[0] == ids[1] != ids[2] == ids[3]

"""Every example of the JSON-RPC 2.0 specification, section 7, through the dispatcher."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from msgspec import Struct

from nexusd.config_sections import LimitsConfig
from nexusd.model.fields import NoParams, Params
from nexusd.wire.dispatch import Dispatcher
from nexusd.wire.gate import Gate
from nexusd.wire.methods import Call, Method, MethodTable, Principal

pytestmark = pytest.mark.anyio

ME = Principal("uid:1", "admin")


class Subtract(Params, frozen=True, kw_only=True):
    minuend: int
    subtrahend: int


class Three(Params, frozen=True, kw_only=True):
    a: int
    b: int
    c: int


class One(Params, frozen=True, kw_only=True):
    a: int


class Five(Params, frozen=True, kw_only=True):
    a: int
    b: int
    c: int
    d: int
    e: int


async def subtract(_call: Call, params: Subtract) -> int:
    return params.minuend - params.subtrahend


async def add(_call: Call, params: Three) -> int:
    return params.a + params.b + params.c


async def get_data(_call: Call, _params: NoParams) -> list[Any]:
    return ["hello", 5]


async def nothing(_call: Call, _params: Struct) -> None:
    return None


def at_once(handler: Callable[[Call, Any], Coroutine[Any, Any, Any]]) -> Callable[[Call, Any], Any]:
    """The same as a plain function; none of these waits for anything."""

    def answer(call: Call, params: Any) -> Any:
        try:
            handler(call, params).send(None)
        except StopIteration as done:
            return done.value
        raise AssertionError("it waited")

    return answer


def specification_methods(*, immediate: bool) -> MethodTable:
    table = MethodTable()
    table.register([
        Method(name, "s", params, result_type, at_once(handler) if immediate else handler, "read", immediate)
        for name, params, result_type, handler in (
            ("subtract", Subtract, int, subtract),
            ("sum", Three, int, add),
            ("get_data", NoParams, list[Any], get_data),
            ("update", Five, None, nothing),
            ("notify_sum", Three, None, nothing),
            ("notify_hello", One, None, nothing),
        )
    ])
    return table


def result(value: object, id_: object) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "result": value, "id": id_}


def error(code: int, id_: object) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "error": {"code": code}, "id": id_}


EXAMPLES = {
    "positional parameters": (
        '{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}', result(19, 1)),
    "positional parameters, the other way round": (
        '{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}', result(-19, 2)),
    "named parameters": (
        '{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}',
        result(19, 3)),
    "named parameters in another order": (
        '{"jsonrpc": "2.0", "method": "subtract", "params": {"minuend": 42, "subtrahend": 23}, "id": 4}',
        result(19, 4)),
    "a notification": ('{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}', None),
    "a notification of a method that is none": ('{"jsonrpc": "2.0", "method": "foobar"}', None),
    "a method that is none": ('{"jsonrpc": "2.0", "method": "foobar", "id": "1"}', error(-32601, "1")),
    "invalid JSON": ('{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]', error(-32700, None)),
    "an invalid request": ('{"jsonrpc": "2.0", "method": 1, "params": "bar"}', error(-32600, None)),
    "a batch of invalid JSON": (
        '[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"}, {"jsonrpc": "2.0", "method"',
        error(-32700, None)),
    "an empty batch": ("[]", error(-32600, None)),
    "an invalid batch": ("[1]", [error(-32600, None)]),
    "an invalid batch of three": ("[1,2,3]", [error(-32600, None)] * 3),
    "a mixed batch": (
        """[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
            {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},
            {"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},
            {"foo": "boo"},
            {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
            {"jsonrpc": "2.0", "method": "get_data", "id": "9"}]""",
        [result(7, "1"), result(19, "2"), error(-32600, None), error(-32601, "5"),
         result(["hello", 5], "9")]),
    "a batch of notifications": (
        """[{"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},
            {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}]""", None),
}


@pytest.mark.parametrize("immediate", [False, True])
@pytest.mark.parametrize("name", EXAMPLES)
async def test_example_is_answered_as_the_specification_says(name: str, *, immediate: bool) -> None:
    sent, expected = EXAMPLES[name]
    dispatcher = Dispatcher(specification_methods(immediate=immediate), LimitsConfig(), gate=Gate(is_open=True))

    reply = await dispatcher.handle(sent.replace("\n", "").encode(), ME)

    assert comparable(reply) == expected


def comparable(reply: bytes | None) -> Any:
    """The reply without the words of its errors, which the specification leaves to the server."""
    if reply is None:
        return None
    message = json.loads(reply)
    for one in message if isinstance(message, list) else [message]:
        if "error" in one:
            assert one["error"]["message"]
            one["error"] = {"code": one["error"]["code"]}
    return message

"""Events over the real connections: what the hub is promised by a connection holds there as it does in its fake."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fakes.listener import Listener

from nexusd.api.events import EventsApi
from nexusd.clock import SystemClock
from nexusd.config_sections import LimitsConfig, ServerConfig, TcpConfig
from nexusd.model.fields import NoParams
from nexusd.wire.dispatch import Dispatcher
from nexusd.wire.events import EventHub
from nexusd.wire.gate import Gate
from nexusd.wire.listeners import Server
from nexusd.wire.methods import Call, Client, Method, MethodTable

pytestmark = pytest.mark.anyio

LINE = b'{"jsonrpc":"2.0","method":"event","params":{"text":"' + b"x" * 4000 + b'"}}'
MOST_LINES = 5000   # more than every buffer on the way holds


@dataclass
class Counting:
    """A connection that counts how often it was asked to send."""

    client: Client
    asked: int = 0

    def notify(self, message: bytes) -> bool:
        self.asked += 1
        return self.client.notify(message)

    def when_writable(self, function: Callable[[], None]) -> None:
        self.client.when_writable(function)

    def when_closed(self, function: Callable[[], None]) -> None:
        self.client.when_closed(function)

    __hash__ = object.__hash__


@dataclass
class House:
    """A server with events, and the connections that said hello, as methods see them."""

    hub: EventHub
    path: Path
    clients: list[Client] = field(default_factory=list)

    def hello(self, call: Call, _params: NoParams) -> int:
        assert call.client is not None
        self.clients.append(call.client)
        return len(self.clients)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Client]:
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        await send(writer, {"jsonrpc": "2.0", "id": 0, "method": "hello"})
        await reader.readline()
        return reader, writer, self.clients[-1]


@asynccontextmanager
async def house(directory: Path, **limits: int) -> AsyncIterator[House]:
    table = MethodTable()
    settings = LimitsConfig(**limits)
    hub = EventHub(table, settings, SystemClock(), inner_topics=("system",))
    built = House(hub, directory / "n.sock")
    table.register([Method("hello", "s", NoParams, int, built.hello, "read", immediate=True)])
    table.register(EventsApi(hub).methods())
    dispatcher = Dispatcher(table, settings, gate=Gate(is_open=True))
    server = Server(dispatcher, ServerConfig(limits=settings, tcp=TcpConfig(enabled=False)), built.path)
    await server.start()
    try:
        yield built
    finally:
        await server.close()


async def send(writer: asyncio.StreamWriter, message: object) -> None:
    writer.write(json.dumps(message).encode() + b"\n")
    await writer.drain()


async def soon(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


async def some_turns(count: int = 100) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def filled(client: Client) -> None:
    """Send until it takes no more, and all that is on the way has found its place."""
    refused = 0
    for _ in range(MOST_LINES):
        refused = 0 if client.notify(LINE) else refused + 1
        if refused == 50:
            return
        await asyncio.sleep(0)
    raise AssertionError("a connection that nobody reads from takes no more at some point")


@asynccontextmanager
async def fake(_directory: Path) -> AsyncIterator[tuple[Client, Callable[[], Any], Callable[[], Any]]]:
    listener = Listener(room=100)
    yield listener, listener.read, listener.close


@asynccontextmanager
async def real(directory: Path) -> AsyncIterator[tuple[Client, Callable[[], Any], Callable[[], Any]]]:
    async with house(directory) as built:
        reader, writer, client = await built.connect()
        tasks = []

        async def read_all() -> None:
            while await reader.read(2**20):
                pass

        yield client, lambda: tasks.append(asyncio.create_task(read_all())), writer.transport.abort
        writer.transport.abort()
        await asyncio.gather(*tasks)


@pytest.mark.parametrize("make", [fake, real])
async def test_what_a_connection_promises_to_those_who_notify(make: Any, tmp_path: Path) -> None:
    async with make(tmp_path) as (client, read, close):
        told: list[str] = []
        client.when_closed(lambda: told.append("closed"))
        await filled(client)
        client.when_writable(lambda: told.append("writable"))
        await some_turns()
        assert told == []
        read()
        await soon(lambda: told)
        assert client.notify(LINE)
        await some_turns()
        assert told == ["writable"], "once"
        client.when_writable(lambda: told.append("still writable"))
        assert told == ["writable"], "in a later turn"
        await soon(lambda: len(told) > 1)
        close()
        await soon(lambda: told[-1] == "closed")
        assert not client.notify(LINE)
        client.when_writable(lambda: told.append("never"))
        client.when_closed(lambda: told.append("late"))
        await soon(lambda: told[-1] == "late")
        assert told == ["writable", "still writable", "closed", "late"]


async def test_a_connection_that_an_error_ends_is_not_asked_over_and_over(tmp_path: Path) -> None:
    async with house(tmp_path, max_message_bytes_unix=1024) as built:
        reader, writer, client = await built.connect()
        counting = Counting(client)
        built.hub.subscribe(counting, [], None)
        await some_turns(3)
        writer.write(b"[" + b"1," * 1024)
        refused = json.loads(await reader.readline())
        assert refused["error"]["data"]["kind"] == "too_large"
        for _ in range(3):
            built.hub.publish("system", {"state": "stopping"})
        await some_turns()
        assert counting.asked == 1
        writer.close()
        await soon(lambda: built.hub.stats().subscriptions == 0)


async def test_replies_and_events_share_a_connection(tmp_path: Path) -> None:
    async with house(tmp_path) as built:
        reader, writer, _ = await built.connect()
        await send(writer, {"jsonrpc": "2.0", "id": "s", "method": "events.subscribe"})
        await soon(lambda: built.hub.stats().subscriptions == 1)
        await some_turns(3)
        for number in range(3):
            built.hub.publish("system", {"n": number})
            await send(writer, {"jsonrpc": "2.0", "id": number, "method": "hello"})
        messages = [json.loads(await reader.readline()) for _ in range(7)]
        assert messages[0]["id"] == "s"
        assert [m["id"] for m in messages[1:] if "id" in m] == [0, 1, 2]
        assert [m["params"]["data"]["n"] for m in messages if "method" in m] == [0, 1, 2]
        writer.close()

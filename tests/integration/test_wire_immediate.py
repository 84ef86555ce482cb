"""Methods that wait for nothing are answered in the turn in which they came, and starve nobody by it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nexusd.config_sections import LimitsConfig, ServerConfig, TcpConfig
from nexusd.errors import NotFound
from nexusd.model.fields import Id, NoParams, Params
from nexusd.wire.connection import MAX_ANSWERED_IN_A_TURN
from nexusd.wire.dispatch import Dispatcher
from nexusd.wire.gate import Gate
from nexusd.wire.listeners import Server
from nexusd.wire.methods import Call, Method, MethodTable, Principal

pytestmark = pytest.mark.anyio
FLOOD = 2000


class Mark(Params, frozen=True, kw_only=True):
    """One number."""

    n: Id


class House:
    """A server with one immediate method that notes the order in which it was called."""

    def __init__(self) -> None:
        self.order: list[int] = []
        self.all_called = asyncio.Event()
        self.gathered = 0
        self.door = asyncio.Event()

    def mark(self, _call: Call, params: Mark) -> int:
        if params.n == 404:
            raise NotFound
        self.order.append(params.n)
        if len(self.order) == FLOOD + 1:
            self.all_called.set()
        return params.n

    def long(self, _call: Call, params: Mark) -> str:
        self.order.append(params.n)
        return "x" * 40_000

    async def gather(self, _call: Call, _params: NoParams) -> None:
        self.gathered += 1
        await self.door.wait()

    async def turn(self, _call: Call, _params: NoParams) -> None:
        await asyncio.sleep(0)

    def table(self) -> MethodTable:
        table = MethodTable()
        table.register([
            Method(name="mark", summary="Note.", params=Mark, result=int, handler=self.mark, role="read",
                   immediate=True),
            Method(name="long", summary="Much.", params=Mark, result=str, handler=self.long, role="read",
                   immediate=True),
            Method(name="gather", summary="Wait for the door.", params=NoParams, result=None, handler=self.gather,
                   role="read", waits=True),
            Method(name="turn", summary="Wait a turn.", params=NoParams, result=None, handler=self.turn, role="read"),
        ])
        return table


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
async def path(house: House, tmp_path: Path) -> AsyncIterator[Path]:
    config = ServerConfig(tcp=TcpConfig(enabled=False))
    server = Server(Dispatcher(house.table(), LimitsConfig(), gate=Gate(is_open=True)), config, tmp_path / "n.sock")
    await server.start()
    yield tmp_path / "n.sock"
    await server.close()


def line(n: int) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": n, "method": "mark", "params": [n]}).encode() + b"\n"


async def test_a_flood_on_one_connection_lets_the_others_pass(house: House, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as flooding, socket.socket(socket.AF_UNIX) as polite:
        for client in (flooding, polite):
            client.setblocking(False)
            client.connect(str(path))
        flooding.sendall(b"".join(line(n) for n in range(1000, 1000 + FLOOD)))
        polite.sendall(line(7))  # both lie in the kernel before the server looks at either
        await house.all_called.wait()
        assert house.order.index(7) < FLOOD / 2
        assert [n for n in house.order if n != 7] == list(range(1000, 1000 + FLOOD))


async def test_a_flood_of_batches_lets_the_others_pass(house: House, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as flooding, socket.socket(socket.AF_UNIX) as polite:
        for client in (flooding, polite):
            client.setblocking(False)
            client.connect(str(path))
        for first in range(1000, 1000 + FLOOD, 100):
            flooding.sendall(b"[" + b",".join(line(n).strip() for n in range(first, first + 100)) + b"]\n")
        polite.sendall(line(7))
        await house.all_called.wait()
        assert house.order.index(7) < FLOOD / 2


async def test_requests_that_finish_do_not_start_others_before_other_clients_had_their_turn(
    house: House, path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as flooding, socket.socket(socket.AF_UNIX) as polite:
        for client in (flooding, polite):
            client.setblocking(False)
            client.connect(str(path))
        turn = b'{"jsonrpc":"2.0","method":"turn"}\n'
        flooding.sendall(b"".join(line(n) + (turn if n % 32 == 0 else b"") for n in range(1000, 1000 + FLOOD)))
        polite.sendall(line(7))
        await house.all_called.wait()
        assert house.order.index(7) < FLOOD / 10


async def test_many_requests_that_finish_in_one_turn_start_no_more_than_one_turns_worth(
    house: House, path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        client.connect(str(path))
        waiting = MAX_ANSWERED_IN_A_TURN - 2
        gather = b'{"jsonrpc":"2.0","method":"gather"}\n'
        client.sendall(gather * waiting + b"".join(line(n) for n in range(1000, 1001 + FLOOD)))
        while house.gathered < waiting:
            await asyncio.sleep(0)
        assert len(house.order) < FLOOD / 2     # it has yielded, and has enough left to start
        house.door.set()
        started = []
        while len(house.order) <= FLOOD:
            before = len(house.order)
            await asyncio.sleep(0)              # one turn of the loop
            started.append(len(house.order) - before)
    assert max(started) <= MAX_ANSWERED_IN_A_TURN


async def test_a_batch_whose_replies_are_too_long_together_is_cut_short_and_says_so(
    house: House, tmp_path: Path
) -> None:
    dispatcher = Dispatcher(house.table(), LimitsConfig(max_write_buffer_bytes=65536), gate=Gate(is_open=True))
    batch = [{"jsonrpc": "2.0", "id": n, "method": "long", "params": [n + 1]} for n in range(5)]
    reply = await dispatcher.handle(json.dumps(batch).encode(), Principal("uid:1", "admin"))
    assert reply is not None
    kinds = [one.get("error", {}).get("data", {}).get("kind") for one in json.loads(reply)]
    assert kinds == [None, None, "too_large", "too_large", "too_large"]
    assert house.order == [1, 2]  # what is refused is not carried out


async def test_a_flood_followed_by_the_end_of_the_stream_is_answered_whole(path: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"".join(line(n) for n in range(1000, 1000 + FLOOD)))
    writer.write_eof()
    replies = [json.loads(reply) async for reply in reader]
    assert [reply["result"] for reply in replies] == list(range(1000, 1000 + FLOOD))
    writer.close()


async def test_a_close_in_the_turn_in_which_a_request_came_ends(house: House, tmp_path: Path) -> None:
    dispatcher = Dispatcher(house.table(), LimitsConfig(), gate=Gate(is_open=True))
    server = Server(dispatcher, ServerConfig(tcp=TcpConfig(enabled=False)), tmp_path / "c.sock")
    await server.start()
    _, writer = await asyncio.open_unix_connection(str(tmp_path / "c.sock"))
    while not server.connections:
        await asyncio.sleep(0)
    (connection,) = server._connections
    connection.data_received(b'{"jsonrpc":"2.0","id":1,"method":"turn"}\n')  # its task has not begun yet
    assert server.requests == 1
    async with asyncio.timeout(5):
        await server.close()
    assert (server.requests, server.connections) == (0, 0)
    writer.close()


async def test_an_error_of_an_immediate_method_is_told_as_any_other(path: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(str(path))
    for sent, kind in ((line(404), "not_found"), (b'{"jsonrpc":"2.0","id":1,"method":"mark"}\n', "invalid_params")):
        writer.write(sent)
        assert json.loads(await reader.readline())["error"]["data"]["kind"] == kind
    writer.close()


async def test_in_a_batch_it_has_its_place(path: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"[" + line(3).strip() + b"," + line(404).strip() + b"," + line(1).strip() + b"]\n")
    replies = json.loads(await reader.readline())
    assert [reply["id"] for reply in replies] == [3, 404, 1]
    writer.close()


def test_a_coroutine_function_cannot_be_immediate_and_a_plain_one_must_be() -> None:
    async def waits(_call: Call, _params: Mark) -> None: ...

    def waits_not(_call: Call, _params: Mark) -> None: ...

    for handler, immediate in ((waits, True), (waits_not, False)):
        method = Method(name="m", summary="M.", params=Mark, result=None, handler=handler, role="read",
                        immediate=immediate)
        with pytest.raises(ValueError, match="immediate"):
            MethodTable().register([method])

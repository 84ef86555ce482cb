"""Connections over real sockets: pipelining, back-pressure, deadlines, and clients that misbehave."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest

from nexusd.config_sections import LimitsConfig, ServerConfig, TcpConfig
from nexusd.model.fields import NoParams, Params
from nexusd.wire.connection import WRITE_HIGH_WATER_BYTES, Connection
from nexusd.wire.dispatch import Dispatcher
from nexusd.wire.gate import Gate
from nexusd.wire.listeners import Server
from nexusd.wire.methods import Call, Client, Method, MethodTable

pytestmark = pytest.mark.anyio

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Named(Params, frozen=True, kw_only=True):
    name: str


class Sized(Params, frozen=True, kw_only=True):
    size: int


class WatchedServer(Server):
    """Tells when a connection has gone."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._gone = asyncio.Event()

    def left(self, connection: Connection) -> None:
        super().left(connection)
        self._gone.set()

    async def down_to(self, connections: int) -> None:
        """Wait until no more than so many connections are left."""
        async with asyncio.timeout(20):
            while self.connections > connections:
                self._gone.clear()
                await self._gone.wait()


class House:
    """A server with a few methods, and the doors that its tests open and close."""

    def __init__(self, directory: Path, limits: LimitsConfig) -> None:
        self.doors: dict[str, asyncio.Event] = {}
        self.entered: list[str] = []
        self.left: list[str] = []
        self.moved = asyncio.Condition()
        self.listeners: list[Client] = []
        self.closed = asyncio.Event()
        self.clients: list[asyncio.StreamWriter] = []
        table = MethodTable()
        table.register([
            Method("echo", "s", Named, str, self._echo, "read"),
            Method("wait", "s", Named, str, self._wait, "read"),
            Method("big", "s", Sized, str, self._big, "read"),
            Method("whoami", "s", NoParams, str, self._whoami, "read"),
            Method("listen", "s", NoParams, bool, self._listen, "read"),
        ])
        self.dispatcher = Dispatcher(table, limits, gate=Gate(is_open=True))
        config = ServerConfig(limits=limits, tcp=TcpConfig(port=0, auth="none"))
        self.path = directory / "n.sock"
        self.server = WatchedServer(self.dispatcher, config, self.path)

    def door(self, name: str) -> asyncio.Event:
        return self.doors.setdefault(name, asyncio.Event())

    async def until(self, condition: Any) -> None:
        """Wait until handlers have moved so that the condition holds."""
        async with asyncio.timeout(20), self.moved:
            await self.moved.wait_for(condition)

    async def connect(self, *, tcp: bool = False, limit: int = 2**16) -> Streams:
        if tcp:
            assert self.server.tcp_address is not None
            streams = await asyncio.open_connection(*self.server.tcp_address, limit=limit)
        else:
            streams = await asyncio.open_unix_connection(str(self.path), limit=limit)
        self.clients.append(streams[1])
        return streams

    async def _echo(self, _call: Call, params: Named) -> str:
        return params.name

    async def _wait(self, _call: Call, params: Named) -> str:
        await self._note(self.entered, params.name)
        await self.door(params.name).wait()
        await self._note(self.left, params.name)
        return params.name

    async def _big(self, _call: Call, params: Sized) -> msgspec.Raw:
        await self._note(self.entered, str(params.size))
        return msgspec.Raw(b'"' + b"x" * params.size + b'"')

    async def _whoami(self, call: Call, _params: NoParams) -> str:
        return f"{call.principal.name} {call.principal.role}"

    async def _listen(self, call: Call, _params: NoParams) -> bool:
        assert call.client is not None
        self.listeners.append(call.client)
        call.client.when_closed(self.closed.set)
        return True

    async def _note(self, notes: list[str], name: str) -> None:
        async with self.moved:
            notes.append(name)
            self.moved.notify_all()


class OpenHouse(Protocol):
    def __call__(self, **limits: Any) -> AbstractAsyncContextManager[House]: ...


@pytest.fixture
def open_house(tmp_path: Path) -> OpenHouse:
    @asynccontextmanager
    async def opened(**limits: Any) -> AsyncIterator[House]:
        house = House(tmp_path, LimitsConfig(**limits))
        await house.server.start()
        try:
            yield house
        finally:
            for client in house.clients:
                client.close()
            await house.server.close()

    return opened


def request(method: str, id_: object = 1, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "method": method, "params": params, "id": id_}).encode() + b"\n"


async def answer(streams: Streams, sent: bytes) -> Any:
    streams[1].write(sent)
    return await reply(streams)


async def reply(streams: Streams) -> Any:
    async with asyncio.timeout(20):
        line = await streams[0].readline()
    assert line.endswith(b"\n"), f"the connection ended after {line!r}"
    return json.loads(line)


async def closed(streams: Streams) -> bytes:
    """What still comes until the server closes its end."""
    async with asyncio.timeout(20):
        try:
            return await streams[0].read()
        except ConnectionResetError:
            return b""


@pytest.mark.parametrize("tcp", [False, True])
async def test_a_request_is_answered_on_either_listener(open_house: OpenHouse, *, tcp: bool) -> None:
    async with open_house() as house:
        assert await answer(await house.connect(tcp=tcp), request("echo", name="hello")) == {
            "jsonrpc": "2.0", "result": "hello", "id": 1,
        }


async def test_the_unix_socket_knows_the_user_and_the_port_the_address(open_house: OpenHouse) -> None:
    async with open_house() as house:
        unix = await answer(await house.connect(), request("whoami"))
        tcp = await answer(await house.connect(tcp=True), request("whoami"))
    assert unix["result"] == f"uid:{os.getuid()} admin"
    assert tcp["result"] == "tcp:127.0.0.1 admin"


async def test_replies_come_as_they_finish_and_are_matched_by_id(open_house: OpenHouse) -> None:
    async with open_house() as house:
        streams = await house.connect()
        for n, method in enumerate(["wait", "wait", "echo"]):
            streams[1].write(request(method, n + 1, name="abc"[n]))
        assert (await reply(streams))["id"] == 3
        house.door("b").set()
        assert (await reply(streams))["id"] == 2
        house.door("a").set()
        assert (await reply(streams))["id"] == 1


async def test_a_thousand_pipelined_requests_are_each_answered_once(open_house: OpenHouse) -> None:
    async with open_house(max_in_flight=4) as house:
        streams = await house.connect()
        streams[1].write(b"".join(request("echo", n, name="x") for n in range(1000)))
        assert sorted([(await reply(streams))["id"] for _ in range(1000)]) == list(range(1000))


async def test_past_the_requests_in_flight_the_rest_waits_and_other_clients_do_not(
    open_house: OpenHouse,
) -> None:
    async with open_house(max_in_flight=2) as house:
        streams = await house.connect()
        streams[1].write(b"".join(request("wait", n, name=str(n)) for n in range(4)))
        await house.until(lambda: len(house.entered) == 2)
        assert (await answer(await house.connect(), request("echo", name="x")))["result"] == "x"
        assert house.entered == ["0", "1"]
        for n in range(4):
            house.door(str(n)).set()
        assert sorted([(await reply(streams))["id"] for _ in range(4)]) == [0, 1, 2, 3]


async def test_a_request_may_come_byte_by_byte(open_house: OpenHouse) -> None:
    async with open_house() as house:
        streams = await house.connect()
        for byte in b"\r\n" + request("echo", name="ü")[:-1] + b"\r\n":
            streams[1].write(bytes([byte]))
            await asyncio.sleep(0)
        assert (await reply(streams))["result"] == "ü"


BAD_LINES = {
    "malformed": (b'{"jsonrpc": "2.0", "method"', -32700),
    "not UTF-8": (b'{"jsonrpc":"2.0","method":"\xff\xfe","id":1}', -32700),
    "a duplicate key": (b'{"jsonrpc":"2.0","method":"echo","method":"whoami","id":1}', -32700),
    "NaN": (b'{"jsonrpc":"2.0","method":"echo","params":{"name":NaN},"id":1}', -32700),
    "too deep": (b"[" * 100 + b"]" * 100, -32005),
    "very deep": (b"[" * 100_000, -32005),
    "a NUL": (b" \x00", -32700),
    "a plain value": (b" 17", -32600),
}


@pytest.mark.parametrize("name", BAD_LINES)
async def test_a_bad_line_is_refused_and_the_connection_goes_on(open_house: OpenHouse, name: str) -> None:
    line, code = BAD_LINES[name]
    async with open_house() as house:
        streams = await house.connect()
        refused = await answer(streams, line + b"\n")
        assert (refused["error"]["code"], refused["id"]) == (code, None)
        assert (await answer(streams, request("echo", name="still here")))["result"] == "still here"


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", b"hello\n", b"\x16\x03\x01"])
async def test_a_client_of_another_protocol_is_told_and_closed(open_house: OpenHouse, first: bytes) -> None:
    async with open_house() as house:
        streams = await house.connect(tcp=True)
        assert (await answer(streams, first))["error"]["code"] == -32700
        assert await closed(streams) == b""


@pytest.mark.parametrize("tcp", [False, True])
async def test_a_frame_past_the_limit_is_refused_before_its_end_and_the_connection_closed(
    open_house: OpenHouse, *, tcp: bool
) -> None:
    async with open_house(max_message_bytes_unix=4096, max_message_bytes_tcp=4096) as house:
        streams = await house.connect(tcp=tcp)
        streams[1].write(request("wait", 7, name="before"))
        await house.until(lambda: house.entered == ["before"])

        refused = await answer(streams, b'{"jsonrpc": "' + b"x" * 1_000_000)

        assert (refused["error"]["code"], refused["id"]) == (-32005, None)
        house.door("before").set()
        assert (await reply(streams))["id"] == 7    # what was under way is answered
        assert await closed(streams) == b""


async def test_each_listener_has_its_own_limit(open_house: OpenHouse) -> None:
    async with open_house(max_message_bytes_unix=100_000, max_message_bytes_tcp=1000) as house:
        large = request("echo", name="x" * 50_000)
        assert "result" in await answer(await house.connect(limit=2**20), large)
        assert (await answer(await house.connect(tcp=True), large))["error"]["code"] == -32005


async def test_a_message_of_megabytes_passes(open_house: OpenHouse) -> None:
    async with open_house() as house:
        streams = await house.connect(limit=2**23)
        assert (await answer(streams, request("echo", name="x" * 5_000_000)))["result"] == "x" * 5_000_000


async def test_half_sent_frames_hold_no_more_than_their_bytes(open_house: OpenHouse) -> None:
    async with open_house() as house:
        streams = await house.connect()
        streams[1].write(request("echo", name="x")[:-10])
        assert (await answer(await house.connect(), request("echo", name="y")))["result"] == "y"
        streams[1].close()
        await house.server.down_to(1)


async def test_a_client_that_vanishes_after_sending_has_its_request_carried_out(
    open_house: OpenHouse,
) -> None:
    async with open_house() as house:
        _, writer = await house.connect(tcp=True)
        writer.write(request("wait", name="a"))
        await house.until(lambda: house.entered == ["a"])
        reset = struct.pack("ii", 1, 0)     # the close resets the connection: the server learns of it at once
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        writer.transport.abort()
        await house.server.down_to(0)
        assert house.left == []
        house.door("a").set()
        await house.until(lambda: house.left == ["a"])


async def test_a_client_that_closes_after_sending_has_its_request_carried_out(open_house: OpenHouse) -> None:
    async with open_house() as house:
        _, writer = await house.connect()
        writer.write(request("wait", name="a"))
        await house.until(lambda: house.entered == ["a"])
        writer.transport.abort()
        house.door("a").set()
        await house.until(lambda: house.left == ["a"])
        await house.server.down_to(0)


async def test_a_client_that_shuts_its_end_gets_its_replies_then_the_close(open_house: OpenHouse) -> None:
    async with open_house() as house:
        streams = await house.connect()
        streams[1].write(request("wait", 1, name="a") + request("echo", 2, name="last")[:-1])    # no line end
        streams[1].write_eof()
        assert (await reply(streams))["result"] == "last"
        house.door("a").set()
        assert (await reply(streams))["id"] == 1
        assert await closed(streams) == b""


async def test_more_requests_than_fit_in_flight_are_answered_after_the_client_shut_its_end(
    open_house: OpenHouse,
) -> None:
    async with open_house(max_in_flight=2) as house:
        streams = await house.connect()
        streams[1].write(b"".join(request("echo", n, name="x") for n in range(51))[:-1])
        streams[1].write_eof()
        answered = (await closed(streams)).splitlines()
        assert sorted(json.loads(line)["id"] for line in answered) == list(range(51))


async def test_a_client_that_shut_its_end_and_reads_late_gets_every_reply(open_house: OpenHouse) -> None:
    async with open_house(max_in_flight=2) as house:
        with stubborn_client(house) as client:
            client.sendall(b"".join(request("big", n, size=WRITE_HIGH_WATER_BYTES) for n in range(8)))
            client.shutdown(socket.SHUT_WR)
            await house.until(lambda: len(house.entered) >= 2)
            client.setblocking(False)
            received = bytearray()
            while data := await asyncio.get_running_loop().sock_recv(client, 2**20):
                received += data
            assert received.count(b"\n") == 8


async def test_a_truncated_last_line_is_a_parse_error_then_the_close(open_house: OpenHouse) -> None:
    async with open_house() as house:
        streams = await house.connect()
        streams[1].write(request("echo", name="x")[:-5])
        streams[1].write_eof()
        assert (await reply(streams))["error"]["code"] == -32700
        assert await closed(streams) == b""


def stubborn_client(house: House) -> socket.socket:
    """A client that will not read, with a small receive buffer."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(house.path))
    return client


async def test_a_client_that_never_reads_is_slowed_alone_then_closed(open_house: OpenHouse) -> None:
    limits = {"write_stall_timeout_s": 0.4, "max_in_flight": 2}
    async with open_house(**limits) as house:
        with stubborn_client(house) as client:
            size = WRITE_HIGH_WATER_BYTES
            client.sendall(b"".join(request("big", n, size=size) for n in range(50)))
            await house.until(lambda: len(house.entered) >= 2)
            for _ in range(20):     # others are served meanwhile
                assert (await answer(await house.connect(), request("echo", name="x")))["result"] == "x"
            assert len(house.entered) < 6   # what fits in flight, and what the kernel's buffer took
            await house.server.down_to(20)
            assert len(house.entered) < 6


async def test_memory_stays_flat_while_a_client_never_reads(open_house: OpenHouse) -> None:
    async with open_house(max_in_flight=4) as house:
        with stubborn_client(house) as client:
            client.setblocking(False)
            size = 100_000
            tracemalloc.start()
            try:
                frames = b"".join(request("big", n, size=size) for n in range(2000))
                _, before = tracemalloc.get_traced_memory()
                loop = asyncio.get_running_loop()
                sending = asyncio.create_task(loop.sock_sendall(client, frames))
                await house.until(lambda: len(house.entered) > 8)
                for _ in range(50):
                    await answer(await house.connect(), request("echo", name="x"))
                current, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert current - before < WRITE_HIGH_WATER_BYTES + 4 * size + 2_000_000
            sending.cancel()


async def test_a_slow_reader_that_moves_is_not_closed(open_house: OpenHouse) -> None:
    async with open_house(write_stall_timeout_s=0.2) as house:
        with stubborn_client(house) as client:
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(client, request("big", size=4_000_000))
            received = 0
            while received < 4_000_000:     # takes several times the stall timeout
                received += len(await loop.sock_recv(client, 300_000))
                await asyncio.sleep(0.05)
            assert house.server.connections == 1


async def test_replies_past_the_write_limit_end_the_connection(open_house: OpenHouse) -> None:
    async with open_house(max_write_buffer_bytes=200_000, max_in_flight=16) as house:
        with stubborn_client(house) as client:
            client.sendall(b"".join(request("big", n, size=300_000) for n in range(16)))
            await house.until(lambda: house.entered)
            await house.server.down_to(0)
        assert (await answer(await house.connect(), request("echo", name="x")))["result"] == "x"


async def test_a_client_that_says_nothing_is_closed(open_house: OpenHouse) -> None:
    async with open_house(first_byte_timeout_s=0.05) as house:
        assert await closed(await house.connect()) == b""


async def test_an_idle_client_is_closed_but_not_while_its_request_runs(open_house: OpenHouse) -> None:
    async with open_house(idle_timeout_s=0.1) as house:
        busy, idle = await house.connect(), await house.connect()
        busy[1].write(request("wait", name="a"))
        await answer(idle, request("echo", name="x"))
        assert await closed(idle) == b""
        house.door("a").set()
        assert (await reply(busy))["result"] == "a"
        assert await closed(busy) == b""


async def test_a_half_sent_frame_has_a_deadline_that_dripping_bytes_do_not_move(
    open_house: OpenHouse,
) -> None:
    async with open_house(partial_frame_timeout_s=0.3) as house:
        streams = await house.connect()

        async def drip() -> None:
            while True:
                streams[1].write(b'{"a')
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        refused = await reply(streams)
        assert refused["error"]["code"] == -32700
        assert "0.3 s" in refused["error"]["message"]
        assert await closed(streams) == b""
        dripping.cancel()


async def test_the_deadline_of_a_half_sent_frame_holds_while_a_request_runs(open_house: OpenHouse) -> None:
    async with open_house(partial_frame_timeout_s=0.1) as house:
        streams = await house.connect()
        assert (await answer(streams, request("wait", name="a") + b'{"half'))["error"]["code"] == -32700
        house.door("a").set()
        assert (await reply(streams))["result"] == "a"
        assert await closed(streams) == b""


async def test_an_idle_client_with_unread_replies_is_let_go_in_the_end(open_house: OpenHouse) -> None:
    async with open_house(idle_timeout_s=0.1, write_stall_timeout_s=0.2) as house:
        with stubborn_client(house) as client:
            client.sendall(request("big", size=WRITE_HIGH_WATER_BYTES // 2))    # more than the kernel takes
            await house.until(lambda: house.entered)
            await house.server.down_to(0)


async def test_whole_frames_one_after_the_other_have_no_such_deadline(open_house: OpenHouse) -> None:
    async with open_house(partial_frame_timeout_s=0.1) as house:
        streams = await house.connect()
        frame = request("echo", name="x")
        streams[1].write(frame[:5])
        for _ in range(20):     # always half a frame in the buffer, never the same one
            streams[1].write(frame[5:] + frame[:5])
            assert (await reply(streams))["result"] == "x"
            await asyncio.sleep(0.02)


async def test_an_error_is_seen_although_the_client_goes_on_sending_and_then_comes_the_close(
    open_house: OpenHouse,
) -> None:
    async with open_house(max_message_bytes_tcp=1024) as house:
        streams = await house.connect(tcp=True)

        async def flood() -> None:
            while True:
                streams[1].write(b"{" * 65536)
                await streams[1].drain()

        flooding = asyncio.create_task(flood())
        assert (await reply(streams))["error"]["code"] == -32005
        await asyncio.wait([flooding], timeout=20)      # the close reaches it
        assert isinstance(flooding.exception(), ConnectionError)
        assert house.server.connections == 0


async def test_a_client_that_listens_is_sent_lines_between_its_replies(open_house: OpenHouse) -> None:
    async with open_house() as house:
        streams = await house.connect()
        await answer(streams, request("listen"))
        (listener,) = house.listeners
        assert listener.notify(b'{"event":1}')
        assert await reply(streams) == {"event": 1}
        assert (await answer(streams, request("echo", name="x")))["result"] == "x"


async def test_one_that_does_not_read_is_sent_nothing_until_it_reads_again(open_house: OpenHouse) -> None:
    async with open_house() as house:
        streams = await house.connect(limit=2**17)
        await answer(streams, request("listen"))
        (listener,) = house.listeners
        line, sent, again = b'"' + b"x" * 100_000 + b'"', 0, asyncio.Event()
        while listener.notify(line):
            sent += 1
            await asyncio.sleep(0)
        assert sent < 100
        listener.when_writable(again.set)
        await asyncio.sleep(0)
        assert not again.is_set()
        for _ in range(sent):
            await reply(streams)
        async with asyncio.timeout(20):
            await again.wait()
        assert listener.notify(b"1")
        assert await reply(streams) == 1


async def test_one_that_can_be_sent_to_is_told_so_in_the_next_turn(open_house: OpenHouse) -> None:
    async with open_house() as house:
        await answer(await house.connect(), request("listen"))
        called: list[str] = []
        house.listeners[0].when_writable(lambda: called.append("writable"))
        assert called == []
        await asyncio.sleep(0)
        assert called == ["writable"]


async def test_the_end_of_one_that_listens_is_told_once_also_to_those_who_ask_later(open_house: OpenHouse) -> None:
    async with open_house() as house:
        streams = await house.connect()
        await answer(streams, request("listen"))
        streams[1].close()
        async with asyncio.timeout(20):
            await house.closed.wait()
        (listener,) = house.listeners
        assert not listener.notify(b"1")
        late = asyncio.Event()
        listener.when_closed(late.set)
        async with asyncio.timeout(20):
            await late.wait()


async def test_one_that_listens_may_be_silent_for_any_time(open_house: OpenHouse) -> None:
    async with open_house(idle_timeout_s=0.05) as house:
        listening, idle = await house.connect(), await house.connect()
        await answer(listening, request("listen"))
        await answer(idle, request("echo", name="x"))
        assert await closed(idle) == b""
        await asyncio.sleep(0.2)
        assert (await answer(listening, request("echo", name="still here")))["result"] == "still here"


async def test_after_the_error_that_ends_it_one_is_sent_nothing_more(open_house: OpenHouse) -> None:
    async with open_house(max_message_bytes_unix=1024) as house:
        streams = await house.connect()
        await answer(streams, request("listen"))
        assert (await answer(streams, b"{" * 5000))["error"]["code"] == -32005
        assert not house.listeners[0].notify(b"1")
        assert await closed(streams) == b""


async def test_new_limits_hold_for_connections_that_are_open(open_house: OpenHouse) -> None:
    async with open_house(max_in_flight=1) as house:
        busy, idle = await house.connect(), await house.connect()
        await answer(idle, request("echo", name="x"))
        for n in range(3):
            busy[1].write(request("wait", n, name=str(n)))
        await house.until(lambda: house.entered == ["0"])
        house.server.set_limits(LimitsConfig(max_in_flight=2, idle_timeout_s=0.1))
        house.door("0").set()
        await house.until(lambda: len(house.entered) == 3)      # two at a time from now on
        assert await closed(idle) == b""                        # an hour before its time by the old ones
        for n in range(1, 3):
            house.door(str(n)).set()
        assert sorted([(await reply(busy))["id"] for _ in range(3)]) == [0, 1, 2]
        assert await closed(busy) == b""


async def test_fewer_requests_at_a_time_let_those_under_way_come_to_their_end(open_house: OpenHouse) -> None:
    async with open_house(max_in_flight=3) as house:
        streams = await house.connect()
        for n in range(5):
            streams[1].write(request("wait", n, name=str(n)))
        await house.until(lambda: len(house.entered) == 3)
        house.server.set_limits(LimitsConfig(max_in_flight=1))
        for n in range(5):
            house.door(str(n)).set()
        assert sorted([(await reply(streams))["id"] for _ in range(5)]) == [0, 1, 2, 3, 4]


async def test_how_long_a_message_may_be_stays_for_an_open_connection_and_holds_for_the_next(
    open_house: OpenHouse,
) -> None:
    async with open_house() as house:
        for tcp in (False, True):
            house.server.set_limits(LimitsConfig())
            before = await house.connect(tcp=tcp)
            await answer(before, request("echo", name="x"))
            house.server.set_limits(LimitsConfig(max_message_bytes_unix=1024, max_message_bytes_tcp=1024))
            after = await house.connect(tcp=tcp)
            assert "result" in await answer(before, request("echo", name="x" * 2000))
            assert (await answer(after, request("echo", name="x" * 2000)))["error"]["data"]["kind"] == "too_large"

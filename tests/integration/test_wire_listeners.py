"""The server as a whole: limits on connections, the socket file, draining."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import uvloop

from nexusd.config_sections import LimitsConfig, ServerConfig, SocketConfig, TcpConfig
from nexusd.errors import ConfigError, StartupError
from nexusd.model.fields import NoParams
from nexusd.wire.connection import REFUSAL_WAIT_S, Connection
from nexusd.wire.dispatch import Dispatcher
from nexusd.wire.gate import Gate
from nexusd.wire.listeners import Server
from nexusd.wire.methods import Call, Method, MethodTable

pytestmark = pytest.mark.anyio

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
PING = b'{"jsonrpc":"2.0","method":"ping","id":1}\n'
WAIT = b'{"jsonrpc":"2.0","method":"wait","id":2}\n'


class Door:
    """What the method `wait` waits for."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.open = asyncio.Event()
        self.cancelled = False

    async def wait(self, _call: Call, _params: NoParams) -> str:
        self.entered.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return "waited"


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "n.sock"


class Clients:
    """Connections that are closed when the test ends."""

    def __init__(self) -> None:
        self._writers: list[asyncio.StreamWriter] = []

    async def unix(self, path: Path) -> Streams:
        return self._kept(await asyncio.open_unix_connection(str(path)))

    async def tcp(self, server: Server) -> Streams:
        assert server.tcp_address is not None
        return self._kept(await asyncio.open_connection(*server.tcp_address))

    def _kept(self, streams: Streams) -> Streams:
        self._writers.append(streams[1])
        return streams

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    clients = Clients()
    yield clients
    clients.close()


class WatchedServer(Server):
    """Tells when a connection has gone."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
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


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def remove(path: Path) -> None:
    path.unlink()


def is_there(path: Path) -> bool:
    return path.exists()


def make_server(
    path: Path, door: Door, *, tcp: TcpConfig | None = None, inherited: Mapping[int, str] | None = None,
    gate: Gate | None = None, **limits: Any,
) -> WatchedServer:
    async def ping(_call: Call, _params: NoParams) -> str:
        return "pong"

    table = MethodTable()
    table.register([
        Method("ping", "s", NoParams, str, ping, "read"),
        Method("wait", "s", NoParams, str, door.wait, "read"),
    ])
    config = ServerConfig(limits=LimitsConfig(**limits), tcp=tcp if tcp is not None else TcpConfig(port=0, auth="none"))
    dispatcher = Dispatcher(table, config.limits, gate=gate or Gate(is_open=True))
    return WatchedServer(dispatcher, config, path, inherited=inherited or {})


@pytest.fixture
async def server(path: Path, door: Door) -> AsyncIterator[Server]:
    server = make_server(path, door)
    await server.start()
    yield server
    await server.close()


async def ask(streams: Streams, frame: bytes = PING) -> Any:
    streams[1].write(frame)
    async with asyncio.timeout(20):
        return json.loads(await streams[0].readline())


async def test_the_bound_port_is_told(server: Server, clients: Clients) -> None:
    assert server.tcp_address is not None
    host, port = server.tcp_address
    assert (host, port > 0) == ("127.0.0.1", True)
    assert (await ask(await clients.tcp(server)))["result"] == "pong"


async def test_the_port_can_be_left_out(path: Path, door: Door, clients: Clients) -> None:
    server = make_server(path, door, tcp=TcpConfig(enabled=False))
    await server.start()
    try:
        assert server.tcp_address is None
        assert (await ask(await clients.unix(path)))["result"] == "pong"
    finally:
        await server.close()


async def test_the_file_is_there_while_it_listens_and_gone_after(server: Server, path: Path) -> None:
    assert mode_of(path) == int(SocketConfig().mode, 8)
    await server.close()
    assert not is_there(path)


async def test_a_second_server_on_the_same_path_is_refused_and_the_first_goes_on(
    server: Server, path: Path, door: Door, clients: Clients
) -> None:
    second = make_server(path, door)
    with pytest.raises(StartupError, match="another process answers"):
        await second.start()
    await second.close()
    assert server.connections <= 1      # the second one's look at it
    assert (await ask(await clients.unix(path)))["result"] == "pong"


async def test_a_file_that_another_server_put_there_is_not_removed(
    server: Server, path: Path, door: Door, clients: Clients
) -> None:
    remove(path)
    second = make_server(path, door)
    await second.start()
    await server.close()
    try:
        assert (await ask(await clients.unix(path)))["result"] == "pong"
    finally:
        await second.close()
    assert not is_there(path)


async def test_an_address_that_is_not_loopback_stops_the_start_and_leaves_nothing(
    path: Path, door: Door
) -> None:
    everywhere = "0.0.0.0"  # noqa: S104 - refusing it is the test
    server = make_server(path, door, tcp=TcpConfig(host=everywhere))
    with pytest.raises(ConfigError):
        await server.start()
    assert not is_there(path)


async def test_past_the_connections_of_one_peer_the_next_is_told_busy_and_closed(
    path: Path, door: Door, clients: Clients
) -> None:
    server = make_server(path, door, max_connections_per_peer=2)
    await server.start()
    try:
        kept = [await clients.unix(path) for _ in range(2)]
        for streams in kept:
            await ask(streams)
        extra = await clients.unix(path)
        refused = json.loads(await extra[0].readline())
        assert refused["error"]["data"]["kind"] == "busy"
        assert refused["error"]["data"]["retryAfterMs"] > 0
        assert await extra[0].read() == b""
        other_peer = await clients.tcp(server)
        assert (await ask(other_peer))["result"] == "pong"

        kept[0][1].close()
        await server.down_to(2)
        assert (await ask(await clients.unix(path)))["result"] == "pong"
        assert server.refused == 1
        assert server.peers == 2
        clients.close()
        await server.down_to(0)
        assert server.peers == 0    # or every peer there ever was would stay
    finally:
        await server.close()


async def test_past_the_connections_in_all_the_next_is_told_busy(
    path: Path, door: Door, clients: Clients
) -> None:
    server = make_server(path, door, max_connections=1)
    await server.start()
    try:
        first = await clients.unix(path)
        await ask(first)
        reader, _ = await clients.tcp(server)
        assert json.loads(await reader.readline())["error"]["code"] == -32004
        assert (await ask(first))["result"] == "pong"
    finally:
        await server.close()


async def test_only_so_many_wait_to_be_told_busy_and_the_rest_is_dropped_at_once(
    path: Path, door: Door, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexusd.wire.listeners.MAX_REFUSALS_WAITING", 2)
    server = make_server(path, door, max_connections=1)
    await server.start()
    try:
        first = await clients.unix(path)
        await ask(first)
        told = [await clients.unix(path) for _ in range(2)]
        dropped = [await clients.unix(path) for _ in range(5)]
        async with asyncio.timeout(REFUSAL_WAIT_S / 2):
            assert [await reader.read() for reader, _ in dropped] == [b""] * 5
        assert [json.loads(await reader.readline())["error"]["code"] for reader, _ in told] == [-32004] * 2
        assert server.refused == 7
        assert (await ask(first))["result"] == "pong"
    finally:
        await server.close()


async def test_draining_lets_a_request_finish_and_its_reply_arrive(
    server: Server, path: Path, door: Door, clients: Clients
) -> None:
    streams = await clients.unix(path)
    idle = await clients.unix(path)
    await ask(idle)
    streams[1].write(WAIT)
    await door.entered.wait()

    await server.stop_accepting()
    draining = asyncio.create_task(server.drain(20))
    assert await idle[0].read() == b""          # nothing under way: closed at once
    assert not is_there(path)
    with pytest.raises((FileNotFoundError, ConnectionRefusedError)):
        await clients.unix(path)
    assert (await ask(streams))["result"] == "pong"     # open until its request is answered
    assert not draining.done()
    door.open.set()

    assert await draining
    assert json.loads(await streams[0].readline())["result"] == "waited"
    assert await streams[0].read() == b""
    await server.close()
    assert not door.cancelled


async def test_draining_waits_for_the_request_of_a_client_that_is_gone(
    server: Server, path: Path, door: Door, clients: Clients
) -> None:
    _, writer = await clients.unix(path)
    writer.write(WAIT)
    await door.entered.wait()
    writer.transport.abort()

    draining = asyncio.create_task(server.drain(20))
    await asyncio.sleep(0)
    assert not draining.done()
    door.open.set()
    assert await draining


async def test_draining_gives_up_in_time_and_close_ends_the_rest(
    server: Server, path: Path, door: Door, clients: Clients
) -> None:
    streams = await clients.unix(path)
    streams[1].write(WAIT)
    await door.entered.wait()

    assert not await server.drain(0.05)
    await server.close()

    assert door.cancelled
    assert server.requests == 0
    assert await streams[0].read() == b""


async def test_a_large_reply_is_sent_whole_before_a_draining_connection_closes(
    path: Path, door: Door, clients: Clients
) -> None:
    server = make_server(path, door)
    await server.start()
    reader, writer = await clients.unix(path)
    element = b'{"jsonrpc":"2.0","method":"wait","id":"' + b"x" * 20_000 + b'"}'
    writer.write(b"[" + b",".join([element] * 50) + b"]\n")
    await door.entered.wait()
    draining = asyncio.create_task(server.drain(20))
    door.open.set()
    received = await reader.read()
    assert len(json.loads(received)) == 50
    assert await draining
    await server.close()


async def test_a_new_number_of_connections_closes_none_and_holds_for_the_next(
    path: Path, door: Door, clients: Clients
) -> None:
    server = make_server(path, door)
    await server.start()
    try:
        first, second = await clients.unix(path), await clients.unix(path)
        await ask(first)
        await ask(second)
        server.set_limits(LimitsConfig(max_connections=1))
        reader, _ = await clients.unix(path)
        assert json.loads(await reader.readline())["error"]["code"] == -32004
        assert (await ask(first))["result"] == (await ask(second))["result"] == "pong"
        server.set_limits(LimitsConfig(max_connections=3))
        assert (await ask(await clients.unix(path)))["result"] == "pong"
    finally:
        await server.close()


async def test_new_limits_may_come_before_it_listens(path: Path, door: Door, clients: Clients) -> None:
    server = make_server(path, door)
    server.set_limits(LimitsConfig(first_byte_timeout_s=0.1))
    await server.start()
    try:
        reader, _ = await clients.unix(path)
        async with asyncio.timeout(20):
            await reader.read()
    finally:
        await server.close()


# --- what systemd listens on for us -----------------------------------------------------------------------


@pytest.fixture
def opened(path: Path) -> Iterator[socket.socket]:
    """A socket unit's: open before the daemon, and after it."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        yield listening


async def test_on_inherited_sockets_it_listens_and_opens_nothing_itself(
    opened: socket.socket, path: Path, tmp_path: Path, door: Door, clients: Clients
) -> None:
    server = make_server(tmp_path / "unused.sock", door, inherited={os.dup(opened.fileno()): "unix"})
    await server.start()
    try:
        assert (server.socket_path, server.tcp_address) == (path, None)
        assert not is_there(tmp_path / "unused.sock")
        assert (await ask(await clients.unix(path)))["result"] == "pong"
    finally:
        await server.close()
    assert is_there(path)


async def test_who_connects_while_nobody_runs_is_answered_by_the_next(
    opened: socket.socket, path: Path, door: Door, clients: Clients
) -> None:
    first = make_server(path, door, inherited={os.dup(opened.fileno()): "unix"})
    await first.start()
    await first.close()
    early = await clients.unix(path)
    early[1].write(PING)
    second = make_server(path, door, inherited={os.dup(opened.fileno()): "unix"})
    await second.start()
    try:
        assert json.loads(await early[0].readline())["result"] == "pong"
    finally:
        await second.close()


async def test_an_inherited_port_is_told_as_the_bound_one(door: Door, path: Path, clients: Clients) -> None:
    with socket.socket(socket.AF_INET) as theirs:
        theirs.bind(("127.0.0.1", 0))
        theirs.listen()
        server = make_server(path, door, inherited={os.dup(theirs.fileno()): "lan"})
        await server.start()
        try:
            assert server.tcp_address == theirs.getsockname()
            assert (await ask(await clients.tcp(server)))["result"] == "pong"
        finally:
            await server.close()


def test_the_loop_of_asyncio_too_leaves_the_file_of_an_inherited_socket(
    opened: socket.socket, path: Path, door: Door
) -> None:
    """From Python 3.13 on its servers remove the file of their socket, unless they are told."""
    async def run() -> None:
        server = make_server(path, door, inherited={os.dup(opened.fileno()): "unix"})
        await server.start()
        await server.close()

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(run())
    assert is_there(path)


async def test_who_had_just_connected_when_the_stop_began_is_heard_and_answered(
    server: Server, path: Path, clients: Clients
) -> None:
    fresh = await clients.unix(path)
    await server.stop_accepting()
    hearing = asyncio.create_task(server.hear_out(20))
    while not server.connections:
        await asyncio.sleep(0)
    assert not hearing.done()
    fresh[1].write(PING)
    await hearing
    drained = asyncio.create_task(server.drain(20))
    assert json.loads(await fresh[0].readline())["result"] == "pong"
    assert await drained


@pytest.mark.parametrize("turns", range(6))
async def test_whoever_connected_before_a_stop_is_answered_however_far_they_had_come(
    server: Server, path: Path, turns: int
) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))       # the kernel's doing: the server's loop has not heard of it
        client.sendall(PING)
        for _ in range(turns):
            await asyncio.sleep(0)
        await server.stop_accepting()
        await server.hear_out(20)
        assert await server.drain(20)
        client.settimeout(20)
        assert json.loads(await asyncio.to_thread(client.recv, 4096))["result"] == "pong"


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_all_who_connected_before_a_stop_are_answered(
    new_loop: Callable[[], asyncio.AbstractEventLoop], path: Path
) -> None:
    async def stop_with_many_at_the_door() -> list[bytes]:
        server = make_server(path, Door(), gate=Gate(is_open=True))
        await server.start()
        with contextlib.ExitStack() as closing:
            clients = [closing.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(60)]
            for client in clients:
                client.connect(str(path))
                client.sendall(PING)
            await server.stop_accepting()
            await server.hear_out(20)
            assert await server.drain(20)
            await server.close()
            return [client.recv(4096) for client in clients]

    with asyncio.Runner(loop_factory=new_loop) as runner:
        answers = runner.run(stop_with_many_at_the_door())
    assert [json.loads(answer)["result"] for answer in answers] == ["pong"] * 60


async def test_what_is_heard_is_under_way_before_anything_is_closed_to_it(
    path: Path, door: Door, clients: Clients
) -> None:
    """A gate that is shut right after the hearing must not shut out the last one heard."""
    gate = Gate(is_open=True)
    server = make_server(path, door, gate=gate)

    async def hear_and_shut() -> None:
        await server.hear_out(20)
        gate.stop()

    await server.start()
    try:
        fresh = await clients.unix(path)
        await server.stop_accepting()
        hearing = asyncio.create_task(hear_and_shut())
        for _ in range(20):
            await asyncio.sleep(0)      # until it waits for nothing but this connection
        assert server.connections == 1
        fresh[1].write(WAIT)
        await hearing
        door.open.set()
        assert json.loads(await fresh[0].readline())["result"] == "waited"
    finally:
        await server.close()


async def test_a_stop_does_not_wait_for_those_who_have_been_answered_or_say_nothing(
    server: Server, path: Path, clients: Clients
) -> None:
    known = await clients.unix(path)
    await ask(known)
    await server.hear_out(20)       # returns: there is nobody else
    silent = await clients.unix(path)
    while server.connections < 2:
        await asyncio.sleep(0)
    await server.hear_out(0.01)
    silent[1].close()
    await server.hear_out(20)       # nor for those who have gone

"""Many clients, one of them noisy: whose call begins when, how long it may take; and a lack of file descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import socket
import struct
import time
from collections.abc import AsyncIterator
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import structlog

from nexusd.config_sections import LimitsConfig, ServerConfig, TcpConfig
from nexusd.model.fields import Mutation, NoParams
from nexusd.wire.descriptors import FEWEST, RESERVED
from nexusd.wire.dispatch import Dispatcher
from nexusd.wire.gate import Gate
from nexusd.wire.lanes import HEAVY_S, REST
from nexusd.wire.listeners import MAX_REFUSALS_WAITING, Server
from nexusd.wire.methods import Call, Method, MethodTable
from nexusd.wire.turns import BYTE_S, ITEM_S, READ_S, READS_ALONE, READS_SHARED, WRITES_ALONE

pytestmark = pytest.mark.anyio
BUSY = -32004
ANSWER_S = 20


def socket_of(family: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX if family == "unix" else socket.AF_INET)
    made.setblocking(False)
    return made


async def dropped(loop: asyncio.AbstractEventLoop, client: socket.socket) -> None:
    """Until it is told, by the end of the stream or a reset, that nobody takes it."""
    with contextlib.suppress(ConnectionError):
        assert await loop.sock_recv(client, 1) == b""


class Write(Mutation, frozen=True, kw_only=True):
    """A write without anything."""


class WriteMany(Mutation, frozen=True, kw_only=True):
    """A write of many."""

    items: list[int]


class House:
    """A server with a method that reads and one that writes, both behind a door."""

    def __init__(self, path: Path, **limits: Any) -> None:
        self.path = path
        self.begun = 0
        self.began = asyncio.Condition()
        self.door = asyncio.Event()
        table = MethodTable()
        table.register([
            Method("ping", "s", NoParams, str, self.ping, "read", immediate=True),
            Method("health", "s", NoParams, str, self.ping, "none", immediate=True),
            Method("read", "s", NoParams, str, self.behind_door, "read"),
            Method("write", "s", Write, str, self.behind_door, "write", mutates=True),
            Method("list", "s", WriteMany, str, self.behind_door, "write", mutates=True),
        ])
        config = ServerConfig(limits=LimitsConfig(**limits), tcp=TcpConfig(port=0, auth="none"))
        self.dispatcher = Dispatcher(table, config.limits, gate=Gate(is_open=True))
        self.server = Server(self.dispatcher, config, path)
        self._writers: list[asyncio.StreamWriter] = []

    def ping(self, _call: Call, _params: NoParams) -> str:
        return "pong"

    async def behind_door(self, _call: Call, _params: Any) -> str:
        self.begun += 1
        async with self.began:
            self.began.notify_all()
        await self.door.wait()
        return "done"

    async def have_begun(self, count: int) -> None:
        async with asyncio.timeout(ANSWER_S), self.began:
            await self.began.wait_for(lambda: self.begun >= count)

    async def unix(self) -> Caller:
        return self._kept(await asyncio.open_unix_connection(str(self.path)))

    async def tcp(self) -> Caller:
        assert self.server.tcp_address is not None
        return self._kept(await asyncio.open_connection(*self.server.tcp_address))

    def _kept(self, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> Caller:
        self._writers.append(streams[1])
        return Caller(*streams)

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
        self.door.set()
        await self.server.close()


class Caller:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    def send(self, method: str, count: int = 1, **params: Any) -> None:
        for id_ in range(count):
            request = {"jsonrpc": "2.0", "id": id_, "method": method, "params": params}
            self.writer.write(json.dumps(request).encode() + b"\n")

    async def answer(self) -> Any:
        async with asyncio.timeout(ANSWER_S):
            return json.loads(await self._reader.readline())

    async def ask(self, method: str) -> Any:
        self.send(method)
        return await self.answer()


@pytest.fixture
async def houses(tmp_path: Path) -> AsyncIterator[list[House]]:
    houses: list[House] = []
    yield houses
    for house in houses:
        await house.close()


async def opened(houses: list[House], path: Path, **limits: Any) -> House:
    houses.append(house := House(path / "n.sock", **limits))
    await house.server.start()
    return house


async def test_a_call_begins_although_another_client_has_asked_for_far_more_than_can_be_done(
    houses: list[House], tmp_path: Path
) -> None:
    house = await opened(houses, tmp_path)
    for _ in range(4):
        (await house.tcp()).send("read", 32)
    await house.have_begun(READS_ALONE)
    quiet = await house.unix()
    assert (await quiet.ask("ping"))["result"] == "pong"
    quiet.send("read")
    await house.have_begun(READS_ALONE + 1)
    assert house.begun == READS_ALONE + 1, "the noisy client waits behind itself"
    async with asyncio.timeout(20):
        while house.dispatcher.turns.waiting < 4 * 32 - READS_ALONE:  # beside another it is read a little at a time
            await asyncio.sleep(0.001)
    assert house.begun == READS_ALONE + 1
    assert house.dispatcher.turns.waiting == 4 * 32 - READS_ALONE


async def test_a_look_up_that_takes_no_turn_holds_the_reads_of_another_to_their_share(
    houses: list[House], tmp_path: Path
) -> None:
    house = await opened(houses, tmp_path)
    quiet = await house.unix()
    assert (await quiet.ask("ping"))["result"] == "pong"
    (await house.tcp()).send("read", 32)
    async with asyncio.timeout(20):
        while house.dispatcher.turns.waiting < 32 - READS_SHARED // 2:
            await asyncio.sleep(0.001)
    assert house.begun == READS_SHARED // 2


async def test_whoever_asks_whether_we_live_takes_nothing_from_who_is_alone(
    houses: list[House], tmp_path: Path
) -> None:
    house = await opened(houses, tmp_path)
    assert (await (await house.unix()).ask("health"))["result"] == "pong"
    (await house.tcp()).send("read", 32)
    await house.have_begun(READS_ALONE)


async def test_writes_of_one_client_leave_room_for_those_of_another_and_long_ones_weigh_more(
    houses: list[House], tmp_path: Path
) -> None:
    house = await opened(houses, tmp_path)
    noisy = await house.tcp()
    noisy.send("write", 32, idempotencyKey="k" * 200)
    await house.have_begun(32)
    long = await house.tcp()
    long.writer.write(b'{"jsonrpc":"2.0","id":1,%b"method":"write"}\n' % (b" " * (WRITES_ALONE + 1) * 1024))
    quiet = await house.unix()
    quiet.send("write")
    await house.have_begun(33)
    assert house.dispatcher.turns.waiting == 1
    house.door.set()
    assert (await long.answer())["result"] == "done"


@pytest.mark.parametrize("heavy", ["a list", "a long text"])
async def test_after_a_heavy_write_the_next_waits_while_another_client_asks_for_little(
    houses: list[House], tmp_path: Path, heavy: str
) -> None:
    house = await opened(houses, tmp_path)
    house.door.set()
    quiet, noisy = await house.unix(), await house.tcp()
    assert (await quiet.ask("ping"))["result"] == "pong"
    if heavy == "a list":
        noisy.send("list", 2, items=[1] * ceil(HEAVY_S / ITEM_S))
    else:
        noisy.writer.write(2 * (b'{"jsonrpc":"2.0","id":1,%b"method":"write"}\n' % (b" " * ceil(HEAVY_S / BYTE_S))))
    assert (await noisy.answer())["result"] == "done"
    assert (await quiet.ask("write"))["result"] == "done"
    assert house.begun == 2     # a text is so long that it is not even read before
    assert (await noisy.answer())["result"] == "done"


async def test_a_flood_is_carried_out_little_by_little_while_another_client_asks_for_little(
    houses: list[House], tmp_path: Path
) -> None:
    house = await opened(houses, tmp_path)
    quiet = await house.unix()
    assert (await quiet.ask("ping"))["result"] == "pong"
    for _ in range(10):
        (await house.tcp()).send("read", 32)
    await waiting(house, 10 * 32 - 1)
    house.door.set()
    until_s = asyncio.get_running_loop().time() + READ_S * REST / 2
    while asyncio.get_running_loop().time() < until_s:
        assert (await quiet.ask("ping"))["result"] == "pong"
    assert house.begun <= 1 + READS_SHARED


async def test_whoever_comes_again_does_not_rest_from_what_it_asked_before_it_went(
    houses: list[House], tmp_path: Path
) -> None:
    house = await opened(houses, tmp_path)
    quiet = await house.tcp()
    assert (await quiet.ask("ping"))["result"] == "pong"
    before = [await house.unix() for _ in range(20)]
    for caller in before:
        caller.send("read", 32)
    await waiting(house, 20 * 32 - 1)
    for caller in before:
        caller.writer.transport.abort()
    again = await house.unix()
    again.send("read")
    await waiting(house, 20 * 32)
    house.door.set()
    until_s = asyncio.get_running_loop().time() + 20    # with rests it would be a minute
    answer = asyncio.create_task(again.answer())
    while not answer.done():
        assert asyncio.get_running_loop().time() < until_s
        assert (await quiet.ask("ping"))["result"] == "pong"
        await asyncio.sleep(0.01)
    assert (await answer)["result"] == "done"


async def test_a_hang_up_is_noticed_although_nothing_is_read_of_the_connection(
    houses: list[House], tmp_path: Path
) -> None:
    house = await opened(houses, tmp_path)
    caller = await house.unix()
    caller.send("read", 40)     # more than may be in flight: the rest is not read
    await waiting(house, 32 - READS_ALONE)
    caller.writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await caller.writer.wait_closed()
    house.door.set()
    async with asyncio.timeout(20):
        while house.dispatcher.turns.waiting:
            await asyncio.sleep(0.001)
    assert house.begun == READS_ALONE


async def test_floods_of_reads_and_of_writes_do_not_hold_each_other_up(houses: list[House], tmp_path: Path) -> None:
    house = await opened(houses, tmp_path)
    answers = {"read": 0, "write": 0}

    async def flood(caller: Caller, method: str) -> None:
        caller.send(method, 32)
        while True:
            assert (await caller.answer())["result"] == "done"
            answers[method] += 1
            caller.send(method)

    async with asyncio.TaskGroup() as group:
        floods = [group.create_task(flood(await house.tcp(), "read")) for _ in range(10)]
        floods += [group.create_task(flood(await house.unix(), "write")) for _ in range(20)]
        await waiting(house, 30 * 32 - READS_ALONE - WRITES_ALONE)
        house.door.set()
        async with asyncio.timeout(15):     # with rests it would be a few dozens in that time
            while min(answers.values()) < 600:
                await asyncio.sleep(0.001)
        for task in floods:
            task.cancel()


async def waiting(house: House, calls: int) -> None:
    """Until so many calls wait for their turn."""
    async with asyncio.timeout(20):
        while house.dispatcher.turns.waiting < calls:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("again", [True, False])
async def test_writes_that_waited_are_carried_out_in_a_stop_unless_a_restore_sets_them_aside(
    houses: list[House], tmp_path: Path, *, again: bool
) -> None:
    house = await opened(houses, tmp_path)
    noisy = await house.tcp()
    for _ in range(2):
        noisy.send("list", items=[1] * WRITES_ALONE)
    await house.have_begun(1)
    async with asyncio.timeout(ANSWER_S):
        while not house.dispatcher.turns.waiting:
            await asyncio.sleep(0.001)
    house.dispatcher.gate.stop(again=again)
    house.door.set()
    assert (await noisy.answer())["result"] == "done"   # it had begun
    second = await noisy.answer()
    if again:
        assert (second["error"]["data"]["kind"], second["error"]["data"]["retryable"]) == ("stopping", True)
    assert house.begun == (1 if again else 2)


async def test_a_read_that_takes_too_long_is_given_up_and_the_client_told_when_to_ask_again(
    houses: list[House], tmp_path: Path
) -> None:
    house = await opened(houses, tmp_path, request_timeout_s=0.05)
    client = await house.unix()
    error = (await client.ask("read"))["error"]
    assert (error["code"], error["data"]["retryable"]) == (BUSY, True)
    assert error["data"]["retryAfterMs"] > 0
    assert (await client.ask("ping"))["result"] == "pong"


async def test_a_write_has_no_end_once_it_has_begun_and_one_that_never_began_was_not_carried_out(
    houses: list[House], tmp_path: Path
) -> None:
    house = await opened(houses, tmp_path, request_timeout_s=0.05, max_in_flight=WRITES_ALONE + 8)
    client = await house.unix()
    client.send("write", WRITES_ALONE + 8)
    refused = [await client.answer() for _ in range(8)]
    assert {one["error"]["code"] for one in refused} == {BUSY}
    assert all("not carried out" in one["error"]["message"] for one in refused)
    assert house.begun == WRITES_ALONE
    house.door.set()
    assert {(await client.answer())["result"] for _ in range(WRITES_ALONE)} == {"done"}
    assert house.begun == WRITES_ALONE


async def test_a_batch_has_an_end_and_what_it_did_not_come_to_is_told_as_not_done(
    houses: list[House], tmp_path: Path
) -> None:
    house = await opened(houses, tmp_path, request_timeout_s=0.05, batch_timeout_s=0.08)
    client = await house.unix()
    batch = [{"jsonrpc": "2.0", "id": id_, "method": "read"} for id_ in range(100)]
    client.writer.write(json.dumps(batch).encode() + b"\n")
    replies = await client.answer()
    assert [one["id"] for one in replies] == list(range(100))
    assert {one["error"]["code"] for one in replies} == {BUSY}
    assert house.begun <= 2
    assert "not carried out" in replies[-1]["error"]["message"]


async def test_reads_of_a_client_that_is_gone_are_not_done_when_their_turn_comes(
    houses: list[House], tmp_path: Path
) -> None:
    house = await opened(houses, tmp_path)
    gone = await house.tcp()
    gone.send("read", 3 * READS_ALONE)  # fewer than fit in flight: it is still read from, and its end is seen
    await house.have_begun(READS_ALONE)
    reset = struct.pack("ii", 1, 0)     # what a machine sends whose process was killed with replies unread
    gone.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    gone.writer.transport.abort()
    async with asyncio.timeout(ANSWER_S):
        while house.server.connections:
            await asyncio.sleep(0)
    house.door.set()
    async with asyncio.timeout(ANSWER_S):
        while house.server.requests:
            await asyncio.sleep(0)
    assert house.begun == READS_ALONE


async def test_with_fewer_files_than_connections_fewer_are_taken_and_the_log_says_so(
    houses: list[House], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = RESERVED + FEWEST
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (most, most))
    with structlog.testing.capture_logs() as logs:
        house = await opened(houses, tmp_path, max_connections=200, max_connections_per_peer=200)
    taken = FEWEST - MAX_REFUSALS_WAITING
    (line,) = [line for line in logs if line["log_level"] == "warning"]
    assert (line["taken"], line["max_connections"]) == (taken, 200)
    clients = [await house.unix() for _ in range(taken + 1)]
    assert [(await one.ask("ping"))["result"] for one in clients[:-1]] == ["pong"] * taken
    assert (await clients[-1].ask("ping"))["error"]["code"] == BUSY


async def test_without_a_descriptor_left_it_neither_spins_nor_stops_to_listen(
    houses: list[House], tmp_path: Path
) -> None:
    house = await opened(houses, tmp_path)
    old = await house.unix()
    assert (await old.ask("ping"))["result"] == "pong"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    clients = [socket_of(family) for family in ("unix", "tcp") for _ in range(5)]
    held = [os.dup(0)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + 20, hard))
    try:
        while True:
            try:
                held.append(os.dup(0))
            except OSError:
                break
        loop = asyncio.get_running_loop()
        began_s = time.process_time()
        for client in clients:
            with contextlib.suppress(BlockingIOError):  # on TCP it is under way
                client.connect(house.server.tcp_address if client.family == socket.AF_INET else str(house.path))
        async with asyncio.timeout(0.3):    # as long as it is looked at what it does; being told may be earlier
            await asyncio.gather(*(dropped(loop, client) for client in clients))
        assert (await old.ask("ping"))["result"] == "pong"
        assert time.process_time() - began_s < 0.2
    finally:
        for descriptor in held:
            os.close(descriptor)
        for client in clients:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for again in (await house.unix(), await house.tcp()):
        assert (await again.ask("ping"))["result"] == "pong"

"""HTTP over real sockets: order, keep-alive, deadlines, limits, draining, and clients that misbehave."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest

from nexusd.clock import SystemClock
from nexusd.config_sections import LimitsConfig, ServerConfig, TcpConfig
from nexusd.model.fields import Id, Mutation, Params
from nexusd.wire.connection import MAX_ANSWERED_IN_A_TURN, WRITE_HIGH_WATER_BYTES
from nexusd.wire.dispatch import Dispatcher
from nexusd.wire.gate import Gate
from nexusd.wire.http_service import HttpService
from nexusd.wire.listeners import Server
from nexusd.wire.methods import Call, Method, MethodTable
from nexusd.wire.routes import Route

pytestmark = pytest.mark.anyio


class Named(Mutation, frozen=True, kw_only=True):
    name: str


class Sized(Params, frozen=True, kw_only=True):
    size: int


class Mark(Params, frozen=True, kw_only=True):
    n: Id


ROUTES = (
    Route("POST", "/echo", "echo", 201), Route("GET", "/wait/:name", "wait"), Route("GET", "/big/:size", "big"),
    Route("GET", "/mark/:n", "mark"), Route("DELETE", "/wait/:name", "wait", 204), Route("GET", "/who", "whoami"),
)


@dataclass(frozen=True)
class Answer:
    """A response as a client reads it."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def kind(self) -> str:
        return str(self.json["error"]["data"]["kind"])


class HttpClient:
    """One connection. Reads exactly what a response says that it holds, so that a byte too many is noticed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def ask(self, data: bytes) -> Answer:
        self.send(data)
        return await self.answer(only_head=data.startswith(b"HEAD"))

    async def answer(self, *, only_head: bool = False) -> Answer:
        async with asyncio.timeout(20):
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode().removesuffix("\r\n\r\n").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            assert first.startswith("HTTP/1.1 ")
            body = b"" if only_head else await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(int(first.split()[1]), headers, body)

    async def rest(self) -> bytes:
        """What still comes until the server closes its end."""
        async with asyncio.timeout(20):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""


class House:
    """A server with a few methods, and the doors that its tests open and close."""

    def __init__(self, directory: Path, config: ServerConfig, *, metrics: bool = False) -> None:
        self.doors: dict[str, asyncio.Event] = {}
        self.entered: list[str] = []
        self.left: list[str] = []
        self.marks: list[int] = []
        self.moved = asyncio.Condition()
        self.clients: list[HttpClient] = []
        table = MethodTable()
        table.register([
            Method("echo", "s", Named, str, self._echo, "write", mutates=True),
            Method("wait", "s", Named, str, self._wait, "read", mutates=True),
            Method("big", "s", Sized, Any, self._big, "read"),
            Method("mark", "s", Mark, int, self._mark, "read", immediate=True),
            Method("whoami", "s", Params, str, self._whoami, "read"),
        ])
        dispatcher = Dispatcher(table, config.limits, gate=Gate(is_open=True))
        self.service = HttpService(
            dispatcher, table, config.limits, SystemClock(), routes=ROUTES, host_names=config.tcp.names,
            metrics=self._figures if metrics else None,
        )
        self.path = directory / "n.sock"
        self.server = Server(dispatcher, config, self.path, self.service)

    async def _figures(self) -> tuple[bytes, str]:
        if self.entered:
            raise ValueError("secret")
        return b"figures 1\n", "text/plain; version=0.0.4"

    def door(self, name: str) -> asyncio.Event:
        return self.doors.setdefault(name, asyncio.Event())

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(20), self.moved:
            await self.moved.wait_for(condition)

    async def connect(self, *, tcp: bool = False) -> HttpClient:
        if tcp:
            assert self.server.tcp_address is not None
            client = HttpClient(*await asyncio.open_connection(*self.server.tcp_address, limit=2**20))
        else:
            client = HttpClient(*await asyncio.open_unix_connection(str(self.path), limit=2**20))
        self.clients.append(client)
        return client

    async def _echo(self, _call: Call, params: Named) -> str:
        return params.name if params.idempotency_key is None else f"{params.name} {params.idempotency_key}"

    async def _wait(self, _call: Call, params: Named) -> str:
        await self._note(self.entered, params.name)
        await self.door(params.name).wait()
        await self._note(self.left, params.name)
        return params.name

    async def _big(self, _call: Call, params: Sized) -> msgspec.Raw:
        await self._note(self.entered, str(params.size))
        return msgspec.Raw(b'"' + b"x" * params.size + b'"')

    def _mark(self, _call: Call, params: Mark) -> int:
        self.marks.append(params.n)
        return params.n

    async def _whoami(self, call: Call, _params: Params) -> str:
        assert call.client is None  # nobody can be sent anything that was not asked for
        return f"{call.principal.name} {call.principal.role}"

    async def _note(self, notes: list[str], name: str) -> None:
        async with self.moved:
            notes.append(name)
            self.moved.notify_all()


class OpenHouse(Protocol):
    def __call__(
        self, *, metrics: bool = False, host_names: str | None = None, **limits: Any
    ) -> AbstractAsyncContextManager[House]: ...


@pytest.fixture
def open_house(tmp_path: Path) -> OpenHouse:
    @asynccontextmanager
    async def opened(
        *, metrics: bool = False, host_names: str | None = None, **limits: Any
    ) -> AsyncIterator[House]:
        tcp = TcpConfig(port=0, host_names=host_names, auth="none")
        house = House(tmp_path, ServerConfig(limits=LimitsConfig(**limits), tcp=tcp), metrics=metrics)
        await house.server.start()
        try:
            yield house
        finally:
            for client in house.clients:
                client.writer.close()
            await house.server.close()

    return opened


def get(path: str, *headers: str, verb: str = "GET", host: str = "localhost", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{verb} {path} HTTP/{version}", f"Host: {host}", *headers, "\r\n"]).encode()


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = ("Content-Type: application/json", f"Content-Length: {len(body)}", *headers)
    return get(path, *lines, verb="POST") + body


def echo(name: str, *headers: str) -> bytes:
    return post("/echo", json.dumps({"name": name}).encode(), *headers)


def rpc(method: str, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "method": method, "params": params, "id": 1}).encode()


@pytest.mark.parametrize("tcp", [False, True])
async def test_rest_and_json_rpc_are_answered_on_either_listener(open_house: OpenHouse, *, tcp: bool) -> None:
    async with open_house() as house:
        client = await house.connect(tcp=tcp)
        made = await client.ask(echo("hello"))
        called = await client.ask(post("/rpc", rpc("echo", name="hello")))
        who = await client.ask(get("/who"))
    assert (made.status, made.json) == (201, "hello")
    assert (called.status, called.json) == (200, {"jsonrpc": "2.0", "result": "hello", "id": 1})
    assert who.json.endswith(" admin")


async def test_json_rpc_over_http_is_json_rpc(open_house: OpenHouse) -> None:
    async with open_house() as house:
        client = await house.connect()
        batch = await client.ask(post("/rpc", b"[" + rpc("echo", name="a") + b"," + rpc("none") + b"]"))
        assert [one.get("result", one.get("error", {}).get("code")) for one in batch.json] == ["a", -32601]
        silent = await client.ask(post("/rpc", b'{"jsonrpc":"2.0","method":"mark","params":[5]}'))
        assert (silent.status, silent.body, house.marks) == (204, b"", [5])
        for body, code in ((b"{", -32700), (b"", -32700), (b"[]", -32600), (b"17", -32600)):
            refused = await client.ask(post("/rpc", body))
            assert (refused.status, refused.json["error"]["code"], refused.json["id"]) == (200, code, None)


async def test_an_idempotency_key_may_come_as_a_header(open_house: OpenHouse) -> None:
    async with open_house() as house:
        client = await house.connect()
        assert (await client.ask(echo("a", "Idempotency-Key: k"))).json == "a k"
        called = await client.ask(post("/rpc", rpc("echo", name="a"), "Idempotency-Key: k"))
        assert called.json["result"] == "a k"
        batch = await client.ask(post("/rpc", b"[" + rpc("echo", name="a") + b"]", "Idempotency-Key: k"))
        assert batch.json["error"]["code"] == -32600


async def test_responses_come_in_the_order_of_the_requests(open_house: OpenHouse) -> None:
    async with open_house() as house:
        client = await house.connect()
        client.send(get("/wait/a") + get("/mark/1") + get("/wait/b") + echo("last"))
        await house.until(lambda: house.entered == ["a"])
        assert house.marks == []    # one after the other, as a client would expect of requests that change something
        house.door("b").set()
        house.door("a").set()
        assert [(await client.answer()).json for _ in range(4)] == ["a", 1, "b", "last"]


async def test_a_thousand_pipelined_requests_are_each_answered_once(open_house: OpenHouse) -> None:
    async with open_house() as house:
        client = await house.connect()
        client.send(b"".join(get(f"/mark/{n}") + echo(str(n)) for n in range(1, 501)))
        answers = [(await client.answer()).json for _ in range(1000)]
        assert answers == [value for n in range(1, 501) for value in (n, str(n))]


async def test_a_flood_of_pipelined_requests_lets_others_pass(open_house: OpenHouse) -> None:
    async with open_house() as house:
        with socket.socket(socket.AF_UNIX) as flooding, socket.socket(socket.AF_UNIX) as polite:
            for client in (flooding, polite):
                client.setblocking(False)
                client.connect(str(house.path))
            flooding.sendall(b"".join(get(f"/mark/{n}") for n in range(1000, 2500)))
            polite.sendall(get("/mark/7"))  # both lie in the kernel before the server looks at either
            while len(house.marks) < 1501:
                await asyncio.sleep(0)
        assert house.marks.index(7) < 10 * MAX_ANSWERED_IN_A_TURN


async def test_what_is_pipelined_behind_a_slow_request_is_not_read(open_house: OpenHouse) -> None:
    async with open_house() as house:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(house.path))
            client.setblocking(False)
            client.send(get("/wait/a"))
            await house.until(lambda: house.entered == ["a"])
            flood = get("/mark/1") * 200_000
            sent = 0
            try:
                while sent < len(flood):
                    sent += client.send(flood[sent:])
                    for _ in range(5):
                        await asyncio.sleep(0)
            except BlockingIOError:
                pass
            assert sent < 2_000_000     # what the kernel holds, and one chunk
            other = await house.connect()
            assert (await other.ask(get("/mark/9"))).json == 9


@pytest.mark.parametrize("request_bytes", [
    get("/mark/1", "Connection: close"), get("/mark/1", version="1.0"),
])
async def test_a_last_request_is_answered_and_the_connection_closed(
    open_house: OpenHouse, request_bytes: bytes
) -> None:
    async with open_house() as house:
        client = await house.connect()
        answer = await client.ask(request_bytes + get("/mark/2"))
        assert (answer.json, answer.headers["connection"]) == (1, "close")
        assert await client.rest() == b""
        assert house.marks == [1]


async def test_a_long_last_answer_is_read_to_its_end_by_a_client_that_takes_its_time(
    open_house: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexusd.wire.connection.LINGER_S", 0.05)
    size = 4 * WRITE_HIGH_WATER_BYTES
    async with open_house() as house:
        client = await house.connect()
        client.send(get(f"/big/{size}", "Connection: close"))
        await client.reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.6)
        assert len(await client.rest()) == size + 2


async def test_a_client_that_never_reads_its_last_answer_is_closed(open_house: OpenHouse) -> None:
    async with open_house(write_stall_timeout_s=0.3) as house:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(house.path))
            client.sendall(get(f"/big/{WRITE_HIGH_WATER_BYTES}", "Connection: close"))
            await house.until(lambda: house.entered)
            async with asyncio.timeout(20):
                while house.server.connections:
                    await asyncio.sleep(0.05)


async def test_a_client_that_shuts_its_end_gets_its_answers_then_the_close(open_house: OpenHouse) -> None:
    async with open_house() as house:
        client = await house.connect()
        client.send(get("/wait/a") + get("/mark/2"))
        client.writer.write_eof()
        await house.until(lambda: house.entered == ["a"])
        house.door("a").set()
        assert [(await client.answer()).json for _ in range(2)] == ["a", 2]
        assert await client.rest() == b""


@pytest.mark.parametrize("half", [get("/mark/1")[:-2], echo("x")[:-1], b"POST"])
async def test_a_request_that_ends_half_way_is_refused(open_house: OpenHouse, half: bytes) -> None:
    async with open_house() as house:
        client = await house.connect()
        client.send(half)
        client.writer.write_eof()
        assert (await client.answer()).status == 400
        assert await client.rest() == b""
        assert house.marks == []


async def test_a_client_that_vanishes_has_its_request_carried_out(open_house: OpenHouse) -> None:
    async with open_house() as house:
        client = await house.connect()
        client.send(get("/wait/a"))
        await house.until(lambda: house.entered == ["a"])
        client.writer.transport.abort()
        house.door("a").set()
        await house.until(lambda: house.left == ["a"])


async def test_a_client_that_asks_before_it_sends_is_told_to_go_on(open_house: OpenHouse) -> None:
    async with open_house() as house:
        client = await house.connect()
        head, body = (part + end for part, end in zip(
            echo("hello", "Expect: 100-continue").split(b"\r\n\r\n"), (b"\r\n\r\n", b""), strict=True
        ))
        client.send(head)
        async with asyncio.timeout(20):
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await client.ask(body)).json == "hello"
        refused = await client.ask(head.replace(b"\r\n\r\n", b"\r\nOrigin: http://evil.example\r\n\r\n"))
        assert (refused.status, refused.headers["connection"]) == (403, "close")    # and no word of going on
        assert await client.rest() == b""


async def test_head_has_the_headers_of_get_and_no_body(open_house: OpenHouse) -> None:
    async with open_house() as house:
        client = await house.connect()
        full, only = await client.ask(get("/mark/5")), await client.ask(get("/mark/5", verb="HEAD"))
        assert (only.status, only.headers["content-length"], only.body) == (200, full.headers["content-length"], b"")
        missing = await client.ask(get("/nothing", verb="HEAD"))
        assert missing.status == 404
        assert (await client.ask(get("/mark/6"))).json == 6


async def test_what_is_not_there_or_not_for_this_is_said_and_the_connection_goes_on(open_house: OpenHouse) -> None:
    async with open_house() as house:
        client = await house.connect()
        assert (await client.ask(get("/nothing"))).kind == "not_found"
        wrong = await client.ask(get("/rpc"))
        assert (wrong.status, wrong.headers["allow"]) == (405, "POST")
        options = await client.ask(get("/mark/1", "Origin: http://evil.example", verb="OPTIONS"))
        assert (options.status, options.headers["allow"]) == (405, "GET, HEAD")
        assert (await client.ask(get("/mark/1", "Origin: null"))).status == 403
        assert (await client.ask(get("/mark/1", "Sec-Fetch-Site: cross-site"))).status == 403
        assert (await client.ask(get("/rpc", verb="POST"))).status == 411
        assert (await client.ask(get("/rpc", "Content-Length: 0", verb="POST"))).status == 415
        assert (await client.ask(get("/nothing") + get("/mark/2"))).status == 404
        assert (await client.answer()).json == 2    # it came with the one that was refused
        assert (await client.ask(get("/mark/1"))).json == 1
        assert house.server.connections == 1


async def test_a_page_in_a_browser_gets_nothing_and_changes_nothing(open_house: OpenHouse) -> None:
    async with open_house() as house:
        from_page = ("Origin: http://evil.example", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors")
        for sent in (
            echo("x", *from_page), post("/rpc", rpc("mark", n=1), *from_page),
            post("/rpc", rpc("mark", n=1)).replace(b"application/json", b"text/plain"),
            get("/mark/1", "Sec-Fetch-Site: cross-site"), get("/mark/1", host="rebound.evil.example"),
        ):
            answer = await (await house.connect(tcp=True)).ask(sent)
            assert answer.status in {403, 415}
            assert not [name for name in answer.headers if name.startswith("access-control")]
        assert house.marks == []


async def test_on_the_port_names_that_are_not_ours_are_refused_and_on_the_socket_none_is(
    open_house: OpenHouse,
) -> None:
    async with open_house(host_names="mini.home, mini") as house:
        unix, tcp = await house.connect(), await house.connect(tcp=True)
        assert house.server.tcp_address is not None
        port = house.server.tcp_address[1]
        for host in ("localhost", f"localhost:{port}", f"127.0.0.1:{port}", "mini.home", f"mini:{port}"):
            assert (await tcp.ask(get("/mark/1", host=host))).status == 200
        assert (await tcp.ask(get("/mark/1", host="other.home"))).kind == "forbidden"
        assert (await unix.ask(get("/mark/1", host="other.home"))).status == 200


BROKEN = {
    "both lengths": post("/echo", b"{}", "Transfer-Encoding: chunked"),
    "two lengths": post("/echo", b"{}", "Content-Length: 2"),
    "a folded header": get("/mark/1", "A: b", " c"),
    "no host": b"GET /mark/1 HTTP/1.1\r\n\r\n",
    "a bad host": get("/mark/1", host="a b"),
    "a bad chunk": get("/echo", "Content-Type: application/json", "Transfer-Encoding: chunked", verb="POST") + b"x\r\n",
    "no HTTP": b"HELLO\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("tcp", [False, True])
async def test_a_stream_that_cannot_be_trusted_is_answered_and_closed(
    open_house: OpenHouse, name: str, *, tcp: bool
) -> None:
    async with open_house() as house:
        client = await house.connect(tcp=tcp)
        answer = await client.ask(BROKEN[name] + get("/mark/2"))
        assert (answer.status, answer.kind) == (400, "invalid_request")
        assert answer.headers["connection"] == "close"
        assert await client.rest() == b""
        assert house.marks == []


async def test_a_body_past_the_limit_is_refused_although_the_client_goes_on_sending(open_house: OpenHouse) -> None:
    async with open_house(max_message_bytes_tcp=4096, max_message_bytes_unix=100_000) as house:
        large = echo("x" * 50_000)
        assert (await (await house.connect()).ask(large)).status == 201
        client = await house.connect(tcp=True)
        client.send(post("/echo", b" " * 50_000_000)[:200])

        async def flood() -> None:
            while True:
                client.send(b"x" * 65536)
                await client.writer.drain()

        flooding = asyncio.create_task(flood())
        answer = await client.answer()
        assert (answer.status, answer.kind, answer.headers["connection"]) == (413, "too_large", "close")
        await asyncio.wait([flooding], timeout=20)      # the close reaches it
        assert isinstance(flooding.exception(), ConnectionError)


async def test_headers_past_the_limit_are_refused_before_their_end(open_house: OpenHouse) -> None:
    async with open_house(max_header_bytes=1024) as house:
        client = await house.connect()
        assert (await client.ask(b"GET / HTTP/1.1\r\nA: " + b"x" * 2000)).status == 431
        assert await client.rest() == b""
        assert (await (await house.connect()).ask(b"GET /" + b"x" * 2000)).status == 414


@pytest.mark.parametrize("begun", [b"GET /mark/1 HT", echo("x")[:-1]])
async def test_a_half_sent_request_has_a_deadline_that_dripping_bytes_do_not_move(
    open_house: OpenHouse, begun: bytes
) -> None:
    async with open_house(partial_frame_timeout_s=0.3) as house:
        client = await house.connect()
        client.send(begun[:4])

        async def drip() -> None:
            for byte in begun[4:]:
                client.send(bytes([byte]))
                await asyncio.sleep(0.005)

        dripping = asyncio.create_task(drip())
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert "0.3 s" in answer.json["error"]["message"]
        assert await client.rest() == b""
        dripping.cancel()


async def test_an_idle_connection_is_closed_but_not_while_its_request_runs(open_house: OpenHouse) -> None:
    async with open_house(idle_timeout_s=0.1) as house:
        busy, idle = await house.connect(), await house.connect()
        busy.send(get("/wait/a"))
        await idle.ask(get("/mark/1"))
        assert await idle.rest() == b""
        house.door("a").set()
        assert (await busy.answer()).json == "a"
        assert await busy.rest() == b""


async def test_a_request_behind_a_slow_one_has_all_its_time(open_house: OpenHouse) -> None:
    async with open_house(partial_frame_timeout_s=0.2) as house:
        client = await house.connect()
        client.send(get("/wait/a") + get("/mark/2")[:-2])
        await house.until(lambda: house.entered == ["a"])
        await asyncio.sleep(0.5)
        house.door("a").set()
        assert (await client.answer()).json == "a"
        await asyncio.sleep(0.1)    # deadlines are looked at every 0.05 s
        assert (await client.ask(b"\r\n")).json == 2


async def test_a_client_that_never_reads_is_closed(open_house: OpenHouse) -> None:
    async with open_house(write_stall_timeout_s=0.3) as house:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(house.path))
            client.sendall(get(f"/big/{WRITE_HIGH_WATER_BYTES}") * 20)
            await house.until(lambda: house.entered)
            async with asyncio.timeout(20):
                while house.server.connections:
                    await asyncio.sleep(0.05)
            assert len(house.entered) < 6


async def test_past_the_connections_the_next_is_told_so_in_its_own_language(open_house: OpenHouse) -> None:
    async with open_house(max_connections=1) as house:
        first = await house.connect()
        await first.ask(get("/mark/1"))
        http, line, silent = [await house.connect() for _ in range(3)]
        refused = await http.ask(get("/mark/2"))
        assert (refused.status, refused.kind, refused.headers["retry-after"]) == (503, "busy", "1")
        assert await http.rest() == b""
        line.send(rpc("mark", n=2) + b"\n")
        assert json.loads(await line.reader.readline())["error"]["data"]["kind"] == "busy"
        assert json.loads(await silent.reader.readline())["error"]["data"]["kind"] == "busy"
        assert house.marks == [1]


async def test_draining_answers_what_is_under_way_as_the_last_and_closes_what_is_idle(open_house: OpenHouse) -> None:
    async with open_house() as house:
        busy, idle = await house.connect(), await house.connect()
        await idle.ask(get("/mark/1"))
        busy.send(get("/wait/a") + get("/mark/2"))
        await house.until(lambda: house.entered == ["a"])
        await house.server.stop_accepting()
        draining = asyncio.create_task(house.server.drain(20))
        assert await idle.rest() == b""
        house.door("a").set()
        answer = await busy.answer()
        assert (answer.json, answer.headers["connection"]) == ("a", "close")
        assert await busy.rest() == b""
        busy.writer.close()
        assert await draining
        assert house.marks == [1]


async def test_figures_are_there_where_somebody_makes_them(open_house: OpenHouse) -> None:
    async with open_house(metrics=True) as house:
        answer = await (await house.connect()).ask(get("/metrics"))
        assert (answer.status, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4")
        assert answer.body == b"figures 1\n"
        house.entered.append("something that breaks them")
        broken = await (await house.connect()).ask(get("/metrics"))
        assert (broken.status, broken.kind, b"secret" in broken.body) == (500, "internal_error", False)


async def test_without_figures_there_is_nothing_there(open_house: OpenHouse) -> None:
    async with open_house() as house:
        assert (await (await house.connect()).ask(get("/metrics"))).status == 404


@pytest.mark.parametrize("first", [b"hello\n", b"\x16\x03\x01", b"get / HTTP/1.1\r\n\r\n"])
async def test_what_is_neither_json_nor_http_is_told_at_once(open_house: OpenHouse, first: bytes) -> None:
    async with open_house() as house:
        client = await house.connect(tcp=True)
        client.send(first)
        async with asyncio.timeout(20):
            assert json.loads(await client.reader.readline())["error"]["code"] == -32700
        assert await client.rest() == b""


async def test_new_names_and_limits_hold_from_the_next_request_on(open_house: OpenHouse) -> None:
    async with open_house(host_names="mini") as house:
        tcp = await house.connect(tcp=True)
        deep = post("/echo", b'{"name": [[[1]]]}')
        assert (await tcp.ask(get("/mark/1", host="mini"))).status == 200
        assert (await tcp.ask(deep)).kind == "invalid_params"
        house.service.set_host_names(["maxi"])
        house.service.set_limits(LimitsConfig(max_depth=3))
        assert (await tcp.ask(get("/mark/1", host="mini"))).kind == "forbidden"
        tcp = await house.connect(tcp=True)
        assert (await tcp.ask(get("/mark/1", host="maxi"))).status == 200
        assert (await tcp.ask(deep)).kind == "too_large"

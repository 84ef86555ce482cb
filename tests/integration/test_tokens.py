"""Coming in by token: over lines and HTTP, with a real store, real sockets, and both clients."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from fakes.clock import ManualClock
from harness.database import open_database

from nexusd.api.events import EventsApi
from nexusd.api.tokens import TokensApi
from nexusd.client import AsyncClient, Client
from nexusd.client.core import Request
from nexusd.clock import SystemClock
from nexusd.config_sections import LimitsConfig, ServerConfig, TcpConfig
from nexusd.errors import Forbidden, StartupError, Unauthenticated
from nexusd.model.fields import NoParams
from nexusd.store.connection import Connection
from nexusd.store.database import Database
from nexusd.wire.audit import Audit
from nexusd.wire.auth import MISSING, REFUSAL, Authenticator, new_token
from nexusd.wire.dispatch import Dispatcher
from nexusd.wire.events import EventHub
from nexusd.wire.front import MAX_STRANGER_BYTES
from nexusd.wire.gate import Gate
from nexusd.wire.http_service import HttpService
from nexusd.wire.listeners import Server
from nexusd.wire.methods import Call, Method, MethodTable, Principal
from nexusd.wire.routes import Route

pytestmark = pytest.mark.anyio

Json = Any
ADMIN = Principal("uid:0", "admin", "uid:0")
PING = Request("notes.ping", {}, str, mutates=False)


async def ask_async(nexus: AsyncClient) -> str:
    return await nexus.execute(PING)


class Lines:
    """One connection of lines."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, method: str, **params: Json) -> Json:
        """The result, or the error's kind and message."""
        self.send(method, **params)
        return await self.reply()

    def send(self, method: str, **params: Json) -> None:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        self.writer.write(json.dumps(request).encode() + b"\n")

    async def reply(self) -> Json:
        async with asyncio.timeout(20):
            reply = json.loads(await self.reader.readline())
        return reply["result"] if "result" in reply else (reply["error"]["data"]["kind"], reply["error"]["message"])

    async def at_end(self) -> bool:
        async with asyncio.timeout(20):
            return await self.reader.read(1) == b""


class House:
    """A server that asks for tokens on its port, with a few methods."""

    def __init__(self, store: Database, path: Path, limits: LimitsConfig, **tcp: Any) -> None:
        self.clock = ManualClock()
        self.store = store
        self.table = MethodTable()
        self.hub = EventHub(self.table, limits, SystemClock())
        audit = Audit(SystemClock())
        self.door = Authenticator(self.clock, audit)
        self.dispatcher = Dispatcher(
            self.table, limits, gate=Gate(is_open=True), audit=audit, on_change=self.hub.changed
        )
        http = HttpService(
            self.dispatcher, self.table, limits, SystemClock(),
            routes=[Route("GET", "/ping", "notes.ping"), Route("GET", "/health", "health")],
            metrics=self._figures,
        )
        config = ServerConfig(limits=limits, tcp=TcpConfig(port=0, **tcp))
        self.server = Server(self.dispatcher, config, path, http, authenticator=self.door, audit=audit)
        self.tokens = TokensApi(store, self.door, audit, self.clock, on_revoked=self.server.check_grants)

        async def ping(_call: Call, _params: NoParams) -> str:
            return "pong"

        async def who(call: Call, _params: NoParams) -> str:
            return call.principal.name

        self.table.register([
            Method("health", "s", NoParams, dict[str, str], ping, "read"),
            Method("notes.ping", "s", NoParams, str, ping, "read"),
            Method("notes.write", "s", NoParams, str, who, "write"),
            Method("notes.rule", "s", NoParams, str, who, "admin"),
            *self.tokens.methods(), *EventsApi(self.hub).methods(),
        ])
        self._writers: list[asyncio.StreamWriter] = []

    async def _figures(self) -> tuple[bytes, str]:
        return b"up 1\n", "text/plain"

    async def made(self, principal: Principal = ADMIN, **params: Json) -> Json:
        """What tokens.create answers, or the error's kind."""
        request = {"jsonrpc": "2.0", "id": 1, "method": "tokens.create", "params": params}
        reply = json.loads(await self.dispatcher.handle(json.dumps(request).encode(), principal) or b"")
        return reply["result"] if "result" in reply else reply["error"]["data"]["kind"]

    async def token(self, role: str = "write", **limits: Json) -> str:
        made = await self.made(name="tablet", role=role, **limits)
        token: str = made["token"]
        return token

    async def revoke(self, token: str) -> None:
        request = {"jsonrpc": "2.0", "id": 1, "method": "tokens.revoke", "params": {"id": token.split("_")[1]}}
        assert b"result" in (await self.dispatcher.handle(json.dumps(request).encode(), ADMIN) or b"")

    async def lines(self, token: str | None = None) -> Lines:
        assert self.server.tcp_address is not None
        lines = Lines(*await asyncio.open_connection(*self.server.tcp_address))
        self._writers.append(lines.writer)
        if token is not None:
            assert (await lines.ask("auth.login", token=token))["principal"] == f"token:{token.split('_')[1]}"
        return lines

    async def http(self, path: str, authorization: str | None = None, body: Json = None) -> tuple[int, Json]:
        """Status and body of one request on a connection of its own."""
        lines = await self.lines()
        head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        if authorization is not None:
            head += f"Authorization: {authorization}\r\n"
        data = b"" if body is None else json.dumps(body).encode()
        if data:
            head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        lines.writer.write(f"{head}\r\n".encode() + data)
        async with asyncio.timeout(20):
            answer = await lines.reader.read()
        first, _, rest = answer.partition(b"\r\n\r\n")
        self.head = first.decode()
        text = rest.decode()
        return int(first.split()[1]), json.loads(text) if text.startswith(("{", "[", '"')) else text

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
        await self.server.close()


Open = Callable[..., Any]


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Open]:
    async with contextlib.AsyncExitStack() as stack:

        async def open_house(*, limits: dict[str, Any] | None = None, **tcp: Any) -> House:
            store = await stack.enter_async_context(open_database(tmp_path / "nexus.db", synchronous="NORMAL"))
            house = House(store, tmp_path / "n.sock", LimitsConfig(**(limits or {})), **tcp)
            await house.server.start()
            stack.push_async_callback(house.close)
            return house

        yield open_house


@pytest.fixture
async def house(opened: Open) -> House:
    made: House = await opened()
    return made


# --- lines ---


async def test_before_the_login_nothing_is_answered_and_after_it_what_the_role_allows(house: House) -> None:
    lines = await house.lines()
    for method in ("notes.ping", "notes.rule", "health", "tokens.create", "events.subscribe"):
        assert await lines.ask(method) == ("unauthenticated", MISSING)
    token = await house.token("write")
    assert await lines.ask("auth.login", token=token) == {"principal": f"token:{token.split('_')[1]}", "role": "write"}
    assert await lines.ask("notes.ping") == "pong"
    assert await lines.ask("notes.write") == f"token:{token.split('_')[1]}"
    assert (await lines.ask("notes.rule"))[0] == "forbidden"


async def test_requests_behind_a_login_need_not_wait_for_its_reply(house: House) -> None:
    lines = await house.lines()
    lines.send("auth.login", token=await house.token())
    for _ in range(200):    # far more than a stranger may send
        lines.send("notes.ping")
    assert (await lines.reply())["role"] == "write"
    assert [await lines.reply() for _ in range(200)] == ["pong"] * 200


async def test_whatever_is_wrong_with_a_token_the_answer_is_the_same(house: House) -> None:
    expired = await house.token(expiresAt=house.clock.now_ms() + 1)
    house.clock.advance(1)
    revoked = await house.token()
    await house.revoke(revoked)
    elsewhere = await house.token(networks=["192.168.1.0/24"])
    right = await house.token()
    wrong = (new_token()[0], expired, revoked, elsewhere, right[:-1] + ("0" if right[-1] != "0" else "1"), "x")
    for token in wrong:
        assert await log_in(house, token) == ("unauthenticated", REFUSAL), token


async def log_in(house: House, token: str) -> Json:
    house.clock.advance(400)    # or each wrong one would wait longer than the one before
    answer = await (await house.lines()).ask("auth.login", token=token)
    return tuple(answer)


async def test_who_shows_wrong_tokens_waits_longer_each_time_and_who_shows_the_right_one_never(house: House) -> None:
    for _ in range(3):
        house.door.failed("ip:127.0.0.1")
    lines = await house.lines()
    began = asyncio.get_running_loop().time()
    lines.send("auth.login", token=new_token()[0])
    refusal = asyncio.create_task(lines.reply())
    other = await house.lines(await house.token())
    assert await other.ask("notes.ping") == "pong"
    assert not refusal.done()
    assert (await refusal)[0] == "unauthenticated"
    assert asyncio.get_running_loop().time() - began >= 0.8


async def test_strangers_that_knock_leave_a_client_all_that_it_has_alone(house: House) -> None:
    lines = await house.lines(await house.token())
    assert await lines.ask("notes.ping") == "pong"
    reads = house.dispatcher.turns._reads  # who is there has no other face
    before = reads.clients
    stranger = await house.lines()
    assert (await stranger.ask("notes.ping"))[0] == "unauthenticated"
    assert (await stranger.ask("auth.login", token=new_token()[0]))[0] == "unauthenticated"
    assert reads.clients == before


async def test_a_revoked_token_is_worth_nothing_on_open_connections_too(house: House) -> None:
    token = await house.token()
    idle, listening, other = await house.lines(token), await house.lines(token), await house.lines(await house.token())
    await listening.ask("events.subscribe", topics=["notes"])
    await house.revoke(token)
    house.hub.publish("notes", {"secret": 1})
    for lines in (idle, listening):
        assert await lines.reply() == ("unauthenticated", REFUSAL)
        assert await lines.at_end()
    assert await other.ask("notes.ping") == "pong"
    assert (await log_in(house, token))[0] == "unauthenticated"
    assert "tokens" in house.hub.topics


async def test_an_expired_token_ends_its_connections(house: House) -> None:
    lines = await house.lines(await house.token(validForMs=1000))
    assert await lines.ask("notes.ping") == "pong"
    house.clock.advance(1)
    assert await lines.reply() == ("unauthenticated", REFUSAL)
    assert await lines.at_end()


async def test_a_token_is_for_its_methods_and_its_rate(house: House) -> None:
    lines = await house.lines(await house.token(methods=["notes.p*"], rate=3))
    assert (await lines.ask("notes.write"))[0] == "forbidden"
    assert [await lines.ask("notes.ping") for _ in range(4)] == [
        "pong", "pong", "pong", ("rate_limited", "The token is for 3 requests a second."),
    ]
    house.clock.advance(1)
    assert await lines.ask("notes.ping") == "pong"


async def test_a_stranger_has_a_little_time(opened: Open) -> None:
    house = await opened(limits={"login_timeout_s": 0.2})
    silent, talking, member = await house.lines(), await house.lines(), await house.lines(await house.token())
    await talking.ask("notes.ping")
    assert await silent.at_end()
    assert await talking.reply() == ("unauthenticated", MISSING)
    assert await talking.at_end()
    assert await member.ask("notes.ping") == "pong"


async def test_a_stranger_may_send_a_few_bytes_and_a_member_a_whole_message(house: House) -> None:
    long = "x" * MAX_STRANGER_BYTES
    lines = await house.lines()
    assert (await lines.ask("notes.ping", long=long))[0] == "too_large"
    assert await lines.at_end()
    lines = await house.lines(await house.token())
    assert (await lines.ask("notes.ping", long=long))[0] == "invalid_params"


async def test_a_peer_has_few_connections_that_are_nobodys(opened: Open) -> None:
    house = await opened(limits={"max_unauthenticated_per_peer": 3})
    token = await house.token()
    members = [await house.lines(token) for _ in range(5)]   # each was a stranger's, one after the other
    strangers = [await house.lines() for _ in range(3)]
    one_more = await house.lines()
    assert (await one_more.ask("auth.login", token=token))[0] == "busy"
    strangers[0].writer.close()
    await members[0].ask("notes.ping")
    async with asyncio.timeout(20):
        while house.server.connections > 7:
            await asyncio.sleep(0.01)
    assert await (await house.lines(token)).ask("notes.ping") == "pong"


async def test_strangers_of_all_addresses_leave_room_for_members(opened: Open) -> None:
    house = await opened(limits={"max_connections": 8, "max_unauthenticated_per_peer": 100})
    token = await house.token()
    member = await house.lines(token)
    strangers = [await house.lines() for _ in range(20)]
    answers = await asyncio.gather(*[stranger.ask("notes.ping") for stranger in strangers])
    assert [kind for kind, _ in answers].count("unauthenticated") == 2
    assert {kind for kind, _ in answers} == {"unauthenticated", "busy"}
    assert await member.ask("notes.ping") == "pong"


async def test_a_login_is_no_part_of_a_batch(house: House) -> None:
    lines = await house.lines()
    login = {"jsonrpc": "2.0", "id": 1, "method": "auth.login", "params": {"token": await house.token()}}
    ping = {"jsonrpc": "2.0", "id": 2, "method": "notes.ping"}
    lines.writer.write(json.dumps([login, ping]).encode() + b"\n")
    replies = json.loads(await lines.reader.readline())
    assert [reply["error"]["data"]["kind"] for reply in replies] == ["invalid_request", "unauthenticated"]


# --- HTTP ---


async def test_over_http_every_path_asks_for_the_token_and_life_is_told_to_everybody(house: House) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "notes.ping"}
    for path, body in (("/ping", None), ("/metrics", None), ("/rpc", call), ("/nowhere", None)):
        status, answer = await house.http(path, body=body)
        assert (status, answer["error"]["data"]["kind"]) == (401, "unauthenticated"), path
        assert "WWW-Authenticate: Bearer" in house.head
    assert await house.http("/health") == (200, {"status": "ok"})
    token = f"Bearer {await house.token('read')}"
    assert await house.http("/ping", token) == (200, "pong")
    assert await house.http("/metrics", token) == (200, "up 1\n")
    narrow = await house.token("read", methods=["notes.*"])
    assert (await house.http("/metrics", f"Bearer {narrow}"))[0] == 403
    assert (await house.http("/rpc", token, call))[1]["result"] == "pong"
    assert (await house.http("/nowhere", token))[0] == 404
    assert await house.http("/health", token) == (200, "pong")


async def test_over_http_a_wrong_header_is_refused_whatever_it_is(house: House) -> None:
    token = await house.token()
    basic = base64.b64encode(f"x:{token}".encode()).decode()
    for header in (f"Bearer {new_token()[0]}", f"Basic {basic}", token, "Bearer", "", f"Bearer {token} {token}"):
        house.clock.advance(400)    # or each would wait longer than the one before
        status, answer = await house.http("/ping", header)
        assert (status, answer["error"]["message"]) == (401, REFUSAL), header


async def test_on_a_connection_that_stays_each_request_shows_its_own_token(house: House) -> None:
    reader, writer = token_of = await house.token("read"), await house.token("write")
    assert reader != writer
    lines = await house.lines()
    seen = []
    for token in (*token_of, *token_of):
        body = b'{"jsonrpc":"2.0","id":1,"method":"notes.write"}'
        lines.writer.write(
            f"POST /rpc HTTP/1.1\r\nHost: localhost\r\nAuthorization: bearer {token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        )
        head = (await lines.reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].split("\r\n")[0])
        reply = json.loads(await lines.reader.readexactly(length))
        seen.append(reply.get("result", "refused"))
    name = f"token:{writer.split('_')[1]}"
    assert seen == ["refused", name, "refused", name]
    await house.revoke(writer)
    lines.writer.write(f"GET /ping HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {writer}\r\n\r\n".encode())
    assert b" 401 " in await lines.reader.readline()


async def test_a_stranger_cannot_make_it_read_a_body(house: House) -> None:
    lines = await house.lines()
    lines.writer.write(
        b"POST /rpc HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 500000\r\n\r\n"
    )
    assert b" 401 " in await lines.reader.readline()
    lines = await house.lines()
    lines.writer.write(b"GET /ping HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 5000)
    assert b" 431 " in await lines.reader.readline()
    token = await house.token()
    long = {"jsonrpc": "2.0", "id": 1, "method": "notes.ping", "params": {"x": "y" * 100_000}}
    _, answer = await house.http("/rpc", f"Bearer {token}", long)
    assert answer["error"]["data"]["kind"] == "invalid_params"


# --- where no token is needed ---


async def test_a_trusted_network_comes_in_with_its_role_and_may_log_in_for_more(opened: Open) -> None:
    with structlog.testing.capture_logs() as entries:
        house = await opened(trusted_networks="127.0.0.0/8=read")
        lines = await house.lines()
        assert await lines.ask("notes.ping") == "pong"
        assert (await lines.ask("notes.write"))[0] == "forbidden"
        await lines.ask("auth.login", token=await house.token())
        assert (await lines.ask("notes.write")).startswith("token:")
        assert await house.http("/ping", "Bearer of-somebody-else") == (200, "pong")
        assert (await house.http("/ping", f"Bearer {new_token()[0]}"))[0] == 401
    said = [entry for entry in entries if "without a token" in entry["event"] or "needs no token" in entry["event"]]
    assert said[0]["event"] == "a network needs no token"
    assert (said[0]["network"], said[0]["role"], said[0]["log_level"]) == ("127.0.0.0/8", "read", "warning")
    assert [(entry["event"], entry["peer"]) for entry in said[1:]] == [("let in without a token", "ip:127.0.0.1")] * 3


# --- making and ending them ---


async def test_a_token_is_shown_once_and_only_its_hash_is_in_the_store(house: House) -> None:
    made = await house.made(name="tablet", role="read", networks=["192.168.1.0/24"], methods=["memory.*"], rate=5)
    secret = made["token"].split("_")[2]

    def everything(db: Connection) -> str:
        return repr([list(db.execute(f'SELECT * FROM "{name}"')) for name in ("tokens", "idempotency")])

    assert secret not in await house.store.read(everything)
    lines = await house.lines(await house.token("admin"))
    listed = (await lines.ask("tokens.list"))["items"]
    assert listed[1] == {
        "id": made["id"], "name": "tablet", "role": "read", "methods": ["memory.*"], "networks": ["192.168.1.0/24"],
        "expiresAt": None, "rate": 5.0, "createdAt": house.clock.now_ms(), "createdBy": "uid:0", "usedAt": None,
    }
    assert listed[0]["usedAt"] == house.clock.now_ms()


async def test_tokens_are_known_again_after_a_restart(house: House) -> None:
    token = await house.token(rate=7)
    house.door.adopt([])
    assert (await log_in(house, token))[0] == "unauthenticated"
    await house.tokens.load()
    lines = await house.lines(token)
    assert await lines.ask("notes.ping") == "pong"
    grant = house.door.grant_of(token.split("_")[1])
    assert grant is not None
    assert grant.credential.rate == 7


OWN_AND_GIVEN: list[tuple[Json, Json, str | None]] = [
    ({}, {}, None),
    ({"methods": ["tokens.*", "memory.*"]}, {}, "forbidden"),
    ({"methods": ["tokens.*", "memory.*"]}, {"methods": ["*"]}, "forbidden"),
    ({"methods": ["tokens.*", "memory.*"]}, {"methods": ["memory.search", "memory.*"]}, None),
    ({"methods": ["tokens.*", "memory.*"]}, {"methods": ["memory.s*"]}, "forbidden"),
    ({"networks": ["127.0.0.0/8"]}, {}, "forbidden"),
    ({"networks": ["127.0.0.0/8"]}, {"networks": ["127.1.0.0/16", "::1"]}, "forbidden"),
    ({"networks": ["127.0.0.0/8"]}, {"networks": ["127.1.0.0/16"]}, None),
    ({"networks": ["127.0.0.0/8"]}, {"networks": ["126.0.0.0/7"]}, "forbidden"),
    ({"validForMs": 1000}, {}, "forbidden"),
    ({"validForMs": 1000}, {"validForMs": 1001}, "forbidden"),
    ({"validForMs": 1000}, {"validForMs": 1000}, None),
    ({"rate": 5}, {}, "forbidden"),
    ({"rate": 5}, {"rate": 5.5}, "forbidden"),
    ({"rate": 5}, {"rate": 5}, None),
]


async def test_a_token_makes_none_that_may_do_more_than_itself(house: House) -> None:
    for own, given, outcome in OWN_AND_GIVEN:
        lines = await house.lines(await house.token("admin", **own))
        answer = await lines.ask("tokens.create", name="child", role="read", **given)
        assert (answer[0] if isinstance(answer, tuple) else None) == outcome, (own, given)


async def test_a_token_that_is_no_admins_makes_none_and_sees_none(house: House) -> None:
    lines = await house.lines(await house.token("write"))
    for method, params in (
        ("tokens.create", {"name": "x", "role": "read"}), ("tokens.list", {}), ("tokens.revoke", {"id": "x"}),
    ):
        assert (await lines.ask(method, **params))[0] == "forbidden"


WRONG: list[Json] = [
    {"name": ""}, {"role": "none"}, {"role": "root"}, {"methods": ["episodes.;"]}, {"networks": ["house"]}, {"rate": 0},
    {"networks": ["10.0.0.1/8"]}, {"expiresAt": 1}, {"rate": -1}, {"expiresAt": 2**52, "validForMs": 5},
]


async def test_what_is_wrong_with_a_new_token_is_said(house: House) -> None:
    for wrong in WRONG:
        assert await house.made(**{"name": "tablet", "role": "read", **wrong}) == "invalid_params", wrong


async def test_the_credential_of_systemd_is_a_token_that_only_its_unit_ends(house: House, tmp_path: Path) -> None:
    token = f"nx1_first_{'a1' * 32}"
    (tmp_path / "nexusd-token").write_text(f"{token}\n")
    house.tokens._credentials = str(tmp_path)
    await house.tokens.load()
    lines = await house.lines(token)
    assert (await lines.ask("notes.rule")) == "token:first"
    assert [one["createdBy"] for one in (await lines.ask("tokens.list"))["items"]] == ["systemd"]
    assert (await lines.ask("tokens.revoke", id="first"))[0] == "conflict"
    (tmp_path / "nexusd-token").write_text("hunter2")
    with pytest.raises(StartupError, match="the credential nexusd-token is no token") as refused:
        await house.tokens.load()
    assert "hunter2" not in refused.value.message
    (tmp_path / "nexusd-token").unlink()
    await house.tokens.load()
    assert await lines.reply() == ("unauthenticated", REFUSAL)


# --- the trail ---


async def test_the_trail_has_logins_refusals_admin_calls_and_tokens_and_never_a_secret(house: House) -> None:
    with structlog.testing.capture_logs() as entries:
        token = await house.token("write")
        lines = await house.lines(token)
        await lines.ask("notes.rule")
        boss = await house.lines(await house.token("admin"))
        await boss.ask("notes.rule")
        await boss.ask("tokens.create", name="tablet", role="none")
        await log_in(house, new_token()[0])
        await house.http("/ping", f"Bearer {token}")
        await house.revoke(token)
    id_ = token.split("_")[1]
    told = [(e["event"], e["principal"], e.get("method"), e.get("outcome") or e.get("reason")) for e in entries
            if "principal" in e]  # fmt: skip
    for expected in (
        ("token created", "uid:0", None, None),
        ("admin call", "uid:0", "tokens.create", "ok"),
        ("logged in", f"token:{id_}", None, None),
        ("refused", f"token:{id_}", "notes.rule", "forbidden"),
        ("refused", "ip:127.0.0.1", None, "token not accepted"),
        ("token revoked", "uid:0", None, None),
        ("admin call", "uid:0", "tokens.revoke", "ok"),
    ):
        assert expected in told, expected
    assert any(e == "admin call" and m == "notes.rule" and o == "ok" for e, _, m, o in told)
    assert any(e == "admin call" and m == "tokens.create" and o == "invalid_params" for e, _, m, o in told)
    assert all(entry["peer"] for entry in entries if "principal" in entry)
    assert token.split("_")[2] not in repr(entries)


# --- the clients ---


async def test_both_clients_log_in_at_every_connection(house: House) -> None:
    assert house.server.tcp_address is not None
    address = "tcp://{}:{}".format(*house.server.tcp_address)
    token = await house.token()
    async with AsyncClient(address, token=token) as nexus:
        assert await ask_async(nexus) == "pong"
        assert nexus.link is not None
        nexus.link._transport.abort()  # type: ignore[union-attr]  # as a network does it
        assert await ask_async(nexus) == "pong"

    def blocking() -> str:
        with Client(address, token=token) as nexus:
            nexus.connect()
            return str(nexus.execute(PING))

    assert await asyncio.to_thread(blocking) == "pong"


async def test_both_clients_raise_what_the_daemon_says_of_a_token(house: House) -> None:
    assert house.server.tcp_address is not None
    address = "tcp://{}:{}".format(*house.server.tcp_address)
    wrong = new_token()[0]
    async with AsyncClient(address, token=wrong) as nexus:
        with pytest.raises(Unauthenticated, match=REFUSAL):
            await nexus.connect()
        house.clock.advance(400)
        with pytest.raises(Unauthenticated, match=REFUSAL):
            await ask_async(nexus)
    async with AsyncClient(address) as nexus:
        with pytest.raises(Unauthenticated, match=r"auth\.login"):
            await ask_async(nexus)

    def blocking() -> None:
        with Client(address, token=wrong) as nexus:
            with pytest.raises(Unauthenticated, match=REFUSAL):
                nexus.connect()
            with pytest.raises(Unauthenticated, match=REFUSAL):
                nexus.execute(PING)

    await asyncio.to_thread(blocking)
    narrow = await house.token(methods=["memory.*"])
    async with AsyncClient(address, token=narrow) as nexus:
        with pytest.raises(Forbidden):
            await ask_async(nexus)

"""TLS on the LAN port: real handshakes over loopback, those that stall and those that fail."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal, cast

import pytest
from harness.certificates import Household
from structlog.testing import capture_logs

from nexusd.clock import SystemClock
from nexusd.config_sections import Config, LimitsConfig, ServerConfig, TcpConfig, TlsConfig
from nexusd.model.fields import NoParams
from nexusd.wire.connection import Connection
from nexusd.wire.dispatch import Dispatcher
from nexusd.wire.gate import Gate
from nexusd.wire.http_service import HttpService
from nexusd.wire.listeners import Server
from nexusd.wire.methods import Call, Method, MethodTable
from nexusd.wire.tls_keys import TlsKeys

pytestmark = pytest.mark.anyio

WHO = b'{"jsonrpc":"2.0","method":"who","id":1}\n'
ECHO = b'{"jsonrpc":"2.0","method":"who","id":"%s"}\n'
ROLES = "kitchen-display=read, backup-box=admin"
CLIENT_HELLO_HEAD = b"\x16\x03\x01\x02\x00\x01"     # a handshake that was begun
SECONDS = 20


class WatchedServer(Server):
    """Tells when connections come and go."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._moved = asyncio.Event()

    def expect(self, connection: Connection, host: str) -> None:
        try:
            super().expect(connection, host)
        finally:
            self._moved.set()

    def turned_away(self, connection: Connection) -> None:
        super().turned_away(connection)
        self._moved.set()

    def left(self, connection: Connection) -> None:
        super().left(connection)
        self._moved.set()

    async def until(self, reached: Callable[[], bool]) -> None:
        """Wait until this holds."""
        async with asyncio.timeout(SECONDS):
            while not reached():
                self._moved.clear()
                await self._moved.wait()


class Wire(asyncio.Protocol):
    """A client's end. (A StreamWriter complains of uvloop's encrypted transports, whoever closes them.)"""

    def __init__(self) -> None:
        self.reader = asyncio.StreamReader()
        self.transport: asyncio.Transport
        self.was_told_the_end = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.reader.feed_data(data)

    def eof_received(self) -> None:
        """Called for the alert that ends TLS, and not where the bytes end without it."""
        self.was_told_the_end = True

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None:
            self.reader.feed_eof()
        else:
            self.reader.set_exception(exc)

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def close(self) -> None:
        self.transport.close()

    async def line(self) -> Any:
        async with asyncio.timeout(SECONDS):
            return json.loads(await self.reader.readline())

    async def ask(self, line: bytes = WHO) -> Any:
        self.write(line)
        return await self.line()

    async def rest(self) -> bytes:
        """All that comes until the other side closes, however it does."""
        async with asyncio.timeout(SECONDS):
            try:
                return await self.reader.read()
            except (ConnectionError, ssl.SSLError):
                return b""

    @property
    def tls(self) -> ssl.SSLObject:
        found: ssl.SSLObject = self.transport.get_extra_info("ssl_object")
        return found


class Site:
    """Servers and connections that are closed when the test ends."""

    def __init__(self, household: Household, path: Path, stack: AsyncExitStack) -> None:
        self.household = household
        self.door = asyncio.Event()         # what the method `wait` waits for
        self.entered = asyncio.Event()
        self.auth: Literal["none", "token"] = "none"
        self.keys: TlsKeys | None = None
        self._path = path
        self._stack = stack

    async def server(
        self, tls: TlsConfig | None = None, *, inherited: Mapping[int, str] | None = None, **limits: Any
    ) -> WatchedServer:
        async def who(call: Call, _params: NoParams) -> list[str]:
            return [call.principal.name, call.principal.role]

        async def large(_call: Call, _params: NoParams) -> str:
            return "x" * 3_000_000

        async def wait(_call: Call, _params: NoParams) -> str:
            self.entered.set()
            await self.door.wait()
            return "waited"

        table = MethodTable()
        table.register([
            Method(name, "s", NoParams, object, handler, "read")
            for name, handler in (("who", who), ("large", large), ("wait", wait))
        ])
        config = ServerConfig(limits=LimitsConfig(**limits), tcp=TcpConfig(port=0, auth=self.auth))
        dispatcher = Dispatcher(table, config.limits, gate=Gate(is_open=True))
        http = HttpService(dispatcher, table, config.limits, SystemClock(), routes=[], host_names=[])
        self.keys = TlsKeys(self.household.settings() if tls is None else tls, SystemClock())
        server = WatchedServer(
            dispatcher, config, self._path, http, inherited=inherited or {}, tls_keys=self.keys
        )
        self._stack.push_async_callback(server.close)
        await server.start()
        return server

    async def connect(
        self, server: Server, context: ssl.SSLContext | None = None,
        *, local: str | None = None, name: str = "localhost",
    ) -> Wire:
        """With TLS where there is a context."""
        assert server.tcp_address is not None
        source = None if local is None else (local, 0)
        async with asyncio.timeout(SECONDS):
            _, wire = await asyncio.get_running_loop().create_connection(
                Wire, *server.tcp_address, ssl=context, local_addr=source,
                server_hostname=name if context is not None else None,
            )
        self._stack.callback(wire.transport.abort)
        return wire

    async def connected(self, server: Server, client_name: str | None = None) -> Wire:
        return await self.connect(server, self.household.trusting(client_name))


@pytest.fixture(scope="module")
def household(tmp_path_factory: pytest.TempPathFactory) -> Household:
    return Household(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def site(household: Household, tmp_path: Path) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        yield Site(household, tmp_path / "n.sock", stack)


def http_post(body: bytes) -> bytes:
    head = (
        b"POST /rpc HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n"
    )
    return head % len(body) + body


# --- what is spoken ---


async def test_lines_and_http_are_told_apart_behind_tls_as_before_it(site: Site) -> None:
    server = await site.server()
    assert (await (await site.connected(server)).ask())["result"] == ["tcp:127.0.0.1", "admin"]
    http = await site.connected(server)
    http.write(http_post(WHO))
    head, _, body = (await http.rest()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert json.loads(body)["result"] == ["tcp:127.0.0.1", "admin"]


@pytest.mark.parametrize(
    ("version", "spoken"), [(ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")]
)
async def test_both_versions_that_hold_are_spoken_with_forward_secrecy(
    site: Site, version: ssl.TLSVersion, spoken: str
) -> None:
    server = await site.server()
    context = site.household.trusting()
    context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    wire = await site.connect(server, context)
    cipher = wire.tls.cipher()
    assert cipher is not None
    assert (wire.tls.version(), wire.tls.selected_alpn_protocol()) == (spoken, "http/1.1")
    assert cipher[0].startswith(("ECDHE-", "TLS_"))
    assert (await wire.ask())["id"] == 1


async def test_an_older_version_is_refused(site: Site) -> None:
    server = await site.server()
    context = site.household.trusting()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with capture_logs() as logs:
        with pytest.raises(OSError):    # noqa: PT011 - a bare end; the reason is in the server's log
            await site.connect(server, context)
        await server.until(lambda: server.connections == 0)
    assert [entry["reason"] for entry in logs] == ["unsupported protocol"]
    assert (await (await site.connected(server)).ask())["id"] == 1


async def test_a_reply_of_megabytes_comes_whole_and_the_end_is_announced(site: Site) -> None:
    wire = await site.connected(await site.server(max_write_buffer_bytes=65536))
    body = b'{"jsonrpc":"2.0","method":"large","id":1}'
    wire.write(http_post(body))
    assert (await wire.rest()).endswith(b'x","id":1}')
    assert wire.was_told_the_end        # and not only met it: the reply cannot have been cut short


async def test_a_client_that_reads_nothing_has_no_more_kept_for_it_than_was_agreed(site: Site) -> None:
    server = await site.server(max_write_buffer_bytes=65536, max_in_flight=64)
    wire = await site.connected(server)
    wire.transport.pause_reading()
    wire.write(b'{"jsonrpc":"2.0","method":"large","id":1}\n' * 64)
    await server.until(lambda: server.connections == 0)


async def test_after_an_error_that_ends_it_the_end_is_announced_as_well(site: Site) -> None:
    wire = await site.connected(await site.server(max_message_bytes_tcp=1024))
    wire.write(b"[" * 4096)
    assert json.loads(await wire.rest())["error"]["data"]["kind"] == "too_large"
    assert wire.was_told_the_end


async def test_a_client_that_says_its_goodbye_is_let_go_without_a_word(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    server = await site.server()
    wire = await site.connected(server)
    await wire.ask()
    wire.close()    # which announces the end, and waits for ours
    await server.until(lambda: server.connections == 0)
    assert [record for record in caplog.records if record.name == "asyncio"] == []


async def test_requests_written_together_are_all_answered(site: Site) -> None:
    wire = await site.connected(await site.server())
    wire.write(b"".join(ECHO % str(number).encode() for number in range(300)))
    async with asyncio.timeout(SECONDS):
        ids = {(await wire.line())["id"] for _ in range(300)}
    assert ids == {str(number) for number in range(300)}


async def test_a_socket_that_systemd_opened_speaks_tls_too(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = await site.server(inherited={listener.detach(): "lan"})
        assert (await (await site.connected(server)).ask())["id"] == 1


# --- who is believed, by either side ---


async def test_a_client_believes_nobody_whom_its_authorities_did_not_sign_for(site: Site, tmp_path: Path) -> None:
    server = await site.server()
    stranger = Household(tmp_path / "strangers")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get local issuer|self-signed"):
        await site.connect(server, stranger.trusting())
    await server.until(lambda: server.connections == 0)


async def test_a_certificate_for_another_host_is_not_believed(site: Site) -> None:
    server = await site.server(site.household.elsewhere())
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        await site.connect(server, site.household.trusting())
    assert (await (await site.connect(server, site.household.trusting(), name="attic.local")).ask())["id"] == 1


async def test_a_certificate_that_is_out_of_date_is_served_with_a_warning_and_not_believed(site: Site) -> None:
    with capture_logs() as logs:
        server = await site.server(site.household.outdated())
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == [
        "the certificate is out of date; clients will refuse it"
    ]
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        await site.connect(server, site.household.trusting())


@pytest.mark.parametrize(
    ("client", "principal"),
    [
        ("kitchen-display", ["cert:kitchen-display", "read"]),
        ("backup-box", ["cert:backup-box", "admin"]),
        ("unmapped", ["tcp:127.0.0.1", "admin"]),       # as without a certificate
        (None, ["tcp:127.0.0.1", "admin"]),
    ],
)
async def test_a_certificate_with_a_role_says_who_its_client_is(
    site: Site, client: str | None, principal: list[str]
) -> None:
    server = await site.server(site.household.settings(roles=ROLES))
    assert (await (await site.connected(server, client)).ask())["result"] == principal


async def test_a_certificate_with_a_role_takes_the_place_of_a_token(site: Site) -> None:
    site.auth = "token"
    server = await site.server(site.household.settings(roles=ROLES), max_unauthenticated_per_peer=1)
    for _ in range(3):      # known from the handshake on, they are none of the few that are not
        wire = await site.connected(server, "kitchen-display")
        assert (await wire.ask())["result"] == ["cert:kitchen-display", "read"]
    refused = await site.connected(server, "unmapped")
    assert (await refused.ask())["error"]["data"]["kind"] == "unauthenticated"
    refused.close()
    await server.until(lambda: server.connections == 3)
    assert (await (await site.connected(server)).ask())["error"]["data"]["kind"] == "unauthenticated"


async def test_half_open_handshakes_are_few_where_nobody_is_known_yet(site: Site) -> None:
    site.auth = "token"
    server = await site.server(site.household.settings(roles=ROLES), max_unauthenticated_per_peer=8)
    stalled = [await site.connect(server, local="127.0.0.2") for _ in range(200)]
    await server.until(lambda: server.connections + server.refused == 200)
    assert server.connections == 8
    assert (await (await site.connected(server, "backup-box")).ask())["result"] == ["cert:backup-box", "admin"]
    for wire in stalled:
        wire.close()
    await server.until(lambda: server.connections == 1)


async def test_clients_certificates_are_not_asked_for_unless_configured(site: Site) -> None:
    server = await site.server()
    assert (await (await site.connected(server, "backup-box")).ask())["result"] == ["tcp:127.0.0.1", "admin"]


async def test_a_clients_certificate_that_somebody_else_signed_ends_the_connection(
    site: Site, tmp_path: Path
) -> None:
    server = await site.server(site.household.settings(roles=ROLES))
    stranger = Household(tmp_path / "strangers")
    context = site.household.trusting()
    context.load_cert_chain(*stranger.client("backup-box"))
    with pytest.raises((OSError, json.JSONDecodeError)):
        await (await site.connect(server, context)).ask()
    await server.until(lambda: server.connections == 0)


async def test_the_servers_own_certificate_makes_no_client(site: Site) -> None:
    host = socket.gethostname()
    server = await site.server(site.household.settings(roles=f"{host}=admin, localhost=admin"))
    context = site.household.trusting()
    context.load_cert_chain(site.household.cert_file, site.household.key_file)
    with pytest.raises((OSError, json.JSONDecodeError)):
        await (await site.connect(server, context)).ask()


# --- what never becomes a connection ---


@pytest.mark.parametrize(
    "said", [WHO, b"GET / HTTP/1.1\r\n\r\n", b"POST /rpc HTTP/1.1\r\n\r\n", b"\x00" * 64, b"\r\n\r\n\r\n"]
)  # fmt: skip
async def test_who_speaks_no_tls_is_cut_off_at_once_and_mentioned_once(site: Site, said: bytes) -> None:
    server = await site.server()
    with capture_logs() as logs:
        wire = await site.connect(server)
        wire.write(said)
        assert b"jsonrpc" not in await wire.rest()
        await server.until(lambda: server.connections == 0)
    assert [(entry["log_level"], entry["event"]) for entry in logs] == [("debug", "no TLS connection came of it")]
    assert "exc_info" not in logs[0]


@pytest.mark.parametrize("said", [b"", CLIENT_HELLO_HEAD])
async def test_a_handshake_that_stalls_ends_with_the_time_for_the_first_byte(site: Site, said: bytes) -> None:
    server = await site.server(first_byte_timeout_s=0.2)
    wire = await site.connect(server)
    wire.write(said)
    await server.until(lambda: server.connections == 1)
    assert await wire.rest() == b""
    await server.until(lambda: server.connections == 0)


async def test_a_client_that_is_silent_after_its_handshake_ends_by_the_same_deadline(site: Site) -> None:
    server = await site.server(first_byte_timeout_s=0.4)
    wire = await site.connected(server)
    assert await wire.rest() == b""
    await server.until(lambda: server.connections == 0)


async def test_half_open_handshakes_take_the_places_of_their_own_address_alone(site: Site) -> None:
    server = await site.server(max_connections_per_peer=128)
    for _ in range(200):
        stalled = await site.connect(server, local="127.0.0.2")
        stalled.write(CLIENT_HELLO_HEAD)
    await server.until(lambda: server.connections + server.refused == 200)
    assert (server.connections, server.peers) == (128, 1)
    assert (await (await site.connected(server)).ask())["id"] == 1


async def test_a_connection_counts_from_its_accept_and_until_it_goes(site: Site) -> None:
    server = await site.server(max_connections=2)
    stalled = await site.connect(server)
    await server.until(lambda: server.connections == 1)
    first = await site.connected(server)
    assert (await first.ask())["id"] == 1
    assert await (await site.connect(server)).rest() == b""
    assert (server.connections, server.refused) == (2, 1)
    for wire in (stalled, first):
        wire.close()
    await server.until(lambda: server.connections == 0)
    assert server.peers == 0
    assert (await (await site.connected(server)).ask())["id"] == 1


async def test_an_end_in_the_middle_of_a_handshake_leaves_nothing_behind(site: Site) -> None:
    server = await site.server()
    for ending in ("close", "abort"):
        wire = await site.connect(server)
        wire.write(CLIENT_HELLO_HEAD)
        await server.until(lambda: server.connections == 1)
        getattr(wire.transport, ending)()
        await server.until(lambda: server.connections == 0)


# --- stopping ---


async def test_a_stop_answers_what_is_under_way_and_waits_for_no_handshake(site: Site) -> None:
    server = await site.server()
    stalled = await site.connect(server)
    await server.until(lambda: server.connections == 1)
    asking = await site.connected(server)
    asking.write(b'{"jsonrpc":"2.0","method":"wait","id":2}\n')
    async with asyncio.timeout(SECONDS):
        await site.entered.wait()
    await server.stop_accepting()
    draining = asyncio.create_task(server.drain(SECONDS))
    assert await stalled.rest() == b""
    site.door.set()
    assert json.loads(await asking.rest())["result"] == "waited"
    assert await draining


async def test_a_close_ends_handshakes_and_connections(site: Site) -> None:
    server = await site.server()
    stalled, idle = await site.connect(server), await site.connected(server)
    await server.until(lambda: server.connections == 2)
    await server.close()
    assert (await stalled.rest(), await idle.rest(), server.connections) == (b"", b"", 0)
    with pytest.raises(ConnectionRefusedError):
        await site.connect(server)


# --- another certificate ---


def serial_of(wire: Wire) -> Any:
    return (wire.tls.getpeercert() or {})["serialNumber"]


async def test_new_connections_are_shown_the_new_certificate_and_old_ones_live_on(site: Site, tmp_path: Path) -> None:
    household = Household(tmp_path / "tls")
    site.household = household
    server = await site.server()
    assert site.keys is not None
    old = await site.connected(server)
    await old.ask()
    household.renew()
    await site.keys.look()
    new = await site.connected(server)
    assert serial_of(new) != serial_of(old)
    assert ((await old.ask())["id"], (await new.ask())["id"]) == (1, 1)


async def test_roles_that_change_hold_for_new_connections(site: Site) -> None:
    server = await site.server(site.household.settings(roles=ROLES))
    assert site.keys is not None
    old = await site.connected(server, "kitchen-display")
    changed = site.household.settings(roles="kitchen-display=write")
    site.keys.take(Config(server=ServerConfig(tcp=TcpConfig(tls=changed))))
    new = await site.connected(server, "kitchen-display")
    assert (await new.ask())["result"] == ["cert:kitchen-display", "write"]
    assert (await old.ask())["result"] == ["cert:kitchen-display", "read"]

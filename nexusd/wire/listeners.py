"""Where callers come in: the listeners, and all the connections that came through them.

Owns the sockets, the limits on the number of connections, the clock of their deadlines, and the way to
stop: accept no more, let requests finish, close. Knows no JSON.
"""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

import msgspec
import structlog

from nexusd.clock import SystemClock
from nexusd.config import encrypts, is_loopback
from nexusd.config_access import read_networks
from nexusd.config_sections import LimitsConfig, ServerConfig, TcpConfig
from nexusd.errors import Busy, ConfigError, Forbidden
from nexusd.wire.audit import Audit
from nexusd.wire.auth import Authenticator
from nexusd.wire.certificates import proved
from nexusd.wire.connection import LINGER_S, Connection
from nexusd.wire.descriptors import within_descriptors
from nexusd.wire.frames import is_http
from nexusd.wire.front import Front
from nexusd.wire.http_front import HttpFront
from nexusd.wire.http_service import HttpService
from nexusd.wire.lines import Answerer, LineFront
from nexusd.wire.peers import Peer, Peers, SocketAccess
from nexusd.wire.places import Places, is_stranger
from nexusd.wire.shares import Shares
from nexusd.wire.sockets import BACKLOG, UnixSocketFile, adopt, group_of, keeping_the_file, listen_tcp
from nexusd.wire.tls_connection import TlsConnection
from nexusd.wire.tls_door import TlsDoor
from nexusd.wire.tls_keys import TlsKeys

# Connections that found no room and wait to be told so; further ones are dropped, or whoever opens thousands would
# take every file descriptor that the daemon may have.
MAX_REFUSALS_WAITING = 64
CHECKS_PER_DEADLINE = 4     # within the shortest: deadlines are met to a quarter
HEAR_OUT_S = 0.5    # whoever has connected when a stop begins has this long to ask
MAX_LAST_TURNS = 1000   # more than that come without a pause, and a stop waits for no such end
TURNS = 3   # of the loop, until what it has accepted or read has come to whom it is for: each hand-over takes one
NOTHING_INHERITED: Mapping[int, str] = MappingProxyType({})


class Server:
    """Listens, and keeps account of connections and of the requests under way."""

    def __init__(
        self, answerer: Answerer, config: ServerConfig, socket_path: Path, http: HttpService | None = None,
        *, inherited: Mapping[int, str] = NOTHING_INHERITED, authenticator: Authenticator | None = None,
        audit: Audit | None = None, tls_keys: TlsKeys | None = None,
    ) -> None:
        """Without `http` it speaks one JSON value a line and nothing else; with `tls_keys` TLS on every TCP port.

        With `inherited` (file descriptors and their names) it listens on those and opens nothing itself: who may
        connect where is then the matter of the socket units alone.
        """
        self.socket_path = socket_path                      # of what is inherited, the path that it really has
        self.tcp_address: tuple[str, int] | None = None     # as bound: port 0 has become a real one
        self.refused = 0                                    # connections that found no room
        self._came = 0                                      # with or without
        self._answerer = answerer
        self._http = http
        self._config = config
        self._limits = config.limits
        self._log = structlog.get_logger("nexusd.wire")
        self._inherited = inherited
        self._authenticator = authenticator
        self._audit = audit if audit is not None else Audit(SystemClock())
        self._file: UnixSocketFile | None = None
        self._tls_keys = tls_keys
        self._servers: list[asyncio.Server] = []
        self._doors: list[TlsDoor] = []
        self._at_the_doors: dict[Connection, Peer] = {}     # counted as these; their handshake is under way
        self._connections: set[Connection] = set()
        self._places = Places(config.limits)
        self._requests: set[asyncio.Task[None]] = set()
        self._quiet = asyncio.Event()                       # no connection and no request left
        self._quiet.set()
        self._unheard: set[Connection] = set()              # those that have not said anything yet
        self._all_heard = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def set_limits(self, limits: LimitsConfig) -> None:
        """Hold connections to these from now on, those that are open too. More of them than may be are not closed."""
        self._limits = limits
        self._places.limits = within_descriptors(limits, MAX_REFUSALS_WAITING, self._log)
        for connection in list(self._connections):
            connection.set_limits(limits)

    @property
    def connections(self) -> int:
        """Connections counted in at the moment."""
        return self._places.taken

    @property
    def peers(self) -> int:
        """Users and addresses that they come from."""
        return self._places.peers

    @property
    def requests(self) -> int:
        """Frames being answered at the moment."""
        return len(self._requests)

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: an address that may not be listened on, an unknown group, a path that is too long.
            StartupError: the path or the port is taken, what systemd passes cannot be used, or too few files may
                be open.
        """
        self._places.limits = within_descriptors(self._limits, MAX_REFUSALS_WAITING, self._log)
        tcp = self._config.tcp
        listeners = [adopt(fd, name, tcp) for fd, name in self._inherited.items()] or self._open()
        self._loop = loop = asyncio.get_running_loop()
        self.shares = Shares(loop)
        self._peers = self._make_peers(listeners)

        def connector(message_limit: Callable[[], int]) -> Callable[[], Connection]:
            choose = partial(self._choose_front, message_limit)
            return lambda: Connection(self, self._limits, choose, loop)

        on_unix = connector(lambda: self._limits.max_message_bytes_unix)
        on_tcp = connector(lambda: self._limits.max_message_bytes_tcp)
        for listener in listeners:
            if listener.family == socket.AF_UNIX:
                self._servers.append(
                    await loop.create_unix_server(on_unix, sock=listener, backlog=BACKLOG, **keeping_the_file(loop))
                )
            else:
                self.tcp_address = listener.getsockname()[:2]
                if self._tls_keys is not None:
                    self._open_door(listener, self._tls_keys)
                    continue
                self._servers.append(await loop.create_server(on_tcp, sock=listener, backlog=BACKLOG))
        self._check_deadlines()
        self._tell_how_open(tcp)
        shown = None if self.tcp_address is None else "{}:{}".format(*self.tcp_address)
        self._log.info("listening", socket=str(self.socket_path), tcp=shown, tls=self._tls_keys is not None,
                       inherited=len(self._inherited))

    def _open_door(self, listener: socket.socket, keys: TlsKeys) -> None:
        choose = partial(self._choose_front, lambda: self._limits.max_message_bytes_tcp)

        def make() -> TlsConnection:
            return TlsConnection(self, self._limits, choose, self._loop, keys.roles)

        door = TlsDoor(listener, keys, self, make, lambda: self._limits, self._loop)
        door.open()
        self._doors.append(door)

    def _make_peers(self, listeners: Sequence[socket.socket]) -> Peers:
        """Who may come in is settled before anybody can."""
        for listener in listeners:
            if listener.family == socket.AF_UNIX:
                self.socket_path = Path(listener.getsockname())
        try:
            access = SocketAccess(self._config.socket, group_of(self.socket_path))
            return Peers(self._config.tcp, access, self._audit)
        except ValueError as error:
            for listener in listeners:
                listener.close()
            raise ConfigError(f"server: {error}") from error

    def _tell_how_open(self, tcp: TcpConfig) -> None:
        """What should be known of who may come in over the network, each time that the daemon starts."""
        if self.tcp_address is None:
            return
        for trusted in read_networks(tcp.trusted_networks):
            self._log.warning("a network needs no token", network=str(trusted.network), role=trusted.role)
        if not is_loopback(self.tcp_address[0]) and not encrypts(tcp):
            self._log.warning("tokens and memories cross the network in the clear", tcp=self.tcp_address[0])

    def _open(self) -> list[socket.socket]:
        """What the settings say."""
        tcp = [listen_tcp(self._config.tcp)] if self._config.tcp.enabled else []
        try:
            self._file = UnixSocketFile(self.socket_path, self._config.socket)
        except BaseException:
            for listener in tcp:
                listener.close()
            raise
        return [self._file.socket, *tcp]

    async def stop_accepting(self) -> None:
        """Close the listeners and remove the socket file that is ours; connections stay.

        Whoever has connected by then is in: uvloop accepts one in each turn, so that it may take some. asyncio drops
        what it has accepted and not handed over when its server closes, so that first nothing more is accepted.
        """
        for _ in range(MAX_LAST_TURNS):
            known = self._came
            await _turn()
            if self._came == known:
                break
        for server in self._servers:
            for listener in server.sockets:
                self._loop.remove_reader(listener.fileno())
        await _turn()
        for server in self._servers:
            server.close()
        self._servers.clear()
        for door in self._doors:
            door.close()
        if self._file is not None:
            self._file.remove()
            self._file = None

    async def hear_out(self, timeout_s: float = HEAR_OUT_S) -> None:
        """Wait for the first word of each connection that came before the listeners closed.

        Whoever has just connected may rely on an answer: nobody else will give one.
        """
        await _turn()   # what the loop has accepted is known here then
        if self._unheard:
            self._all_heard.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._all_heard.wait()
            except TimeoutError:
                pass    # they connected and keep silent
        await _turn()   # and what was read last is under way

    async def drain(self, timeout_s: float) -> bool:
        """Let requests under way finish and their replies go out, then close the connections.

        Returns:
            Whether all of that was done in time; if not, `close` ends the rest.
        """
        for door in self._doors:
            door.abandon()
        for connection in list(self._connections):
            connection.drain()
        try:
            async with asyncio.timeout(timeout_s):
                await self._quiet.wait()
        except TimeoutError:
            self._log.warning("not all requests finished in time", requests=self.requests,
                              connections=len(self._connections), timeout_s=timeout_s)
            return False
        return True

    async def close(self) -> None:
        """End everything now."""
        await self.stop_accepting()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for door in self._doors:
            door.abandon()
            await door.abandoned()
        for connection in list(self._connections):
            connection.abort()
        while requests := list(self._requests):
            await asyncio.sleep(0)  # each comes to its first step: cancelled before it, it never comes to its end
            for request in requests:
                request.cancel()
            await asyncio.gather(*requests, return_exceptions=True)
        await self._quiet.wait()

    def _choose_front(self, message_limit: Callable[[], int], connection: Connection, first_byte: int) -> Front:
        """The language that a client speaks, by its first byte."""
        self._hear(connection)
        max_message_bytes = message_limit()
        if self._http is not None and is_http(first_byte):
            return HttpFront(connection, self._http, self._limits, max_message_bytes, self._authenticator)
        return LineFront(connection, self._answerer, self._limits, max_message_bytes, first_byte)

    # --- what connections report ---

    def joined(self, connection: Connection, transport: asyncio.BaseTransport) -> Peer:
        """Count a connection in.

        Raises:
            Busy: there are too many, of this peer or in all.
            OSError: it is gone already, or too many wait to be told.
        """
        self._came += 1
        self._connections.add(connection)
        self._quiet.clear()
        at_the_door = self._at_the_doors.pop(connection, None)
        if at_the_door is not None:     # counted when it was accepted
            return self._shown_in(at_the_door, transport)
        try:
            peer = self._peers.identify(transport)
        except Forbidden:
            self._make_room_to_refuse()
            raise
        self._count_in(connection, peer)
        return peer

    def expect(self, connection: Connection, host: str) -> None:
        """Count a connection from this address in, whose handshake is yet to come.

        Raises:
            Busy: there are too many, of this peer or in all.
            OSError: too many were refused that have not gone.
        """
        self._came += 1
        peer = self._peers.from_address(host)
        self._count_in(connection, peer)
        self._at_the_doors[connection] = peer
        self._quiet.clear()

    def turned_away(self, connection: Connection) -> None:
        """Count it out again, unless it joined."""
        peer = self._at_the_doors.pop(connection, None)
        if peer is not None:
            self._hear(connection)
            self._places.give(peer.key, as_stranger=is_stranger(peer))
            self._note_quiet()

    def _shown_in(self, peer: Peer, transport: asyncio.BaseTransport) -> Peer:
        """Its handshake is done, in which it may have shown who it is."""
        principal = proved(transport)
        if principal is None:
            return peer
        if is_stranger(peer):
            self._places.known(peer.key)
        self._audit.logged_in(principal=principal.name, peer=peer.key, role=principal.role, way="certificate")
        return dataclasses.replace(peer, principal=msgspec.structs.replace(principal, peer=peer.key))

    def _count_in(self, connection: Connection, peer: Peer) -> None:
        try:
            self._places.take(peer)
        except Busy:
            self._make_room_to_refuse()
            raise
        self._unheard.add(connection)

    def _hear(self, connection: Connection) -> None:
        """It has said something, or will not any more."""
        self._unheard.discard(connection)
        if not self._unheard:
            self._all_heard.set()

    def _make_room_to_refuse(self) -> None:
        self.refused += 1
        if len(self._connections) + len(self._at_the_doors) - self._places.taken > MAX_REFUSALS_WAITING:
            raise ConnectionRefusedError

    def admitted(self, connection: Connection) -> None:
        """It is somebody's now, and no longer one of the few that need not be."""
        if connection.peer is not None:
            self._places.known(connection.peer.key)

    def check_grants(self) -> None:
        """End the connections whose token is worth nothing any more: now, not when next looked at."""
        for connection in list(self._connections):
            connection.check_grant()

    def left(self, connection: Connection) -> None:
        """Count a connection out."""
        self._connections.discard(connection)
        self._hear(connection)
        if connection.peer is not None:
            self._places.give(connection.peer.key, as_stranger=not connection.is_admitted)
        self._note_quiet()

    def request_began(self, task: asyncio.Task[None]) -> None:
        """Hold the task: the loop alone would not."""
        self._requests.add(task)
        self._quiet.clear()

    def request_ended(self, task: asyncio.Task[None] | None) -> None:
        """Let it go."""
        if task is not None:
            self._requests.discard(task)
        if not self._requests:
            self._note_quiet()

    def _note_quiet(self) -> None:
        if not self._connections and not self._requests and not self._at_the_doors:
            self._quiet.set()

    def _check_deadlines(self) -> None:
        now_s = self._loop.time()
        for connection in list(self._connections):
            connection.check_deadlines(now_s)
        limits = self._limits
        shortest_s = min(
            limits.first_byte_timeout_s, limits.idle_timeout_s, limits.partial_frame_timeout_s,
            limits.write_stall_timeout_s, limits.login_timeout_s, LINGER_S,
        )
        self._timer = self._loop.call_later(shortest_s / CHECKS_PER_DEADLINE, self._check_deadlines)


async def _turn() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)

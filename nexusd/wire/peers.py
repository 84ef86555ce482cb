"""Who is at the other end of a connection, before it has said anything.

Owns the way from a connection to a principal: by the credentials that the kernel has of a process of this machine, or
by the address that a packet came from. What a token is worth is `auth`'s. Knows no method.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import select
import socket
import struct
from dataclasses import dataclass, field
from typing import Any

from nexusd.config_access import Callers, read_address, read_callers, read_networks
from nexusd.config_sections import SocketConfig, TcpConfig
from nexusd.errors import Forbidden
from nexusd.wire.audit import Audit
from nexusd.wire.methods import Principal, Role

_UCRED = struct.Struct("3i")    # pid, uid, gid, as the kernel filled them in when the peer connected
# Not among Python's constants; the number of every architecture but parisc and sparc, where it is an unknown option.
_SO_PEERGROUPS = 59
_GROUP = struct.Struct("=I")
_MAX_OPTION_BYTES = 1024        # the most that Python reads of a socket option: 256 groups


@dataclass(frozen=True, slots=True)
class Peer:
    """A connection's other end. `key` is what connections are counted by: a user, or an address."""

    principal: Principal
    key: str
    address: str | None = None  # on TCP


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the kernel knows of a process that connected to a Unix socket."""

    uid: int
    groups: frozenset[int]      # the primary one and all others
    pid: int = field(default=0, compare=False)


class SocketAccess:
    """Which role whom the Unix socket's own mode lets in has."""

    def __init__(self, config: SocketConfig, socket_group: int | None) -> None:
        """Without `writers` in the settings those are the members of the group that the socket belongs to.

        Raises:
            ValueError: a user or group of the settings is none.
        """
        writers = read_callers(config.writers)
        if config.writers is None and socket_group is not None:
            writers = Callers(groups=frozenset({socket_group}))
        self._owners = frozenset({0, os.geteuid()})
        self._lists: tuple[tuple[Role, Callers], ...] = (
            ("admin", read_callers(config.admins)), ("write", writers), ("read", read_callers(config.readers)),
        )

    def role_of(self, peer: Credentials) -> Role:
        """The widest role that it is listed for; `none` where it is in no list."""
        if peer.uid in self._owners:
            return "admin"
        for role, callers in self._lists:
            if peer.uid in callers.users or not callers.groups.isdisjoint(peer.groups):
                return role
        return "none"


class Peers:
    """Turns fresh connections into peers."""

    def __init__(self, tcp: TcpConfig, access: SocketAccess, audit: Audit) -> None:
        """Raises ValueError where a trusted network of the settings is none."""
        self._anybody = tcp.auth == "none"
        self._networks = read_networks(tcp.trusted_networks)
        self._access = access
        self._audit = audit

    def identify(self, transport: asyncio.BaseTransport) -> Peer:
        """The peer of a fresh connection. One with the role `none` may still log in.

        Raises:
            Forbidden: this user of the machine is in no list.
            OSError: it is gone already.
        """
        sock = transport.get_extra_info("socket")
        if sock.family == socket.AF_UNIX:
            return self._on_unix(sock)
        return self.from_address(sock.getpeername()[0])

    def from_address(self, host: str) -> Peer:
        """The peer at this address, of which nothing else is known yet."""
        address = read_address(host)
        name, key = f"tcp:{address}", f"ip:{address}"
        if self._anybody:   # the listeners are on loopback alone then: a process of this machine
            return Peer(Principal(name, "admin", key), key, str(address))
        for trusted in self._networks:
            if address in trusted.network:
                self._audit.trusted(principal=name, peer=key, network=str(trusted.network), role=trusted.role)
                return Peer(Principal(name, trusted.role, key), key, str(address))
        return Peer(Principal(name, "none", key), key, str(address))

    def _on_unix(self, sock: Any) -> Peer:
        credentials = credentials_of(sock)
        name = f"uid:{credentials.uid}"
        role = self._access.role_of(credentials)
        if role == "none":
            self._audit.refused("not in the lists of server.socket", principal=name, peer=name)
            raise Forbidden(
                f"{name} may not call: it is in none of server.socket.admins, writers and readers, nor in the "
                "socket's group."
            )
        return Peer(Principal(name, role, name, process=credentials.pid), name)


def credentials_of(sock: Any) -> Credentials:
    """What the kernel noted when the peer connected.

    Raises:
        OSError: it is gone already.
    """
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Credentials(uid, frozenset({gid, *_further_groups(sock, uid, gid)}), pid)


def _further_groups(sock: Any, uid: int, gid: int) -> list[int]:
    """The supplementary groups of the peer's process; where the kernel does not tell them, those of its user.

    Not from /proc: by the time it is read, the number of the process may be another's.
    """
    try:
        found = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_OPTION_BYTES)
    except OSError:     # more groups than fit, or an option that this kernel does not have
        try:
            return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
        except (KeyError, OSError):
            return []
    return [group for (group,) in _GROUP.iter_unpack(found)]


def has_hung_up(transport: asyncio.BaseTransport) -> bool:
    """Whether the other end is gone, although the loop cannot know while it reads nothing of this connection."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return transport.is_closing()
    looking = select.poll()
    looking.register(sock.fileno(), 0)  # hang-ups and errors are told unasked
    return bool(looking.poll(0))

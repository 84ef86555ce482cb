"""Who is at the other end of a connection.

Owns the one function where a connection becomes a principal; authentication by token goes here. Knows no
method.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass

from nexusd.wire.methods import Principal

_UCRED = struct.Struct("3i")    # pid, uid, gid, as the kernel filled them in when the peer connected


@dataclass(frozen=True, slots=True)
class Peer:
    """A connection's other end. `key` is what connections are counted by: a user, or an address."""

    principal: Principal
    key: str


def identify(transport: asyncio.BaseTransport) -> Peer:
    """The peer of a fresh connection.

    Raises:
        OSError: it is gone already.
    """
    sock = transport.get_extra_info("socket")
    if sock.family == socket.AF_UNIX:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        _pid, uid, _gid = _UCRED.unpack(credentials)
        name = f"uid:{uid}"
        return Peer(Principal(name, "admin"), name)
    address = sock.getpeername()[0]
    # Only loopback is listened on until callers can prove who they are: this is a process of this machine.
    return Peer(Principal(f"tcp:{address}", "admin"), f"ip:{address}")

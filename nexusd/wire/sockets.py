"""Listening sockets: the Unix socket file and the port, or what systemd listens on for us.

Owns how they are made: the file's mode and group without a moment in which they are wider, what may be
replaced at its path, which addresses may be listened on. Knows no protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import ipaddress
import os
import socket
import stat
import sys
from pathlib import Path
from typing import Any

from nexusd.config import MAX_SOCKET_PATH_BYTES, is_loopback, network_complaint
from nexusd.config_sections import SocketConfig, TcpConfig
from nexusd.errors import ConfigError, StartupError

# Those who connect while the daemon is restarted wait here, and on a full queue a Unix socket refuses them.
BACKLOG = 4096
_PROBE_TIMEOUT_S = 1.0          # a listener accepts into its backlog at once, even one that hangs


class UnixSocketFile:
    """A listening Unix socket and the file that names it."""

    def __init__(self, path: Path, config: SocketConfig) -> None:
        self.path = path
        self.socket = self._listen(config)
        status = path.lstat()
        self._identity = (status.st_dev, status.st_ino)

    def remove(self) -> None:
        """Remove the file, if it is still ours: another daemon may have put its own there meanwhile."""
        with contextlib.suppress(FileNotFoundError):
            status = self.path.lstat()
            if (status.st_dev, status.st_ino) == self._identity:
                self.path.unlink()

    def _listen(self, config: SocketConfig) -> socket.socket:
        path = self.path
        if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
            raise ConfigError(
                f"server.socket.path: {path} has {len(os.fsencode(path))} bytes; "
                f"the system allows {MAX_SOCKET_PATH_BYTES} in the path of a socket"
            )
        group_id = _group_id(config.group)
        _clear_path(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            # The file inherits this mode, so it is born closed; and nobody can connect before listen().
            os.fchmod(listener.fileno(), 0o600)
            listener.bind(os.fsencode(path))
            if group_id is not None:
                os.chown(path, -1, group_id)
            path.chmod(int(config.mode, 8))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            raise StartupError(f"cannot listen on the socket {path}: {error.strerror}") from error
        return listener


def listen_tcp(config: TcpConfig) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: the address is none, or may not be listened on with these settings.
        StartupError: the port cannot be had.
    """
    address = _permitted_address(config)
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:  # a sandbox that knows no Internet
        raise StartupError(f"cannot listen on {config.host} port {config.port}: {error.strerror}") from error
    try:
        # or a restart would wait a minute for connections of the run before
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # connections inherit it: one that waits for events is never idle, and its machine may be switched off
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.bind((str(address), config.port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise StartupError(f"cannot listen on {config.host} port {config.port}: {error.strerror}") from error
    return listener


def adopt(fd: int, name: str, config: TcpConfig) -> socket.socket:
    """A socket that systemd opened for us and goes on holding: closing it here closes nothing for who connects.

    The descriptor itself stays open, for the next run in this process.

    Raises:
        StartupError: it is not a listening stream socket.
        ConfigError: it listens where it may not with these settings.
    """
    try:
        os.set_inheritable(fd, False)  # noqa: FBT003  os's own signature; the index's process has no business with it
        listener = socket.socket(fileno=os.dup(fd))
    except OSError as error:
        raise StartupError(f"the socket `{name}` that systemd passes cannot be used: {error.strerror}") from error
    try:
        _refuse_unfit(listener, name, config)
        listener.setblocking(False)  # noqa: FBT003  socket's own signature
    except BaseException:
        listener.close()
        raise
    return listener


def _refuse_unfit(listener: socket.socket, name: str, config: TcpConfig) -> None:
    streams = listener.type == socket.SOCK_STREAM and listener.family in (
        socket.AF_UNIX, socket.AF_INET, socket.AF_INET6,
    )  # fmt: skip
    if not streams or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise StartupError(f"the socket `{name}` that systemd passes is not a stream socket that listens")
    if listener.family != socket.AF_UNIX:
        host = listener.getsockname()[0]
        if not is_loopback(host) and (complaint := network_complaint(config)) is not None:
            raise ConfigError(
                f"the socket `{name}` that systemd passes listens on {host}; {complaint[0]}: {complaint[1]}"
            )


def _permitted_address(config: TcpConfig) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    host = config.host
    if not is_loopback(host) and (complaint := network_complaint(config)) is not None:
        raise ConfigError(f"{complaint[0]}: {complaint[1]} (server.tcp.host is {host})")
    try:
        return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise ConfigError(f"server.tcp.host: {host} is no address") from None


def group_of(path: Path) -> int | None:
    """The group that a socket's file belongs to; None where it has no file."""
    try:
        return path.stat().st_gid
    except (OSError, ValueError):   # ValueError: an abstract name begins with a zero byte
        return None


def _group_id(group: str | None) -> int | None:
    if group is None:
        return None
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(f"server.socket.group: there is no group {group}") from None


def _clear_path(path: Path) -> None:
    """Remove a socket file on which nobody listens any more; refuse anything else that is there."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise StartupError(f"cannot look at the socket path {path}: {error.strerror}") from error
    if not stat.S_ISSOCK(status.st_mode):
        raise StartupError(f"{path} exists and is not a socket; it is left alone")
    if status.st_uid not in (os.geteuid(), 0) and os.geteuid() != 0:
        raise StartupError(f"{path} is a socket of another user; it is left alone")
    if _somebody_answers(path):
        raise StartupError(f"another process answers on the socket {path}; is the daemon running already?")
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def _somebody_answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(os.fsencode(path))
        except OSError as error:
            # Refused: nobody has it open. Anything else (a full backlog, another kind of socket) is somebody.
            return error.errno not in (errno.ECONNREFUSED, errno.ENOENT)
        return True


def keeping_the_file(loop: asyncio.AbstractEventLoop) -> dict[str, Any]:
    """On Python 3.13 a server removes its socket's file when it is closed, also where systemd goes on listening.

    uvloop takes the argument on every version, asyncio's own loop from 3.13 on.
    """
    takes_it = sys.version_info >= (3, 13) or not isinstance(loop, asyncio.BaseEventLoop)
    return {"cleanup_socket": False} if takes_it else {}

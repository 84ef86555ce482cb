"""Who is at the other end: roles by the kernel's word on the Unix socket, by address on TCP."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes.clock import ManualClock
from hypothesis import given
from hypothesis import strategies as st

from nexusd.config_sections import SocketConfig, TcpConfig
from nexusd.errors import Forbidden
from nexusd.wire.audit import Audit
from nexusd.wire.methods import Principal
from nexusd.wire.peers import Credentials, Peers, SocketAccess, credentials_of

SOMEBODY, OWN_GROUP, FAMILY = 54321, 54400, 54401
RANK = ["none", "read", "write", "admin"]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")


def role(uid: int, groups: set[int], socket_group: int | None = OWN_GROUP, **lists: str) -> str:
    return SocketAccess(SocketConfig(**lists), socket_group).role_of(Credentials(uid, frozenset(groups)))


def test_root_and_the_daemons_own_user_may_do_everything_whatever_the_lists_say() -> None:
    for uid in (0, os.geteuid()):
        assert role(uid, {1}, readers=str(uid), writers="", admins="") == "admin"


def test_members_of_the_sockets_own_group_write_unless_the_settings_name_others() -> None:
    assert role(SOMEBODY, {1, OWN_GROUP}) == "write"
    assert role(SOMEBODY, {1, OWN_GROUP}, writers="") == "none"
    assert role(SOMEBODY, {1, OWN_GROUP}, writers=f"@{FAMILY}") == "none"
    assert role(SOMEBODY, {1, FAMILY}, writers=f"@{FAMILY}") == "write"
    assert role(SOMEBODY, {1}, socket_group=None) == "none"


def test_who_is_in_no_list_may_do_nothing() -> None:
    assert role(SOMEBODY, {1, FAMILY}, admins="1000", readers="@100") == "none"
    assert role(FAMILY, {1}, admins=f"@{FAMILY}") == "none", "the number of a group is no user's"
    assert role(SOMEBODY, {SOMEBODY}, readers="1000") == "none"


@given(st.sets(st.sampled_from(["admins", "writers", "readers"])), st.booleans())
def test_of_several_lists_the_widest_role_holds(lists: set[str], by_group: bool) -> None:
    entry = f"@{FAMILY}" if by_group else str(SOMEBODY)
    roles = {"admins": "admin", "writers": "write", "readers": "read"}
    widest = max((RANK.index(roles[name]) for name in lists), default=0)
    assert role(SOMEBODY, {FAMILY}, **dict.fromkeys(lists, entry)) == RANK[widest]


CONNECT = """
import os, socket, sys
path, uid, *groups = sys.argv[1:]
os.setgroups([int(group) for group in groups])
os.setgid(int(uid))
os.setuid(int(uid))
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(path)
    sock.recv(1)
"""


@needs_root
def test_the_kernel_tells_the_user_and_all_groups_of_a_process() -> None:
    path = Path(f"/tmp/nexusd-peers-{os.getpid()}.sock")  # noqa: S108  where another user may go
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        try:
            path.chmod(0o666)
            listener.listen()
            somebody = [str(SOMEBODY), str(OWN_GROUP), str(FAMILY)]
            with subprocess.Popen([sys.executable, "-c", CONNECT, str(path), *somebody], cwd="/") as process:
                connection, _ = listener.accept()
                with connection:
                    found = credentials_of(connection)
                assert process.wait(20) == 0
        finally:
            path.unlink()
    assert found == Credentials(SOMEBODY, frozenset({SOMEBODY, OWN_GROUP, FAMILY}))


class NoPeerGroups:
    """A kernel that does not tell supplementary groups, or a process with more than fit."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        if option != socket.SO_PEERCRED:
            raise OSError("ERANGE")
        return self._socket.getsockopt(level, option, size)


def test_where_the_kernel_does_not_tell_the_groups_those_of_the_user_hold() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        found = credentials_of(NoPeerGroups(ours))
    assert (found.uid, os.getegid() in found.groups) == (os.geteuid(), True)


# --- TCP ---


class Sock:
    family = socket.AF_INET6

    def __init__(self, address: str) -> None:
        self._address = address

    def getpeername(self) -> tuple[str, int]:
        return self._address, 4711


class Transport:
    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def get_extra_info(self, _name: str) -> Any:
        return self._sock


def tcp(address: str, **settings: Any) -> Principal:
    peers = Peers(TcpConfig(**settings), SocketAccess(SocketConfig(), None), Audit(ManualClock()))
    return peers.identify(Transport(Sock(address))).principal  # type: ignore[arg-type]


def test_on_tcp_nobody_is_anybody_before_a_token_is_shown_not_even_on_loopback() -> None:
    assert tcp("127.0.0.1") == Principal("tcp:127.0.0.1", "none", "ip:127.0.0.1")
    assert tcp("127.0.0.1", auth="none") == Principal("tcp:127.0.0.1", "admin", "ip:127.0.0.1")


def test_a_trusted_network_has_its_role_and_the_narrowest_one_holds() -> None:
    networks = "192.168.0.0/16=read, 192.168.1.7=write, fd00::/8=read"
    assert tcp("192.168.1.7", trusted_networks=networks).role == "write"
    mapped = tcp("::ffff:192.168.1.7", trusted_networks=networks)
    assert mapped == Principal("tcp:192.168.1.7", "write", "ip:192.168.1.7")
    assert tcp("192.168.1.8", trusted_networks=networks).role == "read"
    assert tcp("fd12::1", trusted_networks=networks).role == "read"
    assert tcp("10.0.0.1", trusted_networks=networks).role == "none"


def test_a_user_of_no_list_is_told_so_and_which_lists_there_are() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: SOMEBODY)
        access = SocketAccess(SocketConfig(), None)
        patch.setattr(access, "_owners", frozenset())
        peers = Peers(TcpConfig(), access, Audit(ManualClock()))
        with pytest.raises(Forbidden, match=f"uid:{os.getuid()} may not call: .*server.socket.admins"):
            peers.identify(Transport(ours))  # type: ignore[arg-type]

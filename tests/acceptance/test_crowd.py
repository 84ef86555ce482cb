"""Thousands who connect and say nothing: the limit holds, who was there notices nothing, memory stays as it is."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time
from pathlib import Path
from statistics import median

import pytest
from harness.daemon import Daemon

from nexusd.client import Client
from nexusd.config_sections import LimitsConfig
from nexusd.processes import resident_bytes

CROWD = 600
LARGE_CROWD = 10_000
MOST_MORE_BYTES = 50_000_000
FEW = (200, 150)  # connections in all, and of one peer, so that a small crowd finds the limit
AS_SHIPPED = (LimitsConfig().max_connections, LimitsConfig().max_connections_per_peer)
TOLD = 65   # of those that find no room, so many wait to be told
ASKED_EVERY = 100
LONGEST_ANSWER_S = 1.0  # to those who were there; on a machine that makes ten thousand connections beside it


def connect(address: str | tuple[str, int]) -> socket.socket:
    """Somebody who says nothing."""
    made = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    made.setblocking(False)
    with contextlib.suppress(BlockingIOError):  # on TCP it is under way; on the socket file too many wait
        made.connect(address)
    return made


def is_open(one: socket.socket) -> bool:
    """Whether it was not closed on."""
    try:
        return one.recv(4096) != b"" and one.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def crowd(tmp_path: Path, count: int, limits: tuple[int, int]) -> None:
    """So many, half of them on the socket and half on the port, with two beside them who were there before."""
    limit, per_peer = limits
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count + 500:
        pytest.skip("the limit on open files is too low to try")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 500), hard))
    settings = {
        "NEXUSD_SERVER__TCP__ENABLED": "true", "NEXUSD_SERVER__TCP__PORT": "0",
        "NEXUSD_SERVER__LIMITS__MAX_CONNECTIONS": str(limit),
        "NEXUSD_SERVER__LIMITS__MAX_CONNECTIONS_PER_PEER": str(per_peer),
    }
    took_s: list[float] = []
    held: list[socket.socket] = []
    try:
        with Daemon(tmp_path / "data", settings=settings) as daemon, Client(daemon.socket_path) as old:
            host, _, port = old.call("system.status")["server"]["tcp"].rpartition(":")
            address = (host, int(port))
            with socket.create_connection(address) as old_tcp:
                ask = b'{"jsonrpc":"2.0","id":1,"method":"health"}\n'
                replies = old_tcp.makefile("rb")
                before = resident_bytes(daemon.pid)
                assert before is not None
                for number in range(count):
                    held.append(connect(str(daemon.socket_path) if number % 2 else address))
                    if number % ASKED_EVERY == 0:   # those who were there are answered all the while
                        began_s = time.monotonic()
                        assert old.call("health")["status"] in {"ok", "degraded"}
                        old_tcp.sendall(ask)
                        assert b'"result"' in replies.readline()
                        took_s.append((time.monotonic() - began_s) / 2)
                assert old.call("system.status")["server"]["connections"] <= limit
                more = (resident_bytes(daemon.pid) or 0) - before
                still = held
                while len(still := [one for one in still if is_open(one)]) > limit + TOLD:
                    old.call("health")      # the rest waits in the kernel until it is looked at, a few in a turn
                print(
                    f"{count} attempted, {len(still)} open, {more / 1e6:.1f} MB more; those who were there were "
                    f"answered within {median(took_s) * 1000:.1f} ms at the median, {max(took_s) * 1000:.1f} ms at most"
                )
                assert max(took_s) < LONGEST_ANSWER_S
                assert more < MOST_MORE_BYTES
                open_files = len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))
                assert open_files < limit + TOLD + 100
                for one in held:
                    one.close()
                held.clear()
                with Client(daemon.socket_path) as new:
                    assert new.call("health")["status"] in {"ok", "degraded"}
    finally:
        for one in held:
            one.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_crowd_finds_the_limit_and_takes_nothing_from_those_who_were_there(tmp_path: Path) -> None:
    crowd(tmp_path, CROWD, FEW)


@pytest.mark.long
def test_ten_thousand_find_the_limit_and_take_nothing_from_those_who_were_there(tmp_path: Path) -> None:
    crowd(tmp_path, LARGE_CROWD, AS_SHIPPED)


def test_a_daemon_that_may_open_too_few_files_says_so_and_does_not_start(tmp_path: Path) -> None:
    few = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200)); sys.argv[0] = 'nexusd'"
    daemon = Daemon(tmp_path / "data", program=("-c", f"{few}; runpy.run_module('nexusd', run_name='__main__')"))
    daemon.launch({k: v for k, v in os.environ.items() if k == "PATH"})
    assert daemon.process is not None
    assert daemon.process.wait(30) == 78
    assert "LimitNOFILE=" in daemon.log_tail()
    assert "Traceback" not in daemon.log_tail()

"""Start, stop, and a second one on the same data."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.daemon import Daemon
from harness.parity import assert_store_is_sound

from nexusd.client import Client, NotFound


def test_sigterm_ends_with_0_and_leaves_no_process_and_no_socket(daemon: Daemon, client: Client) -> None:
    session = client.call("sessions.create", externalId="s")["id"]
    client.call("episodes.create", sessionId=session, userMessage="a", aiResponse="b", waitFor="indexed")
    children = daemon.children()
    assert set(children) == {"shard_process", "model_process"}
    assert daemon.terminate() == 0
    assert not daemon.socket_path.exists()
    for pid in children.values():
        assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text()
    assert assert_store_is_sound(daemon.data) == {1: 1}


def test_requests_under_way_are_answered_before_the_end(daemon: Daemon) -> None:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(daemon.socket_path))
        replies = raw.makefile("rb")
        raw.sendall(b'{"jsonrpc":"2.0","id":0,"method":"sessions.create","params":["s"]}\n')
        replies.readline()
        create = b'{"jsonrpc":"2.0","id":1,"method":"episodes.create","params":[1,"u","a"]}\n'
        raw.sendall(create * 20)
        first = json.loads(replies.readline())  # the others are under way, or were read and wait
        assert "result" in first
        code = daemon.terminate()
        rest = [json.loads(line) for line in replies]
    assert code == 0
    assert len(rest) == 19  # each was answered: done, or told that it was not
    assert {reply["error"]["data"]["kind"] for reply in rest if "error" in reply} <= {"stopping"}
    stored = 1 + sum(1 for reply in rest if "result" in reply)
    assert len(assert_store_is_sound(daemon.data)) == stored


def test_who_waits_for_the_index_is_answered_when_the_daemon_stops(daemon: Daemon) -> None:
    os.kill(_index_process(daemon), signal.SIGSTOP)  # so that nothing is indexed
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(daemon.socket_path))
        replies = raw.makefile("rb")
        raw.sendall(b'{"jsonrpc":"2.0","id":0,"method":"sessions.create","params":["s"]}\n')
        replies.readline()
        wait = {"sessionId": 1, "userMessage": "u", "aiResponse": "a", "waitFor": "indexed", "timeoutMs": 60000}
        request = {"jsonrpc": "2.0", "id": 1, "method": "episodes.create", "params": wait}
        raw.sendall(json.dumps(request).encode() + b"\n" + b'{"jsonrpc":"2.0","id":2,"method":"health"}\n')
        assert json.loads(replies.readline())["id"] == 2
        assert daemon.terminate() == 0
        assert json.loads(replies.readline())["result"]["vector"] == "pending"
    assert assert_store_is_sound(daemon.data) == {1: 1}


def test_a_database_that_is_removed_ends_the_daemon_before_more_is_written_to_nowhere(daemon: Daemon) -> None:
    (daemon.data / "nexus.db").rename(daemon.data / "elsewhere.db")
    assert daemon.process is not None
    assert daemon.process.wait(30) == 70
    assert "moved or removed" in daemon.log_tail()


def _index_process(daemon: Daemon) -> int:
    """The index's process, as soon as it answers."""
    with Client(daemon.socket_path) as client:
        while not client.call("system.status")["index"]["available"]:
            pass
    return daemon.children()["shard_process"]


def test_a_second_daemon_on_the_same_data_is_refused(daemon: Daemon) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "nexusd", "--data", str(daemon.data)],
        capture_output=True, text=True, timeout=30, check=False, cwd=daemon.data.parent,
        env={**os.environ, "NEXUSD_SERVER__TCP__ENABLED": "false"},
    )
    assert second.returncode == 78
    assert "Another nexusd holds" in second.stderr
    assert "Traceback" not in second.stderr
    with Client(daemon.socket_path) as client:
        assert client.call("health")["status"] == "ok"


def test_a_second_start_finds_everything(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "data")
    with daemon.start(), Client(daemon.socket_path) as client:
        session = client.call("sessions.create", externalId="s")["id"]
        client.call("episodes.create", sessionId=session, userMessage="red boat", aiResponse="", waitFor="indexed")
    with daemon.start(), Client(daemon.socket_path) as client:
        found = client.call("memory.search", query="a crimson ship", mode="semantic")
        assert [hit["id"] for hit in found["items"]] == [1]
        assert found["degraded"] == []


def test_a_wrong_setting_is_told_and_nothing_is_made(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("server:\n  tpc:\n    port: 1\n")
    refused = subprocess.run(
        [sys.executable, "-m", "nexusd", "--config", str(config), "--data", str(tmp_path / "data")],
        capture_output=True, text=True, timeout=30, check=False, cwd=tmp_path,
    )
    assert refused.returncode == 78
    assert "tpc" in refused.stderr
    assert "tcp" in refused.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("check", [["--check"], []], ids=["check", "start"])
@pytest.mark.parametrize(
    ("section", "told"),
    [
        ("embedding:\n  model: /nonexistent\n", "config.yaml:2: embedding.model: '/nonexistent' is not a"),
        ("embedding:\n  dimension: 7\n", "config.yaml:2: embedding.dimension: the model"),
        ("server:\n  socket:\n    group: nosuchgroup\n", "config.yaml:3: server.socket.group: found"),
    ],
    ids=["model", "dimension", "group"],
)
def test_what_the_start_refuses_the_check_refuses_with_its_line(
    tmp_path: Path, check: list[str], section: str, told: str
) -> None:
    (tmp_path / "config.yaml").write_text(section)
    refused = subprocess.run(
        [sys.executable, "-m", "nexusd", *check], capture_output=True, text=True, timeout=30, check=False, cwd=tmp_path,
    )
    assert (refused.returncode, refused.stdout) == (78, "")
    assert told in refused.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("check", [["--check"], []], ids=["check", "start"])
def test_a_data_directory_that_cannot_be_made_is_refused(tmp_path: Path, check: list[str]) -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "nexusd", "--data", "/proc/nowhere", *check],
        capture_output=True, text=True, timeout=30, check=False, cwd=tmp_path,
    )
    assert refused.returncode == 78
    assert refused.stderr.startswith("nexusd: the data directory /proc/nowhere cannot be made: ")
    assert refused.stderr.count("\n") == 1


def test_what_was_refused_is_counted_and_is_no_fault(client: Client) -> None:
    for id_ in (7, 8):
        with pytest.raises(NotFound):
            client.call("episodes.get", id=id_)
    counted = client.call("system.status")["server"]["methods"]["episodes.get"]
    assert (counted["calls"], counted["errors"], counted["faults"]) == (2, 2, 0)


def test_tcp_off_loopback_is_refused(tmp_path: Path) -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "nexusd", "--data", str(tmp_path / "data")],
        capture_output=True, text=True, timeout=30, check=False, cwd=tmp_path,
        env={**os.environ, "NEXUSD_SERVER__TCP__HOST": "0.0.0.0"},  # noqa: S104 - what must be refused
    )
    assert refused.returncode == 78
    assert "loopback" in refused.stderr


def test_tcp_on_loopback_answers(tmp_path: Path) -> None:
    settings = {"NEXUSD_SERVER__TCP__ENABLED": "true", "NEXUSD_SERVER__TCP__PORT": "0"}
    with Daemon(tmp_path / "data", settings=settings).start() as daemon, Client(daemon.socket_path) as client:
        address = client.call("system.status")["server"]["tcp"]
        with Client(f"tcp://{address}") as over_tcp:
            assert over_tcp.call("sessions.create", externalId="lan")["id"] == 1


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """What systemd listens on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(30)
        yield listener


def told(manager: socket.socket, until: bytes) -> list[bytes]:
    """What came, up to a message."""
    messages: list[bytes] = []
    while until not in messages:
        messages.append(manager.recv(4096))
    return messages


def test_systemd_is_told_of_the_start_of_life_and_of_the_stop(tmp_path: Path, manager: socket.socket) -> None:
    daemon = Daemon(tmp_path / "data")
    daemon.launch({"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "60000000"})
    with daemon:
        start = told(manager, b"READY=1")
        assert start[0] == b"STATUS=opening the database"
        assert b"EXTEND_TIMEOUT_USEC=30000000" in start
        assert manager.recv(4096).startswith(b"STATUS=ready, ")
        told(manager, b"WATCHDOG=1")
        assert daemon.terminate() == 0
    stop = told(manager, b"STOPPING=1") + told(manager, b"EXTEND_TIMEOUT_USEC=30000000")
    assert b"STATUS=stopping: SIGTERM" in stop


# Site customisation of the daemon's interpreter: its writer's thread dies, unseen by itself, when a file is there.
DYING_WRITER = """
import sys
from pathlib import Path
if sys.orig_argv[1:3] == ["-m", "nexusd"]:
    from nexusd.store.writer import Writer
    turn = Writer._turn
    def dying_turn(self):
        if Path({sign!r}).exists():
            raise SystemExit
        turn(self)
    Writer._turn = dying_turn
"""


def test_a_dead_writer_is_told_at_once_and_ends_the_daemon(tmp_path: Path, manager: socket.socket) -> None:
    sign = tmp_path / "die"
    (tmp_path / "sitecustomize.py").write_text(DYING_WRITER.format(sign=str(sign)))
    daemon = Daemon(tmp_path / "data")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    daemon.launch({"NOTIFY_SOCKET": manager.getsockname(), "PYTHONPATH": path})
    with daemon:
        told(manager, b"READY=1")
        sign.touch()
        told(manager, b"WATCHDOG=trigger")
        assert daemon.process is not None
        assert daemon.process.wait(30) == 70
    assert "the writer's thread died" in daemon.log_tail()

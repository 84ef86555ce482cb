"""New settings for a daemon that works: by its method, by nexusctl, by SIGHUP, and while everybody asks it things."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.daemon import Daemon

from nexusd.client import Client
from nexusd.errors import BadContent, RpcError

PROGRAM = [sys.executable, "-c", "from nexusd.cli.main import main; main()"]


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """The file of the settings, as the daemon finds it."""
    (file := tmp_path / "config.yaml").write_text("files: {pollIntervalS: 3600}\n")
    return file


@pytest.fixture
def daemon(tmp_path: Path, settings: Path) -> Iterator[Daemon]:
    assert settings.exists()
    with Daemon(tmp_path / "data").start() as running:
        yield running


class Manager:
    """systemd, as far as it is told things."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(30)

    def told(self, beginning: bytes) -> list[bytes]:
        """Everything up to the next message that begins so."""
        messages = [self.socket.recv(4096)]
        while not messages[-1].startswith(beginning):
            messages.append(self.socket.recv(4096))
        return messages


@contextlib.contextmanager
def managed(tmp_path: Path) -> Iterator[tuple[Daemon, Manager]]:
    manager = Manager(tmp_path / "manager")
    daemon = Daemon(tmp_path / "data")
    daemon.launch({"NOTIFY_SOCKET": str(tmp_path / "manager")})
    with manager.socket, daemon:
        manager.told(b"READY=1")
        yield daemon, manager


def nexusctl(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, "--socket", str(daemon.socket_path), *arguments], stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip


def test_nexusctl_says_what_changed_what_waits_and_fails_when_the_file_is_bad(daemon: Daemon, settings: Path) -> None:
    settings.write_text("files: {pollIntervalS: 3600}\nlog: {level: debug}\nserver: {tcp: {port: 1234}}\n")
    done = nexusctl(daemon, "reload")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == '{"changed":["log.level"],"needsRestart":["server.tcp.port"]}\n'
    settings.write_text("files: {pollIntervalS: 3600}\nlog: {level: error}\nserver: {tpc: {port: 1234}}\n")
    refused = nexusctl(daemon, "reload")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"{settings}:3: server.tpc: no such setting; did you mean `server.tcp`?" in refused.stderr
    with Client(daemon.socket_path) as client, pytest.raises(RpcError):
        client.call("episodes.get", id=99)  # to be seen in the log at level debug alone
    assert 'level=debug event="request failed" method=episodes.get' in daemon.log_tail()


def test_a_reload_looks_at_files_that_people_edited(daemon: Daemon) -> None:
    with Client(daemon.socket_path) as client:
        (daemon.data / "presets" / "evening.yaml").write_text("lights: low\n")
        assert client.call("presets.list")["items"] == []   # it looks once an hour
        assert client.call("system.reload") == {"changed": [], "needsRestart": []}
        assert client.call("presets.get", name="evening")["content"] == {"lights": "low"}


def test_the_status_shows_what_was_refused_and_what_waits(daemon: Daemon, settings: Path) -> None:
    with Client(daemon.socket_path) as client:
        settings.write_text("storage: {readers: 2}\n")
        client.call("system.reload")
        settings.write_text("nonsense: 1\n")
        with pytest.raises(BadContent, match="no such setting"):
            client.call("system.reload")
        now = client.call("system.status")
        assert now["settings"] == {
            "file": str(settings), "reloads": 1, "refused": 1, "needsRestart": ["storage.readers"],
            "refusal": f"{settings}:1: nonsense: no such setting",
        }  # fmt: skip
        assert now["log"] == {"output": "logfmt", "dropped": 0}
        assert [reason for reason in now["health"]["reasons"] if "settings" in reason] == []  # it does its job


def test_a_hangup_reloads_and_systemd_is_told_of_its_beginning_and_its_end(tmp_path: Path, settings: Path) -> None:
    with managed(tmp_path) as (daemon, manager):
        os.kill(daemon.pid, signal.SIGHUP)
        assert manager.told(b"RELOADING=1\nMONOTONIC_USEC=")
        assert manager.told(b"READY=1")
        settings.write_text("nonsense: 1\n")
        os.kill(daemon.pid, signal.SIGHUP)
        assert manager.told(b"RELOADING=1")
        assert manager.told(b"READY=1")
        assert manager.told(b"STATUS=")[-1].endswith(b", the changed settings are refused")
        with Client(daemon.socket_path) as client:
            assert client.call("system.status")["settings"]["reloads"] == 1
        assert set(daemon.children()) == {"shard_process"}


def test_a_hangup_of_the_whole_group_leaves_the_children_as_they_are(daemon: Daemon) -> None:
    with Client(daemon.socket_path) as client:
        client.remember("A boat is red.", "It is.", session="s", wait=True)
        before = daemon.children()
        for pid in before.values():
            os.kill(pid, signal.SIGHUP)
        client.remember("A boat is blue.", "It is.", session="s", wait=True)
    assert daemon.children() == before


CONFIGS = [
    "files: {pollIntervalS: 3600}\n",
    "log: {level: debug, slowRequestMs: 1}\nserver: {limits: {maxInFlight: 4, maxBatch: 10, idleTimeoutS: 60}}\n",
    "outbox: {batchSize: 3, maxBackoffS: 1}\ncache: {maxEntries: 50}\nserver: {limits: {maxInFlight: 64}}\n",
    "storage: {maxQueuedWrites: 512, readTimeoutS: 5}\nserver: {limits: {eventReplay: 8, maxConnections: 64}}\n",
    "log: {level: error}\nserver: {limits: {maxWriteBufferBytes: 65536, maxMessageBytesUnix: 100000}}\n",
    "nonsense: 1\n",
]


def test_a_reload_under_load_costs_nobody_an_error(daemon: Daemon, settings: Path) -> None:
    errors: list[BaseException] = []
    enough = threading.Event()
    answered = [0] * 6

    def ask(number: int) -> None:
        try:
            with Client(daemon.socket_path) as client:
                session = client.call("sessions.create", externalId=f"s{number}")["id"]
                while not enough.is_set():
                    made = client.call("episodes.create", sessionId=session, userMessage="a boat", aiResponse="is red")
                    assert client.call("episodes.get", id=made["id"])["userMessage"] == "a boat"
                    assert client.call("memory.search", query="boat", mode="keyword", limit=3)["items"]
                    client.call("cache.set", key=f"{number}", value=made["id"])
                    assert client.call("cache.get", key=f"{number}")["value"] == made["id"]
                    answered[number] += 5
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test fails with it
            errors.append(error)

    asking = [threading.Thread(target=ask, args=(number,)) for number in range(len(answered))]
    for thread in asking:
        thread.start()
    taken = refused = 0
    try:
        with Client(daemon.socket_path) as client:
            for number in range(60):
                settings.write_text(CONFIGS[number % len(CONFIGS)])
                if number % 3 == 0:
                    os.kill(daemon.pid, signal.SIGHUP)
                try:
                    client.call("system.reload")
                    taken += 1
                except BadContent:
                    refused += 1
    finally:
        enough.set()
        for thread in asking:
            thread.join(60)
    assert errors == []
    assert (taken, refused) == (50, 10)
    assert min(answered) > 20, answered
    with Client(daemon.socket_path) as client:
        status = client.call("system.status")
        assert sum(one["faults"] for one in status["server"]["methods"].values()) == 0
        assert status["settings"]["needsRestart"] == []
        assert [task for task in status["tasks"] if task["restarts"]] == []



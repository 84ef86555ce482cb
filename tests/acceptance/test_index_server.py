"""The daemon with its index on a Qdrant server (a fake of one), as a process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.qdrant_server import FakeQdrant, InThread
from harness.daemon import Daemon

from nexusd.client import Client

KEY = "a-key-that-nobody-may-read"
EPISODES = [
    ("Where did we leave the spare house key?", "On the hook behind the boiler."),
    ("What temperature should the greenhouse have?", "Between eighteen and twenty-two degrees."),
    ("Play something by Nina Simone.", "Playing Feeling Good."),
]


class Server:
    """The fake, from a test that blocks."""

    def __init__(self) -> None:
        self.fake = FakeQdrant()
        self._thread = InThread()
        self.start()  # takes a port, which is its own from then on

    def start(self) -> None:
        self._thread.run(self.fake.start())

    def stop(self) -> None:
        self._thread.run(self.fake.stop())

    def wipe(self) -> None:
        self._thread.run(self.fake.wipe())

    def close(self) -> None:
        self.stop()
        self._thread.close()

    def episodes(self) -> list[int]:
        """The ids that it holds of exchanges."""
        for name, ids in self.fake.collections().items():
            if name.startswith("nexusd-episodes-"):
                return ids
        return []


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def daemon(server: Server, tmp_path: Path) -> Iterator[Daemon]:
    settings = {
        "QDRANT_URL": server.fake.url, "NEXUSD_INDEX__API_KEY": KEY, "NEXUSD_INDEX__CHECK_INTERVAL_S": "0.2",
        "NEXUSD_INDEX__CONNECT_TIMEOUT_S": "1", "NEXUSD_INDEX__SEARCH_TIMEOUT_S": "1",
    }
    daemon = Daemon(tmp_path / "data", settings=settings)
    yield daemon
    daemon.__exit__(None, None, None)


def fill(client: Client) -> list[int]:
    session = client.call("sessions.create", externalId="kitchen")["id"]
    return [
        client.call("episodes.create", sessionId=session, userMessage=user, aiResponse=assistant)["id"]
        for user, assistant in EPISODES
    ]


def until(client: Client, status: str, *, saying: str = "", within_s: float = 60.0) -> None:
    """Wait until the daemon's health has this status, and among its reasons one that begins so."""
    deadline = time.monotonic() + within_s
    while True:
        health = client.call("health")
        if health["status"] == status and any(reason.startswith(saying) for reason in health["reasons"] or [saying]):
            return
        assert time.monotonic() < deadline, health
        time.sleep(0.05)


def test_a_server_that_is_down_at_the_start_is_filled_when_it_comes(server: Server, daemon: Daemon) -> None:
    server.stop()
    with daemon.start(), Client(daemon.socket_path) as client:
        ids = fill(client)
        until(client, "degraded", saying=f"index: 127.0.0.1:{server.fake.port}: no connection")
        by_word = client.call("memory.search", query="boiler")
        assert [hit["id"] for hit in by_word["items"]] == ids[:1]
        assert by_word["degraded"] == ["index"]
        assert client.call("system.status")["index"]["points"] is None

        server.start()
        assert client.call("outbox.wait", timeoutMs=60_000)["done"]
        assert server.episodes() == ids
        by_meaning = client.call("memory.search", query="how do I get in when I locked myself out", mode="semantic")
        assert by_meaning["items"][0]["id"] == ids[0]
        assert by_meaning["degraded"] == []
        until(client, "ok")
        status = client.call("system.status")
        assert (status["index"]["backend"], status["index"]["points"]["episodes"]) == ("server", len(ids))
        assert KEY not in str(status)
    assert KEY not in daemon.log_path.read_text()


def test_a_wiped_server_is_noticed_and_filled_again_from_stored_vectors(server: Server, daemon: Daemon) -> None:
    with daemon.start(), Client(daemon.socket_path) as client:
        ids = fill(client)
        assert client.call("outbox.wait", timeoutMs=60_000)["done"]
        assert server.episodes() == ids
        model = daemon.children()["model_process"]
        os.kill(model, signal.SIGSTOP)  # so that nothing can be embedded again
        try:
            server.wipe()
            deadline = time.monotonic() + 30
            while server.episodes() != ids:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            os.kill(model, signal.SIGCONT)
        until(client, "ok")
        found = client.call("memory.search", query="a warm place for tomatoes", mode="semantic", limit=1)
        assert [hit["id"] for hit in found["items"]] == [ids[1]]


def test_switching_between_the_backends_fills_the_other_one_from_stored_vectors(
    server: Server, daemon: Daemon, tmp_path: Path
) -> None:
    with Daemon(tmp_path / "data").start() as before, Client(before.socket_path) as client:
        ids = fill(client)
        assert client.call("outbox.wait", timeoutMs=60_000)["done"]
    with daemon.start(), Client(daemon.socket_path) as client:
        deadline = time.monotonic() + 60
        while server.episodes() != ids:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert "model_process" not in daemon.children()  # it starts when a text is to be embedded
        until(client, "ok")
        client.call("episodes.delete", id=ids[2])
        assert client.call("outbox.wait", timeoutMs=60_000)["done"]
    with Daemon(tmp_path / "data").start() as after, Client(after.socket_path) as client:
        until(client, "ok")
        assert client.call("outbox.wait", timeoutMs=60_000)["done"]
        assert client.call("system.status")["index"]["points"]["episodes"] == 2


def test_a_deleted_exchange_leaves_the_server_too(server: Server, daemon: Daemon) -> None:
    with daemon.start(), Client(daemon.socket_path) as client:
        ids = fill(client)
        assert client.call("outbox.wait", timeoutMs=60_000)["done"]
        client.call("episodes.delete", id=ids[1])
        assert client.call("outbox.wait", timeoutMs=60_000)["done"]
        assert server.episodes() == [ids[0], ids[2]]


def test_what_was_indexed_before_a_restart_is_not_sent_again(server: Server, daemon: Daemon) -> None:
    with daemon.start(), Client(daemon.socket_path) as client:
        ids = fill(client)
        assert client.call("outbox.wait", timeoutMs=60_000)["done"]
        assert daemon.terminate() == 0
    sent = server.fake.seen.count("upsert")
    with daemon.start(), Client(daemon.socket_path) as client:
        until(client, "ok")
        assert client.call("system.status")["index"]["points"]["episodes"] == len(ids)
    assert server.fake.seen.count("upsert") == sent


@pytest.mark.parametrize("stalled", [
    pytest.param({"upsert"}, marks=pytest.mark.long), {"greet", "read", "create", "upsert", "query", "count"},
])
def test_a_daemon_stops_in_time_while_the_server_stalls(server: Server, daemon: Daemon, stalled: set[str]) -> None:
    with daemon.start(), Client(daemon.socket_path) as client:
        until(client, "ok")
        server.fake.stalled = stalled
        ids = fill(client)
        deadline = time.monotonic() + 30
        while not stalled & set(server.fake.seen[-3:]):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        began = time.monotonic()
        assert daemon.terminate(timeout_s=15) == 0
        assert time.monotonic() - began < 10
    server.fake.stalled = set()
    with daemon.start(), Client(daemon.socket_path) as client:
        assert client.call("outbox.wait", timeoutMs=60_000)["done"]
    assert server.episodes() == ids


def test_a_search_goes_on_without_a_server_that_stalls(server: Server, daemon: Daemon) -> None:
    with daemon.start(), Client(daemon.socket_path) as client:
        ids = fill(client)
        assert client.call("outbox.wait", timeoutMs=60_000)["done"]
        server.fake.stalled = {"greet", "query"}
        began = time.monotonic()
        found = client.call("memory.search", query="boiler")
        assert time.monotonic() - began < 5
        assert [hit["id"] for hit in found["items"]] == ids[:1]
        assert found["degraded"] == ["index"]
        server.fake.stalled = set()
        until(client, "ok")

"""kill -9 at random moments under load: what was acknowledged is there, and everything agrees.

The moments are drawn from a seed that a failure prints; they are counted in acknowledgements, not in time.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import selectors
import shutil
import signal
import socket
from pathlib import Path

import pytest
from harness.daemon import Daemon
from harness.parity import assert_store_is_sound, indexed_versions

from nexusd.client import Client

WRITERS = 8


class Ledger:
    """What was sent and what was acknowledged, kept outside the daemon."""

    def __init__(self) -> None:
        self.sent: set[str] = set()
        self.acknowledged: dict[int, str] = {}


def _drive(daemon: Daemon, session: int, ledger: Ledger, acknowledgements: int, chance: random.Random) -> None:
    """Create from several connections until so many are acknowledged; then kill -9 with the rest under way."""
    selector = selectors.DefaultSelector()
    connections = []
    for _ in range(WRITERS):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(daemon.socket_path))
        connections.append(connection)
        selector.register(connection, selectors.EVENT_READ, bytearray())

    def send(connection: socket.socket) -> None:
        text = f"note {len(ledger.sent)} {chance.choice(('tea', 'rain', 'bread', 'violin'))}"
        ledger.sent.add(text)
        body = {"jsonrpc": "2.0", "id": text, "method": "episodes.create",
                "params": {"sessionId": session, "userMessage": text, "aiResponse": "noted"}}
        connection.sendall(json.dumps(body).encode() + b"\n")

    for connection in connections:
        for _ in range(3):  # pipelined: some are always under way
            send(connection)
    seen = 0
    while seen < acknowledgements:
        for key, _ in selector.select(timeout=30):
            key.data.extend(key.fileobj.recv(65536))  # type: ignore[union-attr]
            *lines, rest = bytes(key.data).split(b"\n")
            key.data[:] = rest
            for line in lines:
                reply = json.loads(line)
                assert "result" in reply, reply
                ledger.acknowledged[reply["result"]["id"]] = reply["id"]
                seen += 1
                send(key.fileobj)  # type: ignore[arg-type]
    daemon.kill()
    for connection in connections:  # acknowledgements that were sent before the end count too
        with contextlib.suppress(ConnectionResetError):  # what it had not read yet when it died resets the rest
            for line in connection.makefile("rb"):
                if line.endswith(b"\n"):
                    reply = json.loads(line)
                    ledger.acknowledged[reply["result"]["id"]] = reply["id"]
        connection.close()


@pytest.mark.timeout(300)
def test_five_kills_lose_nothing(tmp_path: Path) -> None:
    _campaign(tmp_path, kills=5, seed=20)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_two_hundred_kills_lose_nothing(tmp_path: Path) -> None:
    _campaign(tmp_path, kills=200, seed=random.SystemRandom().randrange(10**6))


def _campaign(tmp_path: Path, *, kills: int, seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    ledger = Ledger()
    daemon = Daemon(tmp_path / "data").start()
    with Client(daemon.socket_path) as client:
        session = client.call("sessions.create", externalId="s")["id"]
    for _ in range(kills):
        _drive(daemon, session, ledger, chance.randrange(1, 60), chance)
        daemon.start()
    with daemon, Client(daemon.socket_path, timeout_s=60) as client:
        for row_id, text in ledger.acknowledged.items():
            assert client.call("episodes.get", id=row_id)["userMessage"] == text, f"seed {seed}"
        while not client.call("outbox.wait", timeoutMs=55_000)["done"]:
            assert client.call("outbox.status")["dead"] == 0
    versions = assert_store_is_sound(daemon.data)
    stored = len(versions)
    assert len(ledger.acknowledged) <= stored <= len(ledger.sent)
    assert indexed_versions(daemon.data) == versions, f"seed {seed}"
    print(f"{kills} kills, {len(ledger.acknowledged)} acknowledged, {stored} stored, {len(ledger.sent)} sent")


@pytest.mark.parametrize("child", ["shard_process", "model_process"])
def test_a_killed_child_costs_nothing_but_a_moment(daemon: Daemon, client: Client, child: str) -> None:
    session = client.call("sessions.create", externalId="s")["id"]
    client.call("episodes.create", sessionId=session, userMessage="warm up", aiResponse="", waitFor="indexed")
    items = [{"sessionId": session, "userMessage": f"fact {i} about bees", "aiResponse": "noted"} for i in range(300)]
    client.call("episodes.createMany", items=items)
    os.kill(daemon.children()[child], signal.SIGKILL)
    # The search that meets the gap says so, and serves what it can.
    during = client.call("memory.search", query="bees")
    assert during["items"]
    assert set(during["degraded"]) <= {"index", "embedder"}
    while not client.call("outbox.wait", timeoutMs=55_000)["done"]:
        assert client.call("outbox.status")["dead"] == 0
    after = client.call("memory.search", query="honey insects", mode="semantic")
    assert after["degraded"] == []
    assert after["items"]
    assert daemon.terminate() == 0
    assert indexed_versions(daemon.data) == assert_store_is_sound(daemon.data)


def test_an_index_lost_while_nothing_happens_is_never_called_complete(daemon: Daemon, client: Client) -> None:
    session = client.call("sessions.create", externalId="s")["id"]
    for text in ("the bees swarm", "the kettle boils"):
        client.call("episodes.create", sessionId=session, userMessage=text, aiResponse="", waitFor="indexed")
    shutil.rmtree(daemon.data / "index")
    os.kill(daemon.children()["shard_process"], signal.SIGKILL)
    while True:  # from here on: hits, or the word that they may be missing, or rows that are visibly pending
        before = client.call("outbox.status")  # rows that were pending during the search may be sent after it
        found = client.call("memory.search", query="honey insects", mode="semantic")
        if found["items"] and not found["degraded"]:
            break
        waiting = [outbox["pending"] + outbox["inflight"] for outbox in (before, client.call("outbox.status"))]
        assert found["degraded"] or any(waiting), "nothing found, and nothing said"
    assert client.call("outbox.wait", timeoutMs=30_000)["done"]
    points = client.call("system.status")["index"]["points"]
    assert points == {"episodes": 2, "entities": 0, "summaries": 0, "messages": 0, "vectors": 0}


def test_search_says_that_it_is_degraded_while_the_index_is_gone(daemon: Daemon, client: Client) -> None:
    session = client.call("sessions.create", externalId="s")["id"]
    client.call("episodes.create", sessionId=session, userMessage="the bees swarm", aiResponse="", waitFor="indexed")
    os.kill(daemon.children()["shard_process"], signal.SIGSTOP)  # there, but it does not answer
    hits = client.call("memory.search", query="bees")
    assert hits["degraded"] == ["index"]
    assert [hit["id"] for hit in hits["items"]] == [1]
    os.kill(daemon.children()["shard_process"], signal.SIGKILL)
    while client.call("memory.search", query="bees")["degraded"]:
        pass

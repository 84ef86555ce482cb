"""SIGTERM with rows that the index has not got yet: they are delivered first, in the time that there is."""

from __future__ import annotations

import time
from pathlib import Path

import apsw
from fakes.embedding_server import EmbeddingServer, InThread
from harness.daemon import Daemon
from harness.parity import assert_store_is_sound, indexed_versions

from nexusd.client import Client
from nexusd.embedding.embedder import Fingerprint

ROWS = 300


def settings(server: EmbeddingServer, drain_s: float) -> dict[str, str]:
    return {
        "EMBEDDING_SERVICE_URL": server.url,
        "NEXUSD_EMBEDDING__DIMENSION": str(server.dimension),
        "NEXUSD_OUTBOX__DRAIN_TIMEOUT_S": str(drain_s),
    }


def create(client: Client) -> None:
    session = client.call("sessions.create", externalId="s")["id"]
    for start in range(0, ROWS, 100):
        items = [
            {"sessionId": session, "userMessage": f"word{n}", "aiResponse": "ok"} for n in range(start, start + 100)
        ]
        client.call("episodes.createMany", items=items)


def owed(data: Path) -> int:
    db = apsw.Connection(str(data / "nexus.db"))
    try:
        return int(db.execute("SELECT count(*) FROM outbox WHERE state <> 'dead'").get)
    finally:
        db.close()


def fingerprint(client: Client) -> Fingerprint:
    embedder = client.call("system.status")["embedder"]
    return Fingerprint(embedder["provider"], embedder["model"], embedder["dimension"])


def test_a_stop_delivers_what_is_due_and_leaves_nothing_owed(tmp_path: Path) -> None:
    server = EmbeddingServer("service")
    with InThread(server), Daemon(tmp_path / "data", settings=settings(server, 30)) as daemon:
        with Client(daemon.socket_path) as client:
            model = fingerprint(client)
            create(client)
        assert daemon.terminate() == 0
        assert owed(daemon.data) == 0
        versions = assert_store_is_sound(daemon.data)
        assert len(versions) == ROWS
        assert indexed_versions(daemon.data, model) == versions


def test_a_stop_waits_no_longer_than_it_may_and_the_next_start_goes_on(tmp_path: Path) -> None:
    server = EmbeddingServer("service")
    with InThread(server), Daemon(tmp_path / "data", settings=settings(server, 0.3)) as daemon:
        server.fault = "hang"
        with Client(daemon.socket_path) as client:
            create(client)
        began_s = time.monotonic()
        assert daemon.terminate() == 0
        assert time.monotonic() - began_s < 10
        assert owed(daemon.data) == ROWS
        server.fault = ""
        daemon.start()
        with Client(daemon.socket_path) as client:
            model = fingerprint(client)
            assert client.call("outbox.wait", timeoutMs=30_000)["done"]
        assert daemon.terminate() == 0
        assert indexed_versions(daemon.data, model) == assert_store_is_sound(daemon.data)

"""A daemon with an embedding service on the network: away at the start, back, replaced by another model."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.embedding_server import EmbeddingServer, InThread
from harness.daemon import Daemon

from nexusd.client import Client


def settings(server: EmbeddingServer, **more: str) -> dict[str, str]:
    own = {"EMBEDDING_SERVICE_URL": server.url, "NEXUSD_EMBEDDING__DIMENSION": str(server.dimension)}
    return {**own, **{f"NEXUSD_EMBEDDING__{name}": value for name, value in more.items()}}


def until(met: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What `met` answers in the end; the daemon is another process, so nothing can tell us."""
    deadline = time.monotonic() + seconds
    while not (found := met()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
    return found


def trouble(client: Client) -> str:
    """What health says of the embedder, as soon as it says something."""
    return until(lambda: next((r for r in client.call("health")["reasons"] if r.startswith("embedder: ")), ""))


@pytest.mark.parametrize("kind", ["service", "single"])
def test_a_daemon_starts_while_the_service_is_away_and_indexes_everything_when_it_comes(
    tmp_path: Path, kind: Any
) -> None:
    thread = InThread(EmbeddingServer(kind))
    with thread as server:
        thread.down()
        with Daemon(tmp_path / "data", settings=settings(server)) as daemon, Client(daemon.socket_path) as client:
            session = client.call("sessions.create", externalId="s")["id"]
            for n in range(20):
                row = client.call("episodes.create", sessionId=session, userMessage=f"word{n} of it", aiResponse="ok")
                assert row["vector"] == "pending"
            assert trouble(client).endswith("cannot be reached (Connection refused)")
            found = client.call("memory.search", query="word7")
            assert found["items"]
            assert found["degraded"] == ["embedder"]
            status = client.call("system.status")
            assert (status["embedder"]["provider"], status["embedder"]["state"]) == ("service", "unavailable")
            assert status["outbox"]["dead"] == 0
            assert "model_process" not in daemon.children()

            thread.up()
            assert client.call("outbox.wait", timeoutMs=30_000)["done"]
            assert client.call("health")["status"] == "ok"
            status = client.call("system.status")
            assert status["index"]["points"]["episodes"] == 20
            assert (status["embedder"]["model"], status["embedder"]["dimension"]) == ("nomic-embed-text", 32)
            found = client.call("memory.search", query="word7 of it", mode="semantic")
            assert found["items"][0]["record"]["userMessage"] == "word7 of it"
            assert "word7" not in daemon.log_path.read_text()


def test_a_service_of_another_dimension_is_refused_with_what_to_do_and_words_are_found_all_the_same(
    tmp_path: Path,
) -> None:
    with InThread(EmbeddingServer("service", 48)) as server:
        chosen = settings(server, DIMENSION="32")
        with Daemon(tmp_path / "data", settings=chosen) as daemon, Client(daemon.socket_path) as client:
            session = client.call("sessions.create", externalId="s")["id"]
            client.call("episodes.create", sessionId=session, userMessage="kettle", aiResponse="ok")
            assert "set embedding.dimension to 48" in trouble(client)
            assert client.call("memory.search", query="kettle")["items"]
            assert until(lambda: client.call("system.status")["index"]["points"])["episodes"] == 0
            assert client.call("system.status")["outbox"]["dead"] == 0
        with Daemon(tmp_path / "data", settings=settings(server)) as daemon, Client(daemon.socket_path) as client:
            assert client.call("outbox.wait", timeoutMs=30_000)["done"]
            assert client.call("system.status")["index"]["points"]["episodes"] == 1


def test_the_key_of_the_service_is_nowhere_to_be_seen(tmp_path: Path) -> None:
    with InThread(EmbeddingServer("openai")) as server:
        server.key = "sk-right"
        chosen = {
            "NEXUSD_EMBEDDING__PROVIDER": "openai", "NEXUSD_EMBEDDING__URL": server.url,
            "NEXUSD_EMBEDDING__MODEL": "fake", "NEXUSD_EMBEDDING__DIMENSION": "32",
            "NEXUSD_EMBEDDING__API_KEY": "sk-wrong-one", "NEXUSD_LOG__LEVEL": "debug",
        }  # fmt: skip
        with Daemon(tmp_path / "data", settings=chosen) as daemon, Client(daemon.socket_path) as client:
            assert "Incorrect API key provided: Bearer ***" in trouble(client)
            shown = json.dumps([client.call("health"), client.call("system.status")])
            assert "HTTP 401" in shown
            assert "sk-wrong-one" not in shown
        assert "sk-wrong-one" not in daemon.log_path.read_text()

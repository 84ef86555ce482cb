"""The daemon with each kind of embedding service: how it asks, and how it finds out what they cannot take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fakes.embedding_server import EmbeddingServer, InThread
from harness.daemon import Daemon
from harness.services import until

from nexusd.client import Client

BATCH, MAX_BYTES = 16, 2000
CHOSEN = {
    "service": {"NEXUSD_EMBEDDING__PROVIDER": "service"},
    "single": {"NEXUSD_EMBEDDING__PROVIDER": "service"},
    "vector": {"NEXUSD_EMBEDDING__PROVIDER": "service"},
    "ollama": {"NEXUSD_EMBEDDING__PROVIDER": "ollama", "NEXUSD_EMBEDDING__KEEP_WARM": "true"},
    "openai": {"NEXUSD_EMBEDDING__PROVIDER": "openai", "NEXUSD_EMBEDDING__API_KEY": "sk-house"},
}
PREFIXED = {"ollama", "openai"}  # the memory system's own service puts its prefixes itself


def embedding(server: EmbeddingServer, **more: str) -> dict[str, str]:
    return {
        "NEXUSD_EMBEDDING__URL": server.url, "NEXUSD_EMBEDDING__MODEL": "nomic-embed-text",
        "NEXUSD_EMBEDDING__DIMENSION": str(server.dimension), "NEXUSD_EMBEDDING__BATCH_SIZE": str(BATCH),
        "NEXUSD_EMBEDDING__MAX_BATCH_BYTES": str(MAX_BYTES), "NEXUSD_OUTBOX__MAX_BACKOFF_S": "0.3",
        **CHOSEN[server.kind], **more,
    }  # fmt: skip


def exchanges(client: Client, texts: list[str]) -> list[int]:
    session = client.call("sessions.create", externalId=f"s{len(texts)}")["id"]
    items = [{"sessionId": session, "userMessage": text, "aiResponse": "ok"} for text in texts]
    return [row["id"] for row in client.call("episodes.createMany", items=items)["items"]]


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("service", marks=pytest.mark.long),  # whose faults the whole list has been tried with
        pytest.param("vector", marks=pytest.mark.long),
        "single", "ollama", "openai",
    ],
)  # fmt: skip
def test_each_kind_is_asked_as_it_wants_and_of_64_texts_a_bad_one_stops_no_other(tmp_path: Path, kind: Any) -> None:
    with InThread(EmbeddingServer(kind)) as server:
        server.model, server.poison = "nomic-embed-text", {"poison"}
        server.max_bytes = MAX_BYTES // 2  # 413 from here on: less than the daemon is told to send
        server.key = CHOSEN[kind].get("NEXUSD_EMBEDDING__API_KEY", "")
        with Daemon(tmp_path / "data", settings=embedding(server)) as daemon, Client(daemon.socket_path) as client:
            rows = exchanges(client, [f"{'poison' if n == 40 else 'text'} {n} " + "word " * 20 for n in range(64)])
            until(lambda: client.call("outbox.wait", timeoutMs=5_000)["pending"] == 0)
            (dead,) = client.call("outbox.list", state="dead")["items"]
            assert (dead["rowId"], dead["errorKind"], dead["attempts"]) == (rows[40], "bad_content", 1)
            assert client.call("system.status")["index"]["points"]["episodes"] == 63
            found = client.call("memory.search", query="text 7 word", mode="semantic", limit=64)
            assert found["degraded"] == []
            assert {hit["id"] for hit in found["items"]} == set(rows) - {rows[40]}
            server.poison.clear()
            client.call("outbox.retry")
            assert client.call("outbox.wait", timeoutMs=30_000)["done"]
            assert client.call("system.status")["index"]["points"]["episodes"] == 64
        documents = [text for text in server.texts if "User: text" in text]
        assert all(text.startswith("search_document: ") == (kind in PREFIXED) for text in documents)
        assert any(text == ("search_query: " if kind in PREFIXED else "") + "text 7 word" for text in server.texts)
        sizes = [len(texts) for texts in server.requests if "User: text" in texts[0]]
        assert max(sizes) == 1 if kind in {"single", "vector"} else 1 < max(sizes) <= BATCH
        assert server.connections <= 8  # which are kept
        assert all(body.get("keep_alive") == (-1 if kind == "ollama" else None) for body in server.bodies)


@pytest.mark.long  # of what health says each part has a short test
def test_vectors_of_another_dimension_while_it_runs_are_refused_with_what_to_do_and_never_stored(
    tmp_path: Path,
) -> None:
    with InThread(EmbeddingServer("ollama")) as server:
        server.model = "nomic-embed-text"
        with Daemon(tmp_path / "data", settings=embedding(server)) as daemon, Client(daemon.socket_path) as client:
            exchanges(client, ["kettle"])
            assert client.call("outbox.wait", timeoutMs=30_000)["done"]
            server.dimension = 48  # somebody pulled another model under the same name
            exchanges(client, ["boiler", "lamp"])
            until(lambda: "set embedding.dimension to 48" in str(client.call("health")["reasons"]))
            found = client.call("memory.search", query="boiler")
            assert found["items"]
            assert found["degraded"] == ["embedder"]
            status = client.call("system.status")
            assert (status["outbox"]["dead"], status["index"]["points"]["episodes"]) == (0, 1)
        changed = embedding(server, NEXUSD_EMBEDDING__DIMENSION="48")  # people do as they are told
        with Daemon(tmp_path / "data", settings=changed) as daemon, Client(daemon.socket_path) as client:
            assert client.call("outbox.wait", timeoutMs=30_000)["done"]
            assert client.call("system.status")["index"]["points"]["episodes"] == 3
            assert client.call("memory.search", query="boiler", mode="semantic")["degraded"] == []

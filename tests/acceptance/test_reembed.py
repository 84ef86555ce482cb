"""Another embedding model, as whoever changes it in the settings sees it: the daemon as a process, and services."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import harness.ending_daemon
import pytest
from fakes.embedding_server import EmbeddingServer, InThread
from fakes.qdrant_server import FakeQdrant
from fakes.qdrant_server import InThread as QdrantThread
from harness.daemon import Daemon

from nexusd.client import Client
from nexusd.errors import NotFound

ROWS = 30


def until(met: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What `met` answers in the end; the daemon is another process, so nothing can tell us."""
    deadline = time.monotonic() + seconds
    while not (found := met()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
    return found


def settings(server: EmbeddingServer, **more: Any) -> dict[str, str]:
    own = {"PROVIDER": server.kind, "URL": server.url, "DIMENSION": server.dimension, "MODEL": server.model}
    return {f"NEXUSD_EMBEDDING__{name}": str(value) for name, value in {**own, **more}.items()}


def fill(client: Client) -> None:
    session = client.call("sessions.create", externalId="s")["id"]
    items = [{"sessionId": session, "userMessage": f"word{n} of it", "aiResponse": "ok"} for n in range(ROWS)]
    client.call("episodes.createMany", items=items)
    assert client.call("outbox.wait", timeoutMs=30_000)["done"]


def changed(client: Client) -> dict[str, Any]:
    """How it is when the configured model serves."""
    return until(lambda: (now := client.call("index.reembed"))["next"] is None and now)


def assert_found(client: Client) -> None:
    assert client.call("outbox.wait", timeoutMs=30_000)["done"]
    assert client.call("system.status")["index"]["points"]["episodes"] == ROWS
    for n in (3, ROWS - 1):
        found = client.call("memory.search", query=f"word{n} of it", mode="semantic")
        assert found["degraded"] == []
        assert found["items"][0]["record"]["userMessage"] == f"word{n} of it"


@pytest.fixture
def services() -> Iterator[Callable[..., EmbeddingServer]]:
    with ExitStack() as running:
        def make(kind: Any = "ollama", dimension: int = 32, model: str = "first") -> EmbeddingServer:
            server = running.enter_context(InThread(EmbeddingServer(kind, dimension)))
            server.model = model
            return server

        yield make


def sent(server: EmbeddingServer) -> int:
    """How many memories it was sent, as often as it was."""
    return sum("User: word" in text for text in server.texts)


def test_a_change_of_the_model_is_a_change_of_the_settings_and_searches_go_on_and_going_back_costs_nothing(
    tmp_path: Path, services: Callable[..., EmbeddingServer]
) -> None:
    first, other = services(), services("openai", 48, "other")
    with Daemon(tmp_path / "data", settings=settings(first)) as daemon, Client(daemon.socket_path) as client:
        fill(client)
    kept = change(tmp_path, other)
    change(tmp_path, first, DOCUMENT_PREFIX="passage: ")
    assert (sent(first), sent(other)) == (2 * ROWS, ROWS)
    assert sum(text.startswith("passage: User") for text in first.texts) == ROWS
    with Daemon(tmp_path / "data", settings=settings(first)) as daemon, Client(daemon.socket_path) as client:
        changed(client)
        assert_found(client)
        assert (sent(first), sent(other)) == (2 * ROWS, ROWS)
        forgotten = client.call("index.forget", key=kept, idempotencyKey="a")
        assert forgotten == {"forgotten": [kept], "vectorsDeleted": ROWS}
        assert client.call("index.forget", key=kept, idempotencyKey="a") == forgotten
        with pytest.raises(NotFound):
            client.call("index.forget", key=kept)
        assert_found(client)
    log = daemon.log_path.read_text()
    assert log.count("re-embedding begins") == log.count("re-embedding done") == 3


def change(tmp_path: Path, server: EmbeddingServer, **more: Any) -> str:
    """Start it with these settings, and see that their model comes to serve; its key."""
    chosen = settings(server, **more)
    with Daemon(tmp_path / "data", settings=chosen) as daemon, Client(daemon.socket_path) as client:
        during = client.call("memory.search", query="word3 of it", mode="semantic")
        assert during["degraded"] in ([], ["index"])  # just started: it is being compared with the rows
        now = changed(client)
        assert (now["state"], now["total"], now["done"], now["dead"]) == ("swapped", ROWS, ROWS, 0)
        assert (now["serving"]["provider"], now["serving"]["model"]) == (server.kind, server.model)
        assert_found(client)
        assert client.call("health")["status"] == "ok"
        return str(now["serving"]["key"])


@pytest.mark.long
@pytest.mark.parametrize("what", ["model", "dimension", "provider", "prefix"])
def test_each_part_of_what_makes_a_model_is_a_change_of_it(
    tmp_path: Path, services: Callable[..., EmbeddingServer], what: str
) -> None:
    first = services()
    with Daemon(tmp_path / "data", settings=settings(first)) as daemon, Client(daemon.socket_path) as client:
        fill(client)
    if what == "prefix":
        change(tmp_path, first, QUERY_PREFIX="? ")  # no word, so that what is found stays the same
        assert sent(first) == 2 * ROWS
        return
    second = {
        "model": lambda: services(model="second"), "dimension": lambda: services(dimension=48),
        "provider": lambda: services("openai"),
    }[what]()  # fmt: skip
    change(tmp_path, second)
    assert (sent(first), sent(second)) == (ROWS, ROWS)


def test_while_the_service_of_before_is_gone_words_are_searched_and_health_says_until_when(
    tmp_path: Path, services: Callable[..., EmbeddingServer]
) -> None:
    second = services(model="second")
    with InThread(EmbeddingServer("ollama", 32)) as first:
        first.model = "first"
        with Daemon(tmp_path / "data", settings=settings(first)) as daemon, Client(daemon.socket_path) as client:
            fill(client)
    second.fault = "503"
    with Daemon(tmp_path / "data", settings=settings(second)) as daemon, Client(daemon.socket_path) as client:
        found = until(lambda: (f := client.call("memory.search", query="word3"))["degraded"] == ["embedder"] and f)
        assert found["items"]
        trouble = until(lambda: [r for r in client.call("health")["reasons"] if "only words are searched" in r])
        assert "cannot be reached" in trouble[0]
        assert "until another model serves: re-embedding 0 of 30 with second" in trouble[0]
        until(lambda: "503" in client.call("index.reembed")["detail"])
        second.fault = ""
        changed(client)
        assert_found(client)
        assert client.call("health")["status"] == "ok"


def test_weights_that_changed_under_the_same_name_are_embedded_anew_by_force_and_other_readers_find_them(
    tmp_path: Path, services: Callable[..., EmbeddingServer]
) -> None:
    server, thread, qdrant = services(), QdrantThread(), FakeQdrant()
    thread.run(qdrant.start())
    chosen = {**settings(server), "QDRANT_URL": qdrant.url}
    try:
        with Daemon(tmp_path / "data", settings=chosen) as daemon, Client(daemon.socket_path) as client:
            fill(client)
            names = {f"nexusd-{name}" for name in ("episodes", "entities", "summaries", "messages", "vectors")}
            assert set(until(qdrant.aliases)) == names
            before = qdrant.aliases()["nexusd-episodes"]
            idle = client.call("index.reembed")
            assert (idle["state"], idle["next"]) == ("idle", None)
            begun = client.call("index.reembed", force=True, idempotencyKey="a")
            assert (begun["state"], begun["next"]["key"]) == ("filling", begun["serving"]["key"] + "-2")
            assert client.call("index.reembed", force=True, idempotencyKey="a") == begun
            assert changed(client)["serving"]["key"] == begun["next"]["key"]
            assert client.call("index.reembed", force=True, idempotencyKey="a") == begun  # and nothing is begun
            assert client.call("index.reembed")["next"] is None
            assert_found(client)
            assert sent(server) == 2 * ROWS
            assert until(lambda: qdrant.aliases()["nexusd-episodes"] == f"{before}-2")
            assert set(qdrant.aliases()) == names
            assert len(qdrant.collections()[f"{before}-2"]) == ROWS
    finally:
        thread.run(qdrant.stop())
        thread.close()


WAYS: dict[str, list[list[str]]] = {
    "short": [["compared", "swapped"]],
    "long": [
        ["fill slice", "filled", "compared", "swapped", "collections dropped", "dropped"], ["adopted"], ["aliases"],
    ],
}  # fmt: skip


@pytest.mark.timeout(120)
@pytest.mark.parametrize("form", ["short", pytest.param("long", marks=pytest.mark.long)])
def test_a_daemon_that_is_killed_at_any_step_of_a_change_ends_with_one_model_and_exactly_the_rows(
    tmp_path: Path, services: Callable[..., EmbeddingServer], form: str
) -> None:
    first, second = services(), services(dimension=48, model="second")
    with Daemon(tmp_path / "data", settings=settings(first)) as daemon, Client(daemon.socket_path) as client:
        fill(client)
    for server, steps in zip([second, first, second], WAYS[form], strict=False):
        chosen = settings(server, KEEP_OLD_S=0)
        for step in steps:
            program = (str(harness.ending_daemon.__file__), step)
            ending = Daemon(tmp_path / "data", settings=chosen, program=program)
            ending.launch()
            assert ending.process is not None
            assert ending.process.wait(30) == -signal.SIGKILL, f"{step}\n{ending.log_tail()}"
        with Daemon(tmp_path / "data", settings=chosen) as daemon, Client(daemon.socket_path) as client:
            assert changed(client)["serving"]["model"] == server.model
            assert_found(client)
    assert sent(second) <= 2 * ROWS
    assert sent(first) <= 2 * ROWS

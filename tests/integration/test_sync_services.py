"""The outbox worker with an embedding service behind it: an outage costs nothing, one bad text costs one row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.embedding_server import EmbeddingServer, Kind
from harness.outbox_bench import NOW_MS, Bench, make_bench

from nexusd.clock import SystemClock
from nexusd.config_sections import EmbeddingConfig
from nexusd.embedding.http_embedder import HttpEmbedder
from nexusd.model.outbox import ListOutbox, OutboxRow
from nexusd.store.embeddings import select_vectors
from nexusd.store.outbox import list_outbox, retry_dead

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["service", "single", "ollama", "openai"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[EmbeddingServer]:
    async with EmbeddingServer(request.param) as server:
        yield server


def embedder_of(server: EmbeddingServer, **more: Any) -> HttpEmbedder:
    kind: Kind = server.kind
    provider: Any = "service" if kind == "single" else kind
    settings = {"provider": provider, "url": server.url, "model": "fake", "dimension": 32, **more}
    return HttpEmbedder(EmbeddingConfig(**settings), SystemClock(), watch_interval_s=0.05)


async def until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not met():
            await asyncio.sleep(0)


async def outbox(bench: Bench) -> list[OutboxRow]:
    return list((await bench.store.read(list_outbox, ListOutbox())).items)


async def test_of_64_rows_with_one_bad_text_63_get_through_and_one_is_a_dead_letter(
    server: EmbeddingServer, tmp_path: Path
) -> None:
    server.poison.add("poison")
    async with make_bench(tmp_path, embedder=embedder_of(server)) as bench:
        rows = [await bench.add("poison" if n == 40 else f"text {n}") for n in range(64)]
        bench.start()
        await bench.drained()
        assert set(bench.held) == set(rows) - {rows[40]}
        (dead,) = await outbox(bench)
        assert (dead.row_id, dead.state, dead.error_kind) == (rows[40], "dead", "bad_content")
        assert "HTTP 400" in (dead.error or "")
        assert bench.worker.status().embedder == "closed"
        server.poison.clear()
        await bench.store.write(retry_dead, [], NOW_MS)
        await bench.drained()
        assert bench.held == await bench.rows()
        await bench.stop()
        await bench.embedder.close()


@pytest.mark.parametrize(
    "fault", ["500", "503", "429", "401", "404", "400", "html", "cut", "reset", "count", "dimension", "hang"]
)
async def test_an_outage_of_any_kind_costs_no_attempt_and_stores_nothing(tmp_path: Path, fault: str) -> None:
    async with EmbeddingServer("ollama") as server:
        server.fault = fault
        embedder = embedder_of(server, timeout_s=0.2)
        async with make_bench(tmp_path, embedder=embedder) as bench:
            rows = [await bench.add(f"text {n}") for n in range(5)]
            bench.start()
            await until(lambda: bench.worker.embedder_breaker.failures >= 3)
            for row in await outbox(bench):
                assert (row.state in {"pending", "inflight"}, row.attempts, row.error) == (True, 0, None)
            model = embedder.fingerprint.short
            assert await bench.store.read(select_vectors, "episodes", rows, model) == {}
            assert bench.held == {}
            server.fault = ""
            await bench.drained()
            assert bench.held == await bench.rows()
            await bench.stop()
            await embedder.close()


@pytest.mark.parametrize("flaw", ["nan", "inf", "null", "zero", "empty"])
async def test_a_vector_that_is_none_is_never_stored(tmp_path: Path, flaw: str) -> None:
    async with EmbeddingServer("service") as server:
        server.flawed, server.flaw = {"odd"}, flaw
        embedder = embedder_of(server)
        async with make_bench(tmp_path, embedder=embedder) as bench:
            rows = [await bench.add(text) for text in ("one", "odd", "two")]
            bench.start()
            await bench.drained()
            assert set(bench.held) == {rows[0], rows[2]}
            stored = await bench.store.read(select_vectors, "episodes", rows, embedder.fingerprint.short)
            assert set(stored) == {rows[0], rows[2]}
            (dead,) = await outbox(bench)
            assert (dead.row_id, dead.error_kind, dead.attempts) == (rows[1], "bad_content", 1)
            await bench.stop()
            await embedder.close()


async def test_a_text_over_which_the_service_fails_is_buried_alone_after_its_attempts(tmp_path: Path) -> None:
    async with EmbeddingServer("ollama") as server:
        server.crashing.add("deadly")
        embedder = embedder_of(server)
        async with make_bench(tmp_path, embedder=embedder, max_attempts=3, max_backoff_s=0.11) as bench:
            rows = [await bench.add("deadly" if n == 9 else f"text {n}") for n in range(20)]
            bench.start()
            await bench.drained()
            assert set(bench.held) == set(rows) - {rows[9]}
            (dead,) = await outbox(bench)
            assert (dead.row_id, dead.state, dead.attempts) == (rows[9], "dead", 3)
            await bench.stop()
            await embedder.close()


async def test_the_worker_waits_as_long_as_the_service_asks(tmp_path: Path) -> None:
    async with EmbeddingServer("openai") as server:
        server.fault, server.retry_after = "429", "3600"
        embedder = embedder_of(server)
        async with make_bench(tmp_path, embedder=embedder, max_backoff_s=0.2) as bench:
            await bench.add("tea")
            bench.start()
            await until(lambda: bench.worker.embedder_breaker.failures > 0)
            assert 3500 < bench.worker.embedder_breaker.pause_left_s <= 3600
            server.fault = ""
            await bench.add("coffee")
            assert (await bench.worker.wait_for(None, [], 0.5)).pending == 2
            assert server.requests == []
            await bench.stop()
            await embedder.close()

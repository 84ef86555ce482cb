"""Both rerankers for real: a model of a few hundred bytes in its child process, and a service on a socket."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from fakes.closing import close_port
from fakes.onnx_files import write_model_directory

from nexusd.clock import SystemClock
from nexusd.config_sections import RerankConfig
from nexusd.embedding.reranker import Reranker, RerankerUnavailable, make_reranker

pytestmark = pytest.mark.anyio

# the last piece of the pair is the text's, and its vector's last number the score
WORDS = {"q": [0.0, 0.0], "low": [0.0, 1.0], "high": [0.0, 3.0], "middle": [0.0, 2.0]}


async def scores(reranker: Reranker, texts: list[str]) -> list[float]:
    """The scores, as soon as the model is loaded."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await reranker.score("q", texts)
            except RerankerUnavailable as error:
                if "loaded" not in str(error) or "cannot" in str(error):
                    raise
                await asyncio.sleep(0)


async def local(directory: Path) -> Reranker:
    reranker = make_reranker(RerankConfig(provider="onnx", model=str(directory)), SystemClock())
    assert reranker is not None
    await reranker.start()
    return reranker


async def test_model_of_a_directory_scores_pairs_in_its_child_process(tmp_path: Path) -> None:
    reranker = await local(write_model_directory(tmp_path / "model", WORDS))
    try:
        assert reranker.health().state == "loading"
        assert await scores(reranker, ["low", "high", "middle"]) == [1.0, 3.0, 2.0]
        assert await scores(reranker, []) == []
        health = reranker.health()
        assert (health.state, health.restarts, len(health.process_ids)) == ("ready", 0, 1)
    finally:
        await reranker.close()


async def test_process_that_died_is_told_and_started_again(tmp_path: Path) -> None:
    reranker = await local(write_model_directory(tmp_path / "model", WORDS))
    try:
        await scores(reranker, ["low"])
        (process_id,) = reranker.health().process_ids
        os.kill(process_id, signal.SIGKILL)
        with pytest.raises(RerankerUnavailable):
            await reranker.score("q", ["low"])
        while (state := reranker.health().state) == "ready":
            await asyncio.sleep(0)
        assert state == "unavailable"  # and not loading, from the very moment on
        async with asyncio.timeout(30):
            while reranker.health().state != "ready":
                await asyncio.sleep(0.01)
        assert reranker.health().restarts == 1
    finally:
        await reranker.close()
    assert (reranker.health().state, reranker.health().detail) == ("unavailable", "stopped")


async def test_process_that_dies_while_it_loads_is_no_longer_loading(tmp_path: Path) -> None:
    reranker = await local(write_model_directory(tmp_path / "model", WORDS))
    try:
        async with asyncio.timeout(30):
            while not (process_ids := reranker.health().process_ids):
                await asyncio.sleep(0)
        assert reranker.health().state == "loading"
        os.kill(process_ids[0], signal.SIGKILL)
        async with asyncio.timeout(30):
            while reranker.health().state == "loading" and reranker.health().process_ids == process_ids:
                await asyncio.sleep(0)
        assert reranker.health().state == "unavailable"
    finally:
        await reranker.close()


async def test_directory_without_a_model_is_an_answer_and_no_crash(tmp_path: Path) -> None:
    reranker = await local(tmp_path)
    try:
        with pytest.raises(RerankerUnavailable, match="cannot be loaded"):
            await scores(reranker, ["low"])
        assert reranker.health().state == "unavailable"
        assert str(tmp_path) in reranker.health().detail
    finally:
        await reranker.close()


async def test_reranker_that_is_off_is_none() -> None:
    assert make_reranker(RerankConfig(), SystemClock()) is None


async def ask_service(answer: bytes, status: str = "200 OK") -> tuple[list[float], dict[str, Any], str]:
    """What a reranker makes of a service's answer; what the service was asked, and its headers."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        asked.extend([head, await reader.readexactly(length)])
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(answer)}\r\n\r\n".encode() + answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    config = RerankConfig(provider="http", url=f"http://127.0.0.1:{port}/rerank", model="m", api_key="secret")
    reranker = make_reranker(config, SystemClock())
    assert reranker is not None
    try:
        found = await reranker.score("q", ["one", "two"])
        assert reranker.health().state == "ready"
    finally:
        await reranker.close()
        await close_port(server)
        await server.wait_closed()
    return found, json.loads(asked[1]), asked[0].decode()


async def test_service_is_asked_in_the_usual_form_and_its_order_does_not_matter() -> None:
    answer = {"results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}], "id": "x"}
    found, asked, head = await ask_service(json.dumps(answer).encode())
    assert found == [0.1, 0.9]
    assert asked == {"query": "q", "documents": ["one", "two"], "model": "m"}
    assert "authorization: Bearer secret" in head


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"{}", "200 OK"),
        (b"not json", "200 OK"),
        (b'{"results": [{"index": 0, "relevance_score": 1.0}]}', "200 OK"),
        (b'{"results": [{"index": 0, "relevance_score": 1.0}, {"index": 7, "relevance_score": 1.0}]}', "200 OK"),
        (b"x" * 2_000_000, "200 OK"),
        (b"q one two", "500 Oh"),
    ],
)
async def test_service_that_answers_anything_else_is_unavailable_and_not_repeated(answer: bytes, status: str) -> None:
    with pytest.raises(RerankerUnavailable) as error:
        await ask_service(answer, status)
    assert "two" not in str(error.value)


async def test_service_that_is_not_there_is_unavailable() -> None:
    reranker = make_reranker(RerankConfig(provider="http", url="http://127.0.0.1:9/rerank"), SystemClock())
    assert reranker is not None
    assert reranker.health().state == "idle"
    with pytest.raises(RerankerUnavailable):
        await reranker.score("q", ["one"])
    assert reranker.health().state == "unavailable"
    assert "cannot be asked" in reranker.health().detail
    await reranker.close()

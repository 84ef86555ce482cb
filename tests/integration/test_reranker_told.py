"""What the daemon tells of its reranker: status, health, metrics and doctor, over a service that is there or not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fakes.closing import close_port
from fakes.embedder import FakeEmbedder
from fakes.index import FakeIndex
from harness.whole_daemon import SETTINGS, WholeDaemon, whole_daemon

pytestmark = pytest.mark.anyio


class Service:
    """A rerank service. `answers` is the status that it answers with; `gate`: nothing before it opens."""

    def __init__(self) -> None:
        self.answers = 200
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        asked = json.loads(await reader.readexactly(length))
        await self.gate.wait()
        results = [{"index": n, "relevance_score": 0.5} for n in range(len(asked["documents"]))]
        body = json.dumps({"results": results}).encode()
        head = f"HTTP/1.1 {self.answers} X\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
        writer.write(head + body)
        await writer.drain()
        writer.close()


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    server = await asyncio.start_server(service.serve, "127.0.0.1", 0)
    service.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield service
    service.gate.set()
    await close_port(server)


@pytest.fixture
async def daemon(tmp_path: Path, service: Service) -> AsyncIterator[WholeDaemon]:
    settings = {
        **SETTINGS, "NEXUSD_SEARCH__RERANK__PROVIDER": "http", "NEXUSD_SEARCH__RERANK__URL": f"{service.url}/rerank",
        "NEXUSD_SEARCH__RERANK__API_KEY": "a-secret", "NEXUSD_SEARCH__RERANK__MODEL": "judge",
        "NEXUSD_SEARCH__RERANK__DEADLINE_MS": "200",
    }  # fmt: skip
    async with whole_daemon(tmp_path / "data", embedder=FakeEmbedder(), index=FakeIndex(), environ=settings) as daemon:
        session = await daemon.get("sessions.create", externalId="s")
        await daemon.get("episodes.create", sessionId=session["id"], userMessage="a heron", aiResponse="")
        await daemon.drained()
        yield daemon


async def told(daemon: WholeDaemon) -> tuple[dict[str, Any], list[str], dict[str, Any]]:
    """What the status, the reasons of health and the doctor say of it; none of them has the key."""
    status, health = await daemon.get("system.status"), await daemon.get("health")
    (check,) = [one for one in (await daemon.get("system.check"))["checks"] if one["check"] == "reranker"]
    assert "a-secret" not in json.dumps([status, health, check])
    return status["reranker"], [reason for reason in health["reasons"] if "reranker" in reason], check


async def test_reranker_that_answers_is_ready_in_every_place(daemon: WholeDaemon) -> None:
    await daemon.get("memory.search", query="heron")
    status, reasons, check = await told(daemon)
    expected = {
        "provider": "http", "model": "judge", "state": "ready", "detail": "", "restarts": 0, "deadlineMs": 200,
        "calls": 1, "inTime": 1, "late": 0, "failed": 0, "lastFailure": None, "lastFailureAt": None,
    }  # fmt: skip
    assert status == expected
    assert reasons == []
    assert check["state"] == "ok"
    assert "in time for 1 of 1 searches" in check["says"]
    figures = await daemon.figures()
    assert 'nexusd_reranker_state{state="ready"} 1.0' in figures
    assert 'nexusd_rerankings_total{outcome="in_time"} 1.0' in figures
    assert "nexusd_reranker_last_failure" not in figures


async def test_reranker_that_is_away_is_told_with_what_it_means_and_what_to_do(
    daemon: WholeDaemon, service: Service
) -> None:
    service.answers = 503
    await daemon.get("memory.search", query="heron")
    status, reasons, check = await told(daemon)
    assert (status["state"], status["failed"], status["lastFailure"]) == (
        "unavailable", 1, "the rerank service answers 503",
    )  # fmt: skip
    assert reasons == ["reranker: the rerank service answers 503; hits come in the first order"]
    assert (check["state"], check["advice"]) == (
        "problem", f"See whether that service runs: curl -sS {service.url}",
    )  # fmt: skip
    figures = await daemon.figures()
    assert 'nexusd_reranker_state{state="unavailable"} 1.0' in figures
    assert 'nexusd_rerankings_total{outcome="failed"} 1.0' in figures
    assert "nexusd_reranker_last_failure_timestamp_seconds " in figures
    service.answers = 200
    await daemon.get("memory.search", query="heron again")
    status, reasons, check = await told(daemon)
    assert (status["state"], status["lastFailure"], reasons, check["state"]) == (
        "ready", "the rerank service answers 503", [], "ok",
    )  # fmt: skip


async def test_reranker_that_is_slow_is_told_by_the_doctor(daemon: WholeDaemon, service: Service) -> None:
    service.gate.clear()
    asked = asyncio.create_task(told(daemon))
    asyncio.get_running_loop().call_later(0.3, service.gate.set)
    check = (await asked)[2]
    assert check["state"] == "warning"
    assert "deadlineMs" in check["advice"]


async def test_reranker_that_is_late_again_and_again_is_told(
    daemon: WholeDaemon, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexusd.retrieval.second_stage.ALWAYS_LATE", 2)
    service.gate.clear()
    for n in range(2):
        assert (await daemon.get("health"))["reasons"] == []
        await daemon.get("memory.search", query=f"heron {n}")
    health, status = await daemon.get("health"), (await daemon.get("system.status"))["reranker"]
    assert (health["status"], health["writes"]) == ("degraded", True)
    assert health["reasons"] == [
        "reranker: no search had its answer within 200 ms lately; hits come in the first order"
    ]
    assert (status["state"], status["late"], status["inTime"]) == ("late", 2, 0)
    service.gate.set()
    await daemon.get("memory.search", query="heron")
    assert (await daemon.get("health"))["reasons"] == []


async def test_daemon_without_a_reranker_says_nothing_of_one(tmp_path: Path) -> None:
    async with whole_daemon(tmp_path / "data", embedder=FakeEmbedder(), index=FakeIndex()) as daemon:
        assert (await daemon.get("system.status"))["reranker"] is None
        assert "reranker" not in [one["check"] for one in (await daemon.get("system.check"))["checks"]]
        assert "rerank" not in await daemon.figures()

"""What happens between two steps of something else, in the whole daemon."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from fakes.embedder import FakeEmbedder
from fakes.index import FakeIndex
from harness.whole_daemon import whole_daemon

pytestmark = pytest.mark.anyio

OWN = [1.0] + [0.0] * 31


async def test_a_callers_vector_stays_when_that_of_an_older_text_comes_late(tmp_path: Path) -> None:
    embedder = FakeEmbedder()
    async with whole_daemon(tmp_path / "data", embedder=embedder, index=FakeIndex()) as daemon:
        await daemon.get("sessions.create", externalId="s")
        await daemon.drained()
        gate = embedder.gate = asyncio.Event()
        await daemon.get("episodes.create", sessionId=1, userMessage="before", aiResponse="")
        while not embedder.document_calls:
            await asyncio.sleep(0)
        await daemon.get("episodes.update", id=1, userMessage="after")
        await daemon.get("semantic.upsert", collection="episodes", id=1, vector=OWN, timeoutMs=1)
        embedder.gate = None
        gate.set()
        await daemon.drained()
        (hit,) = (await daemon.get("semantic.search", collection="episodes", vector=OWN))["items"]
        assert hit["score"] == pytest.approx(1.0)
        assert len(embedder.document_calls) == 1

"""Damage of every kind on the real index and on a server: found, mended, and gone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fakes.qdrant_server import FakeQdrant
from harness.outbox_bench import Bench, make_bench
from harness.verifying import DAMAGES, verifying

from nexusd.clock import SystemClock
from nexusd.config_sections import IndexConfig
from nexusd.index.embedded import EmbeddedIndex
from nexusd.index.index import Index
from nexusd.index.server import ServerIndex
from nexusd.sync import walk

pytestmark = pytest.mark.anyio
ROWS = 120


@asynccontextmanager
async def started(backend: str, directory: Path) -> AsyncIterator[Index]:
    fake = FakeQdrant()
    index: Index
    if backend == "embedded":
        index = EmbeddedIndex(directory / "index", IndexConfig(), SystemClock())
    else:
        await fake.start()
        index = ServerIndex(IndexConfig(backend="server", url=fake.url), SystemClock())
    await index.start()
    try:
        yield index
    finally:
        await index.close()
        await fake.stop()


@pytest.fixture(params=["embedded", "server"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with started(request.param, tmp_path) as index:
        stand_in: Any = index
        async with make_bench(tmp_path, index=stand_in) as made:
            for n in range(ROWS):
                await made.add(f"text {n}")
            made.start()
            await made.drained()
            yield made


async def held(bench: Bench) -> dict[int, int]:
    """What the index holds of the exchanges: versions by id."""
    points = await bench.index.scroll(bench.collections.physical("episodes"), -1, 10 * ROWS)
    assert len({point.id for point in points}) == len(points)
    return {point.id: point.version for point in points}


async def test_every_kind_of_damage_at_once_is_mended(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "SLICE_ROWS", 25)
    chance = random.Random(5)
    async with verifying(bench) as run:
        assert (await run.verify()).agrees
        calls = len(bench.embedder.document_calls)
        embeddings = 0
        kinds = set()
        for name, (inflict, kind, each_embeds) in DAMAGES.items():
            if name == "full text is empty":
                continue  # nothing could be taken out of it any more
            for row_id in chance.sample(range(1, ROWS + 1), 3):
                await inflict(bench, row_id)
            embeddings += each_embeds
            kinds |= {kind} - {""}
        found = next(each for each in (await run.verify()).collections if each.collection == "episodes")
        assert set(found.examples) == kinds
        assert found.full_text is not None
        assert found.full_text.sound is False
        repaired = await run.repair()
        assert repaired.mended is not None
        assert repaired.mended.full_text_rebuilt == ["episodes"]
        await bench.drained()
        report = await run.verify()
        assert report.agrees, report
        assert await held(bench) == await bench.rows()
        texts = [text for call in bench.embedder.document_calls[calls:] for text in call if text.startswith("User: ")]
        assert len(texts) == len(set(texts)) <= 3 * embeddings


async def test_an_index_that_lost_everything_is_filled_without_one_embedding(bench: Bench) -> None:
    calls = len(bench.embedder.document_calls)
    await bench.index.delete(bench.collections.physical("episodes"), list(range(1, ROWS + 1)))
    async with verifying(bench) as run:
        repaired = await run.repair()
        assert repaired.mended is not None
        assert repaired.mended.upserts_queued == ROWS
        await bench.drained()
    assert await held(bench) == await bench.rows()
    assert len(bench.embedder.document_calls) == calls


async def test_what_somebody_else_puts_into_the_collection_on_a_server_is_found(tmp_path: Path) -> None:
    from qdrant_client import models  # noqa: PLC0415  only this test asks the server for itself

    fake = FakeQdrant()
    await fake.start()
    index: Any = ServerIndex(IndexConfig(backend="server", url=fake.url), SystemClock())
    await index.start()
    async with make_bench(tmp_path, index=index) as bench, verifying(bench) as run:
        ids = [await bench.add(f"text {n}") for n in range(5)]
        bench.start()
        await bench.drained()
        name = f"nexusd-{bench.collections.physical('episodes')}"
        points = [models.PointStruct(id=id_, vector=[1.0] * 32, payload={"a": 1}) for id_ in (0, ids[2], 99)]
        await fake._local.upsert(name, points)
        found = next(each for each in (await run.verify("episodes")).collections)
        assert found.examples == {"stale": [ids[2]], "orphaned": [0, 99]}
        await run.repair("episodes")
        await bench.drained()
        assert (await run.verify("episodes")).agrees
        assert await held(bench) == await bench.rows()
    await index.close()
    await fake.stop()


async def test_a_server_that_goes_away_in_the_middle_fails_the_job_alone(tmp_path: Path) -> None:
    fake = FakeQdrant()
    await fake.start()
    config = IndexConfig(backend="server", url=fake.url, check_interval_s=0.1, call_timeout_s=1)
    index: Any = ServerIndex(config, SystemClock())
    await index.start()
    async with make_bench(tmp_path, index=index) as bench, verifying(bench) as run:
        await bench.add("text")
        bench.start()
        await bench.drained()
        fake.stalled = {"scroll"}
        report = await run.verifier.check("verify", [], 60)
        assert report.state == "failed"
        assert report.error == "no answer within 1 s"
        fake.stalled = set()
        async with asyncio.timeout(30):
            while not (await run.verifier.check("verify", [], 60)).agrees:
                await asyncio.sleep(0)
    await index.close()
    await fake.stop()

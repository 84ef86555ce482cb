from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from harness.remembering import empty_memory

from nexusd.clock import SystemClock
from nexusd.embedding.reranker import RerankerHealth, RerankerUnavailable
from nexusd.retrieval.second_stage import ALWAYS_LATE, SecondStage

pytestmark = pytest.mark.anyio


class FakeReranker:
    """Longer texts fit better. `gate`: nothing is answered before it opens."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []
        self.gate: asyncio.Event | None = None
        self.away = False

    async def start(self) -> None:
        pass

    def health(self) -> RerankerHealth:
        return RerankerHealth("ready", "")

    async def close(self) -> None:
        pass

    async def score(self, query: str, texts: Sequence[str]) -> list[float]:
        self.asked.append((query, list(texts)))
        if self.gate is not None:
            await self.gate.wait()
        if self.away:
            raise RerankerUnavailable("away")
        return [float(len(text)) for text in texts]


async def test_best_hits_come_in_the_rerankers_order_and_say_so(tmp_path: Path) -> None:
    reranker = FakeReranker()
    stage = SecondStage(reranker, SystemClock(), candidates=3, deadline_s=5)
    async with empty_memory(tmp_path, second=stage) as memory:
        short = await memory.remember("a heron", session="a")
        long = await memory.remember("a heron that is told of at great length", session="b")
        other = await memory.remember("a heron of some kind", session="c")
        hits = await memory.find("heron", limit=2, explain=True)
        assert [hit.id for hit in hits.items] == [long.id, other.id]
        assert hits.degraded == []
        assert all(hit.explain is not None and hit.explain.reranked == hit.score for hit in hits.items)
        assert [(query, len(texts)) for query, texts in reranker.asked] == [("heron", 3)]
        assert short.id not in [hit.id for hit in hits.items]


@pytest.mark.parametrize("trouble", ["late", "away"])
async def test_reranker_that_is_late_or_away_leaves_the_first_order_and_is_named(tmp_path: Path, trouble: str) -> None:
    reranker = FakeReranker()
    if trouble == "late":
        reranker.gate = asyncio.Event()
    reranker.away = trouble == "away"
    stage = SecondStage(reranker, SystemClock(), candidates=20, deadline_s=0.05)
    async with empty_memory(tmp_path, second=stage) as memory:
        first = await memory.remember("a heron", session="a")
        long = await memory.remember("much of other things and also of a heron, at great length", session="b")
        hits = await asyncio.wait_for(memory.find("heron", mode="keyword"), 5)
        assert [hit.id for hit in hits.items] == [first.id, long.id]
        assert hits.degraded == ["reranker"]
        assert await memory.found("nothing of that", mode="keyword") == []


async def test_filters_and_limit_hold_behind_a_reranker(tmp_path: Path) -> None:
    stage = SecondStage(FakeReranker(), SystemClock(), candidates=2, deadline_s=5)
    async with empty_memory(tmp_path, second=stage) as memory:
        ids = [(await memory.remember(f"heron {n}", session=f"s{n}")).id for n in range(8)]
        assert sorted(await memory.found("heron", limit=8)) == ids
        assert len(await memory.found("heron", limit=1)) == 1


async def test_what_became_of_searches_is_counted_and_one_that_is_always_late_is_known(tmp_path: Path) -> None:
    reranker = FakeReranker()
    stage = SecondStage(reranker, SystemClock(), candidates=3, deadline_s=0.02)
    async with empty_memory(tmp_path, second=stage) as memory:
        await memory.remember("a heron")
        assert await memory.found("nothing of that", mode="keyword") == []      # nothing to reorder
        await memory.find("heron", mode="keyword")
        reranker.gate = asyncio.Event()
        for n in range(1, ALWAYS_LATE + 1):
            assert not stage.always_late
            await memory.find("heron", mode="keyword")
            assert (stage.in_time, stage.late, stage.failed) == (1, n, 0)
        assert stage.always_late
        assert stage.last_failure is None
        reranker.gate, reranker.away = None, True
        await memory.find("heron", mode="keyword")
        assert (stage.in_time, stage.late, stage.failed) == (1, ALWAYS_LATE, 1)
        assert not stage.always_late
        assert stage.last_failure is not None
        assert stage.last_failure.detail == "away"

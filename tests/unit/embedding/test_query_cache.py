from __future__ import annotations

import asyncio
import gc

import pytest

from nexusd.embedding.query_cache import QueryCache
from nexusd.errors import EmbedderUnavailable

pytestmark = pytest.mark.anyio


class Model:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go = asyncio.Event()
        self.begun = asyncio.Event()
        self.broken = False

    async def compute(self, text: str) -> bytes:
        self.asked.append(text)
        self.begun.set()
        await self.go.wait()
        if self.broken:
            raise EmbedderUnavailable
        return text.encode()


async def test_a_repeated_query_asks_the_model_once() -> None:
    model = Model()
    model.go.set()
    cache = QueryCache(8, model.compute)
    assert [await cache.get("hello") for _ in range(3)] == [b"hello"] * 3
    assert model.asked == ["hello"]
    assert (cache.hits, cache.misses) == (2, 1)


async def test_equal_queries_at_the_same_time_are_computed_once() -> None:
    model = Model()
    cache = QueryCache(0, model.compute)
    callers = [asyncio.create_task(cache.get("hello")) for _ in range(5)]
    await model.begun.wait()
    model.go.set()
    assert await asyncio.gather(*callers) == [b"hello"] * 5
    assert model.asked == ["hello"]
    assert (cache.hits, cache.misses) == (4, 1)


async def test_the_least_recently_used_goes_first() -> None:
    model = Model()
    model.go.set()
    cache = QueryCache(2, model.compute)
    for text in ("a", "b", "a", "c", "a", "b"):
        await cache.get(text)
    assert model.asked == ["a", "b", "c", "b"]
    assert len(cache) == 2


async def test_no_entries_keeps_nothing() -> None:
    model = Model()
    model.go.set()
    cache = QueryCache(0, model.compute)
    await cache.get("a")
    await cache.get("a")
    assert model.asked == ["a", "a"]
    assert len(cache) == 0


async def test_a_failure_is_told_to_all_who_wait_and_not_remembered() -> None:
    model = Model()
    model.broken = True
    cache = QueryCache(8, model.compute)
    callers = [asyncio.create_task(cache.get("hello")) for _ in range(2)]
    await model.begun.wait()
    model.go.set()
    answers = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(answer) for answer in answers] == [EmbedderUnavailable] * 2
    model.broken = False
    assert await cache.get("hello") == b"hello"


async def test_a_caller_who_goes_away_does_not_take_the_vector_from_the_others() -> None:
    model = Model()
    cache = QueryCache(8, model.compute)
    leaving, staying = (asyncio.create_task(cache.get("hello")) for _ in range(2))
    await model.begun.wait()
    leaving.cancel()
    model.go.set()
    assert await staying == b"hello"
    assert leaving.cancelled()


async def test_a_failure_that_nobody_waits_for_makes_no_noise() -> None:
    """An exception that no one retrieves would reach the loop's handler when its task is collected."""
    noise: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    model = Model()
    model.broken = True
    cache = QueryCache(8, model.compute)
    leaving = asyncio.create_task(cache.get("hello"))
    await model.begun.wait()
    leaving.cancel()
    await asyncio.wait([leaving])
    under_way = [task for task in asyncio.all_tasks() if task.get_name() == "embedding:query"]
    assert len(under_way) == 1
    model.go.set()
    await asyncio.wait(under_way)
    del leaving, under_way
    gc.collect()
    asyncio.get_running_loop().set_exception_handler(None)
    assert noise == []
    assert len(cache) == 0

"""Whatever a server carries out late, in the end it holds what was acknowledged last."""

from __future__ import annotations

import asyncio
import random
from array import array
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest
from harness.server_index import InMemoryClient, in_memory_index
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from qdrant_client import models
from qdrant_client.http.exceptions import UnexpectedResponse

from nexusd.config_sections import IndexConfig
from nexusd.errors import IndexUnavailable
from nexusd.index.index import CollectionSpec, Point
from nexusd.index.server import ServerIndex

pytestmark = pytest.mark.anyio

SPEC = CollectionSpec("episodes", 2)
IDS = st.sets(st.integers(1, 4), min_size=1, max_size=3)
# what is done, to which points, how often it gets lost on the way before it is answered, and whether the daemon
# starts anew after it
STEPS = st.lists(
    st.tuples(st.sampled_from(["upsert", "delete"]), IDS, st.integers(0, 2), st.booleans()), min_size=1, max_size=8
)


class LateClient(InMemoryClient):
    """Loses the next so many writes on the way; they arrive when they are let go, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.losing = 0
        self.lost: list[Callable[[], Any]] = []

    async def upsert(self, *args: Any, **kwargs: Any) -> models.UpdateResult:
        """Store points, or lose them."""
        return await self._write(lambda: super(LateClient, self).upsert(*args, **kwargs))

    async def delete(self, *args: Any, **kwargs: Any) -> models.UpdateResult:
        """Remove points, or lose that."""
        return await self._write(lambda: super(LateClient, self).delete(*args, **kwargs))

    async def _write(self, work: Callable[[], Any]) -> models.UpdateResult:
        if self.losing:
            self.losing -= 1
            self.lost.append(work)
            raise UnexpectedResponse(500, "Internal Server Error", b"lost on the way", httpx.Headers())
        result: models.UpdateResult = await work()
        return result


def opened(client: LateClient) -> ServerIndex:
    return in_memory_index(client, IndexConfig(backend="server", check_interval_s=0.1))


async def insist(call: Callable[[], Any]) -> None:
    """As the outbox does: until it is acknowledged."""
    async with asyncio.timeout(60):
        while True:
            try:
                await call()
            except IndexUnavailable:
                await asyncio.sleep(0.001)
            else:
                return


async def held(index: ServerIndex) -> dict[int, int]:
    return {each.id: each.version for each in await index.scroll(SPEC.name, 0, 100)}


# no shrinking: each failing example waits for what does not come
@settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(steps=STEPS, seed=st.integers(0, 2**32))
async def test_in_the_end_the_server_holds_what_was_acknowledged_last(
    steps: list[tuple[str, set[int], int, bool]], seed: int
) -> None:
    client = LateClient()
    index = opened(client)
    await index.start()
    await insist(partial(index.ensure, SPEC))
    expected: dict[int, int] = {}
    restarted_after_loss = False
    try:
        for version, (what, ids, losses, restart) in enumerate(steps, start=1):
            client.losing = losses
            if what == "upsert":
                vector = array("f", [1.0, float(version)]).tobytes()
                points = [Point(id_, version, vector, {}) for id_ in sorted(ids)]
                await insist(partial(index.upsert, SPEC.name, points))
                expected.update(dict.fromkeys(ids, version))
            else:
                await insist(partial(index.delete, SPEC.name, sorted(ids)))
                expected = {id_: each for id_, each in expected.items() if id_ not in ids}
            assert await held(index) == expected
            if restart:
                restarted_after_loss |= bool(client.lost)
                await index.close()
                index = opened(client)
                await index.start()
                await insist(partial(index.ensure, SPEC))
        random.Random(seed).shuffle(client.lost)
        for work in client.lost:
            await work()
        if restarted_after_loss:  # which removed points were in doubt is forgotten then: the comparison finds them
            now = await held(index)
            assert {id_: version for id_, version in now.items() if id_ in expected} == expected
        else:
            async with asyncio.timeout(20):
                while await held(index) != expected:
                    await asyncio.sleep(0.02)
    finally:
        await index.close()

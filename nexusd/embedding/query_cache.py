"""The vectors of recent search queries, and of those being computed.

Owns the least-recently-used order and the rule that equal queries at the same time are computed once.
Knows no model.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from nexusd.embedding.embedder import Vector


class QueryCache:
    """At most `entries` vectors; 0 keeps none, and still joins equal queries under way.

    `hits` counts the queries that were answered without computing anything for them, `misses` the others.
    """

    def __init__(self, entries: int, compute: Callable[[str], Awaitable[Vector]]) -> None:
        self.hits = 0
        self.misses = 0
        self._entries = entries
        self._compute = compute
        self._vectors: OrderedDict[str, Vector] = OrderedDict()
        self._under_way: dict[str, asyncio.Task[Vector]] = {}

    def __len__(self) -> int:
        return len(self._vectors)

    async def get(self, text: str) -> Vector:
        """The vector of `text`; raises what computing it raises, and remembers no failure."""
        if (vector := self._vectors.get(text)) is not None:
            self._vectors.move_to_end(text)
            self.hits += 1
            return vector
        task = self._under_way.get(text)
        if task is not None:
            self.hits += 1  # the one under way answers both
        else:
            self.misses += 1
            task = asyncio.create_task(self._fill(text), name="embedding:query")
            self._under_way[text] = task
            task.add_done_callback(lambda done: self._finished(text, done))
        # waited for, not awaited: a caller that goes away must not take the vector from the others
        await asyncio.wait([task])
        return task.result()

    async def close(self) -> None:
        """Wait for what is under way, which the model's end has made short."""
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    async def _fill(self, text: str) -> Vector:
        vector = await self._compute(text)
        if self._entries:
            self._vectors[text] = vector
            if len(self._vectors) > self._entries:
                self._vectors.popitem(last=False)
        return vector

    def _finished(self, text: str, task: asyncio.Task[Vector]) -> None:
        del self._under_way[text]
        if not task.cancelled():
            task.exception()  # seen: where every caller went away, nobody else looks at it

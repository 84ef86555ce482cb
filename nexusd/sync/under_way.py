"""Claims on their way to the index: a few at a time, none waited for longer than it has to be.

Owns the tasks that send them, which rows are in them, and how many there may be. Knows neither what sending is nor
what a row is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine

# One is at the index while the one before is struck off; more would wait for the same index.
MAX_CLAIMS = 2


class UnderWay:
    """What was claimed and is being sent, oldest first."""

    def __init__(self, ended: Callable[[], None]) -> None:
        """`ended` is told whenever one has come to its end, whichever that is."""
        self._ended = ended
        self._claims: deque[tuple[asyncio.Task[None], frozenset[int]]] = deque()

    def __bool__(self) -> bool:
        return bool(self._claims)

    @property
    def seqs(self) -> frozenset[int]:
        """The rows of all of them, by their numbers."""
        return frozenset().union(*(seqs for _, seqs in self._claims))

    async def begin(self, send: Callable[[], Coroutine[None, None, None]], seqs: frozenset[int]) -> None:
        """Send a claim as soon as there is room for one more; raises what one before it has failed with."""
        await self._down_to(MAX_CLAIMS - 1)
        task = asyncio.create_task(send(), name="outbox:send")
        task.add_done_callback(lambda _: self._ended())
        self._claims.append((task, seqs))

    async def look(self) -> None:
        """Forget those that have ended; raises what one of them has failed with."""
        while self._claims and self._claims[0][0].done():
            await self._down_to(len(self._claims) - 1)

    async def all_ended(self) -> None:
        """Until nothing is under way; raises what one of them has failed with."""
        await self._down_to(0)

    async def quiet(self) -> None:
        """Until nothing runs; how each ended is for who calls `look` to learn."""
        if self._claims:
            await asyncio.wait([task for task, _ in self._claims])

    async def abandon(self) -> None:
        """Nothing is under way any more, however it ends."""
        tasks = [task for task, _ in self._claims]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._claims.clear()

    async def _down_to(self, count: int) -> None:
        while len(self._claims) > count:
            task, _ = self._claims[0]
            try:
                await task
            finally:
                if task.done():  # and not only its waiter was cancelled
                    self._claims.popleft()

"""Callers that wait until what was deleted has left the files.

Owns the wait, over every part that keeps something on disk. Knows none of them: each brings a function that returns
when nothing of what was deleted by then is left in its files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

Erased = Callable[[], Awaitable[None]]


class Erasing:
    """The parts that erase. Without any, deletes are not secure."""

    def __init__(self, parts: Sequence[Erased]) -> None:
        self._parts = parts
        self._waits: set[asyncio.Timeout] = set()
        self._stopping = False

    @property
    def on(self) -> bool:
        """Whether deletes leave nothing behind."""
        return bool(self._parts)

    async def wait(self, timeout_s: float) -> bool:
        """Until nothing is left of what was deleted; False if the time was up, or the daemon stops."""
        try:
            async with asyncio.timeout(0 if self._stopping else timeout_s) as limit:
                self._waits.add(limit)
                try:
                    for erased in self._parts:
                        await erased()
                finally:
                    self._waits.discard(limit)
        except TimeoutError:
            return False
        return True

    def stop(self) -> None:
        """Who waits, now or later, is answered at once."""
        self._stopping = True
        for limit in self._waits:
            limit.reschedule(asyncio.get_running_loop().time())

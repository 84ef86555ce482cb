"""More time from systemd for a long start or a long stop.

Owns for how long it is asked, and how often. Asked for on the loop, so that a daemon which hangs is not waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from nexusd.clock import Clock
from nexusd.lifecycle import Notifier

LONGEST_START_S = 3600.0  # a migration of a large database on a slow disk
STOP_MARGIN_S = 40.0      # after the drains: the last checkpoint, and the end of the child processes
EXTENSION_S = 30          # asked for at a time: what hangs is ended by systemd after this at the latest
EXTENSION_PAUSE_S = 5.0   # asked again so often, so that a message may be lost


class Patience:
    """Asks for more time, again and again, up to a limit."""

    def __init__(
        self, notifier: Notifier, clock: Clock, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._sleep = sleep
        self._notifier = notifier
        self._clock = clock
        self._asking: asyncio.Task[None] | None = None

    def for_the_start(self) -> None:
        """From now until `enough`."""
        self._begin(LONGEST_START_S)

    def for_the_stop(self, drains_s: float) -> None:
        """From now until `enough`; the drains may take so long by themselves."""
        self._begin(drains_s + STOP_MARGIN_S)

    def enough(self) -> None:
        """No more time is needed."""
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    def _begin(self, limit_s: float) -> None:
        self.enough()
        if self._notifier.enabled:
            self._asking = asyncio.create_task(self._ask(limit_s), name="patience")

    async def _ask(self, limit_s: float) -> None:
        until_s = self._clock.monotonic_s() + limit_s
        while self._clock.monotonic_s() < until_s:
            self._notifier.needs(EXTENSION_S)
            await self._sleep(EXTENSION_PAUSE_S)

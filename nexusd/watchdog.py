"""Whether the daemon gets on, told to systemd before its time is up.

Owns what counts as getting on. The loop does while this runs on it; a part does while what it shows of itself
moves. Knows no part, and not whether what a part asks for (the index, an embedding service) answers: waiting for
those is getting on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from nexusd.clock import Clock
from nexusd.lifecycle import Notifier

SIGNS_IN_TIME = 4       # signs of life within systemd's time: one may be late, and one lost
LONGEST_PAUSE_S = 5.0   # between two looks at the parts, however long systemd's time is


@dataclass(frozen=True, slots=True)
class Part:
    """A part that must get on: for how long it did not, and for how long that may be."""

    name: str
    stalled_s: Callable[[], float]
    limit_s: float


class Pulse:
    """How long a number has stood still, leaving out the time in which its owner rests."""

    def __init__(self, count: Callable[[], int], resting: Callable[[], bool], clock: Clock) -> None:
        self._count = count
        self._resting = resting
        self._clock = clock
        self._last = count()
        self._moved_s = clock.monotonic_s()

    def stalled_s(self) -> float:
        """As seen by who asks every few seconds."""
        now_s, count = self._clock.monotonic_s(), self._count()
        if count != self._last or self._resting():
            self._last, self._moved_s = count, now_s
        return now_s - self._moved_s


class Watchdog:
    """Signs of life for as long as every part gets on; silence, and so a restart, where one does not."""

    def __init__(
        self,
        notifier: Notifier,
        parts: Sequence[Part],
        interval_s: float,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`interval_s` is within what time systemd wants the next sign."""
        self._notifier = notifier
        self._parts = parts
        self._sleep = sleep
        self._pause_s = min(interval_s / SIGNS_IN_TIME, LONGEST_PAUSE_S)
        self._told: set[str] = set()
        self._log = structlog.get_logger("nexusd.watchdog")

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.look()
            await self._sleep(self._pause_s)

    def look(self) -> None:
        """Give one sign of life, or say what keeps it back."""
        stalled = {part.name: part.stalled_s() for part in self._parts}
        late = {part.name for part in self._parts if stalled[part.name] > part.limit_s}
        for name in sorted(late - self._told):
            self._log.critical("a part does not get on; systemd will restart the daemon", part=name,
                               stalled_s=round(stalled[name], 1))
        self._told = late
        if not late:
            self._notifier.alive()

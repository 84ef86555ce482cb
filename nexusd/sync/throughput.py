"""How many rows a second were delivered lately.

Owns the window over which that is counted. Knows nothing of what a row is.
"""

from __future__ import annotations

from collections import deque

from nexusd.clock import Clock

WINDOW_S = 30.0


class Throughput:
    """Rows a second over the last half minute, counted only from the first delivery in it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._delivered: deque[tuple[float, int]] = deque()

    def add(self, rows: int) -> None:
        """So many rows were delivered now."""
        self._delivered.append((self._clock.monotonic_s(), rows))

    def per_second(self) -> float:
        """The rate as of now; 0 when nothing was delivered lately."""
        now_s = self._clock.monotonic_s()
        while self._delivered and self._delivered[0][0] < now_s - WINDOW_S:
            self._delivered.popleft()
        if not self._delivered:
            return 0.0
        return sum(rows for _, rows in self._delivered) / max(1.0, now_s - self._delivered[0][0])

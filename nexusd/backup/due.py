"""When the next backup is due.

Owns the reckoning with two clocks, of which one may be set. Pure: the clocks and chance are parameters, and what was
noted of the last backup comes from and goes to the caller. A wall clock that jumps makes neither many backups nor
none: a last one in the future was made before the clock was set back, and counts as now; between two there is a time
that no wall clock counts; and after `interval` of the clock that nobody sets one is due, whatever the other shows.
"""

from __future__ import annotations

import random

from nexusd.clock import Clock

AFTER_START_S = 60.0    # one that was missed is made up when the start is over,
JITTER_S = 240.0        # and not by all machines of a house at once after a power cut
JITTER_SHARE = 0.1      # of the interval, where that is short
BETWEEN_S = 3600.0
AFTER_FAILURE_S = 900.0


class Due:
    """`last_ms`: when the last good backup was made; None where nobody ever made one, which is overdue."""

    def __init__(self, clock: Clock, chance: random.Random, interval_s: float, last_ms: int | None) -> None:
        self._clock = clock
        self.last_ms = last_ms
        now_s = clock.monotonic_s()
        after_s = min(AFTER_START_S, interval_s / 2)
        self._not_before_s = now_s + after_s + chance.uniform(0, min(JITTER_S, JITTER_SHARE * interval_s))
        self._counted_s = now_s     # from here on the clock that nobody sets counts an interval

    def in_s(self, interval_s: float) -> float:
        """Seconds until the next one, as the clocks are now."""
        now_ms, now_s = self._clock.now_ms(), self._clock.monotonic_s()
        wait_s = 0.0
        if self.last_ms is not None:
            self.last_ms = min(self.last_ms, now_ms)
            wait_s = min((self.last_ms - now_ms) / 1000, self._counted_s - now_s) + interval_s
        return max(wait_s, self._not_before_s - now_s, 0.0)

    def made(self, interval_s: float) -> None:
        """One was made."""
        self.last_ms = self._clock.now_ms()
        self._counted_s = self._clock.monotonic_s()
        self._not_before_s = self._counted_s + min(BETWEEN_S, interval_s / 2)

    def failed(self, interval_s: float) -> None:
        """One was tried in vain: again, but not at once."""
        self._not_before_s = self._clock.monotonic_s() + min(AFTER_FAILURE_S, interval_s / 2)

    def lost(self) -> None:
        """There is no good one any more."""
        self.last_ms = None

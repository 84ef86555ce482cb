"""A circuit breaker: after failures, leave a sick part alone for a while, then ask it once.

Owns when the next try may be. Pure: time and chance are parameters. Knows no part by name.

The pause is full-jitter exponential backoff (Marc Brooker, "Exponential Backoff And Jitter", AWS
Architecture Blog, 2015): uniform between zero and a ceiling that doubles, up to a limit. A floor keeps
the first retries from spinning.
"""

from __future__ import annotations

import random

from nexusd.clock import Clock
from nexusd.model.outbox import BreakerReport, BreakerState

FIRST_CEILING_S = 0.5
FLOOR_S = 0.1  # a draw of nearly zero would ask a part that failed this very moment


def backoff_s(attempt: int, limit_s: float, chance: random.Random) -> float:
    """The pause after the given failure (1 is the first), in seconds."""
    ceiling = min(limit_s, FIRST_CEILING_S * 2.0 ** min(attempt - 1, 32))
    return max(FLOOR_S, chance.uniform(0.0, ceiling))


class Breaker:
    """Closed while all is well; open for a pause after a failure; half open while one try decides."""

    def __init__(self, name: str, *, max_pause_s: float, clock: Clock, chance: random.Random) -> None:
        self.name = name
        self.failures = 0
        self.last_error = ""
        self._max_pause_s = max_pause_s
        self._clock = clock
        self._chance = chance
        self._retry_at_s = 0.0

    def set_max_pause(self, seconds: float) -> None:
        """No pause is longer from now on, the present one included."""
        self._max_pause_s = seconds
        self._retry_at_s = min(self._retry_at_s, self._clock.monotonic_s() + seconds)

    @property
    def state(self) -> BreakerState:
        """As seen now: an open breaker whose pause is over is half open."""
        if self.failures == 0:
            return "closed"
        return "open" if self._clock.monotonic_s() < self._retry_at_s else "half_open"

    @property
    def pause_left_s(self) -> float:
        """Seconds until a try is allowed; 0 when it is."""
        return max(0.0, self._retry_at_s - self._clock.monotonic_s()) if self.failures else 0.0

    def report(self) -> BreakerReport:
        """As people want to see it."""
        left_s = self.pause_left_s
        return BreakerReport(
            state=self.state,
            failures=self.failures,
            last_error=self.last_error or None,
            retry_in_ms=int(left_s * 1000) if left_s > 0 else None,
        )

    def succeeded(self) -> bool:
        """Close it; true when it was not closed before."""
        recovered = self.failures > 0
        self.failures = 0
        self.last_error = ""
        return recovered

    def try_now(self) -> None:
        """End the pause: there is reason to think that the next try succeeds."""
        self._retry_at_s = self._clock.monotonic_s()

    def failed(self, reason: str, *, at_least_s: float = 0.0) -> float:
        """Open it for the next pause, which is answered in seconds; `at_least_s` is what the part itself asked for."""
        self.failures += 1
        self.last_error = reason
        pause_s = max(at_least_s, backoff_s(self.failures, self._max_pause_s, self._chance))
        self._retry_at_s = self._clock.monotonic_s() + pause_s
        return pause_s

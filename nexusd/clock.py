"""Time as a parameter, so that tests move it by hand and nothing sleeps.

`now_ms` is the wall clock, for what is stored and shown; it may jump. `monotonic_s` never goes back; every
deadline, backoff and age within one run is measured by it.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """The two clocks of the daemon."""

    def now_ms(self) -> int:
        """Milliseconds since 1970, UTC."""

    def monotonic_s(self) -> float:
        """Seconds since some moment in this run."""


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """Milliseconds since 1970, UTC."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Seconds since some moment in this run."""
        return time.monotonic()

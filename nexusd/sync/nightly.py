"""When the nightly verification is due.

Owns the reckoning with local time. Pure: the clock is a parameter, and what was noted of the last night comes from and
goes to the caller. A wall clock that jumps makes neither many runs nor none: what lies in the future was noted by a
clock that was set back since, and counts as now; and between two runs there is an hour that no wall clock counts.
"""

from __future__ import annotations

import time

from nexusd.clock import Clock

AFTER_START_S = 600.0  # a night that was missed is made up when the start is over
AFTER_FAILURE_S = 600.0
BETWEEN_S = 3600.0


class Nightly:
    """`at` is HH:MM in local time, or "" for never; `last_ms` when the last night's run was, None before the first."""

    def __init__(self, at: str, clock: Clock, last_ms: int | None) -> None:
        self._hour, self._minute = (int(part) for part in at.split(":")) if at else (0, 0)
        self._never = not at
        self._clock = clock
        # nothing was missed before the first start
        self.last_ms = clock.now_ms() if last_ms is None else last_ms
        self._not_before_s = clock.monotonic_s() + AFTER_START_S

    def due_in_s(self) -> float | None:
        """Seconds until the next run, as the clock is now; None for never."""
        if self._never:
            return None
        now_ms = self._clock.now_ms()
        self.last_ms = min(self.last_ms, now_ms)
        wait_s = 0.0
        if self.last_ms >= self._occurrence_ms(now_ms, 0):
            wait_s = (self._occurrence_ms(now_ms, 1) - now_ms) / 1000
        return max(wait_s, self._not_before_s - self._clock.monotonic_s(), 0.0)

    def ran(self, *, through: bool) -> None:
        """A run is over; `through`: to its end."""
        if through:
            self.last_ms = self._clock.now_ms()
        self._not_before_s = self._clock.monotonic_s() + (BETWEEN_S if through else AFTER_FAILURE_S)

    def _occurrence_ms(self, now_ms: int, number: int) -> int:
        """The last time of day before now or at it (0), or the first after it (1)."""
        now = time.localtime(now_ms / 1000)
        today_ms = self._on(now, 0)
        if today_ms > now_ms:
            number -= 1
        return self._on(now, number)

    def _on(self, day: time.struct_time, later: int) -> int:
        """The time of day so many days later; mktime knows the calendar, and when clocks are changed."""
        moment = (day.tm_year, day.tm_mon, day.tm_mday + later, self._hour, self._minute, 0, 0, 0, -1)
        return int(time.mktime(moment)) * 1000

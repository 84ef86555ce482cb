"""Entries in the log about requests that took long.

Owns how many there are: when everything is slow, an entry for each request would make it slower still, and push what
explains it out of the journal. What was left out is counted, and told with the next that is shown.
"""

from __future__ import annotations

import math
from typing import Any

from nexusd.clock import Clock

PERIOD_S = 10.0
SHOWN = 20  # in a period


class SlowRequests:
    """Shows the first of each period."""

    def __init__(self, log: Any, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._until_s = -math.inf
        self._seen = 0

    def note(self, method: str, request_id: str, peer: str, seconds: float) -> None:
        """This one took so long."""
        now_s = self._clock.monotonic_s()
        if now_s >= self._until_s:
            if self._seen > SHOWN:
                self._log.warning("more slow requests", count=self._seen - SHOWN, within_s=PERIOD_S)
            self._until_s, self._seen = now_s + PERIOD_S, 0
        self._seen += 1
        if self._seen <= SHOWN:
            self._log.warning("slow request", method=method, request_id=request_id, peer=peer,
                              duration_ms=round(seconds * 1000, 3))

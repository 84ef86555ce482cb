"""How a connection is: what is done with what comes in, and for how long nothing has gone out.

Pure: knows no socket and no clock.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """What is done with bytes that come in."""

    OPEN = "open"               # requests
    DRAINING = "draining"       # requests still, and the close when none is under way
    DISCARDING = "discarding"   # nothing: an error ended it, or the peer's end of stream was reached
    CLOSED = "closed"           # nothing; at most what was written still goes out


class Stall:
    """Bytes that are unsent, and since when there are not fewer of them."""

    __slots__ = ("_since_s", "bytes")

    def __init__(self) -> None:
        self.bytes = 0      # to which what is sent meanwhile adds
        self._since_s = 0.0

    def begin(self, unsent: int, now_s: float) -> None:
        """From now on something must move."""
        self.bytes = unsent
        self._since_s = now_s

    def lasts_s(self, unsent: int, now_s: float) -> float:
        """For how long nothing has moved."""
        if unsent < self.bytes:
            self.begin(unsent, now_s)
        return now_s - self._since_s

"""A clock that a test moves by hand."""

from __future__ import annotations


class ManualClock:
    """Both clocks of the daemon; `advance` moves both, `jump` the wall clock alone."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms
        self._monotonic_s = 1000.0

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._monotonic_s += seconds
        self._now_ms += int(seconds * 1000)

    def jump(self, *, days: float) -> None:
        """Somebody sets the wall clock."""
        self._now_ms += int(days * 86_400_000)

"""What was asked of each method since the start: counts, errors by kind, time spent.

Owns the figures that status and metrics show. Knows nothing of requests. Names come from the method table, so
the number of entries is bounded.
"""

from __future__ import annotations

from typing import Any


class MethodCount:
    """The figures of one method."""

    __slots__ = ("count", "errors", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self.errors: dict[str, int] = {}


class Counters:
    """The figures of all methods, by name."""

    def __init__(self) -> None:
        self._methods: dict[str, MethodCount] = {}

    def of(self, method: str) -> MethodCount:
        """The figures of this method, to be counted on."""
        count = self._methods.get(method)
        if count is None:
            count = self._methods[method] = MethodCount()
        return count

    @property
    def total(self) -> int:
        """Requests answered since the start."""
        return sum(count.count for count in self._methods.values())

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """By method: `count`, `errors` by kind, `totalMs`; only those that were called."""
        return {
            name: {"count": m.count, "errors": dict(m.errors), "totalMs": round(m.seconds * 1000, 3)}
            for name, m in sorted(self._methods.items()) if m.count
        }

"""What was asked of each method since the start: counts, errors by kind, time spent and how it is spread.

Owns the figures that status and metrics show. Knows nothing of requests. Names come from the method table, so
the number of entries is bounded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Any

# Upper bounds in seconds, about three to a decade's ends: a look-up takes 20 us, a search 8 ms, and what takes ten
# seconds is beyond telling apart. Few, since each is a line for each method in every scrape.
DURATION_BUCKETS_S = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class MethodCount:
    """The figures of one method. `buckets`: answers by duration, the last one for those past every bound."""

    __slots__ = ("buckets", "count", "errors", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self.errors: dict[str, int] = {}
        self.buckets = [0] * (len(DURATION_BUCKETS_S) + 1)

    def answered(self, seconds: float) -> None:
        """Count an answer that took so long; 0.2 us, at every request."""
        self.count += 1
        self.seconds += seconds
        self.buckets[bisect_left(DURATION_BUCKETS_S, seconds)] += 1


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

    def called(self) -> Iterator[tuple[str, MethodCount]]:
        """The methods that were called, by name, in alphabetical order."""
        return ((name, count) for name, count in sorted(self._methods.items()) if count.count)

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """By method: `count`, `errors` by kind, `totalMs`; only those that were called."""
        return {
            name: {"count": m.count, "errors": dict(m.errors), "totalMs": round(m.seconds * 1000, 3)}
            for name, m in self.called()
        }

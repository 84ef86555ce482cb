"""What a search is asked, as both engines take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nexusd.model.memory import Collection, MemoryFilter, Mode
from nexusd.retrieval.fusion import Weighing

# Candidates of each engine: 50 find as much among the first ten as 100 and 200 do, and five times what is asked for,
# since each engine alone is often wrong.
MIN_DEPTH = 50
DEPTH_PER_HIT = 5

# Where too many candidates turn out to be gone or filtered out, look this many times as deep again, up to the
# last.
DEEPER = 4
MAX_DEPTH = 10_000


@dataclass(frozen=True, slots=True)
class Question:
    """What to look for. `at_most` holds back collections of which more than so many hits are not wanted."""

    query: str
    mode: Mode
    collections: tuple[Collection, ...]
    limit: int
    where: MemoryFilter
    weighing: Weighing = field(default_factory=Weighing)
    diversity: float = 0.0
    explain: bool = False
    at_most: Mapping[Collection, int] = field(default_factory=dict)
    longest_text: int | None = None     # characters; a longer memory is no hit

    def depths(self, times: int) -> dict[Collection, int]:
        """How many candidates of each collection the engines are asked for, so many times deeper than at first."""
        others = self.limit - sum(self.at_most.values())
        return {
            name: min(times * max(MIN_DEPTH, DEPTH_PER_HIT * self.at_most.get(name, others)), MAX_DEPTH)
            for name in self.collections
        }

"""What the rest of the daemon asks of a vector index.

Owns the protocol and its value types. A vector is `bytes`: float32, little-endian, `dimension` of them;
so no part of the main process needs numpy. Every implementation passes the same tests
(tests/integration/test_index_contract.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from nexusd.errors import IndexUnavailable
from nexusd.index.filters import Filter

Vector = bytes
Distance = Literal["Cosine", "Dot", "Euclid"]
Payload = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CollectionSpec:
    """A physical collection: name, dimension, distance."""

    name: str
    dimension: int
    distance: Distance = "Cosine"


@dataclass(frozen=True, slots=True)
class Point:
    """A row's place in the index. `version` is the row's; it comes back with hits and scrolls."""

    id: int
    version: int
    vector: Vector
    payload: Payload


@dataclass(frozen=True, slots=True)
class Hit:
    """A neighbour: similarity under the collection's distance, higher is nearer."""

    id: int
    version: int
    score: float


class PointVersion(NamedTuple):  # not a frozen dataclass, which takes three times as long; a walk makes very many
    """An id, the version of the row that the index holds, and the epoch of the database that the row was of.

    No epoch: the point does not say, as those do not that were stored by an earlier nexusd.
    """

    id: int
    version: int
    epoch: str = ""


@dataclass(frozen=True, slots=True)
class IndexHealth:
    """Whether the index answers, why not, and what it is busy with (for status and for people).

    `incarnations` has the current one of every ensured collection: another one than `ensure` answered means
    that the collection was lost meanwhile and begun anew, empty.
    """

    available: bool
    detail: str
    rebuilding: bool = False
    restarts: int = 0
    process_ids: tuple[int, ...] = ()
    incarnations: Mapping[str, str] = field(default_factory=dict)
    resident_bytes: int = 0


class IndexDied(IndexUnavailable):
    """The index's process ended while it had this very request: one of its points may be why."""


class Index(Protocol):
    """A vector index. Every method but `health` raises IndexUnavailable when it cannot answer now."""

    async def start(self) -> None:
        """Begin; does not wait until the index answers and does not fail because it does not."""

    async def close(self) -> None:
        """Flush and stop."""

    async def ensure(self, spec: CollectionSpec) -> str:
        """Make the collection if it is missing; answers its incarnation.

        An incarnation is given when a collection is made, and lasts. Another one than a caller has noted
        means that the collection was lost (wiped, damaged) and begun anew: all must be sent again.

        Raises:
            DimensionMismatch: it exists with another dimension or distance.
        """

    async def drop(self, collection: str) -> None:
        """Remove the collection and what it holds; no error if there is none."""

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        """Store points; returns when they are on disk. All or none of the points is refused.

        Raises:
            DimensionMismatch: a vector is not of the collection's dimension.
            BadContent: a vector holds NaN or Inf, or is all zero.
        """

    async def delete(self, collection: str, ids: Sequence[int]) -> None:
        """Remove points; returns when that is on disk. Ids that are not there are no error."""

    async def search(self, collection: str, vector: Vector, limit: int, where: Filter | None) -> list[Hit]:
        """The `limit` nearest points that pass the filter, nearest first."""

    async def scroll(self, collection: str, after_id: int, limit: int) -> list[PointVersion]:
        """Up to `limit` points with ids greater than `after_id`, ascending; fewer only where there are no more.

        An id that is there twice, as in a cluster whose shards disagree, comes twice.
        """

    async def count(self, collection: str) -> int:
        """How many points the collection holds, exactly."""

    async def publish(self, names: Mapping[str, str]) -> None:
        """Let other readers of the index find collections under these names, all of them from the same moment on.

        Where there are no other readers it does nothing. A name that cannot be given is told, and is no error: nothing
        here goes by it.
        """

    def health(self) -> IndexHealth:
        """The state as last seen; never waits."""

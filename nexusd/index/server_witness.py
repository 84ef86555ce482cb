"""Whether a server still has what it acknowledged.

Owns a few of the acknowledged writes of a collection, the newest at each of the latest looks at it, and what it means
that one of them is not there any more: the server was put back to an earlier state, from a snapshot or with its disk.
The mark of the collection says nothing of that where the snapshot is of this very run. Pure: how points are looked up
is a parameter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

# Writes that are looked for, each from another look: those from before a moment survive what goes back to it, and
# those that come afterwards say nothing of it.
KEPT = 16
# In a row, before it is believed: of the replicas of a cluster one may lag behind for a moment, and to be wrong here
# means to send a whole collection again.
LOOKS = 3


@dataclass(frozen=True, slots=True)
class Written:
    """The last point of a write: it has this stamp or a newer one, or it is gone."""

    id: int
    stamp: int
    removed: bool

    def holds(self, stamp: int | None) -> bool:
        """Whether a point with this stamp (None: there is none) is as it was written."""
        return stamp is None if self.removed else stamp is not None and stamp >= self.stamp


class Witness:
    """Some of the acknowledged writes of one collection."""

    def __init__(self) -> None:
        self._newest: Written | None = None
        self._kept: dict[int, Written] = {}  # by point, the oldest first
        self._missed = 0

    @contextlib.contextmanager
    def writing(self, ids: Sequence[int], stamp: int, *, removing: bool, certain: bool = True) -> Iterator[None]:
        """A write; it counts when this ends without an error. Nothing is known of its points until then.

        `certain`: nothing that was sent earlier can still change these points.
        """
        for id_ in ids:
            self._kept.pop(id_, None)
        self._newest = None
        yield
        if certain:
            self._newest = Written(ids[-1], stamp, removing)

    async def betrayed(self, stamps_of: Callable[[Sequence[int]], Awaitable[Mapping[int, int]]]) -> bool:
        """Look at the points: true when one of them was not as written several times in a row.

        `stamps_of` answers the stamps of those points that there are.
        """
        if self._newest is not None:
            self._kept[self._newest.id] = self._newest
            self._newest = None
            if len(self._kept) > KEPT:
                del self._kept[next(iter(self._kept))]
        asked = list(self._kept.values())
        if not asked:
            return False
        stamps = await stamps_of([written.id for written in asked])
        # of one that was written to meanwhile this says nothing
        lost = any(not each.holds(stamps.get(each.id)) for each in asked if self._kept.get(each.id) is each)
        self._missed = self._missed + 1 if lost else 0
        return self._missed >= LOOKS

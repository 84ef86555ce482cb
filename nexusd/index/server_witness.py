"""Whether a server still has what it acknowledged last.

Owns the newest acknowledged write of a collection and what it means that it is not there any more: the server was put
back to an earlier state, from a snapshot or with its disk. The mark of the collection says nothing of that where the
snapshot is of this very run. Pure: how a point is looked up is a parameter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

# In a row, before it is believed: of the replicas of a cluster one may lag behind for a moment, and to be wrong here
# means to send a whole collection again.
LOOKS = 3


@dataclass(frozen=True, slots=True)
class Written:
    """The last point of a write: it has this stamp or a newer one, or it is gone."""

    id: int
    stamp: int
    removed: bool


class Witness:
    """The newest acknowledged write of one collection."""

    def __init__(self) -> None:
        self._written: Written | None = None
        self._missed = 0

    @contextlib.contextmanager
    def writing(self, ids: Sequence[int], stamp: int, *, removing: bool, certain: bool = True) -> Iterator[None]:
        """A write; it counts when this ends without an error, and until then nothing does.

        `certain`: nothing that was sent earlier can still change these points.
        """
        self._written, self._missed = None, 0
        yield
        if certain:
            self._written = Written(ids[-1], stamp, removing)

    async def betrayed(self, stamp_of: Callable[[int], Awaitable[int | None]]) -> bool:
        """Look at the point of the newest write: true when it was not as written several times in a row.

        `stamp_of` answers the stamp of a point, or None where there is none.
        """
        written = self._written
        if written is None:
            return False
        stamp = await stamp_of(written.id)
        if self._written is not written:  # somebody wrote meanwhile
            return False
        kept = stamp is None if written.removed else stamp is not None and stamp >= written.stamp
        self._missed = 0 if kept else self._missed + 1
        return self._missed >= LOOKS

"""What a collection's files still hold of points that were deleted. Runs in the index's child only.

Owns the count of deletes, and a mark beside the shard that outlives the process. The engine takes a deleted point's
vector and payload out of its answers at once, but out of its files only with a merge of that segment, and its log keeps
them longer; they are gone when the collection was written anew from its living points. Knows no shard.
"""

from __future__ import annotations

import time
from pathlib import Path

from nexusd.index.durable import write_durably

MARK = "traces"


class Traces:
    """Deletes that are in the files still. In the loop's thread."""

    def __init__(self, directory: Path) -> None:
        self._mark = directory / MARK
        self._marked = self._mark.exists()
        self._deletes = int(self._marked)
        self._erased = 0
        self._at_copy = 0
        self.first_s = self.last_s = time.monotonic()  # when the deletes that are left began, and the last of them

    @property
    def left(self) -> bool:
        """Whether anything is."""
        return self._deletes > self._erased

    def deleted(self) -> None:
        """Points were deleted."""
        self.last_s = time.monotonic()
        if not self.left:
            self.first_s = self.last_s
        self._deletes += 1

    def note(self) -> None:
        """Keep it on disk; before the journal that tells of the deletes is taken away."""
        if self.left and not self._marked:
            write_durably(self._mark, b"")
            self._marked = True

    def copy_begins(self) -> None:
        """The files are copied as they are now, to be written anew."""
        self._at_copy = self._deletes

    def erased(self) -> None:
        """What was written anew has taken the place of the files, which are gone."""
        self._erased = self._at_copy
        self.first_s = self.last_s
        if not self.left:
            self._mark.unlink(missing_ok=True)
            self._marked = False

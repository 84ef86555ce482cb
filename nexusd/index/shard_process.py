"""The index's child process: serves every collection over the pipe, one thread, reads first.

Owns the order of work. A turn answers all reads that wait, then does one short piece of the rest: a slice
of an update, a flush, or a step of a rebuild; so no search waits for more than one such piece. Knows no
vector arithmetic and nothing of the daemon's rows.

Started as `python -m nexusd.index.shard_process FD DIRECTORY REBUILD_AFTER DELETES`, where DELETES is `secure` or
`plain`. Ends when the daemon closes
the pipe (everything flushed), or with 70 when a write fails in a way that leaves the state in doubt.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nexusd.child_channel import ChildChannel, become_child
from nexusd.index.background import Background
from nexusd.index.broken import KEPT_BROKEN, remove_broken
from nexusd.index.edge_collection import (
    EdgeCollection,
    SpecMismatchError,
    remove_collection,
)
from nexusd.index.edge_shard import ShardUnusableError
from nexusd.index.empty_collection import EmptyCollection
from nexusd.index.rebuild import Reached
from nexusd.index.rebuild_schedule import RebuildSchedule
from nexusd.index.request import RefusedError, Request
from nexusd.index.updates import Updates

SCROLL_PAGE = 500  # ids read in one piece: 3 ms


class ShardServer:
    """The loop of the child. `reached` is told the steps of a rebuild."""

    def __init__(
        self,
        channel: ChildChannel,
        directory: Path,
        *,
        rebuild_after: int,
        secure: bool = False,
        reached: Reached = lambda step: None,
    ) -> None:
        self._channel = channel
        self._directory = directory
        self._collections: dict[str, EdgeCollection] = {}
        self._empty: dict[str, EmptyCollection] = {}
        self._hnsw_from = max(1, rebuild_after // 2)
        self._background = Background()
        self._updates = Updates(channel, self._background)
        self._kept_broken = 0 if secure else KEPT_BROKEN
        self._rebuilds = RebuildSchedule(channel, self._background, rebuild_after, reached, secure=secure)
        self._reads: deque[Request] = deque()
        self._writes: deque[Request] = deque()
        self._watches: deque[Request] = deque()
        self._watch_until_s = 0.0
        self._last_asked_s = time.monotonic()
        self._rebuilds_turn = False
        channel.watch(self._background.descriptor)

    def run(self) -> None:
        """Serve until the daemon closes the pipe."""
        try:
            while True:
                self._take(self._patience_s())
                self._turn()
        except EOFError:
            self._rebuilds.abandon()
            self._updates.finish(self._collections.values())

    def _patience_s(self) -> float | None:
        """How long to wait for a request: not at all, until something is due, or for ever."""
        if self._reads or self._may_write or self._rebuilds.wants_to_step:
            return 0.0
        waits = [
            self._updates.due_in_s(self._last_asked_s), self._rebuilds.due_in_s(self._collections.values()),
        ]
        if self._watches:
            waits.append(max(0.0, self._watch_until_s - time.monotonic()))
        return min((wait for wait in waits if wait is not None), default=None)

    def _take(self, patience_s: float | None) -> None:
        """All requests that wait."""
        message = self._channel.receive(patience_s)
        while message is not None:
            request = Request(*message)
            if request.op == "watch":
                self._watches.append(request)
                self._watch_until_s = time.monotonic() + request.payload["within_s"]
            else:
                self._last_asked_s = time.monotonic()
                (self._reads if request.op in READS else self._writes).append(request)
            message = self._channel.receive(0.0)

    def _turn(self) -> None:
        for _ in range(len(self._reads)):
            self._read(self._reads.popleft())
        self._background.finish()
        # An update and a rebuild that both have work take turns, or one would wait for the other's end.
        self._rebuilds_turn = not self._rebuilds_turn
        if self._updates.applying:  # begun is finished: a shard must not be swapped in the middle of an update
            self._updates.apply_slice()
        elif self._rebuilds.wants_to_step and (self._rebuilds_turn or not self._may_write):
            self._rebuilds.step()
        elif (collection := self._rebuilds.heard()) is not None:
            if not self._rebuilds.about_to_copy:
                self._rebuilds.listen()
            elif self._updates.ready_to_flush(collection):
                self._updates.flush(collection)  # a copy is taken of files
                self._rebuilds.listen()
        elif self._updates.flush_if_due(self._last_asked_s):
            pass
        elif self._may_write:
            self._begin(self._writes.popleft())
        self._updates.sync()
        self._rebuilds.consider(self._collections.values())
        self._tell_watchers()

    @property
    def _may_write(self) -> bool:
        """Whether there is something to apply now."""
        return self._updates.applying or (bool(self._writes) and not self._rebuilds.holds_updates)

    # reads

    def _read(self, request: Request) -> None:
        try:
            done = READS[request.op](self, request)
        except RefusedError as refused:
            self._channel.fail(request.id, refused.kind, str(refused))
        except Exception as error:  # noqa: BLE001  the engine knows no exception of its own
            self._channel.fail(request.id, "failed", str(error))
        else:
            if done:
                self._channel.reply(request.id, request.found)
            else:
                self._reads.append(request)

    def _search(self, request: Request) -> bool:
        asked = request.payload
        collection = self._collection(asked["collection"])
        try:
            request.found = collection.search(asked["vector"], asked["limit"], asked["where"])
        except ValueError as error:
            raise RefusedError("bad_content", str(error)) from error
        return True

    def _scroll(self, request: Request) -> bool:
        asked, found = request.payload, request.found
        after_id = found[-1][0] if found else asked["after_id"]
        missing = asked["limit"] - len(found)
        page = self._collection(asked["collection"]).scroll(after_id, min(missing, SCROLL_PAGE))
        found += page
        return len(found) >= asked["limit"] or len(page) < SCROLL_PAGE

    def _count(self, request: Request) -> bool:
        request.found = [self._collection(request.payload["collection"]).count()]
        return True

    def _erasing(self, request: Request) -> bool:
        request.found = self._rebuilds.erasing(self._collections.values())
        return True

    # writes, in their order

    def _begin(self, request: Request) -> None:
        try:
            if request.op in CHANGES:
                self._channel.reply(request.id, CHANGES[request.op](self, request.payload))
            elif request.op == "delete" and request.payload["collection"] in self._empty:
                self._channel.reply(request.id, None)
            else:
                first = request.payload["collection"] in self._empty
                self._updates.begin(request, self._filled(request.payload["collection"]))
                if first:  # searches that came while the shard was made are not told that nothing is there
                    self._updates.apply_slice()
        except RefusedError as refused:
            self._channel.fail(request.id, refused.kind, str(refused))

    # collections

    def _ensure(self, asked: dict[str, Any]) -> dict[str, Any]:
        name, dimension, distance = asked["name"], asked["dimension"], asked["distance"]
        try:
            if name not in self._collections and name not in self._empty:
                self._open(name, dimension, distance)
            manifest = self._collection(name).manifest
            manifest.check(name, dimension, distance)
        except SpecMismatchError as error:
            raise RefusedError("dimension_mismatch", str(error)) from error
        except ShardUnusableError as error:
            raise RefusedError("failed", str(error)) from error
        return {"incarnation": manifest.incarnation}

    def _open(self, name: str, dimension: int, distance: str) -> None:
        """Open the collection, which nothing may be in yet.

        Raises:
            SpecMismatchError, ShardUnusableError: as EdgeCollection.open says.
        """
        directory = self._directory / name
        empty = EmptyCollection.open(directory, dimension=dimension, distance=distance)
        if empty is not None:
            self._empty[name] = empty
        else:
            self._collections[name] = EdgeCollection.open(
                directory, dimension=dimension, distance=distance, hnsw_from=self._hnsw_from,
                kept_broken=self._kept_broken,
            )

    def _filled(self, name: str) -> EdgeCollection:
        """The collection, with a shard to put points into."""
        empty = self._empty.get(name)
        if empty is not None:
            manifest = empty.manifest
            try:
                self._collections[name] = EdgeCollection.open(
                    empty.directory, dimension=manifest.dimension, distance=manifest.distance,
                    hnsw_from=self._hnsw_from,
                )
            except ShardUnusableError as error:
                raise RefusedError("failed", str(error)) from error
            del self._empty[name]
        collection = self._collections.get(name)
        if collection is None:
            raise RefusedError("no_collection", f"there is no collection {name}")
        return collection

    def _drop(self, asked: dict[str, Any]) -> None:
        self._empty.pop(asked["collection"], None)
        collection = self._collections.pop(asked["collection"], None)
        if collection is not None:
            self._rebuilds.abandon(collection)
            self._updates.forget(collection)
            collection.close()
        try:
            remove_collection(self._directory / asked["collection"])
        except OSError as error:
            raise RefusedError("failed", f"cannot remove {asked['collection']}: {error}") from error

    def _collection(self, name: str) -> EdgeCollection | EmptyCollection:
        collection = self._collections.get(name) or self._empty.get(name)
        if collection is None:
            raise RefusedError("no_collection", f"there is no collection {name}")
        return collection

    def _tell_watchers(self) -> None:
        """Answer those who want to know of a change, or who have waited as long as they wanted."""
        if not self._watches:
            return
        state = self._rebuilds.state() | {"erasing": self._rebuilds.erasing(self._collections.values())}
        due = time.monotonic() >= self._watch_until_s
        for request in [each for each in self._watches if due or each.payload["seen"] != state]:
            self._watches.remove(request)
            self._channel.reply(request.id, {"state": state, "resident_bytes": resident_bytes()})


def resident_bytes() -> int:
    """Memory of this process that is in RAM, the files that it maps included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


READS: dict[str, Callable[[ShardServer, Request], bool]] = {
    "search": ShardServer._search,
    "scroll": ShardServer._scroll,
    "count": ShardServer._count,
    "erasing": ShardServer._erasing,
}
CHANGES: dict[str, Callable[[ShardServer, dict[str, Any]], Any]] = {
    "ensure": ShardServer._ensure,
    "drop": ShardServer._drop,
}


def main(reached: Reached = lambda step: None) -> None:
    """Serve the pipe whose descriptor is the first argument."""
    become_child()
    channel = ChildChannel(int(sys.argv[1]))
    directory = Path(sys.argv[2])
    directory.mkdir(parents=True, exist_ok=True)
    secure = sys.argv[4] == "secure"
    if secure:
        remove_broken(directory)
    ShardServer(channel, directory, rebuild_after=int(sys.argv[3]), secure=secure, reached=reached).run()


if __name__ == "__main__":
    main()

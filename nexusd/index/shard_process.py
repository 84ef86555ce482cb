"""The index's child process: serves every collection over the pipe, one thread, reads first.

Owns the order of work. A turn answers all reads that wait, then does one short piece of the rest: a slice
of an update, a flush, or a step of a rebuild; so no search waits for more than one such piece. An update is
answered after the flush that covers it. Knows no vector arithmetic and nothing of the daemon's rows.

Started as `python -m nexusd.index.shard_process FD DIRECTORY REBUILD_AFTER`. Ends when the daemon closes
the pipe (everything flushed), or with 70 when the engine fails in a way that leaves its state unknown.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from nexusd.child_channel import ChildChannel, become_child
from nexusd.index.edge_collection import (
    EdgeCollection,
    ShardUnusableError,
    SpecMismatchError,
    make_point,
    remove_collection,
)
from nexusd.index.rebuild import Reached
from nexusd.index.rebuild_schedule import RebuildSchedule

SLICE = 64  # points applied in one piece: 1 to 2 ms at 384 dimensions
FLUSH_AFTER_OPERATIONS = 256
FLUSH_AFTER_S = 1.0
FLUSH_PAUSES = 3.0  # while somebody searches, flushing takes at most a quarter of the time
SCROLL_PAGE = 500  # ids read in one piece
EXIT_STATE_UNKNOWN = 70


@dataclass(slots=True)
class Request:
    """A request that waits, with what has been found for it so far."""

    id: int
    op: str
    payload: dict[str, Any]
    found: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class Update:
    """An upsert or delete that is applied slice by slice."""

    request: Request
    collection: EdgeCollection
    apply: Callable[[list[Any]], None]
    slices: deque[list[Any]]


class RefusedError(Exception):
    """The request cannot be served; `kind` tells the daemon's side which error it is."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class ShardServer:
    """The loop of the child. `reached` is told the steps of a rebuild."""

    def __init__(
        self,
        channel: ChildChannel,
        directory: Path,
        *,
        rebuild_after: int,
        reached: Reached = lambda step: None,
    ) -> None:
        self._channel = channel
        self._directory = directory
        self._collections: dict[str, EdgeCollection] = {}
        self._hnsw_from = max(1, rebuild_after // 2)
        self._rebuilds = RebuildSchedule(channel, rebuild_after, reached)
        self._reads: deque[Request] = deque()
        self._writes: deque[Request] = deque()
        self._watches: deque[Request] = deque()
        self._watch_until_s = 0.0
        self._update: Update | None = None
        self._applied: list[Request] = []  # to be answered after the flush
        self._unflushed: set[str] = set()
        self._operations = 0
        self._first_unflushed_s = 0.0
        self._flush_not_before_s = 0.0
        self._read_since_flush = False
        self._rebuilds_turn = False

    def run(self) -> None:
        """Serve until the daemon closes the pipe."""
        try:
            while True:
                self._take(self._patience_s())
                self._turn()
        except EOFError:
            self._close()

    def _patience_s(self) -> float | None:
        """How long to wait for a request: not at all, until something is due, or for ever."""
        if self._reads or self._rebuilds.wants_to_step or self._may_write:
            return 0.0
        now_s = time.monotonic()
        due_s = []
        if self._applied:
            due_s.append(self._flush_not_before_s)
        if self._watches:
            due_s.append(self._watch_until_s)
        return max(0.0, min(due_s) - now_s) if due_s else None

    def _take(self, patience_s: float | None) -> None:
        """All requests that wait."""
        message = self._channel.receive(patience_s)
        while message is not None:
            request = Request(*message)
            if request.op in READS:
                self._reads.append(request)
            elif request.op == "watch":
                self._watches.append(request)
                self._watch_until_s = time.monotonic() + request.payload["within_s"]
            else:
                self._writes.append(request)
            message = self._channel.receive(0.0)

    def _turn(self) -> None:
        for _ in range(len(self._reads)):
            self._read(self._reads.popleft())
        # An update and a rebuild that both have work take turns, or one would wait for the other's end.
        self._rebuilds_turn = not self._rebuilds_turn
        if self._rebuilds.heard():
            self._flush()  # a copy is taken of what is on disk
            self._rebuilds.listen()
        elif self._rebuilds.wants_to_step and (self._rebuilds_turn or not self._may_write):
            self._rebuilds.step()
        elif self._flush_due():
            self._flush()
            self._rebuilds.consider(self._collections.values())
        elif self._may_write and self._update is not None:
            self._apply_slice()
        elif self._may_write:
            self._begin(self._writes.popleft())
        self._tell_watchers()

    @property
    def _may_write(self) -> bool:
        """Whether an update waits and may be applied now."""
        return (self._update is not None or bool(self._writes)) and not self._rebuilds.holds_updates

    # reads

    def _read(self, request: Request) -> None:
        self._read_since_flush = True
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

    # writes, in their order

    def _begin(self, request: Request) -> None:
        try:
            if request.op in UPDATES:
                self._update = UPDATES[request.op](self, request)
            else:
                self._flush()  # updates before it are not its business
                self._channel.reply(request.id, CHANGES[request.op](self, request.payload))
        except RefusedError as refused:
            self._channel.fail(request.id, refused.kind, str(refused))

    def _upsert(self, request: Request) -> Update:
        """Every point is made before the first is applied: all or none is refused."""
        collection = self._collection(request.payload["collection"])
        try:
            points = [make_point(*point) for point in request.payload["points"]]
        except (ValueError, TypeError, OverflowError) as error:
            raise RefusedError("bad_content", str(error)) from error
        return Update(request, collection, collection.upsert, _sliced(points))

    def _delete(self, request: Request) -> Update:
        collection = self._collection(request.payload["collection"])
        return Update(request, collection, collection.delete, _sliced(request.payload["ids"]))

    def _apply_slice(self) -> None:
        update = self._update
        if update is None:
            return
        items = update.slices.popleft()
        if not self._unflushed:
            self._first_unflushed_s = time.monotonic()
        self._unflushed.add(update.collection.name)
        self._operations += len(items)
        try:
            update.apply(items)
        except Exception as error:  # noqa: BLE001  the engine knows no exception of its own
            self._update = None
            self._channel.fail(update.request.id, "failed", str(error))
            return
        if not update.slices:
            self._applied.append(update.request)
            self._update = None

    def _flush_due(self) -> bool:
        if not self._applied:
            return False
        idle = not self._may_write
        waited_s = time.monotonic() - self._first_unflushed_s
        enough = self._operations >= FLUSH_AFTER_OPERATIONS or waited_s >= FLUSH_AFTER_S
        if not (idle or enough):
            return False
        return not self._read_since_flush or time.monotonic() >= self._flush_not_before_s

    def _flush(self) -> None:
        """Put everything applied on disk and answer it."""
        began_s = time.monotonic()
        for name in self._unflushed:
            if name in self._collections:
                try:
                    self._collections[name].flush()
                except Exception as error:  # noqa: BLE001  the engine knows no exception of its own
                    self._end_in_doubt(f"flush of {name}: {error}")
        self._unflushed.clear()
        self._operations = 0
        for request in self._applied:
            self._channel.reply(request.id, None)
        self._applied.clear()
        ended_s = time.monotonic()
        self._read_since_flush = False
        self._flush_not_before_s = ended_s + FLUSH_PAUSES * (ended_s - began_s)

    def _end_in_doubt(self, reason: str) -> NoReturn:
        """After a failed fsync nobody knows what is on disk: say so, and begin again from the files."""
        for request in self._applied:
            self._channel.fail(request.id, "failed", reason)
        print(f"index: {reason}", file=sys.stderr)  # noqa: T201  stderr goes where the daemon's does
        os._exit(EXIT_STATE_UNKNOWN)

    # collections

    def _ensure(self, asked: dict[str, Any]) -> dict[str, Any]:
        name, dimension, distance = asked["name"], asked["dimension"], asked["distance"]
        collection = self._collections.get(name)
        try:
            if collection is None:
                collection = self._collections[name] = EdgeCollection.open(
                    self._directory / name,
                    dimension=dimension,
                    distance=distance,
                    hnsw_from=self._hnsw_from,
                )
            collection.manifest.check(name, dimension, distance)
        except SpecMismatchError as error:
            raise RefusedError("dimension_mismatch", str(error)) from error
        except ShardUnusableError as error:
            raise RefusedError("failed", str(error)) from error
        self._rebuilds.consider(self._collections.values())
        return {"incarnation": collection.manifest.incarnation}

    def _drop(self, asked: dict[str, Any]) -> None:
        collection = self._collections.pop(asked["collection"], None)
        if collection is not None:
            self._rebuilds.abandon(collection)
            collection.close()
        try:
            remove_collection(self._directory / asked["collection"])
        except OSError as error:
            raise RefusedError("failed", f"cannot remove {asked['collection']}: {error}") from error

    def _collection(self, name: str) -> EdgeCollection:
        collection = self._collections.get(name)
        if collection is None:
            raise RefusedError("no_collection", f"there is no collection {name}")
        return collection

    def _tell_watchers(self) -> None:
        """Answer those who want to know of a change, or who have waited as long as they wanted."""
        if not self._watches:
            return
        state = self._rebuilds.state()
        due = time.monotonic() >= self._watch_until_s
        for request in [each for each in self._watches if due or each.payload["seen"] != state]:
            self._watches.remove(request)
            self._channel.reply(request.id, {"state": state, "resident_bytes": resident_bytes()})

    def _close(self) -> None:
        self._rebuilds.abandon()
        for collection in self._collections.values():
            collection.close()


def _sliced(items: list[Any]) -> deque[list[Any]]:
    return deque(items[at : at + SLICE] for at in range(0, len(items), SLICE))


def resident_bytes() -> int:
    """Memory of this process that is in RAM, the files that it maps included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


READS: dict[str, Callable[[ShardServer, Request], bool]] = {
    "search": ShardServer._search,
    "scroll": ShardServer._scroll,
    "count": ShardServer._count,
}
UPDATES: dict[str, Callable[[ShardServer, Request], Update]] = {
    "upsert": ShardServer._upsert,
    "delete": ShardServer._delete,
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
    ShardServer(channel, directory, rebuild_after=int(sys.argv[3]), reached=reached).run()


if __name__ == "__main__":
    main()

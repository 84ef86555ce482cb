"""A rebuild of one collection: the graph is built on a copy while the old shard serves and takes writes.

Owns the other process, the copy until it is adopted, and the list of ids that changed meanwhile. Runs in
the index's child only, in short steps between requests. Knows no request.

The steps, each with what a crash after it leaves behind:

    started       a process that dies with us; the manifest names the old shard
    copying       updates are held back (searches are not) while the files are copied
    building      updates go on; ids that they touch are noted
    loaded        the built shard is open beside the old one, in this process
    caught-up     every noted id was carried over as it is in the old shard, and flushed; updates wait
    named         the manifest names the new shard: until here the old one is valid and complete, from here
                  the new one; whatever the manifest does not name is swept when the collection is opened
    adopted       searches go to the new shard, updates go on
    removed       the old shard is gone
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import qdrant_edge as edge

from nexusd.index.background import Background, Then
from nexusd.index.durable import sync_tree
from nexusd.index.edge_collection import EdgeCollection
from nexusd.index.edge_shard import BrokenShardError, ShardUnusableError, load_shard
from nexusd.index.rebuild_process import copy_beside

REBUILD_PROCESS = "nexusd.index.rebuild_process"
CARRIED_AT_ONCE = 48  # points carried over in one step: 2 to 6 ms at 384 dimensions

Reached = Callable[[str], None]


class RebuildFailedError(Exception):
    """The rebuild came to nothing; the old shard serves on."""


class Rebuild:
    """One attempt. Readable `descriptor`: call `listen`; `wants_to_step`: call `step`."""

    def __init__(
        self, collection: EdgeCollection, background: Background, reached: Reached, *, anew: bool = False
    ) -> None:
        """`anew`: nothing that was deleted is in the new shard's files; else they are those of the old one, merged."""
        self.collection = collection
        self._anew = anew
        self.holds_updates = False
        self.done = False
        self._background = background
        self._reached = reached
        self._shard: edge.EdgeShard | None = None
        self._busy = False  # with something in a thread
        self._cleaned = False
        self._named = False
        self._named_error: BaseException | None = None
        number = int(collection.manifest.shard.rpartition("-")[2]) + 1
        self._manifest = msgspec.structs.replace(collection.manifest, shard=f"shard-{number}")
        self._place = collection.directory / self._manifest.shard
        self._remove_attempt()  # one that failed
        arguments = [collection.place, self._place, collection.manifest.dimension]
        arguments += [collection.manifest.distance, collection.hnsw_from, "anew" if anew else "optimise"]
        self._process = subprocess.Popen(  # noqa: S603  our own interpreter and module
            [sys.executable, "-m", REBUILD_PROCESS, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None  # noqa: S101  for the type checker: they are pipes
        assert self._process.stdout is not None  # noqa: S101
        self._to, self._from = self._process.stdin, self._process.stdout
        self._words = b""
        reached("started")

    @property
    def pid(self) -> int:
        """The other process."""
        return self._process.pid

    @property
    def descriptor(self) -> int:
        """Where the other process speaks."""
        return self._from.fileno()

    @property
    def built(self) -> bool:
        """Whether the other process has done its part."""
        return self._shard is not None

    @property
    def wants_to_step(self) -> bool:
        """Whether `step` has something to do now."""
        return self.built and not self.done and not self._busy

    def listen(self) -> None:
        """Take what the other process says; its first word leads to the copy, before it comes a flush.

        Raises:
            RebuildFailedError: it ended without having done it.
        """
        heard = os.read(self.descriptor, 4096)
        *words, self._words = (self._words + heard).split(b"\n")
        for word in words:
            self._hear(word.decode(errors="replace"))
        if not heard and not self.built:
            raise RebuildFailedError(f"the rebuilding process ended with {self._process.wait()}")

    def _hear(self, word: str) -> None:
        match word:
            case "ready":
                self.holds_updates = True
                self.collection.note_copy()
                self._reached("copying")
                self._say("copy\n")
            case "copied":
                self.holds_updates = False
                self._reached("building")
            case "done":
                self._process.wait()
                try:
                    self._shard = load_shard(self._place)
                except (BrokenShardError, ShardUnusableError) as error:
                    raise RebuildFailedError(f"what was built cannot be loaded: {error}") from error
                self._reached("loaded")
            case _:
                raise RebuildFailedError(f"the rebuilding process said {word!r}")

    def _say(self, words: str) -> None:
        try:
            self._to.write(words.encode())
            self._to.flush()
        except BrokenPipeError as error:
            raise RebuildFailedError("the rebuilding process went away") from error

    def step(self) -> None:
        """The next short piece, or the beginning of a longer one in a thread.

        Raises:
            RebuildFailedError: the built shard does not take the changes, or the manifest cannot be written.
        """
        shard, touched = self._shard, self.collection.touched
        if shard is None or touched is None:
            return
        if self._named_error is not None:
            raise RebuildFailedError(f"the manifest cannot be written: {self._named_error}")
        if self._named:
            self._adopt(shard)
            return
        try:
            if touched:
                self._carry(shard, [touched.pop() for _ in range(min(CARRIED_AT_ONCE, len(touched)))])
                return
            if self._cleaned:
                shard.flush()
        except Exception as error:  # the engine knows no exception of its own
            raise RebuildFailedError(f"the built shard does not take the changes: {error}") from error
        if self._cleaned:
            self._reached("caught-up")
            self.holds_updates = True  # or the new shard would lack them
            self._in_thread(self._name, self._after_naming)
        else:
            # Most of what the flush will wait for is done here; more changes may come meanwhile.
            self._in_thread(partial(sync_tree, self._place), self._after_cleaning)

    def _in_thread(self, work: Callable[[], None], then: Then) -> None:
        self._busy = True
        self._background.run(work, then)

    def _after_cleaning(self, _error: BaseException | None) -> None:
        """Whatever happened: the flush itself counts."""
        self._busy, self._cleaned = False, True

    def _name(self) -> None:
        self.collection.name_valid(self._manifest)
        self._reached("named")
        with contextlib.suppress(OSError):  # only so that closing the old one waits for nothing
            sync_tree(self.collection.place)

    def _after_naming(self, error: BaseException | None) -> None:
        self._busy, self._named, self._named_error = False, True, error

    def _adopt(self, shard: edge.EdgeShard) -> None:
        old_place = self.collection.adopt(self._manifest, shard)
        self.holds_updates = False
        self.done = True
        self._reached("adopted")
        remove = partial(shutil.rmtree, old_place, ignore_errors=True)
        self._background.run(remove, partial(self._after_removing, old_place))
        self._close_pipes()

    def _after_removing(self, old_place: Path, _error: BaseException | None) -> None:
        """What is left of it, if anything, is swept at the next opening."""
        if self._anew and not old_place.exists():
            self.collection.traces.erased()
        self._reached("removed")

    def _remove_attempt(self) -> None:
        for place in (self._place, copy_beside(self._place)):
            shutil.rmtree(place, ignore_errors=True)

    def _carry(self, shard: edge.EdgeShard, ids: list[int]) -> None:
        """Make these points in the built shard what they are in the old one."""
        points = self.collection.copy_of(ids)
        if points:
            shard.update(edge.UpdateOperation.upsert_points(points))
        gone: list[edge.PointId] = [*set(ids).difference(point.id for point in points)]
        if gone:
            shard.update(edge.UpdateOperation.delete_points(gone))

    def abandon(self) -> None:
        """Give up; the old shard serves on. Too late for that when the manifest names the new one already."""
        while self._busy:
            self._background.wait()
            self._background.finish()
        if self._named and self._named_error is None and not self.done and self._shard is not None:
            self._adopt(self._shard)
        self.holds_updates = False
        if self.done:
            return
        self.collection.forget_copy()
        self._process.kill()
        self._process.wait()
        self._close_pipes()
        if self._shard is not None:
            self._shard.close()
        self._remove_attempt()

    def _close_pipes(self) -> None:
        self._to.close()
        self._from.close()

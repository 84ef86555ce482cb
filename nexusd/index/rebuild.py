"""A rebuild of one collection: the graph is built on a copy while the old shard serves and takes writes.

Owns the other process, the copy until it is adopted, and the journal of ids that changed meanwhile. Runs in
the index's child only, in short steps between requests. Knows no request.

The steps, each with what a crash after it leaves behind:

    started       a process that dies with us; the manifest names the old shard
    copying       updates are held back (searches are not) while the files are copied
    building      updates go on; ids that they touch are noted
    loaded        the built shard is open beside the old one, in this process
    caught-up     every noted id was carried over as it is in the old shard, and flushed
    adopted       the manifest names the new shard: until here the old one is valid and complete, from here
                  the new one; whatever the manifest does not name is swept when the collection is opened
    removed       the old shard is gone
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import qdrant_edge as edge

from nexusd.index.edge_collection import BrokenShardError, EdgeCollection, ShardUnusableError, load_shard

REBUILD_PROCESS = "nexusd.index.rebuild_process"
CARRIED_AT_ONCE = 128  # points carried over in one step: about 4 ms at 384 dimensions

Reached = Callable[[str], None]


class RebuildFailedError(Exception):
    """The rebuild came to nothing; the old shard serves on."""


class Rebuild:
    """One attempt. Readable `descriptor`: call `listen`; `wants_to_step`: call `step`."""

    def __init__(self, collection: EdgeCollection, reached: Reached) -> None:
        self.collection = collection
        self.holds_updates = False
        self.done = False
        self._reached = reached
        self._built: edge.EdgeShard | None = None
        self._flushed = False
        number = int(collection.manifest.shard.rpartition("-")[2]) + 1
        self._manifest = msgspec.structs.replace(collection.manifest, shard=f"shard-{number}")
        self._place = collection.directory / self._manifest.shard
        shutil.rmtree(self._place, ignore_errors=True)  # of an attempt that failed
        self._process = subprocess.Popen(  # noqa: S603  our own interpreter and module
            [sys.executable, "-m", REBUILD_PROCESS, str(self._source), str(self._place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._words = bytearray()
        reached("started")

    @property
    def _source(self) -> Path:
        return self.collection.directory / self.collection.manifest.shard

    @property
    def pid(self) -> int:
        """The other process."""
        return self._process.pid

    @property
    def descriptor(self) -> int:
        """Where the other process speaks."""
        assert self._process.stdout is not None  # noqa: S101  opened above
        return self._process.stdout.fileno()

    @property
    def wants_to_step(self) -> bool:
        """Whether `step` has something to do now."""
        return self._built is not None and not self.done

    def listen(self) -> None:
        """Take what the other process says.

        Raises:
            RebuildFailedError: it ended without having done it.
        """
        heard = os.read(self.descriptor, 4096)
        self._words += heard
        while b"\n" in self._words:
            word, _, rest = bytes(self._words).partition(b"\n")
            self._words = bytearray(rest)
            self._hear(word.decode(errors="replace"))
        if not heard and self._built is None:
            raise RebuildFailedError(f"the rebuilding process ended with {self._process.wait()}")

    def _hear(self, word: str) -> None:
        match word:
            case "ready":
                # The caller has flushed; from now on it applies nothing.
                self.holds_updates = True
                self.collection.journal = set()
                self._reached("copying")
                self._say("copy\n")
            case "copied":
                self.holds_updates = False
                self._reached("building")
            case "done":
                self._process.wait()
                try:
                    self._built = load_shard(self._place)
                except (BrokenShardError, ShardUnusableError) as error:
                    raise RebuildFailedError(f"what was built cannot be loaded: {error}") from error
                self._reached("loaded")
            case _:
                raise RebuildFailedError(f"the rebuilding process said {word!r}")

    def _say(self, words: str) -> None:
        assert self._process.stdin is not None  # noqa: S101  opened above
        try:
            self._process.stdin.write(words.encode())
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise RebuildFailedError("the rebuilding process went away") from error

    def step(self) -> None:
        """Carry over a few changes; or, when none is left, flush; or, when that is done, adopt.

        Raises:
            RebuildFailedError: the built shard does not take them.
        """
        built, journal = self._built, self.collection.journal
        assert built is not None and journal is not None  # noqa: S101, PT018  see wants_to_step
        try:
            if journal:
                ids = [journal.pop() for _ in range(min(CARRIED_AT_ONCE, len(journal)))]
                self._carry(built, ids)
                return
            built.flush()
        except Exception as error:  # the engine knows no exception of its own
            raise RebuildFailedError(f"the built shard does not take the changes: {error}") from error
        if not self._flushed:
            # The first flush is the long one. Searches get their turn before the second, which adopts.
            self._flushed = True
            self._reached("caught-up")
            return
        try:
            old_place = self.collection.adopt(self._manifest, built)
        except OSError as error:
            raise RebuildFailedError(f"the manifest cannot be written: {error}") from error
        self.collection.journal = None
        self.done = True
        self._reached("adopted")
        threading.Thread(target=self._remove, args=(old_place,), daemon=True).start()
        self._close_pipes()

    def _carry(self, built: edge.EdgeShard, ids: list[int]) -> None:
        """Make these points in the built shard what they are in the old one."""
        points = self.collection.copy_of(ids)
        if points:
            built.update(edge.UpdateOperation.upsert_points(points))
        gone: list[edge.PointId] = [*set(ids).difference(point.id for point in points)]
        if gone:
            built.update(edge.UpdateOperation.delete_points(gone))

    def _remove(self, old_place: Path) -> None:
        """In a thread: to free hundreds of megabytes takes the file system a while."""
        shutil.rmtree(old_place, ignore_errors=True)
        self._reached("removed")

    def abandon(self) -> None:
        """Give up; the old shard serves on."""
        self.holds_updates = False
        if self.done:
            return
        self.collection.journal = None
        self._process.kill()
        self._process.wait()
        self._close_pipes()
        if self._built is not None:
            self._built.close()
        shutil.rmtree(self._place, ignore_errors=True)

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

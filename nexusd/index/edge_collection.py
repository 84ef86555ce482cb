"""One collection on disk: its manifest and the shard that the manifest names. Runs in the index's child only.

Owns a directory:

    <name>/manifest.json   dimension, distance, incarnation, and which shard is the valid one, if there is any yet
    <name>/shard-<n>/      the valid shard; any other is a fragment of a rebuild and is swept
    <name>/journal-<n>     updates since the last flush; see `nexusd.index.journal`
    <name>/changed         points changed since the last rebuild, by which the next one is due; a hint
    <name>/traces          deleted points are in the files still; see `nexusd.index.traces`
    <name>/opening         how many openings in a row did not come to an end

A collection that cannot be loaded is set aside as `<name>.broken-<n>` and begun anew under another
incarnation, by which the caller sees that all must be sent again. Knows no pipe and no order of requests.
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import qdrant_edge as edge

from nexusd.index.broken import KEPT_BROKEN, set_aside
from nexusd.index.durable import sync_directory, sync_tree, write_durably
from nexusd.index.edge_payload import edge_filter, needs_scan
from nexusd.index.edge_shard import (
    MIN_FREE_BYTES,
    BrokenShardError,
    ShardUnusableError,
    floats,
    load_shard,
    make_point,
    new_shard,
    reason_to_fail,
)
from nexusd.index.journal import Journal, replay
from nexusd.index.stored_payload import EPOCH, VERSION, epoch_of, version_of
from nexusd.index.traces import Traces

MANIFEST = "manifest.json"
FIRST_SHARD = "shard-1"
OPENING = "opening"
CHANGED = "changed"
MAX_FAILED_OPENINGS = 4  # a shard that kills its reader (SIGBUS, abort) raises nothing: count instead
SEARCH_EF = 128  # candidates looked at on the way; recall 0.99 and better on clustered data at 100,000 points


class Manifest(msgspec.Struct, frozen=True):
    """What a collection is and where its valid shard lies; no shard: nothing was stored yet."""

    dimension: int
    distance: str
    incarnation: str
    shard: str

    def check(self, name: str, dimension: int, distance: str) -> None:
        """Raises SpecMismatchError if the collection is of another dimension or distance."""
        if (self.dimension, self.distance) != (dimension, distance):
            raise SpecMismatchError(
                f"{name} has {self.dimension} dimensions under {self.distance},"
                f" not {dimension} under {distance}"
            )


class SpecMismatchError(Exception):
    """The collection exists with another dimension or distance."""


class EdgeCollection:
    """An open collection. Blocking; one thread."""

    def __init__(self, directory: Path, manifest: Manifest, shard: edge.EdgeShard, *, hnsw_from: int) -> None:
        self.directory = directory
        self.manifest = manifest
        self.shard = shard
        self.hnsw_from = hnsw_from  # points
        self.journal = Journal(directory)
        self.touched: set[int] | None = None  # while it is a set, the ids that updates touch are added
        # Every search looks at each changed point, for no graph covers it. The engine's own count of indexed
        # vectors goes on counting those that were deleted or overwritten, so it cannot tell how many these are.
        self._changed: set[int] = set()
        self._changed_before = _noted_number(directory / CHANGED)
        self._before_copy: set[int] = set()
        self.traces = Traces(directory)

    @classmethod
    def open(
        cls, directory: Path, *, dimension: int, distance: str, hnsw_from: int, kept_broken: int = KEPT_BROKEN
    ) -> EdgeCollection:
        """Open the collection, make it if it is missing, begin it anew if it is broken.

        Args:
            directory: where it is or will be.
            dimension: numbers in a vector.
            distance: Cosine, Dot or Euclid.
            hnsw_from: points from which a rebuild makes a graph of a segment.
            kept_broken: how many that could not be loaded are kept for people to look at.

        Raises:
            SpecMismatchError: it exists with another dimension or distance.
            ShardUnusableError: not now: another process has it open, or the machine refuses.
        """
        try:
            manifest = read_manifest(directory)
            if manifest is None:  # never finished being made: nothing in it was acknowledged
                shutil.rmtree(directory, ignore_errors=True)
                return cls._create(directory, dimension, distance, hnsw_from)
            manifest.check(directory.name, dimension, distance)
            if not manifest.shard:
                return cls._begin(directory, manifest, hnsw_from)
            _count_opening(directory)
            shard = load_shard(directory / manifest.shard)
            deleted = redo(shard, directory)
        except BrokenShardError as broken:
            try:
                set_aside(directory, str(broken), kept_broken)
            except OSError as error:
                raise ShardUnusableError(f"cannot set {directory.name} aside: {error}") from error
            return cls._create(directory, dimension, distance, hnsw_from)
        except ShardUnusableError:
            (directory / OPENING).unlink(missing_ok=True)  # this one did come to an end
            raise
        except OSError as error:
            raise ShardUnusableError(f"cannot open {directory.name}: {error}") from error
        try:
            collection = cls(directory, manifest, shard, hnsw_from=hnsw_from)
            if deleted:
                collection.traces.deleted()
                collection.traces.note()
            collection.journal.renew()  # what was in it is flushed
            collection.sweep()
            (directory / OPENING).unlink(missing_ok=True)
        except OSError as error:
            shard.close()
            raise ShardUnusableError(f"cannot open {directory.name}: {error}") from error
        return collection

    @classmethod
    def _create(cls, directory: Path, dimension: int, distance: str, hnsw_from: int) -> EdgeCollection:
        return cls._begin(directory, Manifest(dimension, distance, uuid.uuid4().hex, ""), hnsw_from)

    @classmethod
    def _begin(cls, directory: Path, empty: Manifest, hnsw_from: int) -> EdgeCollection:
        """Give the collection its first shard; its incarnation stays."""
        manifest = msgspec.structs.replace(empty, shard=FIRST_SHARD)
        place = directory / manifest.shard
        shutil.rmtree(place, ignore_errors=True)  # of a beginning that crashed
        shard = new_shard(place, manifest.dimension, manifest.distance, hnsw_from)
        try:
            sync_tree(place)
            write_durably(directory / MANIFEST, msgspec.json.encode(manifest))
            sync_directory(directory.parent)
            return cls(directory, manifest, shard, hnsw_from=hnsw_from)
        except OSError as error:
            shard.close()
            raise ShardUnusableError(f"cannot make {directory.name}: {error}") from error

    @property
    def name(self) -> str:
        """The collection's name."""
        return self.directory.name

    def sweep(self) -> None:
        """Remove what a crashed rebuild left behind."""
        for entry in self.directory.iterdir():
            if entry.is_dir() and entry.name != self.manifest.shard:
                shutil.rmtree(entry, ignore_errors=True)

    def upsert(self, points: list[edge.Point]) -> None:
        """Apply; on disk only when the journal has it or after the next flush."""
        self._touch([_id(point) for point in points])
        self.shard.update(edge.UpdateOperation.upsert_points(points))

    def delete(self, ids: list[int]) -> None:
        """Apply; on disk only when the journal has it or after the next flush."""
        self._touch(ids)
        self.traces.deleted()
        self.shard.update(edge.UpdateOperation.delete_points([*ids]))

    def _touch(self, ids: list[int]) -> None:
        self._changed.update(ids)
        if self.touched is not None:
            self.touched.update(ids)

    @property
    def changed(self) -> int:
        """How many points were changed since the last rebuild; a few may be counted twice."""
        return self._changed_before + len(self._changed)

    def _note_changed(self) -> None:
        with contextlib.suppress(OSError):  # a hint: without it the next rebuild comes too early or too late
            (self.directory / CHANGED).write_text(str(self.changed + len(self._before_copy)))

    def note_copy(self) -> None:
        """A copy of the flushed files is about to be taken: `touched` and `changed` begin there."""
        self.touched = set()
        self.traces.copy_begins()
        self._before_copy = self._changed
        self._changed = set()

    def forget_copy(self) -> None:
        """Nothing came of the copy."""
        self.touched = None
        self._changed |= self._before_copy
        self._before_copy = set()

    @property
    def place(self) -> Path:
        """Where the valid shard lies."""
        return self.directory / self.manifest.shard

    def flush(self) -> None:
        """Put all that was applied on disk, and begin the journal anew; not while it is being synced."""
        self.shard.flush()
        self.traces.note()
        self.journal.renew()
        self._note_changed()

    def search(
        self, vector: bytes, limit: int, where: dict[str, Any] | None
    ) -> list[tuple[int, int, float]]:
        """(id, version, score), nearest first.

        Raises:
            ValueError: the filter cannot be said.
        """
        found = self.shard.search(
            edge.SearchRequest(
                query=edge.Query.Nearest(floats(vector)),
                limit=limit,
                filter=None if where is None else edge_filter(where),
                params=edge.SearchParams(
                    hnsw_ef=max(SEARCH_EF, 2 * limit),
                    exact=where is not None and needs_scan(where),
                    # looks past neighbours that the filter refuses: without it they are walls
                    acorn=None if where is None else edge.AcornSearchParams(enable=True),
                ),
                with_payload=[VERSION],
            )
        )
        # Euclid answers a distance; callers are promised that higher is nearer
        sign = -1.0 if self.manifest.distance == "Euclid" else 1.0
        return [(_id(point), version_of(point.payload), sign * point.score) for point in found]

    def scroll(self, after_id: int, limit: int) -> list[tuple[int, int, str]]:
        """(id, version, epoch) of the next points, ascending."""
        records, _ = self.shard.scroll(
            edge.ScrollRequest(offset=max(0, after_id + 1), limit=limit, with_payload=[VERSION, EPOCH])
        )
        return [(_id(record), version_of(record.payload), epoch_of(record.payload)) for record in records]

    def count(self) -> int:
        """How many points there are, exactly."""
        return self.shard.count(edge.CountRequest(exact=True))

    def copy_of(self, ids: Iterable[int]) -> list[edge.Point]:
        """The points of these ids as they are now; those that are gone are missing."""
        records = self.shard.retrieve([*ids], with_payload=True, with_vector=True)
        return [edge.Point(record.id, record.vector or [], record.payload) for record in records]

    def name_valid(self, manifest: Manifest) -> None:
        """Durably make the shard that this manifest names the valid one. In any thread.

        A crash before the manifest's rename leaves the old shard valid, after it the new one; both must hold
        every acknowledged point.

        Raises:
            OSError: the old shard stays the valid one.
        """
        try:
            write_durably(self.directory / MANIFEST, msgspec.json.encode(manifest))
        except OSError:
            if read_manifest(self.directory) != manifest:
                raise

    def adopt(self, manifest: Manifest, shard: edge.EdgeShard) -> Path:
        """Serve from the shard that is the valid one now; answers the place of the old one, to be removed."""
        old_shard, old_place = self.shard, self.place
        self.manifest, self.shard = manifest, shard
        self.touched = None
        self._changed_before = 0
        self._before_copy = set()
        self._note_changed()
        old_shard.close()
        return old_place

    def close(self) -> None:
        """Flush and let go."""
        self.flush()
        self.journal.close()
        self.shard.close()


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest, or None if the collection was never finished being made.

    Raises:
        BrokenShardError: it is there and unreadable.
    """
    try:
        return msgspec.json.decode((directory / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise BrokenShardError(f"manifest: {error}") from error


def redo(shard: edge.EdgeShard, directory: Path) -> bool:
    """Apply what the journals hold, see that it was taken, and flush it; answers whether points were deleted by it.

    An engine whose own log was damaged ignores updates without a word: it takes them for older ones.

    Raises:
        BrokenShardError: the shard does not take what it took before.
        ShardUnusableError: not now.
    """
    expected: dict[int, int | None] = {}  # id to version, None where it was deleted
    taken = True
    try:
        for op, items in replay(directory):
            if op == "upsert":
                shard.update(edge.UpdateOperation.upsert_points([make_point(*item) for item in items]))
                expected.update((item[0], item[1]) for item in items)
            else:
                shard.update(edge.UpdateOperation.delete_points(items))
                expected.update(dict.fromkeys(items))
        if expected:
            records = shard.retrieve([*expected], with_payload=[VERSION], with_vector=False)
            found = {_id(record): version_of(record.payload) for record in records}
            taken = found == {id_: version for id_, version in expected.items() if version is not None}
            shard.flush()
    except BaseException as error:
        shard.close()
        raise reason_to_fail(error, directory) from error
    if not taken:
        shard.close()
        raise BrokenShardError("the shard ignores updates")
    return None in expected.values()


def _count_opening(directory: Path) -> None:
    """Note that an opening begins.

    Raises:
        BrokenShardError: too many before it did not come to an end.
        ShardUnusableError: on a full disk a shard may kill its reader, and nothing would be wrong with it.
    """
    if shutil.disk_usage(directory).free < MIN_FREE_BYTES:
        raise ShardUnusableError(f"less than {MIN_FREE_BYTES // 2**20} MB free on the disk")
    mark = directory / OPENING
    failed = _noted_number(mark)
    if failed >= MAX_FAILED_OPENINGS:
        raise BrokenShardError(f"{failed} openings in a row ended the process")
    mark.write_text(str(failed + 1))


def _noted_number(path: Path) -> int:
    """A number that may not be there; a power cut may have left the file empty."""
    noted = path.read_bytes() if path.exists() else b""
    return int(noted) if noted.isdigit() else 0


def remove_collection(directory: Path) -> None:
    """Remove a collection that is not open; a crash in the middle leaves a fragment without a manifest."""
    (directory / MANIFEST).unlink(missing_ok=True)
    if directory.is_dir():
        sync_directory(directory)
        shutil.rmtree(directory)


def _id(point: edge.Point | edge.Record | edge.ScoredPoint) -> int:
    """The engine also knows UUIDs; we give it integers only."""
    return point.id  # type: ignore[return-value]

"""Shards of the engine: their layout, loading one, and whose fault it is when that fails. In the child only.

Owns how vectors are indexed and stored. Knows no collection.
"""

from __future__ import annotations

import re
import shutil
import time
from array import array
from pathlib import Path
from typing import Any

import qdrant_edge as edge

from nexusd.index.edge_payload import INDEXED
from nexusd.index.stored_payload import stored_payload

LOCK_WAIT_S = 5.0  # a predecessor that was killed may still be dying
LOCK_RETRY_S = 0.02
EXACT_BELOW = 10_000  # points that pass a filter up to which all are compared: 2 ms at 384 dimensions
BUILD_THREADS = 2  # a rebuild yields to everybody, but it should end
# With less, a load may fail for want of room alone: the engine's own log takes 32 MB at a time.
MIN_FREE_BYTES = 64 * 1024 * 1024
# Signs that the machine, not the shard, is at fault: setting the shard aside would help nothing.
_NOT_THE_SHARD = re.compile(
    r"No space left|Permission denied|Too many open files|Cannot allocate memory|Read-only file system"
    r"|Disk quota|os error (1|12|13|23|24|28|30|122)\b",
    re.IGNORECASE,
)


class ShardUnusableError(Exception):
    """The shard cannot be used now, for a reason that lies outside of it."""


class BrokenShardError(Exception):
    """The shard's files cannot be loaded and never will be."""


def load_shard(place: Path) -> edge.EdgeShard:
    """Load a shard; waits for a dying predecessor to let go of it.

    Raises:
        BrokenShardError: its files are damaged or missing.
        ShardUnusableError: not now.
    """
    if not place.is_dir():
        raise BrokenShardError(f"{place.name} is missing")
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            return edge.EdgeShard.load(str(place))
        except BaseException as error:
            if "WouldBlock" in str(error):
                if time.monotonic() < deadline:
                    time.sleep(LOCK_RETRY_S)
                    continue
                raise ShardUnusableError(f"{place} is held by another process") from error
            raise reason_to_fail(error, place) from error


def reason_to_fail(error: BaseException, place: Path) -> BaseException:
    """Whether the shard or the machine is at fault. All come here: a panic of the engine is no Exception."""
    if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
        return error
    reason = f"{type(error).__name__}: {error}"
    if _NOT_THE_SHARD.search(reason) or shutil.disk_usage(place).free < MIN_FREE_BYTES:
        return ShardUnusableError(reason)
    return BrokenShardError(reason)


def make_point(id_: int, version: int, vector: bytes, payload: dict[str, Any]) -> edge.Point:
    """A point of the engine.

    Raises:
        ValueError, TypeError, OverflowError: the payload or the id cannot be stored.
    """
    numbers: Any = array("f", vector)  # taken as a list is, in two thirds of the time
    return edge.Point(id_, numbers, stored_payload(payload, version))


def floats(vector: bytes) -> list[float]:
    """The numbers of a vector."""
    return array("f", vector).tolist()


def shard_config(dimension: int, distance: str, hnsw_from: int) -> edge.EdgeConfig:
    """How a shard is laid out and when a segment gets a graph."""
    kilobytes = dimension * 4 / 1024  # a vector
    return edge.EdgeConfig(
        vectors=edge.EdgeVectorParams(size=dimension, distance=getattr(edge.Distance, distance)),
        hnsw_config=edge.HnswIndexConfig(
            m=16,
            ef_construct=100,
            full_scan_threshold=max(1, round(EXACT_BELOW * kilobytes)),
            max_indexing_threads=BUILD_THREADS,
            payload_m=0,
        ),
        optimizers=edge.EdgeOptimizersConfig(
            indexing_threshold=max(1, round(hnsw_from * kilobytes)),
            default_segment_number=2,
        ),
        max_search_threads=2,
        # Reading its log back is most of a load, and our journal would do. But without it the engine's operation
        # numbers go back after a crash, and it silently ignores updates as older than what it has.
        wal_enabled=True,
        id_tracker_memory=edge.Memory.Cached,  # mapped, not built up in memory: loading holds everybody up
    )


def new_shard(place: Path, dimension: int, distance: str, hnsw_from: int) -> edge.EdgeShard:
    """An empty shard with its indexes, flushed.

    Raises:
        ShardUnusableError: it cannot be made.
    """
    try:
        place.mkdir(parents=True)
        shard = edge.EdgeShard.create(str(place), shard_config(dimension, distance, hnsw_from))
        for key, schema in INDEXED.items():
            shard.update(edge.UpdateOperation.create_field_index(key, schema))
        shard.flush()
    except Exception as error:  # the engine knows no exception of its own
        raise ShardUnusableError(f"cannot make {place}: {error}") from error
    return shard

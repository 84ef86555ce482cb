"""Builds the graph of a copied shard, beside the process that serves. No pipe to the daemon.

Owns the copy until it says that it is done. The copy is either optimised as it is, or only its living points are taken
over into a shard made anew: the engine's files keep what was deleted or overwritten until a segment is merged, and its
own log keeps it longer. Talks with the serving process in words, a line each:

    ready    ->             it has come up
             <-   copy      no update is applied now
    copied   ->             updates may go on
    done     ->             the copy is optimised and on disk, and this process ends

Started as `python -m nexusd.index.rebuild_process SOURCE TARGET DIMENSION DISTANCE HNSW_FROM HOW`, where HOW is
`optimise` or `anew`. Any failure: a sentence on stderr and another exit code than 0.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import qdrant_edge as edge

from nexusd.child_channel import become_child, lower_priority
from nexusd.index.durable import sync_tree
from nexusd.index.edge_shard import new_shard, shard_config

NICENESS = 19
POINTS_AT_ONCE = 500  # taken over into a shard made anew


def main() -> None:
    """Copy SOURCE to TARGET, optimise TARGET."""
    serving_process = os.getppid()
    become_child()
    if os.getppid() != serving_process:  # it died before its death could reach us
        sys.exit(1)
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    dimension, distance, hnsw_from = int(sys.argv[3]), sys.argv[4], int(sys.argv[5])
    anew = sys.argv[6] == "anew"
    copy = copy_beside(target) if anew else target
    _say("ready")
    if sys.stdin.readline() != "copy\n":
        sys.exit(1)
    shutil.copytree(source, copy)
    _say("copied")
    lower_priority(NICENESS)  # only now: updates wait while the copy is taken
    config = shard_config(dimension, distance, hnsw_from)
    shard = edge.EdgeShard.load(str(copy), config)  # as it should be now, not when it was made
    if anew:
        shard = _taken_over(shard, new_shard(target, dimension, distance, hnsw_from))
        shutil.rmtree(copy)
    shard.optimize()
    shard.flush()
    shard.close()
    sync_tree(target)
    _say("done")


def copy_beside(target: Path) -> Path:
    """Where the copy lies while a shard is made anew of it."""
    return target.with_name(f"{target.name}-copy")


def _taken_over(old: edge.EdgeShard, new: edge.EdgeShard) -> edge.EdgeShard:
    """The new shard, with every point of the old one."""
    offset: edge.PointId | None = 0
    while offset is not None:
        asked = edge.ScrollRequest(offset=offset, limit=POINTS_AT_ONCE, with_payload=True, with_vector=True)
        records, offset = old.scroll(asked)
        points = [edge.Point(record.id, record.vector or [], record.payload) for record in records]
        new.update(edge.UpdateOperation.upsert_points(points))
    old.close()
    return new


def _say(word: str) -> None:
    try:
        print(word, flush=True)  # noqa: T201  stdout is the way to speak here
    except BrokenPipeError:  # nobody listens any more
        os._exit(1)  # not sys.exit: that would try to flush stdout once more


if __name__ == "__main__":
    main()

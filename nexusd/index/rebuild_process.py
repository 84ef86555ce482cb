"""Builds the graph of a copied shard, beside the process that serves. No pipe to the daemon.

Owns the copy until it says that it is done. Talks with the serving process in words, a line each:

    ready    ->             it has come up
             <-   copy      no update is applied now
    copied   ->             updates may go on
    done     ->             the copy is optimised and on disk, and this process ends

Started as `python -m nexusd.index.rebuild_process SOURCE TARGET DIMENSION DISTANCE HNSW_FROM`. Any failure:
a sentence on stderr and another exit code than 0.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import qdrant_edge as edge

from nexusd.child_channel import become_child, lower_priority
from nexusd.index.durable import sync_tree
from nexusd.index.edge_shard import shard_config

NICENESS = 19


def main() -> None:
    """Copy SOURCE to TARGET, optimise TARGET."""
    serving_process = os.getppid()
    become_child()
    if os.getppid() != serving_process:  # it died before its death could reach us
        sys.exit(1)
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    config = shard_config(int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
    _say("ready")
    if sys.stdin.readline() != "copy\n":
        sys.exit(1)
    shutil.copytree(source, target)
    _say("copied")
    lower_priority(NICENESS)  # only now: updates wait while the copy is taken
    shard = edge.EdgeShard.load(str(target), config)  # as it should be now, not when it was made
    shard.optimize()
    shard.flush()
    shard.close()
    sync_tree(target)
    _say("done")


def _say(word: str) -> None:
    try:
        print(word, flush=True)  # noqa: T201  stdout is the way to speak here
    except BrokenPipeError:  # nobody listens any more
        os._exit(1)  # not sys.exit: that would try to flush stdout once more


if __name__ == "__main__":
    main()

"""The index's child, made to die: at a step of a rebuild, or whenever it opens a poisoned shard.

Started in place of nexusd.index.shard_process, with the same arguments; so the production code has named
steps and no switches. NEXUSD_TEST_DIES_AT names the step; it dies there once, then lives. NEXUSD_TEST_ERASE_AFTER_S
is how long it waits after a delete before it erases.
"""

import os
import signal
import sys
from pathlib import Path

import qdrant_edge

from nexusd.index import edge_collection, edge_shard, rebuild_schedule
from nexusd.index.shard_process import main


def reached(step: str) -> None:
    """Die here, the first time."""
    mark = Path(sys.argv[2]) / f"died-at-{step}"
    if step == os.environ.get("NEXUSD_TEST_DIES_AT") and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def load_poisoned(place: Path) -> qdrant_edge.EdgeShard:
    """As a truncated file does it: by a signal, not by an exception."""
    if (place / "poison").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return edge_shard.load_shard(place)


if __name__ == "__main__":
    edge_collection.load_shard = load_poisoned
    rebuild_schedule.ERASE_AFTER_S = float(os.environ.get("NEXUSD_TEST_ERASE_AFTER_S", rebuild_schedule.ERASE_AFTER_S))
    main(reached)

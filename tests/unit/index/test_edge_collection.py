"""Opening a collection after a crash: what the journal holds must be in the shard afterwards, or it is broken."""

from pathlib import Path
from typing import Any

import pytest
import qdrant_edge as edge

from nexusd.index.edge_collection import redo
from nexusd.index.edge_shard import BrokenShardError, make_point, new_shard
from nexusd.index.journal import Journal

VECTOR = b"\x00\x00\x80\x3f" * 4


class IgnoringShard:
    """As an engine whose log went back: it takes updates and does nothing."""

    def __init__(self, shard: edge.EdgeShard) -> None:
        self._shard = shard

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shard, name)

    def update(self, operation: edge.UpdateOperation) -> None:
        """Nothing."""


@pytest.fixture
def shard(tmp_path: Path) -> edge.EdgeShard:
    shard = new_shard(tmp_path / "shard-1", 4, "Cosine", 100)
    shard.update(edge.UpdateOperation.upsert_points([make_point(id_, 1, VECTOR, {}) for id_ in (1, 2)]))
    return shard


OPERATIONS = [("upsert", [[1, 2, VECTOR, {}]]), ("delete", [2])]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_shard_that_ignores_the_journal_is_broken(
    tmp_path: Path, shard: edge.EdgeShard, operation: tuple[str, list[Any]]
) -> None:
    Journal(tmp_path).append(*operation)
    with pytest.raises(BrokenShardError, match="ignores updates"):
        redo(IgnoringShard(shard), tmp_path)  # type: ignore[arg-type]


def test_what_comes_last_in_the_journal_stands(tmp_path: Path, shard: edge.EdgeShard) -> None:
    journal = Journal(tmp_path)
    for op, items in (*OPERATIONS, ("delete", [1]), ("upsert", [[1, 3, VECTOR, {}], [2, 4, VECTOR, {}]])):
        journal.append(op, items)
    redo(shard, tmp_path)
    records = shard.retrieve([1, 2], with_payload=True, with_vector=False)
    assert {record.id: (record.payload or {})["version"] for record in records} == {1: 3, 2: 4}

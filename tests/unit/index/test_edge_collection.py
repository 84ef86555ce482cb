"""Opening a collection after a crash: what the journal holds must be in the shard afterwards, or it is broken."""

from pathlib import Path
from typing import Any

import pytest
import qdrant_edge as edge

from nexusd.index.edge_collection import EdgeCollection, redo
from nexusd.index.edge_shard import BrokenShardError, ShardUnusableError, make_point, new_shard
from nexusd.index.journal import Journal, replay

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


def test_a_shard_that_another_process_holds_is_not_taken_for_broken_however_often_it_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexusd.index.edge_shard.LOCK_WAIT_S", 0.0)
    place = tmp_path / "episodes"
    first = EdgeCollection.open(place, dimension=4, distance="Cosine", hnsw_from=100)
    for _ in range(8):
        with pytest.raises(ShardUnusableError, match="held by another process"):
            EdgeCollection.open(place, dimension=4, distance="Cosine", hnsw_from=100)
    first.close()
    again = EdgeCollection.open(place, dimension=4, distance="Cosine", hnsw_from=100)
    assert again.manifest == first.manifest
    again.close()


def test_closing_flushes_so_that_the_next_opening_has_nothing_to_redo(tmp_path: Path) -> None:
    place = tmp_path / "episodes"
    collection = EdgeCollection.open(place, dimension=4, distance="Cosine", hnsw_from=100)
    collection.journal.append("upsert", [[1, 2, VECTOR, {}]])
    collection.upsert([make_point(1, 2, VECTOR, {})])
    collection.close()
    assert list(replay(place)) == []
    again = EdgeCollection.open(place, dimension=4, distance="Cosine", hnsw_from=100)
    assert (again.scroll(0, 10), again.changed) == ([(1, 2, "")], 1)
    again.close()


def test_what_comes_last_in_the_journal_stands(tmp_path: Path, shard: edge.EdgeShard) -> None:
    journal = Journal(tmp_path)
    for op, items in (*OPERATIONS, ("delete", [1]), ("upsert", [[1, 3, VECTOR, {}], [2, 4, VECTOR, {}]])):
        journal.append(op, items)
    redo(shard, tmp_path)
    records = shard.retrieve([1, 2], with_payload=True, with_vector=False)
    assert {record.id: (record.payload or {})["version"] for record in records} == {1: 3, 2: 4}

"""Updates and flushes of several collections in the index's child; the collections are stand-ins."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from nexusd.child_channel import ChildChannel
from nexusd.index import updates
from nexusd.index.background import Background
from nexusd.index.edge_collection import EdgeCollection
from nexusd.index.request import Request
from nexusd.index.updates import Updates


class SilentChannel:
    """Nobody is told anything."""

    def reply(self, request_id: int, payload: object) -> None:
        pass


class KeptJournal:
    """Counts nothing, loses nothing."""

    operations = 0
    size = 0

    def append(self, op: str, items: list[Any]) -> None:
        pass

    def sync(self) -> None:
        pass


class FlushedCollection:
    """Takes deletes, and counts its flushes."""

    def __init__(self, place: Path) -> None:
        self.name = place.name
        self.place = place
        self.journal = KeptJournal()
        self.flushes = 0
        place.mkdir()

    def delete(self, ids: list[int]) -> None:
        pass

    def flush(self) -> None:
        self.flushes += 1


def test_a_collection_that_is_ready_to_be_flushed_does_not_hold_up_the_copy_of_another(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(updates, "FLUSH_WHEN_IDLE_S", 0.0)
    background = Background()
    held = Updates(cast("ChildChannel", SilentChannel()), background)
    first, second = (cast("EdgeCollection", FlushedCollection(tmp_path / name)) for name in ("first", "second"))
    for number, collection in enumerate((first, second)):
        held.begin(Request(number, "delete", {"ids": [1]}), collection)
        held.apply_slice()
        held.answer_all()
    held.flush_if_due(0.0)  # the first is due: its files are put on disk
    background.wait()
    background.finish()

    turns = 0
    while not held.ready_to_flush(second):  # a rebuild of the second asks before its copy, and nothing else goes on
        turns += 1
        assert turns < 10, "it waits for a flush of the first, which waits for it"
        background.wait()
        background.finish()
    held.flush(second)
    assert not held.flush_if_due(0.0)
    background.wait()
    background.finish()
    assert held.flush_if_due(0.0)
    assert cast("Any", first).flushes == 1

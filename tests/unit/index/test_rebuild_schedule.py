"""When a collection that has grown is rebuilt: seen in how long the child is to wait for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from nexusd.child_channel import ChildChannel
from nexusd.index import rebuild_schedule
from nexusd.index.background import Background
from nexusd.index.edge_collection import EdgeCollection
from nexusd.index.rebuild_schedule import FILLING_WITHIN_S, GROWTH_SEEN_S, RebuildSchedule
from nexusd.index.traces import Traces

REBUILD_AFTER = 1000


@dataclass
class Clock:
    """Seconds, as they are told."""

    now_s: float = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@dataclass
class Growing:
    """What a schedule looks at before a rebuild."""

    directory: Path
    name: str = "episodes"
    changed: int = 0
    traces: Traces = field(init=False)

    def __post_init__(self) -> None:
        self.traces = Traces(self.directory)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rebuild_schedule, "time", clock)
    return clock


@pytest.fixture
def schedule() -> RebuildSchedule:
    """One that nobody talks to: nothing is rebuilt here."""
    return RebuildSchedule(cast("ChildChannel", object()), Background(), REBUILD_AFTER, lambda step: None)


def due_in_s(schedule: RebuildSchedule, growing: Growing) -> float | None:
    return schedule.due_in_s([cast("EdgeCollection", growing)])


def test_a_small_tail_is_left_alone(schedule: RebuildSchedule, clock: Clock, tmp_path: Path) -> None:
    assert due_in_s(schedule, Growing(tmp_path, changed=REBUILD_AFTER - 1)) is None


def test_a_tail_that_no_longer_grows_fast_is_rebuilt(schedule: RebuildSchedule, clock: Clock, tmp_path: Path) -> None:
    growing = Growing(tmp_path, changed=REBUILD_AFTER)
    assert due_in_s(schedule, growing) == GROWTH_SEEN_S
    clock.now_s += GROWTH_SEEN_S
    growing.changed += int(GROWTH_SEEN_S * 900)  # as fast as any embedder
    assert due_in_s(schedule, growing) == 0


def test_a_collection_that_is_being_filled_is_left_alone_until_it_is_filled(
    schedule: RebuildSchedule, clock: Clock, tmp_path: Path
) -> None:
    growing = Growing(tmp_path, changed=REBUILD_AFTER)
    for _ in range(20):
        assert due_in_s(schedule, growing) == pytest.approx(GROWTH_SEEN_S)
        clock.now_s += GROWTH_SEEN_S / 2
        assert due_in_s(schedule, growing) == pytest.approx(GROWTH_SEEN_S / 2)
        clock.now_s += GROWTH_SEEN_S / 2
        growing.changed += int(GROWTH_SEEN_S * 5000)
    clock.now_s += GROWTH_SEEN_S
    assert due_in_s(schedule, growing) == pytest.approx(GROWTH_SEEN_S)  # it was filled for a part of it
    clock.now_s += GROWTH_SEEN_S
    assert due_in_s(schedule, growing) == 0


def test_a_filling_without_end_is_rebuilt_all_the_same(
    schedule: RebuildSchedule, clock: Clock, tmp_path: Path
) -> None:
    growing, began_s = Growing(tmp_path, changed=REBUILD_AFTER), clock.now_s
    while due_in_s(schedule, growing) != 0:
        clock.now_s += GROWTH_SEEN_S
        growing.changed += int(GROWTH_SEEN_S * 5000)
    assert clock.now_s - began_s == pytest.approx(FILLING_WITHIN_S)


def test_growth_before_a_rebuild_does_not_count_for_the_next(
    schedule: RebuildSchedule, clock: Clock, tmp_path: Path
) -> None:
    growing = Growing(tmp_path, changed=REBUILD_AFTER)
    assert due_in_s(schedule, growing) == GROWTH_SEEN_S
    growing.changed = 0  # rebuilt
    assert due_in_s(schedule, growing) is None
    clock.now_s += FILLING_WITHIN_S
    growing.changed = REBUILD_AFTER
    assert due_in_s(schedule, growing) == GROWTH_SEEN_S

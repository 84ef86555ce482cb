"""What a failure costs a row, and how long it waits for it. The store is a list of what was asked of it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from fakes.clock import ManualClock

from nexusd.config_sections import OutboxConfig
from nexusd.store.outbox import OutboxEntry, bury, postpone, release_batch
from nexusd.sync.breaker import FLOOR_S, Breaker
from nexusd.sync.setbacks import UNFORESEEN, Setbacks

pytestmark = pytest.mark.anyio
LONGEST_S = 100.0


class Asked:
    """Takes the place of the store."""

    def __init__(self) -> None:
        self.writes: list[tuple[Any, ...]] = []

    async def write(self, function: Any, *args: Any, **_queue: Any) -> bool:
        self.writes.append((function, *args))
        return True


class Room:
    """Setbacks, and what they go by."""

    def __init__(self, *, max_attempts: int = 3) -> None:
        self.clock = ManualClock()
        self.store = Asked()
        chance = random.Random(5)
        self.breaker = Breaker("embedder", max_pause_s=LONGEST_S, clock=self.clock, chance=chance)
        self.steps: list[str] = []
        self.told: list[Any] = []
        config = OutboxConfig(max_attempts=max_attempts, max_backoff_s=LONGEST_S)
        self.setbacks = Setbacks(
            self.store, self.breaker, config, self.clock, chance,  # type: ignore[arg-type]  # it writes, no more
            lambda topic, data: self.told.append((topic, data)), "outbox", self.steps.append,
        )  # fmt: skip

    def waits_s(self) -> float:
        """How long the last write makes its rows wait."""
        function, _, not_before_ms, *_ = self.store.writes[-1]
        assert function in (release_batch, postpone)
        return (not_before_ms - self.clock.now_ms()) / 1000


def entry(seq: int = 1, attempts: int = 0) -> OutboxEntry:
    return OutboxEntry(seq, "episodes", 10 + seq, 1, "upsert", attempts, 0)


async def test_what_is_given_back_waits_as_long_as_it_is_told() -> None:
    room = Room()
    await room.setbacks.give_back([entry()], 30)
    assert room.waits_s() == 30
    assert (room.setbacks.gave_back, room.steps) == (True, ["given_back"])


async def test_a_pause_past_the_longest_is_cut_or_it_would_pass_for_a_clock_that_was_set_back() -> None:
    room = Room()
    await room.setbacks.give_back([entry()], 3600)
    assert room.waits_s() == LONGEST_S
    room.breaker.failed("busy", at_least_s=3600)
    await room.setbacks.suspect([entry()], "oops")
    assert room.waits_s() == LONGEST_S


async def test_rows_that_failed_together_wait_a_moment_unmarked_and_go_alone_from_then_on() -> None:
    room = Room()
    some = [entry(1), entry(2)]
    await room.setbacks.suspect(some, "oops")
    assert FLOOR_S <= room.waits_s() <= 0.5
    assert room.store.writes[-1][0] is release_batch
    assert all(room.setbacks.suspected(each) for each in some)
    assert not room.setbacks.suspected(entry(3))
    room.setbacks.cleared([some[0]])
    assert [room.setbacks.suspected(each) for each in some] == [False, True]


async def test_a_row_that_failed_alone_waits_out_the_pause_that_the_others_need_not() -> None:
    room = Room()
    room.breaker.failed("died", at_least_s=50)
    assert room.breaker.pause_left_s == 50
    await room.setbacks.suspect([entry()], "died")
    assert room.store.writes[-1][0] is postpone
    assert room.store.writes[-1][3:] == (UNFORESEEN, "died")
    assert 50 + FLOOR_S <= room.waits_s() <= 50.5 + FLOOR_S
    assert room.breaker.pause_left_s == 0
    assert room.steps == ["postponed"]


async def test_a_row_is_given_up_at_its_last_attempt_and_is_no_suspect_any_more() -> None:
    room = Room(max_attempts=3)
    await room.setbacks.suspect([entry(attempts=1)], "oops")
    assert room.store.writes[-1][0] is postpone
    await room.setbacks.suspect([entry(attempts=2)], "oops")
    assert room.store.writes[-1] == (bury, entry(attempts=2), UNFORESEEN, "oops")
    assert not room.setbacks.suspected(entry())
    assert room.told == [("outbox", {"state": "dead", "collection": "episodes", "id": 11, "kind": UNFORESEEN})]
    assert room.steps == ["postponed", "buried"]


async def test_rows_that_had_no_turn_are_due_at_once() -> None:
    room = Room()
    await room.setbacks.release([entry()])
    assert room.store.writes == [(release_batch, [entry()], 0)]
    assert (room.setbacks.gave_back, room.steps) == (False, ["released"])

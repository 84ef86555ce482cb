"""A lane: nobody waits behind more than a share of what another client asked for, and nothing is lost or stuck."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from fakes.clock import ManualClock
from hypothesis import given
from hypothesis import strategies as st

from nexusd.errors import Busy
from nexusd.wire import lanes
from nexusd.wire.lanes import PRESENT_S, Lane

pytestmark = pytest.mark.anyio
ALONE, SHARED, FLOOD_S = 8, 2, 0.002


def make(clock: ManualClock | None = None) -> Lane:
    return Lane(ALONE, SHARED, FLOOD_S, (clock or ManualClock()).monotonic_s)


def entering(lane: Lane, name: str, count: int, weight: int = 1) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(lane.enter(name, weight)) for _ in range(count)]


async def entered(tasks: Sequence[asyncio.Task[None]]) -> int:
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return sum(task.done() for task in tasks)


async def end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_client_that_is_alone_has_the_whole_lane_and_the_rest_waits_in_order() -> None:
    lane = make()
    tasks = entering(lane, "noisy", 20)
    assert await entered(tasks) == ALONE
    assert lane.waiting == 12
    lane.leave("noisy")
    assert await entered(tasks) == ALONE + 1
    assert [task.done() for task in tasks] == [True] * 9 + [False] * 11
    await end(tasks)


async def test_all_that_wait_may_be_given_up_in_one_moment() -> None:
    lane = make()
    lane.see("other", light=True)  # the share is one now: each that goes lets the next one try
    tasks = entering(lane, "noisy", 20)
    assert await entered(tasks) == 1
    lane.leave("noisy")
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes[2:]] == [asyncio.CancelledError] * 18
    assert lane.waiting == 0


async def test_a_client_that_was_only_seen_counts_as_there() -> None:
    clock = ManualClock()
    lane = make(clock)
    lane.see("quiet", light=True)
    noisy = entering(lane, "noisy", 20)
    assert await entered(noisy) == 1
    clock.advance(2 * PRESENT_S)
    lane.leave("noisy")
    assert await entered(noisy) == 1 + ALONE
    await end(noisy)


async def test_who_was_only_seen_is_forgotten_in_a_lane_that_nobody_enters() -> None:
    clock = ManualClock()
    lane = make(clock)
    for n in range(1000):
        clock.advance(PRESENT_S)
        lane.see(f"client {n}", light=True)
    assert lane.clients <= 2


async def test_a_newcomer_begins_at_once_and_the_other_is_held_to_its_share_from_then_on() -> None:
    lane = make()
    noisy = entering(lane, "noisy", 20)
    await entered(noisy)
    quiet = entering(lane, "quiet", 1)
    assert await entered(quiet) == 1
    for left in range(ALONE - 1):
        lane.leave("noisy")
        assert await entered(noisy) == ALONE, f"{left} have left, and more than its share is under way"
    lane.leave("noisy")
    assert await entered(noisy) == ALONE + 1
    await end(noisy)


async def test_who_has_not_been_there_for_a_while_leaves_its_share_to_the_others() -> None:
    clock = ManualClock()
    lane = make(clock)
    assert lane.try_enter("quiet")
    lane.leave("quiet")
    noisy = entering(lane, "noisy", 20)
    assert await entered(noisy) == 1
    clock.advance(PRESENT_S + 1)
    lane.leave("noisy")
    assert await entered(noisy) == 1 + ALONE
    assert lane.clients == 1
    await end(noisy)


async def test_what_is_too_heavy_for_a_share_goes_alone_and_nothing_of_the_same_client_beside_it() -> None:
    lane = make()
    heavy = entering(lane, "noisy", 1, weight=1000)
    assert await entered(heavy) == 1
    light = entering(lane, "noisy", 3)
    assert await entered(light) == 0
    assert lane.try_enter("quiet"), "another client does not wait for it"
    lane.leave("noisy", 1000)
    assert await entered(light) == 1
    await end(light)


HEAVY, HOLDS_S = 4, lanes.HEAVY_S


async def rested(heavy: asyncio.Task[None], clock: ManualClock, seconds: float) -> bool:
    """Whether it has entered after so many seconds more; the lane looks when its timers tell it to."""
    clock.advance(seconds)
    done, _ = await asyncio.wait([heavy], timeout=2 * lanes.LIGHT_FOR_S)
    return bool(done)


async def test_after_a_heavy_call_its_client_rests_beside_one_that_asks_for_little() -> None:
    clock = ManualClock()
    lane = make(clock)
    assert lane.try_enter("noisy", HEAVY, HOLDS_S)
    lane.see("quiet", light=True)
    lane.leave("noisy", HEAVY, HOLDS_S)
    heavy = asyncio.create_task(lane.enter("noisy", HEAVY, HOLDS_S))
    assert await entered([heavy]) == 0
    assert lane.try_enter("quiet")
    assert not await rested(heavy, clock, 0.5 * lanes.REST * HOLDS_S)
    assert await rested(heavy, clock, 0.6 * lanes.REST * HOLDS_S)
    assert lane.waiting == 0


async def test_a_rest_ends_when_nobody_is_there_any_more_who_asks_for_little() -> None:
    clock = ManualClock()
    lane = make(clock)
    lane.see("quiet", light=True)
    assert lane.try_enter("noisy", HEAVY, 1.0)
    lane.leave("noisy", HEAVY, 1.0)
    heavy = asyncio.create_task(lane.enter("noisy", HEAVY, 1.0))
    assert not await rested(heavy, clock, 0.5 * lanes.LIGHT_FOR_S)
    lane.see("quiet", light=True)
    assert not await rested(heavy, clock, 0.9 * lanes.LIGHT_FOR_S)
    assert await rested(heavy, clock, 0.2 * lanes.LIGHT_FOR_S)


async def test_light_calls_of_a_client_that_rests_go_on_unless_they_wait_behind_a_heavy_one() -> None:
    clock = ManualClock()
    lane = make(clock)
    lane.see("quiet", light=True)
    assert lane.try_enter("noisy", HEAVY, HOLDS_S)
    lane.leave("noisy", HEAVY, HOLDS_S)
    assert lane.try_enter("noisy")
    lane.leave("noisy")
    heavy, light = (asyncio.create_task(lane.enter("noisy", 1, holds_s)) for holds_s in (HOLDS_S, 0.0))
    assert await entered([heavy, light]) == 0    # in order
    assert await rested(heavy, clock, lanes.REST * HOLDS_S)
    lane.leave("noisy", 1, 0.0)
    await asyncio.wait_for(light, 20)


@pytest.mark.parametrize("who", ["nobody", "itself", "somebody with heavy ones", "somebody before", "it is light"])
async def test_a_call_that_is_in_nobodys_way_is_followed_by_the_next_at_once(who: str) -> None:
    clock = ManualClock()
    lane = make(clock)
    holds_s = 0.9 * HOLDS_S if who == "it is light" else HOLDS_S
    match who:
        case "itself":
            lane.see("noisy", light=True)
        case "somebody with heavy ones":
            assert lane.try_enter("other", HEAVY, HOLDS_S)
        case "somebody before":
            lane.see("other", light=True)
            clock.advance(lanes.LIGHT_FOR_S)
        case "it is light":
            lane.see("other", light=True)
        case _:
            pass
    assert lane.try_enter("noisy", HEAVY, holds_s)
    lane.leave("noisy", HEAVY, holds_s)
    assert lane.try_enter("noisy", HEAVY, holds_s)


@pytest.mark.parametrize("quiet", [True, False])
async def test_heavy_calls_that_would_fit_together_come_one_by_one_beside_one_that_asks_for_little(
    *, quiet: bool
) -> None:
    clock = ManualClock()
    lane = Lane(64, 16, FLOOD_S, clock.monotonic_s)
    lane.see("other", light=quiet)
    heavy = [asyncio.create_task(lane.enter("noisy", 1, HOLDS_S)) for _ in range(3)]
    assert await entered(heavy) == (1 if quiet else 3)
    lane.leave("noisy", 1, HOLDS_S)
    assert await entered(heavy) == (1 if quiet else 3)
    if quiet:
        assert await rested(heavy[1], clock, 1.1 * lanes.REST * HOLDS_S)
        assert not heavy[2].done()
    await end(heavy)


async def test_a_light_call_that_takes_long_keeps_its_client_there() -> None:
    clock = ManualClock()
    lane = make(clock)
    assert lane.try_enter("quiet")
    clock.advance(10 * lanes.LIGHT_FOR_S)
    assert lane.try_enter("noisy", HEAVY, HOLDS_S)
    lane.leave("noisy", HEAVY, HOLDS_S)
    assert not lane.try_enter("noisy", HEAVY, HOLDS_S)
    clock.advance(lanes.REST * HOLDS_S)
    lane.leave("quiet")
    heavy = asyncio.create_task(lane.enter("noisy", HEAVY, HOLDS_S))
    assert await rested(heavy, clock, 0.0)
    lane.leave("noisy", HEAVY, HOLDS_S)
    assert not lane.try_enter("noisy", HEAVY, HOLDS_S), "the quiet one has just gone"


async def test_a_flood_of_light_calls_goes_one_by_one_with_rests_beside_one_that_asks_for_little() -> None:
    clock = ManualClock()
    lane = make(clock)
    lane.see("quiet", light=True)
    flood = entering(lane, "noisy", lanes.FLOOD)
    assert await entered(flood) == 1    # its share, of two
    lane.leave("noisy")
    assert await entered(flood) == 2, "fewer than a flood wait: no rest"
    assert not lane.asks_for_much("noisy")
    flood += entering(lane, "noisy", lanes.FLOOD + 2)
    await entered(flood)
    assert lane.asks_for_much("noisy")
    lane.leave("noisy")
    assert await entered(flood) == 2
    assert not await rested(flood[2], clock, 0.5 * lanes.REST * FLOOD_S)
    lane.see("quiet", light=True)
    assert await rested(flood[2], clock, 0.6 * lanes.REST * FLOOD_S)
    assert lane.try_enter("quiet")
    await end(flood)


async def test_the_rest_of_a_flood_grows_with_what_waits() -> None:
    """A client that reads its answers is not cut off by one call more."""
    rests_s = []
    for over in (1, lanes.FLOOD // 4, lanes.FLOOD, 3 * lanes.FLOOD):
        clock = ManualClock()
        lane = make(clock)
        lane.see("quiet", light=True)
        flood = entering(lane, "noisy", 1 + lanes.FLOOD + over)
        await entered(flood)
        lane.leave("noisy")
        began_s, step_s = clock.monotonic_s(), lanes.REST * FLOOD_S / 64
        while await entered(flood) == 1:
            clock.advance(step_s)
            lane.see("quiet", light=True)
            await asyncio.sleep(0.002)
        rests_s.append((clock.monotonic_s() - began_s) / (lanes.REST * FLOOD_S))
        await end(flood)
    assert rests_s[0] < 0.1
    assert 0.2 < rests_s[1] < 0.9
    assert rests_s[2] > 0.9
    assert rests_s[1] < rests_s[3]


async def test_after_a_call_that_was_not_done_nobody_rests() -> None:
    lane = make()
    lane.see("quiet", light=True)
    flood = entering(lane, "noisy", 3 * lanes.FLOOD)
    for done in range(1, 2 * lanes.FLOOD):
        assert await entered(flood) == done
        lane.leave("noisy", was_done=False)
    await end(flood)


async def test_what_was_carried_out_alone_is_not_rested_from_when_somebody_comes() -> None:
    clock = ManualClock()
    lane = make(clock)
    flood = entering(lane, "noisy", 4 * lanes.FLOOD)
    for _ in range(lanes.FLOOD):
        await entered(flood)
        lane.leave("noisy")
    lane.see("quiet", light=True)
    done = await entered(flood)
    while lane._clients["noisy"].busy:  # what had begun before the other one came
        lane.leave("noisy")
    flood_turns = await entered(flood)
    clock.advance(1.1 * ALONE * lanes.REST * FLOOD_S)
    lane.see("quiet", light=True)
    assert flood_turns == done
    async with asyncio.timeout(20):
        while await entered(flood) == done:
            await asyncio.sleep(0.01)
    await end(flood)


async def test_who_asks_for_much_in_one_lane_holds_nobody_up_in_the_other() -> None:
    reads, writes = make(), make()
    reads.beside, writes.beside = writes, reads
    for lane, name in ((reads, "one"), (writes, "other")):
        assert lane.try_enter(name, HEAVY, HOLDS_S)
        lane.leave(name, HEAVY, HOLDS_S)
    assert reads.try_enter("other")     # little of what it asks for here
    reads.leave("other")
    assert writes.try_enter("one")
    writes.leave("one")
    for lane, name in ((reads, "one"), (writes, "other")):
        assert lane.try_enter(name, HEAVY, HOLDS_S)
        lane.leave(name, HEAVY, HOLDS_S)
        assert lane.try_enter(name, HEAVY, HOLDS_S)


async def test_a_flood_whose_calls_take_long_asks_for_much_all_the_while() -> None:
    clock = ManualClock()
    lane = make(clock)
    flood = entering(lane, "noisy", ALONE + lanes.FLOOD)
    await entered(flood)
    clock.advance(2 * PRESENT_S)
    assert lane.asks_for_much("noisy")
    await end(flood)


async def test_of_a_flood_not_even_those_go_together_for_which_there_would_be_room() -> None:
    clock = ManualClock()
    lane = Lane(64, 16, FLOOD_S, clock.monotonic_s)
    lane.see("quiet", light=True)
    heavy = entering(lane, "noisy", 1, weight=1000)
    flood = entering(lane, "noisy", lanes.FLOOD + 9)
    assert await entered(heavy) == 1
    lane.leave("noisy", 1000)
    assert await entered(flood) == 0
    assert await rested(flood[0], clock, lanes.REST * FLOOD_S)
    assert await entered(flood) == 1
    await end([*heavy, *flood])


@pytest.mark.parametrize("who", ["nobody", "another flood", "one with heavy calls"])
async def test_a_flood_is_not_held_up_beside_nobody_who_asks_for_little(who: str) -> None:
    lane = make()
    others: list[asyncio.Task[None]] = []
    if who == "another flood":
        others = entering(lane, "other", ALONE + lanes.FLOOD + 2)
        await entered(others)
        lane.leave("other")
    elif who == "one with heavy calls":
        assert lane.try_enter("other", HEAVY, HOLDS_S)
    flood = entering(lane, "noisy", ALONE + lanes.FLOOD + 4)
    began = await entered(flood)
    for left in range(1, 4):
        lane.leave("noisy")
        assert await entered(flood) == began + left
    await end([*flood, *others])


async def test_a_flood_that_has_ebbed_is_a_flood_no_more() -> None:
    clock = ManualClock()
    lane = make(clock)
    flood = entering(lane, "noisy", ALONE + lanes.FLOOD)
    await entered(flood)
    lane.leave("noisy")
    assert lane.asks_for_much("noisy")
    await end(flood)
    clock.advance(PRESENT_S)
    assert not lane.asks_for_much("noisy")
    lane.see("noisy", light=True)
    assert lane.try_enter("other", HEAVY, HOLDS_S)
    lane.leave("other", HEAVY, HOLDS_S)
    assert not lane.try_enter("other", HEAVY, HOLDS_S), "it asks for little now"


async def test_two_with_heavy_calls_that_also_ask_for_little_are_not_in_each_others_way() -> None:
    lane = make()
    for name in ("one", "other"):
        lane.see(name, light=True)
        assert lane.try_enter(name, HEAVY, HOLDS_S)
    lane.leave("one", HEAVY, HOLDS_S)
    lane.see("one", light=True)
    lane.leave("other", HEAVY, HOLDS_S)
    for name in ("one", "other"):
        assert lane.try_enter(name, HEAVY, HOLDS_S)


async def test_past_what_may_wait_the_next_is_told_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "MAX_WAITING", 3)
    lane = make()
    tasks = entering(lane, "noisy", ALONE + 3)
    await entered(tasks)
    with pytest.raises(Busy) as caught:
        await lane.enter("noisy")
    assert caught.value.retry_after_ms
    await lane.enter("quiet")
    await end(tasks)


async def test_one_that_gives_up_just_as_its_turn_comes_hands_it_on() -> None:
    lane = make()
    tasks = entering(lane, "noisy", ALONE + 2)
    await entered(tasks)
    lane.leave("noisy")         # the turn of the first that waits
    tasks[ALONE].cancel()       # before it could notice
    assert await entered(tasks) == ALONE + 2
    await end(tasks)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 12), st.sampled_from(["enter", "leave", "give up"]))))
async def test_whatever_comes_and_goes_everybody_is_served_in_the_end_and_the_account_is_even(
    steps: list[tuple[str, int, str]]
) -> None:
    clock = ManualClock()
    lane = make(clock)
    inside: list[tuple[str, int]] = []
    waiting: list[asyncio.Task[None]] = []

    async def enter(name: str, weight: int) -> None:
        await lane.enter(name, weight)
        inside.append((name, weight))

    for name, weight, step in steps:
        if step == "enter":
            waiting.append(asyncio.create_task(enter(name, weight)))
        elif step == "leave" and inside:
            lane.leave(*inside.pop(weight % len(inside)))
        elif step == "give up" and waiting:
            waiting.pop(weight % len(waiting)).cancel()
        await asyncio.sleep(0)
        for one in "abc":
            busy = [weight for name, weight in inside if name == one]
            assert len(busy) < 2 or sum(busy) <= ALONE
    for _ in range(2 * len(steps)):
        while inside:
            lane.leave(*inside.pop())
        await asyncio.sleep(0)
    await asyncio.gather(*waiting, return_exceptions=True)
    assert lane.waiting == 0
    clock.advance(PRESENT_S + 1)
    assert lane.try_enter("a", ALONE), "nothing is left of those who left"
    assert lane.clients == 1

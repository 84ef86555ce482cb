"""The loop's time: who is alone is not held up, who is not lets the others pass, and what took long has to be rare."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from nexusd.wire.shares import (
    BIG_BYTES,
    BYTE_S,
    COUNTED_FOR_S,
    FLOOD,
    FLOOD_REST_S,
    FLOOD_S,
    LIGHT_FOR_S,
    LONG_S,
    LONGEST_REST_S,
    PAUSE_S,
    PRESENT_S,
    QUEUE,
    REST,
    SLICE_ALONE_S,
    SLICE_S,
    Share,
    Shares,
)


class Timer:
    def __init__(self) -> None:
        self.cancelled = False


class Loop:
    """Notes what it is to call, and when."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.calls: list[tuple[float, Callable[[], Any]]] = []

    def call_soon(self, function: Callable[[], Any]) -> Timer:
        return self.call_later(0.0, function)

    def call_later(self, delay_s: float, function: Callable[[], Any]) -> Timer:
        self.calls.append((self.now_s + delay_s, function))
        return Timer()

    def run(self) -> float:
        """Go to the next call, and make it; how long that was."""
        self.calls.sort(key=lambda call: call[0])
        at_s, function = self.calls.pop(0)
        waited_s, self.now_s = at_s - self.now_s, max(self.now_s, at_s)
        function()
        return waited_s


def make() -> tuple[Shares, Loop]:
    loop = Loop()
    shares = Shares(loop, lambda: loop.now_s)  # type: ignore[arg-type]
    assert isinstance(loop, Loop)
    assert not isinstance(loop, asyncio.AbstractEventLoop)
    return shares, loop


def test_one_that_is_alone_lets_only_the_loop_turn() -> None:
    shares, loop = make()
    share = shares.join("noisy")
    share.took(SLICE_ALONE_S / 2, 100)
    assert not share.is_spent
    share.took(10.0, 100)
    assert share.is_spent
    assert loop.run() == 0.0
    assert not share.is_spent


def test_beside_others_a_slice_is_short_and_time_that_nobody_wants_is_kept_from_nobody() -> None:
    shares, loop = make()
    noisy = shares.join("noisy")
    for name in ("quiet", "other"):
        shares.join(name).took(0.0, 100)
    noisy.took(SLICE_S / 2, 100)
    assert not noisy.is_spent
    noisy.took(SLICE_S / 2, 100)
    assert noisy.is_spent
    assert loop.run() == 0.0


def test_those_who_want_more_than_there_is_have_slice_after_slice_in_turn() -> None:
    shares, loop = make()
    order: list[str] = []

    def begin(name: str) -> None:
        share = shares.join(name)

        def go_on() -> None:
            order.append(name)
            share.took(SLICE_S, 100)
            share.wait(go_on)

        share.wait(go_on)

    for name in "abc":
        begin(name)
    while len(order) < 30:
        loop.run()
    assert {name: order.count(name) for name in "abc"} == {"a": 10, "b": 10, "c": 10}


def test_how_many_are_there_is_known_without_looking_at_each_with_every_message() -> None:
    shares, loop = make()
    clients = [shares.join(f"{n}") for n in range(100)]
    for n, client in enumerate(clients):
        client.took(0.0, 100)
        assert shares.others_than(client) == n, "who comes counts at once"
    loop.now_s += PRESENT_S + COUNTED_FOR_S
    assert shares.others_than(clients[0]) == 0
    assert shares.others_than(clients[1]) == 1


def test_who_has_gone_counts_no_more() -> None:
    shares, _ = make()
    shares.join("stranger").took(0.0, 100)
    known = shares.join("token")
    assert shares.others_than(known) == 1
    shares.leave("stranger")
    assert shares.others_than(known) == 0


def test_a_message_that_took_long_is_followed_by_a_rest_that_has_an_end() -> None:
    shares, loop = make()
    noisy = shares.join("noisy")
    shares.join("quiet").took(0.0, 100)
    noisy.took(LONG_S, 100)
    assert round(loop.run(), 6) == REST * LONG_S
    shares.join("quiet").took(0.0, 100)
    noisy.took(60.0, 100)
    assert round(loop.run(), 6) == LONGEST_REST_S


def test_a_big_message_is_followed_by_a_rest_beside_who_sends_small_ones_only() -> None:
    shares, loop = make()
    bulk, quiet = shares.join("bulk"), shares.join("quiet")
    quiet.took(0.0, 100)
    bulk.took(SLICE_S, 50_000)
    assert round(loop.run(), 6) == round(REST * BYTE_S * 50_000, 6)
    quiet.took(0.0, 100)
    bulk.took(SLICE_S, BIG_BYTES - 1)
    assert loop.run() == 0.0, "not after a small one"
    bulk.took(LONG_S, 50_000)
    assert round(loop.run(), 6) == round(REST * LONG_S, 6), "as long as it really took, where that was long"
    quiet.took(0.0, BIG_BYTES)
    bulk.took(SLICE_S, 50_000)
    assert loop.run() == 0.0, "two with big ones do not keep each other waiting"
    loop.now_s += PRESENT_S
    quiet.took(0.0, 100)
    loop.now_s += LIGHT_FOR_S
    bulk.took(SLICE_S, 50_000)
    assert loop.run() == 0.0, "nor does one that said something a while ago"
    quiet.took(0.0, 0)
    bulk.took(SLICE_S, 50_000)
    assert loop.run() == 0.0, "nor one whose message is not complete"


def test_its_own_small_messages_keep_nobody_from_big_ones() -> None:
    shares, loop = make()
    shares.join("other").took(0.0, BIG_BYTES)
    bulk = shares.join("bulk")
    bulk.took(0.0, 100)
    bulk.took(SLICE_S, 50_000)
    assert loop.run() == 0.0


def flood(shares: Shares, loop: Loop, name: str, connections: int, seconds: float) -> None:
    """So many connections wait for this client's slices for so long, and still do."""
    share = shares.join(name)

    def go_on() -> None:
        share.took(SLICE_ALONE_S, 100)
        share.wait(go_on)

    until_s = loop.now_s + seconds
    for _ in range(connections):
        share.wait(go_on)
    while loop.now_s < until_s:
        loop.run()
        loop.now_s += SLICE_ALONE_S


def turns_in(loop: Loop, share: Share, seconds: float) -> int:
    """How many slices it has in so long."""
    turns, until_s = 0, loop.now_s + seconds
    while loop.now_s < until_s:
        seen_s = share.seen_s
        loop.run()
        turns += share.seen_s != seen_s
        loop.now_s += SLICE_S
    return turns


def test_a_flood_has_little_of_the_loop_while_somebody_is_asking() -> None:
    shares, loop = make()
    quiet = shares.join("quiet")
    flood(shares, loop, "noisy", FLOOD + 1, 2 * FLOOD_S)
    noisy = shares.join("noisy")
    assert noisy.floods(loop.now_s)
    assert turns_in(loop, noisy, 0.1) > 1000, "nobody asks"
    quiet.took(0.0, 100)
    assert turns_in(loop, noisy, 0.9 * PAUSE_S) < 2 * PAUSE_S / FLOOD_REST_S
    quiet.took(0.0, BIG_BYTES)
    quiet.took(0.0, 100)
    assert turns_in(loop, noisy, 0.9 * PAUSE_S) > 10 * PAUSE_S / FLOOD_REST_S, "who also sends big ones is not spared"
    loop.now_s += PRESENT_S
    flood(shares, loop, "noisy", 1, 2 * FLOOD_S)
    assert turns_in(loop, noisy, 0.1) > 1000, "nobody asks any more"


@pytest.mark.parametrize(("connections", "seconds"), [(FLOOD - 1, 2 * FLOOD_S), (2 * FLOOD, 0.5 * FLOOD_S)])
def test_a_few_connections_or_a_moment_are_no_flood(connections: int, seconds: float) -> None:
    shares, loop = make()
    flood(shares, loop, "busy", connections, seconds)
    assert not shares.join("busy").floods(loop.now_s)


@pytest.mark.parametrize("connections", [1, QUEUE])
def test_who_always_has_the_next_request_there_holds_nobody_back(connections: int) -> None:
    shares, loop = make()
    flood(shares, loop, "threads", FLOOD + 1, 2 * FLOOD_S)
    greedy = shares.join("greedy")

    def go_on() -> None:
        greedy.took(SLICE_S, 100)
        greedy.wait(go_on, has_more=connections == 1)

    for _ in range(connections):
        greedy.wait(go_on, has_more=connections == 1)
    loop.run()
    threads, hers = shares.join("threads"), 0
    for _ in range(1000):
        seen_s = threads.seen_s
        loop.run()
        hers += threads.seen_s != seen_s
        loop.now_s += SLICE_S
    assert hers > 300, "as many slices as the other one"


def test_two_floods_do_not_hold_each_other_up() -> None:
    shares, loop = make()
    for name in ("one", "other"):
        flood(shares, loop, name, FLOOD + 1, 0.0)
    one = shares.join("one")
    turns_in(loop, one, 2 * FLOOD_S)
    assert one.floods(loop.now_s)
    assert shares.join("other").floods(loop.now_s)
    assert turns_in(loop, one, 0.1) > 500


def test_who_is_connected_and_says_nothing_holds_nobody_up() -> None:
    shares, loop = make()
    noisy = shares.join("noisy")
    shares.join("quiet").took(0.0, 100)
    loop.now_s += PRESENT_S + 1
    noisy.took(1.0, 100)
    assert loop.run() == 0.0


def test_its_connections_have_their_turn_one_after_the_other_and_none_twice_before_all_had_one() -> None:
    shares, loop = make()
    noisy = shares.join("noisy")
    order: list[str] = []

    def connection(name: str) -> Callable[[], None]:
        def go_on() -> None:
            order.append(name)
            noisy.took(SLICE_S, 100)
            noisy.wait(go_on)
        return go_on

    for name in "abc":
        noisy.wait(connection(name))
    while len(order) < 9:
        loop.run()
    assert "".join(order) == "abcabcabc"


def test_whoever_closes_and_comes_again_rests_on_and_is_forgotten_afterwards() -> None:
    shares, loop = make()
    shares.join("quiet").took(0.0, 100)
    noisy = shares.join("noisy")
    noisy.took(1.0, 100)
    shares.leave("noisy")
    again = shares.join("noisy")
    assert again.is_spent
    shares.leave("noisy")
    loop.run()
    assert shares.join("noisy") is not again

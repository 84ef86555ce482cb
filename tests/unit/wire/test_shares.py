"""The loop's time: who is alone is not held up, who is not lets the others pass, and what took long has to be rare."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from nexusd.wire.shares import (
    BIG_BYTES,
    BYTE_S,
    COUNTED_FOR_S,
    LIGHT_FOR_S,
    LONG_S,
    LONGEST_REST_S,
    PRESENT_S,
    REST,
    SLICE_ALONE_S,
    SLICE_S,
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
        waited_s, self.now_s = at_s - self.now_s, at_s
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

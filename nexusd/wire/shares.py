"""The event loop's time, dealt out among clients: no client has more of it than the others let it.

Owns the account of what each client's messages cost the loop, and when it has its next turn. Knows no message.

A client that is alone is hardly held up. As soon as another one is there, one that used up its slice lets the loop turn
first: whoever else has something to do does as much. Time that nobody else wants is not kept from anybody; only after a
single message that took long a client rests, since such a message holds up everybody and has to be rare. Beside
somebody who sends only small ones it need not even be that long: what reads as many bytes as a hundred of these is felt
by each that comes meanwhile. And whoever has many connections that wait for its slices, all the time, has little of the
loop while somebody is asking for one thing at a time.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable

PRESENT_S = 2.0     # a client counts as there for so long after its last message
COUNTED_FOR_S = 0.25    # who is there no more is noticed by then
SLICE_ALONE_S = 0.001   # of the loop in one go: a newcomer's first message waits for no more
SLICE_S = 0.00005       # beside others: a small request or two
LONG_S = 0.005      # a message that took this long was felt by everybody else
# How many times as long as it took a client rests after one: at a hundred messages a second of somebody else's, one in
# a hundred finds it in its way.
REST = 40
BIG_BYTES = 8192        # to read a message of so many takes as long as to answer a small one
BYTE_S = 10e-9          # what each costs. By this and not by the clock, which also counts waiting for a processor
FLOOD = 16              # who has had so many connections waiting for their turn,
FLOOD_S = 0.1           # for so long without a pause, floods
QUEUE = 4               # who has so many waiting, or the next request there already, does not ask for one at a time
FLOOD_REST_S = 0.001    # what it rests after each slice: the shortest that there is
PAUSE_S = 0.01          # who asks nothing for so long is not asking, and has no flood any more
LIGHT_FOR_S = 0.25      # whoever sends small messages is there for so long after each, to those with big ones
LONGEST_REST_S = 4.0


class Share:
    """One client's turns, whatever number of connections it has."""

    def __init__(self, shares: Shares) -> None:
        self.connections = 0
        self.seen_s = -math.inf
        self.small_s = -math.inf        # its last message that was small, and its last that was not
        self.big_s = -math.inf
        self._flood_began_s = 0.0
        self._flooded_s = -math.inf     # when as many waited the last time
        self._queued_s = -math.inf      # when it had more to ask for than one thing the last time
        self._looked_s = -math.inf      # whether anybody is asking, and when that was found out
        self._is_held_back = False
        self._shares = shares
        self._used_s = 0.0              # of the slice
        self._waiting: deque[Callable[[], None]] = deque()
        self._next: asyncio.Handle | None = None

    @property
    def is_spent(self) -> bool:
        """Whether others come first now."""
        return self._next is not None

    def took(self, seconds: float, size: int) -> None:
        """One of its messages, of so many bytes, was looked at, and perhaps answered; of none if it is not complete."""
        others = self._shares.others_than(self)
        self._used_s += seconds
        if size >= BIG_BYTES:
            self.big_s = self.seen_s
            if others and self._next is None and self._shares.has_small(self):
                self._rest(max(seconds if seconds >= LONG_S else 0.0, BYTE_S * size))
                return
        elif size:
            self.small_s = self.seen_s
        if self._used_s < (SLICE_S if others else SLICE_ALONE_S) or self._next is not None:
            return
        if others and self._used_s >= LONG_S:
            self._rest(self._used_s)
        elif others and self.floods(self.seen_s) and self._somebody_asks():
            self._used_s = 0.0
            self._next = self._shares.loop.call_later(FLOOD_REST_S, self._go_on)
        else:
            self._used_s = 0.0
            self._next = self._shares.loop.call_soon(self._go_on)

    def _rest(self, used_s: float) -> None:
        self._used_s = 0.0
        self._next = self._shares.loop.call_later(min(LONGEST_REST_S, REST * used_s), self._go_on)

    def wait(self, function: Callable[[], None], *, has_more: bool = False) -> None:
        """Call it when there is time again; in the order in which they come. `has_more`: there is another request."""
        self._waiting.append(function)
        now_s = self._shares.now_s()
        if has_more or len(self._waiting) >= QUEUE:
            self._queued_s = now_s
        if len(self._waiting) >= FLOOD:
            if now_s - self._flooded_s >= PAUSE_S:
                self._flood_began_s = now_s
            self._flooded_s = now_s
        if self._next is None:
            self._next = self._shares.loop.call_soon(self._go_on)

    def floods(self, now_s: float) -> bool:
        """Whether it has had many connections waiting for a while, and all the time."""
        return now_s - self._flooded_s < PAUSE_S and self._flooded_s - self._flood_began_s >= FLOOD_S

    def asks_one_by_one(self, now_s: float) -> bool:
        """Whether it has not had several requests waiting for a while, or big ones for longer."""
        return now_s - self._queued_s >= FLOOD_S and now_s - self.big_s >= PRESENT_S

    def _somebody_asks(self) -> bool:
        now_s = self.seen_s
        if now_s - self._looked_s >= FLOOD_REST_S:  # not with every slice: there may be hundreds of others
            self._looked_s = now_s
            self._is_held_back = self._shares.is_asking(self)
        return self._is_held_back

    def _go_on(self) -> None:
        self._next = None
        if not self.connections:
            self._shares.forget_unused()
        for _ in range(len(self._waiting)):     # who comes again meanwhile has had its turn
            if self.is_spent:
                return
            self._waiting.popleft()()
        if self._waiting and not self.is_spent:
            self._next = self._shares.loop.call_soon(self._go_on)


class Shares:
    """All clients that have a connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, now_s: Callable[[], float] = time.perf_counter) -> None:
        self.loop = loop
        self.now_s = now_s
        self._shares: dict[str, Share] = {}
        self._present = 0
        self._counted_s = -math.inf

    def join(self, client: str) -> Share:
        """The share of a client that has one more connection."""
        share = self._shares.get(client)
        if share is None:
            share = self._shares[client] = Share(self)
        share.connections += 1
        return share

    def leave(self, client: str) -> None:
        """It has one connection less."""
        self._shares[client].connections -= 1
        self.forget_unused()

    def forget_unused(self) -> None:
        """Those without a connection are gone, unless they rest: whoever comes again at once rests on."""
        for client in [name for name, share in self._shares.items() if not share.connections and not share.is_spent]:
            del self._shares[client]
            self._counted_s = -math.inf     # as whoever has logged in: it was not there beside itself

    def others_than(self, share: Share) -> int:
        """How many other clients are there. This one is seen: it asks for something."""
        now_s = self.now_s()
        if share.seen_s < now_s - PRESENT_S:
            self._present += 1
        share.seen_s = now_s
        if now_s - self._counted_s >= COUNTED_FOR_S:    # not with every message: there may be thousands
            self._counted_s = now_s
            self._present = sum(other.seen_s >= now_s - PRESENT_S for other in self._shares.values())
        return max(0, self._present - 1)

    def is_asking(self, share: Share) -> bool:
        """Whether another client asks just now, with one small message at a time."""
        now_s = self.now_s()
        return any(
            now_s - other.small_s < PAUSE_S and other.asks_one_by_one(now_s)
            for other in self._shares.values() if other is not share
        )

    def has_small(self, share: Share) -> bool:
        """Whether another client is there that sends small messages, and no others."""
        now_s = self.now_s()
        return any(
            now_s - other.small_s < LIGHT_FOR_S and now_s - other.big_s >= PRESENT_S
            for other in self._shares.values() if other is not share
        )

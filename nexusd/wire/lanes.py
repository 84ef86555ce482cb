"""Calls under way, dealt out among clients: whoever asks for much waits behind itself and not before others.

Owns the account of calls that take time: how much of them each client has under way, and the order in which the rest
of its calls begin. Knows neither methods nor what a call does.

A client that is alone has the whole lane. As soon as another one is there too, each has its share of a part that is
small enough for a newcomer to find little before it: what has begun is not interrupted. So a call that holds everybody
up, such as a list that is one transaction, has to be rare beside somebody who asks for little at a time: its client has
one of these under way, and rests after each before the next that is as heavy, as long as such a one is there. The same
goes for every call of a client that has hundreds of them waiting, which is a flood.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable

from nexusd.errors import Busy

# A client counts as there for so long after its last call: one that asks, reads and asks again is there all the time.
PRESENT_S = 2.0
HEAVY_S = 0.001     # a call that holds others up for so long is heavy: some twenty times what a small write does
LIGHT_FOR_S = 0.25  # whoever asks for little is there for so long after it, to those with heavy calls
REST = 50           # times as long as the heavy call held others up: of fifty small ones one finds it in its way

# Of one client: as many as its connections may have in flight together. Those of connections that it closed meanwhile
# are carried out as well, so that this is what bounds them.
MAX_WAITING = 4096
RETRY_MS = 1000
FLOOD = 256     # calls of one client that wait. It rests the longer the more there are, up to twice as many


class _Client:
    """What one client has under way, and what waits behind it."""

    __slots__ = ("busy", "heavy", "light_s", "much_s", "rest", "rests_until_s", "seen_s", "waiting")

    def __init__(self) -> None:
        self.busy = 0
        self.seen_s = 0.0
        self.heavy = 0              # of those under way
        self.much_s = -math.inf     # when the last of these was done, or too many waited
        self.light_s = -math.inf    # when it asked for little the last time
        self.rest: asyncio.TimerHandle | None = None    # from heavy calls
        self.rests_until_s = 0.0
        self.waiting: deque[tuple[int, float, asyncio.Future[None]]] = deque()

    @property
    def idle(self) -> bool:
        return not self.busy and not self.waiting

    @property
    def floods(self) -> bool:
        return len(self.waiting) >= FLOOD


class Lane:
    """Calls of one sort. A call weighs at least one; one that weighs more than there is room for goes alone."""

    def __init__(self, alone: int, shared: int, flood_s: float, now_s: Callable[[], float]) -> None:
        """`alone` is what one client may have under way, `shared` what all have together when there are several.

        After a call of a flood its client rests as if that had held others up for `flood_s`.
        """
        self.beside: Lane | None = None     # of the same clients: who asks for much there asks for much
        self._alone = alone
        self._shared = shared
        self._flood_s = flood_s
        self._now_s = now_s
        self._clients: dict[str, _Client] = {}
        self._looked_s = now_s()
        self._present = 1

    def try_enter(self, name: str, weight: int = 1, holds_s: float = 0.0) -> bool:
        """Enter at once, if it is this client's turn; whether it is. The call holds others up for so long."""
        client = self.see(name, light=holds_s < HEAVY_S)
        if client.floods:
            client.much_s = client.seen_s
        if client.waiting or not self._fits(client, weight, holds_s):
            return False
        self._begin(client, weight, holds_s)
        return True

    async def enter(self, name: str, weight: int = 1, holds_s: float = 0.0) -> None:
        """Wait for this client's turn. Who has entered leaves again, whatever happens.

        Raises:
            Busy: too many calls of this client are waiting.
        """
        if self.try_enter(name, weight, holds_s):
            return
        client = self._clients[name]
        if len(client.waiting) >= MAX_WAITING:
            raise Busy(f"{MAX_WAITING} calls of this client are waiting; no more are taken.", retry_after_ms=RETRY_MS)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        client.waiting.append((weight, holds_s, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():    # its turn had just come
                self._end(client, weight, holds_s)
                self._go_on(client)
            else:
                with contextlib.suppress(ValueError):   # given up with one before, which passed it over
                    client.waiting.remove((weight, holds_s, turn))
                self._go_on(client)     # it may have been too heavy for what waits behind it
            raise

    def leave(self, name: str, weight: int = 1, holds_s: float = 0.0, *, was_done: bool = True) -> None:
        """A call is over: the next of the same client begin. Of one that was not done nobody has to recover."""
        client = self._clients[name]
        self._end(client, weight, holds_s)
        now_s = client.seen_s
        rest_s = REST * holds_s if holds_s >= HEAVY_S else 0.0
        if client.floods:
            rest_s = max(rest_s, REST * self._flood_s * min(1.0, (len(client.waiting) - FLOOD + 1) / FLOOD))
        if not rest_s:
            client.light_s = now_s
        else:
            client.much_s = now_s
        if rest_s and was_done and self._light_until_s(client, now_s) > now_s:
            # no longer than the client is remembered
            client.rests_until_s = min(max(client.rests_until_s, now_s) + rest_s, now_s + PRESENT_S)
            self._rest(client)
        self._go_on(client)

    def _begin(self, client: _Client, weight: int, holds_s: float) -> None:
        client.busy += weight
        client.heavy += holds_s >= HEAVY_S

    def _end(self, client: _Client, weight: int, holds_s: float) -> None:
        client.busy -= weight
        client.heavy -= holds_s >= HEAVY_S
        client.seen_s = self._now_s()

    def _rest(self, client: _Client) -> None:
        """Keep it from heavy calls until its time is over, or nobody is there who asks for little."""
        if client.rest is not None:
            client.rest.cancel()
            client.rest = None
        now_s = self._now_s()
        rests_s = min(client.rests_until_s, self._light_until_s(client, now_s)) - now_s
        if rests_s > 0:
            client.rest = asyncio.get_running_loop().call_later(rests_s, self._look_at_rest, client)

    def _light_until_s(self, client: _Client, now_s: float) -> float:
        """Until when another client is there that asks for little, and for nothing else besides."""
        last_s = -math.inf
        for name, other in self._clients.items():
            if other is client or self.asks_for_much(name) or (self.beside and self.beside.asks_for_much(name)):
                continue
            last_s = max(last_s, other.light_s if other.idle else now_s)
        return last_s + LIGHT_FOR_S

    def _look_at_rest(self, client: _Client) -> None:
        client.rest = None
        self._rest(client)
        self._go_on(client)

    @property
    def waiting(self) -> int:
        """Calls that wait for their turn."""
        return sum(len(client.waiting) for client in self._clients.values())

    @property
    def clients(self) -> int:
        """Clients that are remembered."""
        return len(self._clients)

    def asks_for_much(self, name: str) -> bool:
        """Whether this client has heavy calls or a flood of others here, or has just had."""
        client = self._clients.get(name)
        return client is not None and (
            client.heavy > 0 or client.floods or self._now_s() - client.much_s < PRESENT_S
        )

    def see(self, name: str, *, light: bool) -> _Client:
        """This client is there, whether it enters or not; `light`: it asks for little."""
        client = self._clients.get(name)
        if client is None:
            self._count_present()   # or a lane that nobody enters would remember everybody
            client = self._clients[name] = _Client()
            self._present = len(self._clients)
        client.seen_s = self._now_s()
        if light:
            client.light_s = client.seen_s
        return client

    def _go_on(self, client: _Client) -> None:
        while client.waiting and self._fits(client, *client.waiting[0][:2]):
            weight, holds_s, turn = client.waiting.popleft()
            if not turn.done():
                self._begin(client, weight, holds_s)
                turn.set_result(None)

    def _fits(self, client: _Client, weight: int, holds_s: float) -> bool:
        if holds_s >= HEAVY_S or client.floods:
            now_s = self._now_s()
            goes_alone = client.busy if client.floods else client.heavy
            if client.rest is not None or (goes_alone and now_s < self._light_until_s(client, now_s)):
                return False
        present = self._count_present()
        share = self._alone if present == 1 else max(1, self._shared // present)
        return not client.busy or client.busy + weight <= share

    def _count_present(self) -> int:
        """Clients that are there. Looked at again when it may have changed: this is asked with every call."""
        now_s = self._now_s()
        if now_s - self._looked_s >= PRESENT_S / 4:
            self._looked_s = now_s
            gone = [name for name, client in self._clients.items() if client.idle and now_s - client.seen_s > PRESENT_S]
            for name in gone:
                del self._clients[name]
            self._present = max(1, len(self._clients))
        return self._present

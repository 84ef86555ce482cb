"""When a collection is rebuilt, one at a time, and how long to leave it after a failure. In the child only.

Owns the rebuild that runs, if any, and how fast those that are due still grow. Knows no request.

A collection that is being filled is left alone until that is done: the graph would be built of what is there
so far, on the processors that the filling wants, and be due again at its end.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from nexusd.child_channel import ChildChannel
from nexusd.index.background import Background
from nexusd.index.edge_collection import EdgeCollection
from nexusd.index.rebuild import Reached, Rebuild, RebuildFailedError

ERASE_AFTER_S = 2.0  # without a further delete: those of one tidying up share a rebuild
ERASE_WITHIN_S = 30.0  # however many come
# Where graphs were built meanwhile, 100,000 rows were filled at 3,600 rows/s (scripts/bench --only index, two cores).
FILLING_PER_S = 1000.0  # no embedding on a small machine is as fast: only vectors that are there already are
GROWTH_SEEN_S = 0.5  # over which that is measured
FILLING_WITHIN_S = 30.0  # however long it goes on: a search looks at each point outside the graph
FIRST_RETRY_S = 60.0  # a failure is mostly a full disk: it does not pass in seconds
MAX_RETRY_S = 3600.0


@dataclass(slots=True)
class Growth:
    """How a collection that is due grows."""

    due_s: float  # since when it is
    seen_s: float
    changed: int  # then
    filling: bool = True  # until it is known


class RebuildSchedule:
    """Starts rebuilds, walks the running one through its steps, and tells what it is doing."""

    def __init__(
        self, channel: ChildChannel, background: Background, rebuild_after: int, reached: Reached, *,
        secure: bool = False,
    ) -> None:
        """`secure`: what was deleted is to leave the files, so a collection is written anew after deletes."""
        self._secure = secure
        self._rests_until_s: dict[str, float] = {}
        self._growth: dict[str, Growth] = {}
        self._began_s = 0.0
        self._channel = channel
        self._background = background
        self._rebuild_after = rebuild_after
        self._reached = reached
        self._running: Rebuild | None = None
        self._finished = 0
        self._failure = ""
        self._retry_delay_s = FIRST_RETRY_S
        self._not_before_s = 0.0
        self._speaks = select.poll()
        self._listening = False

    @property
    def holds_updates(self) -> bool:
        """Whether a copy is being taken, so that nothing may be applied."""
        return self._running is not None and self._running.holds_updates

    @property
    def wants_to_step(self) -> bool:
        """Whether `step` has something to do."""
        return self._running is not None and self._running.wants_to_step

    def state(self) -> dict[str, Any]:
        """What it is doing, and how it went so far."""
        running = self._running
        return {
            "rebuilding": "" if running is None else running.collection.name,
            "pid": 0 if running is None else running.pid,
            "finished": self._finished,
            "failure": self._failure,
        }

    def consider(self, collections: Iterable[EdgeCollection]) -> None:
        """Start a rebuild if a collection has grown a tail that slows its searches."""
        if self._running is not None or time.monotonic() < self._not_before_s:
            return
        for collection in collections:
            if self._due_in_s(collection) == 0:
                self._growth.pop(collection.name, None)
                self._began_s = time.monotonic()
                try:
                    self._running = Rebuild(collection, self._background, self._reached, anew=self._secure)
                except OSError as error:
                    self._failed(str(error))
                    return
                self._listen_to(self._running)
                return

    def _due_in_s(self, collection: EdgeCollection) -> float | None:
        """Seconds until the collection is to be rebuilt or looked at again; None if it need not be."""
        waits = (self._grown_in_s(collection), self._erased_in_s(collection))
        return min((wait for wait in waits if wait is not None), default=None)

    def _grown_in_s(self, collection: EdgeCollection) -> float | None:
        """Seconds until it is to be for what was added, as far as can be told now."""
        if collection.changed < self._rebuild_after:
            self._growth.pop(collection.name, None)
            return None
        now_s = time.monotonic()
        growth = self._growth.setdefault(collection.name, Growth(now_s, now_s, collection.changed))
        passed_s = now_s - growth.seen_s
        if passed_s >= GROWTH_SEEN_S:
            growth.filling = collection.changed - growth.changed >= FILLING_PER_S * passed_s
            growth.seen_s, growth.changed = now_s, collection.changed
        if not growth.filling or now_s - growth.due_s >= FILLING_WITHIN_S:
            return max(0.0, self._not_before_s - now_s)
        return max(growth.seen_s + GROWTH_SEEN_S, self._not_before_s) - now_s

    def _erased_in_s(self, collection: EdgeCollection) -> float | None:
        """Seconds until it is to be written anew for what was deleted; None if it need not."""
        if not self._secure or not collection.traces.left:
            return None
        rests_until_s = self._rests_until_s.get(collection.name, 0.0)
        traces = collection.traces
        asked_s = min(traces.last_s + ERASE_AFTER_S, traces.first_s + ERASE_WITHIN_S)
        due_s = max(asked_s, rests_until_s, self._not_before_s)
        return max(0.0, due_s - time.monotonic())

    def due_in_s(self, collections: Iterable[EdgeCollection]) -> float | None:
        """Seconds until one of them is, if nothing runs and nothing else happens; None if none need be."""
        if self._running is not None:
            return None
        waits = (self._due_in_s(collection) for collection in collections)
        return min((wait for wait in waits if wait is not None), default=None)

    def erasing(self, collections: Iterable[EdgeCollection]) -> list[str]:
        """Those whose files hold something that was deleted, where that is to be mended."""
        return sorted(each.name for each in collections if self._secure and each.traces.left)

    @property
    def about_to_copy(self) -> bool:
        """Whether the next thing heard leads to the copy: the collection must be flushed before `listen`."""
        return self._running is not None and self._running.collection.touched is None

    def heard(self) -> EdgeCollection | None:
        """The collection whose rebuilding process has said something."""
        running = self._running
        if running is None or not self._listening or not self._speaks.poll(0):
            return None
        return running.collection

    def listen(self) -> None:
        """Act on what it said."""
        self._advance(Rebuild.listen)

    def step(self) -> None:
        """One short step of bringing the built shard up to date."""
        self._advance(Rebuild.step)

    def abandon(self, collection: EdgeCollection | None = None) -> None:
        """Give up the rebuild of this collection, or whichever runs."""
        running = self._running
        if running is None or (collection is not None and running.collection is not collection):
            return
        self._stop_listening(running)
        running.abandon()
        self._running = None

    def _advance(self, how: Callable[[Rebuild], None]) -> None:
        running = self._running
        if running is None:
            return
        try:
            how(running)
        except RebuildFailedError as error:
            self.abandon()
            self._failed(str(error))
            return
        if running.built:
            self._stop_listening(running)
        if running.done:
            self._running = None
            self._finished += 1
            self._failure = ""
            now_s = time.monotonic()
            # one that is deleted from all the time is not rebuilt all the time
            self._rests_until_s[running.collection.name] = now_s + (now_s - self._began_s)
            self._retry_delay_s = FIRST_RETRY_S

    def _failed(self, reason: str) -> None:
        self._failure = reason
        self._not_before_s = time.monotonic() + self._retry_delay_s
        self._retry_delay_s = min(2 * self._retry_delay_s, MAX_RETRY_S)

    def _listen_to(self, running: Rebuild) -> None:
        self._listening = True
        self._speaks.register(running.descriptor, select.POLLIN)
        self._channel.watch(running.descriptor)

    def _stop_listening(self, running: Rebuild) -> None:
        if self._listening:
            self._listening = False
            self._speaks.unregister(running.descriptor)
            self._channel.unwatch(running.descriptor)

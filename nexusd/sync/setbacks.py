"""Rows that could not be delivered now: given back, tried again alone, or buried.

Owns which rows are under suspicion, what each setback costs a row, and how a row is given up. Knows neither
what was tried with the row nor why it failed, but in the words that it keeps for people.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

import structlog

from nexusd.clock import Clock
from nexusd.config_sections import OutboxConfig
from nexusd.model.events import Publish
from nexusd.store.database import Database
from nexusd.store.outbox import OutboxEntry, Queue, bury, postpone, release_batch
from nexusd.sync.breaker import Breaker, backoff_s

UNFORESEEN = "internal_error"


class Setbacks:
    """What becomes of rows that failed. `breaker` is the embedder's: a row that fails alone reopens nothing."""

    def __init__(
        self,
        store: Database,
        breaker: Breaker,
        config: OutboxConfig,
        clock: Clock,
        chance: random.Random,
        publish: Publish,
        queue: Queue,
        reached: Callable[[str], None],
    ) -> None:
        self.gave_back = False  # since the worker last looked
        self._store = store
        self._breaker = breaker
        self._config = config
        self._clock = clock
        self._chance = chance
        self._publish = publish
        self._queue: Queue = queue
        self._reached = reached
        self._suspects: set[int] = set()  # seqs of rows that failed together, one of which may be to blame
        self._log = structlog.get_logger("nexusd.outbox")

    def set_pace(self, config: OutboxConfig) -> None:
        """Try again as often and as soon as this says, from now on."""
        self._config = config

    def suspected(self, entry: OutboxEntry) -> bool:
        """Whether the row is to go alone."""
        return entry.seq in self._suspects

    def cleared(self, entries: Iterable[OutboxEntry]) -> None:
        """These were delivered."""
        self._suspects.difference_update(entry.seq for entry in entries)

    async def release(self, entries: Sequence[OutboxEntry]) -> None:
        """They had no turn: no attempt is counted, and they are due."""
        await self._store.write(release_batch, entries, 0, queue=self._queue)
        self._reached("released")

    async def give_back(self, entries: list[OutboxEntry], pause_s: float) -> None:
        """Not now: no attempt is counted, and the pause lets other rows pass."""
        self.gave_back = True
        # no longer than any backoff: what waits longer is taken for a clock that was set back, and is due at once
        pause_s = min(pause_s, self._config.max_backoff_s)
        await self._store.write(release_batch, entries, self._clock.now_ms() + int(pause_s * 1000), queue=self._queue)
        self._reached("given_back")

    async def suspect(self, entries: list[OutboxEntry], what: str) -> None:
        """One of these may be why it failed: from now on each goes alone, and who fails alone counts its attempts.

        A row that failed alone comes again later, and is buried after its attempts.
        """
        self._suspects.update(entry.seq for entry in entries)
        if len(entries) > 1:
            await self.give_back(entries, backoff_s(1, self._config.max_backoff_s, self._chance))
            return
        (entry,) = entries
        attempt = entry.attempts + 1
        if attempt >= self._config.max_attempts:
            self._suspects.discard(entry.seq)
            await self.bury(entry, UNFORESEEN, what)
            return
        pause_s = min(  # for the same reason as above
            self._breaker.pause_left_s + backoff_s(attempt, self._config.max_backoff_s, self._chance),
            self._config.max_backoff_s,
        )
        self._breaker.try_now()  # it was this row: the others need not wait for it
        not_before_ms = self._clock.now_ms() + int(pause_s * 1000)
        await self._store.write(postpone, entries, not_before_ms, UNFORESEEN, what, queue=self._queue)
        self._reached("postponed")

    async def bury(self, entry: OutboxEntry, kind: str, reason: str) -> None:
        """Never: a dead letter, with its reason."""
        self._log.error(
            "row cannot be indexed", collection=entry.collection, row_id=entry.row_id, kind=kind, reason=reason
        )
        if await self._store.write(bury, entry, kind, reason, queue=self._queue):
            dead = {"state": "dead", "collection": entry.collection, "id": entry.row_id, "kind": kind}
            self._publish("outbox", dead)
        self._reached("buried")

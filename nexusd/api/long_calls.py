"""Calls that take long and are done once, also where they are sent again while the first one is at it.

Owns what is under way by its caller's key. Knows no method.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

import msgspec

from nexusd.clock import Clock
from nexusd.errors import DiskFull, IdempotencyMismatch, ReadOnly, StoreDamaged
from nexusd.store.connection import Connection
from nexusd.store.database import Database
from nexusd.store.idempotency import Receipt, kept_reply

T = TypeVar("T")


class LongCalls(Generic[T]):
    """The calls of one method that are under way."""

    def __init__(self, store: Database, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._under_way: dict[tuple[str, str], tuple[Receipt, asyncio.Task[T | msgspec.Raw]]] = {}

    async def once(
        self, receipt: Receipt | None, function: Callable[[], Coroutine[Any, Any, T | msgspec.Raw]]
    ) -> T | msgspec.Raw:
        """Do it, or answer what the same call was answered, or will be. It goes on if its caller goes away.

        Raises:
            IdempotencyMismatch: the key was used for another call.
        """
        if receipt is None:
            return await function()
        who = receipt.principal, receipt.key
        known = self._under_way.get(who)
        if known is not None:
            if known[0] != receipt:
                raise IdempotencyMismatch
            return await asyncio.shield(known[1])
        kept = self._kept(receipt)
        if kept is not None:
            return kept
        task = asyncio.create_task(self._do(receipt, function))
        self._under_way[who] = receipt, task
        task.add_done_callback(lambda done: self._ended(who, done))
        return await asyncio.shield(task)   # whoever goes away may ask again, and gets the reply

    def _kept(self, receipt: Receipt) -> msgspec.Raw | None:
        try:
            return self._store.peek(kept_reply, receipt, self._clock.now_ms())
        except StoreDamaged:    # a restore is what may help; where it was done already, the damage is gone
            return None

    async def _do(
        self, receipt: Receipt, function: Callable[[], Coroutine[Any, Any, T | msgspec.Raw]]
    ) -> T | msgspec.Raw:
        answer = await function()
        try:
            return await self._store.write_once(receipt, _as_it_is, answer)
        except (DiskFull, ReadOnly):    # it is done, and its answer true, also where that cannot be kept
            return answer

    def _ended(self, who: tuple[str, str], task: asyncio.Task[T | msgspec.Raw]) -> None:
        del self._under_way[who]
        if not task.cancelled():
            task.exception()    # the caller may be gone, and nobody else asks


def _as_it_is(_db: Connection, answer: T) -> T:
    return answer

"""Replies to calls on files, kept so that a call that is sent again is not done again.

Owns when the store is asked: before a file is touched, and after. The receipt cannot be in the file's own
transaction; a crash between the two does the same write once more, which changes nothing.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from nexusd.clock import Clock
from nexusd.store.connection import Connection
from nexusd.store.database import Database
from nexusd.store.idempotency import Receipt, kept_reply
from nexusd.store.secure_delete import erase_replies

R = TypeVar("R")


class Receipts:
    """The receipts of the calls on files."""

    def __init__(self, store: Database, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def kept(self, receipt: Receipt | None) -> msgspec.Raw | None:
        """The reply to this call, if it was done already.

        Raises:
            IdempotencyMismatch: the key was used for another call.
        """
        if receipt is None:
            return None
        return self._store.peek(kept_reply, receipt, self._clock.now_ms())

    async def keep(self, receipt: Receipt | None, reply: R) -> R | msgspec.Raw:
        """Keep the reply to a call whose file is written."""
        if receipt is None:
            return reply
        return await self._store.write_once(receipt, _as_it_is, reply)


    async def keep_deletion(self, receipt: Receipt | None, reply: R, put_by: str) -> R | msgspec.Raw:
        """Keep the reply to a delete; where deletes are secure, the kept replies to the method that put it go."""
        if self._store.secure:
            await self._store.write(erase_replies, put_by)
        return await self.keep(receipt, reply)


def _as_it_is(_db: Connection, reply: R) -> R:
    return reply

"""When a call that takes time begins, and how long it may take.

Owns which calls count as what, how much of each one client may have under way, and the deadline of a call. Knows no
method by name.

Who asks for anything is there for calls of every sort: a read under way is felt by who writes, a long write by who
reads, and both by a look-up that takes no turn at all.
"""

from __future__ import annotations

import asyncio
from math import ceil
from typing import Any

from nexusd.clock import Clock
from nexusd.config_sections import LimitsConfig
from nexusd.errors import Busy
from nexusd.model.fields import Params
from nexusd.wire.gate import Gate
from nexusd.wire.lanes import Lane
from nexusd.wire.methods import Call, Method

RETRY_MS = 1000
# Of one client alone: more reads at a time do not make each other faster, and a newcomer waits for those there are.
READS_ALONE, READS_SHARED = 8, 2
# Writes of one commit; beside others a few, since whoever is in a commit waits for all of it: beside somebody's 64 at a
# time another one's took two to three times as long where 32 were shared. A write weighs one for each item, or for
# every so many bytes of its message where that is more.
WRITES_ALONE, WRITES_SHARED = 256, 8
BYTES_A_WEIGHT = 1024
# How long a write holds others up: a row with its words takes the writer some 50 us, a long text 20 ns a byte.
ITEM_S, BYTE_S = 50e-6, 20e-9
READ_S, WRITE_S = 0.004, 0.001  # what one of a flood holds others up for: a search, and one of many small writes


class Turns:
    """Has methods called, each when it is its client's turn."""

    def __init__(self, limits: LimitsConfig, clock: Clock, gate: Gate) -> None:
        self._limits = limits
        self._gate = gate
        self._reads = Lane(READS_ALONE, READS_SHARED, READ_S, clock.monotonic_s)
        self._writes = Lane(WRITES_ALONE, WRITES_SHARED, WRITE_S, clock.monotonic_s)
        self._reads.beside, self._writes.beside = self._writes, self._reads

    def set_limits(self, limits: LimitsConfig) -> None:
        """Calls that begin from now on have these deadlines."""
        self._limits = limits

    def notice(self, client: str, *, writes: bool) -> None:
        """This client asks for something."""
        self._reads.see(client, light=True)
        self._writes.see(client, light=not writes)  # what it writes is looked at when it enters

    @property
    def waiting(self) -> int:
        """Calls that wait for their turn."""
        return self._reads.waiting + self._writes.waiting

    async def call(self, method: Method, call: Call, params: Params, size: int) -> Any:
        """What the method answers. `size` are the bytes that asked for it.

        A read that is given up may be asked again; of a write only the waiting has an end, so that one that was
        given up was not carried out.

        Raises:
            Busy: it took too long, or did not get its turn in time.
            Stopping: it is a write that waited until after a restore was promised.
        """
        if method.waits:    # as long as its caller asks, and for nothing that others want
            return await method.handler(call, params)
        if method.mutates:
            return await self._write(method, call, params, size)
        client, lane, timeout_s = call.principal.client, self._reads, self._limits.request_timeout_s
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                if not (at_once := lane.try_enter(client)):
                    await lane.enter(client)
                is_gone = False
                try:
                    is_gone = not at_once and call.client is not None and call.client.is_gone()
                    if is_gone:
                        raise Busy("Whoever asked is gone.")
                    return await method.handler(call, params)
                finally:
                    lane.leave(client, was_done=not is_gone)
                    self._writes.see(client, light=True)    # it has been there all the while
        except TimeoutError:
            if not deadline.expired():
                raise
            raise Busy(f"It took longer than {timeout_s:g} s.", retry_after_ms=RETRY_MS) from None

    async def _write(self, method: Method, call: Call, params: Params, size: int) -> Any:
        client, lane, timeout_s = call.principal.client, self._writes, self._limits.request_timeout_s
        items = len(getattr(params, "items", ()))
        weight, holds_s = max(1, items, ceil(size / BYTES_A_WEIGHT)), ITEM_S * items + BYTE_S * size
        if not (at_once := lane.try_enter(client, weight, holds_s)):
            try:
                async with asyncio.timeout(timeout_s):
                    await lane.enter(client, weight, holds_s)
            except TimeoutError:
                raise Busy(
                    f"It did not get its turn within {timeout_s:g} s, and was not carried out.", retry_after_ms=RETRY_MS
                ) from None
        try:
            if not at_once:
                self._gate.check_again()
            return await method.handler(call, params)
        finally:
            lane.leave(client, weight, holds_s)

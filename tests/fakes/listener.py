"""A connection as far as events use it: it takes as many lines as it has room for, and says when there is more.

As the real one: what `notify` refused was not sent; `when_writable` calls once, in a later turn of the loop where
there is room already; nothing is sent to one that is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec


class Listener:
    """`lines` is what it was sent. `room` lines more are taken; None: any number."""

    def __init__(self, room: int | None = None) -> None:
        self.room = room
        self.lines: list[bytes] = []
        self.refused = 0
        self._gone = False
        self._on_writable: list[Callable[[], None]] = []
        self._on_closed: list[Callable[[], None]] = []

    @property
    def events(self) -> list[dict[str, Any]]:
        """The parameters of every `event` so far."""
        return [msgspec.json.decode(line)["params"] for line in self.lines]

    @property
    def waiting(self) -> int:
        """How many wait for it to take lines again, or for its end."""
        return len(self._on_writable) + len(self._on_closed)

    def notify(self, message: bytes) -> bool:
        if self._gone or self.room == 0:
            self.refused += 1
            return False
        if self.room is not None:
            self.room -= 1
        self.lines.append(message)
        return True

    def when_writable(self, function: Callable[[], None]) -> None:
        if self._gone:
            return
        if self.room == 0:
            self._on_writable.append(function)
        else:
            asyncio.get_running_loop().call_soon(function)

    def when_closed(self, function: Callable[[], None]) -> None:
        if self._gone:
            asyncio.get_running_loop().call_soon(function)
        else:
            self._on_closed.append(function)

    def is_gone(self) -> bool:
        return self._gone

    # --- what a test does with it ---

    def read(self, room: int | None = None) -> None:
        """It has read all, and takes this many more."""
        self.room = room
        waiting, self._on_writable = self._on_writable, []
        for function in waiting:
            function()

    def close(self) -> None:
        """It goes away."""
        self._gone = True
        self._on_writable.clear()
        waiting, self._on_closed = self._on_closed, []
        for function in waiting:
            function()

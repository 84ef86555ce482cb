"""What a connection writes, on its way to be encrypted.

Owns how much of it is handed to the layer below at a time: that one takes a reply of any length at once and then says
that nothing lies unsent, so that a client which reads nothing could have any number of bytes kept for it. Gives a
connection what it knows of a plain transport. Encrypts nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from nexusd.wire.certificates import PRINCIPAL
from nexusd.wire.methods import Principal

PIECE_BYTES = 64 * 1024     # as much again may lie in the layer below, beside what the kernel holds


class TlsTransport(asyncio.Transport):
    """The transport of an encrypted connection."""

    def __init__(
        self,
        inner: asyncio.Transport,
        principal: Principal | None,
        on_full: Callable[[], None],
        on_room: Callable[[], None],
    ) -> None:
        """`principal` is who the client proved to be, where it did."""
        super().__init__()
        self._inner = inner
        self._principal = principal
        self._on_full = on_full
        self._on_room = on_room
        self._high = self._low = 0
        self._is_full = False           # more waits than was agreed on
        self._is_held = False           # the layer below takes nothing now
        self._is_last = False           # nothing more is written
        self._waiting: deque[memoryview] = deque()
        self._waiting_bytes = 0
        inner.set_write_buffer_limits(high=PIECE_BYTES)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What is known of it, with who showed a certificate."""
        if name == PRINCIPAL:
            return self._principal or default
        return self._inner.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send, as soon as there is room."""
        if not self._waiting and not self._is_held and len(data) <= PIECE_BYTES:
            self._inner.write(data)
        else:
            self._waiting.append(memoryview(data))
            self._waiting_bytes += len(data)
            self._hand_down()
        if not self._is_full and self.get_write_buffer_size() > self._high:
            self._is_full = True
            self._on_full()

    def hold(self) -> None:
        """The layer below wants no more for now."""
        self._is_held = True

    def release(self) -> None:
        """It takes more."""
        self._is_held = False
        self._hand_down()
        if self._is_full and self.get_write_buffer_size() <= self._low:
            self._is_full = False
            self._on_room()

    def write_eof(self) -> None:
        """Nothing more is sent: what still comes in is thrown away below. Half of it cannot be closed, as of others."""
        self.close()

    def close(self) -> None:
        """Send what is left, and announce the end."""
        self._is_last = True
        self._hand_down()

    def abort(self) -> None:
        """End it now."""
        self._waiting.clear()
        self._waiting_bytes = 0
        self._inner.abort()

    def is_closing(self) -> bool:
        """Whether it is on its way out."""
        return self._is_last or self._inner.is_closing()

    def pause_reading(self) -> None:
        """Leave what comes in the kernel."""
        self._inner.pause_reading()

    def resume_reading(self) -> None:
        """Go on reading."""
        self._inner.resume_reading()

    def get_write_buffer_size(self) -> int:
        """Bytes that wait here and, as far as it says, in the layer below."""
        return self._waiting_bytes + self._inner.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """From how many bytes on writing should pause, and below how many it goes on."""
        self._high = PIECE_BYTES if high is None else high
        self._low = self._high // 4 if low is None else low

    def _hand_down(self) -> None:
        while self._waiting and not self._is_held:
            piece = self._waiting.popleft()
            if len(piece) > PIECE_BYTES:
                self._waiting.appendleft(piece[PIECE_BYTES:])
                piece = piece[:PIECE_BYTES]
            self._waiting_bytes -= len(piece)
            self._inner.write(piece)    # which may `hold` it
        if self._is_last and not self._waiting:
            self._inner.close()

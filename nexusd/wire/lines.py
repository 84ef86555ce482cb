"""The line front: one JSON value a line, replies in the order in which they finish.

Owns what a line is to a connection: a frame for the dispatcher, a reply, or an event that nobody asked for. Contains
no JSON: an error of the connection itself becomes bytes in the dispatcher.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from nexusd.config_sections import LimitsConfig
from nexusd.errors import ParseError, RpcError, TooLarge
from nexusd.wire.connection import Connection
from nexusd.wire.frames import FrameReader, is_ndjson
from nexusd.wire.front import MAX_STRANGER_BYTES
from nexusd.wire.methods import Client, Principal


class Answerer(Protocol):
    """What a front asks of the dispatcher."""

    def begin(
        self, frame: bytes, principal: Principal, client: Client | None = None
    ) -> bytes | Awaitable[bytes | None] | None:
        """The reply to a frame, or None; as an awaitable where it takes time. Neither raises but cancellation."""

    def refusal(self, error: RpcError) -> bytes:
        """An error reply to no request in particular."""


class LineFront:
    """Speaks one JSON value a line with one client. It is what methods know as their `Client`."""

    def __init__(
        self, connection: Connection, answerer: Answerer, limits: LimitsConfig, max_message_bytes: int,
        first_byte: int,
    ) -> None:
        self._limits = limits
        self._connection = connection
        self._answerer = answerer
        self._full_message_bytes = max_message_bytes
        self._frames = FrameReader(MAX_STRANGER_BYTES)
        if connection.is_admitted:
            self.admitted()
        else:
            self._hold_to(1, min(MAX_STRANGER_BYTES, max_message_bytes))
        self._is_other = not is_ndjson(first_byte)

    # --- what the connection calls ---

    @property
    def has_partial(self) -> bool:
        """Whether the beginning of a line waits for its end."""
        return self._frames.has_partial

    @property
    def has_unread(self) -> bool:
        """Whether there are bytes from which no frame was taken yet."""
        return self._frames.has_unread

    def feed(self, data: bytes) -> None:
        """Take what was read."""
        self._frames.feed(data)

    def start_next(self, *, ended: bool) -> int:
        """Have the next frame answered."""
        if self._is_other:
            self._end_with(ParseError("Send one JSON value a line; this is something else."))
            return 0
        frames = self._frames
        frame = frames.next_frame()
        if frame is None:
            if frames.overflowed:
                self._end_with(TooLarge(f"A message has at most {self._max_message_bytes} bytes."))
                return 0
            frame = frames.last_frame() if ended else None
            if frame is None:
                return 0
        connection = self._connection
        answer = self._answerer.begin(frame, connection.principal, self)
        if isinstance(answer, bytes):
            connection.send(answer + b"\n")
        elif answer is not None:
            connection.run(answer)
        return len(frame)

    def answered(self, answer: bytes | None) -> None:
        """Send a reply, if there is one."""
        if answer is not None:
            self._connection.send(answer + b"\n")

    def refusal(self, error: RpcError) -> bytes:
        """An error reply to no request in particular."""
        return self._answerer.refusal(error) + b"\n"

    def overdue(self, timeout_s: float) -> bytes:
        """A half sent frame came to nothing."""
        return self.refusal(ParseError(f"The message was not finished within {timeout_s:g} s."))

    def set_limits(self, limits: LimitsConfig) -> None:
        """Take more or fewer requests at a time. What is under way past that comes to its end."""
        self._limits = limits
        if self._connection.is_admitted:
            self.max_in_flight = limits.max_in_flight

    def admitted(self) -> None:
        """Requests may come at the same time, and be as long as messages are."""
        self._hold_to(self._limits.max_in_flight, self._full_message_bytes)

    def _hold_to(self, max_in_flight: int, max_message_bytes: int) -> None:
        """A stranger's requests come one after the other: those behind a login are carried out after it."""
        self.max_in_flight = max_in_flight
        self._max_message_bytes = max_message_bytes
        self._frames.set_max_bytes(max_message_bytes)

    def _end_with(self, error: RpcError) -> None:
        self._connection.end_with(self.refusal(error))

    # --- what methods call ---

    def notify(self, message: bytes) -> bool:
        """Send a line, unless the client reads too slowly or is gone."""
        return self._connection.offer(message + b"\n")

    def when_writable(self, function: Callable[[], None]) -> None:
        """Call once when lines can be sent again."""
        self._connection.when_writable(function)

    def when_closed(self, function: Callable[[], None]) -> None:
        """Call once when it is gone."""
        self._connection.when_closed(function)

    def address(self) -> str | None:
        """Where it comes from; None on the Unix socket."""
        return self._connection.peer_address()

    def is_gone(self) -> bool:
        """Whether nobody will read an answer."""
        return self._connection.is_gone

    def become(self, principal: Principal) -> None:
        """It has logged in: what comes from now on is this principal's."""
        self._connection.become(principal)

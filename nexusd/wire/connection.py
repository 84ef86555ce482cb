"""One connection: reads frames, has them answered, writes replies in the order in which they finish.

Owns the socket's state: requests under way, back-pressure both ways, deadlines and the ways to end. Contains
no JSON: an error of the connection itself becomes bytes in the dispatcher.

A request that was read is carried out whether or not its sender is still there: a caller that goes away does
not undo its write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from enum import Enum
from typing import Protocol

from nexusd.config import LimitsConfig
from nexusd.errors import ParseError, RpcError, TooLarge
from nexusd.wire.frames import FrameReader, is_ndjson
from nexusd.wire.methods import Principal
from nexusd.wire.peers import Peer

# Unsent replies past this stop the reading of further requests; more only delays noticing a slow client.
WRITE_HIGH_WATER_BYTES = 1024 * 1024
# After an error that ends the connection, what the client still sends is read and thrown away for this long:
# a close with unread input resets the connection, and the client might never see the error.
LINGER_S = 1.0
# Requests of one connection answered at once, without a pause for others: about a millisecond.
MAX_ANSWERED_IN_A_TURN = 32


class Answerer(Protocol):
    """What a connection asks of the dispatcher."""

    def begin(self, frame: bytes, principal: Principal) -> bytes | Awaitable[bytes | None] | None:
        """The reply to a frame, or None; as an awaitable where it takes time. Neither raises but cancellation."""

    def refusal(self, error: RpcError) -> bytes:
        """An error reply to no request in particular."""


class Registry(Protocol):
    """What a connection asks of its server."""

    def joined(self, connection: Connection, transport: asyncio.BaseTransport) -> Peer:
        """Count it in. Raises Busy where there are too many already, OSError if it is gone."""

    def left(self, connection: Connection) -> None:
        """It is closed."""

    def request_began(self, task: asyncio.Task[None]) -> None:
        """Hold the task; nobody else does."""

    def request_ended(self, task: asyncio.Task[None] | None) -> None:
        """It is done."""


class State(Enum):
    """What is done with bytes that come in."""

    OPEN = "open"               # requests
    DRAINING = "draining"       # requests still, and the close when none is under way
    DISCARDING = "discarding"   # nothing: an error ended it, or the peer's end of stream was reached
    CLOSED = "closed"           # nothing; at most what was written still goes out


class Connection(asyncio.Protocol):
    """Speaks one JSON value a line with one client."""

    def __init__(
        self,
        answerer: Answerer,
        registry: Registry,
        limits: LimitsConfig,
        max_message_bytes: int,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.peer: Peer | None = None       # set once it is counted in
        self._answerer = answerer
        self._registry = registry
        self._limits = limits
        self._loop = loop
        self._frames = FrameReader(max_message_bytes)
        self._max_message_bytes = max_message_bytes
        self._state = State.OPEN
        self._in_flight = 0
        self._began = False                 # a first byte came
        self._ended = False                 # the peer will send no more
        self._reading = True
        self._writable = True
        self._yielded = False               # frames wait for the next turn of the loop
        self._active_s = loop.time()
        self._partial_since_s: float | None = None
        self._linger_until_s: float | None = None
        self._stalled_since_s = 0.0
        self._stalled_bytes = 0

    # --- what the event loop calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it in, or say that there is no room."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment] # asyncio's own annotation is wide
        self._transport.set_write_buffer_limits(
            high=min(WRITE_HIGH_WATER_BYTES, self._limits.max_write_buffer_bytes)
        )
        try:
            self.peer = self._registry.joined(self, transport)
        except RpcError as error:
            self._end_with(error)
        except OSError:     # it hung up before it was looked at
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Requests under way go on; their replies have nowhere to go."""
        self._state = State.CLOSED
        self._registry.left(self)

    def data_received(self, data: bytes) -> None:
        """Start what is complete."""
        if self._state is State.DISCARDING or self._state is State.CLOSED:
            return
        if not self._began:
            self._began = True
            if not is_ndjson(data[0]):
                # Here another front takes the connection over, by its first byte.
                self._end_with(ParseError("Send one JSON value a line; this is something else."))
                return
        self._active_s = self._loop.time()
        self._frames.feed(data)
        self._start_requests()

    def eof_received(self) -> bool:
        """The peer sends no more, but may wait for its replies: finish, then close."""
        self._ended = True      # every frame was taken: an end is not read while reading is paused
        self._start_requests()
        self._close_if_done()
        return True     # keeps the sending half open

    def pause_writing(self) -> None:
        """The client does not read as fast as it asks: start nothing more of its."""
        self._writable = False
        self._stalled_since_s = self._loop.time()
        self._stalled_bytes = self._transport.get_write_buffer_size()
        self._pace_reading()

    def resume_writing(self) -> None:
        """It reads again."""
        self._writable = True
        if self._state is not State.CLOSED:
            self._start_requests()

    # --- what the server calls ---

    def drain(self) -> None:
        """Close as soon as nothing is under way and every reply is sent."""
        if self._state is State.OPEN:
            self._state = State.DRAINING
        self._close_if_done()

    def abort(self) -> None:
        """Close now; what was not sent is lost."""
        self._transport.abort()

    def check_deadlines(self, now_s: float) -> None:
        """End it if it kept us waiting too long. Called every now and then."""
        limits = self._limits
        if self._linger_until_s is not None:
            if now_s >= self._linger_until_s:
                self._transport.abort()
        elif not self._writable or self._state is State.CLOSED:
            self._check_stall(now_s)
        elif self._partial_since_s is not None and self._reading:
            timeout_s = limits.partial_frame_timeout_s
            if now_s - self._partial_since_s >= timeout_s:
                self._end_with(ParseError(f"The message was not finished within {timeout_s:g} s."))
        elif not self._in_flight and self._state is State.OPEN:
            timeout_s = limits.idle_timeout_s if self._began else limits.first_byte_timeout_s
            if now_s - self._active_s >= timeout_s:
                self._close()

    # --- requests ---

    def _start_requests(self) -> None:
        """Start frames while there is room for them; then read on or pause."""
        if self._yielded:  # others come first; `_go_on` will
            return
        started = 0
        while self._writable and self._in_flight < self._limits.max_in_flight:
            if self._state is State.DISCARDING or self._state is State.CLOSED:
                return
            if started == MAX_ANSWERED_IN_A_TURN:
                self._go_on_later()
                break
            frame = self._frames.next_frame()
            if frame is None and self._frames.overflowed:
                self._end_with(TooLarge(f"A message has at most {self._max_message_bytes} bytes."))
                return
            if frame is None and self._ended:
                frame = self._frames.last_frame()
            if frame is None:
                break
            started += 1
            self._start(frame)
        if not self._frames.has_partial:
            self._partial_since_s = None
        elif started or self._partial_since_s is None or not self._reading:
            self._partial_since_s = self._loop.time()
        self._pace_reading()

    def _start(self, frame: bytes) -> None:
        assert self.peer is not None  # noqa: S101 - frames are read only of connections that were counted in
        answer = self._answerer.begin(frame, self.peer.principal)
        if isinstance(answer, bytes):
            self._write(answer)
        elif answer is not None:
            self._in_flight += 1
            self._registry.request_began(self._loop.create_task(self._serve(answer)))

    def _go_on_later(self) -> None:
        """Other connections have their turn before the rest of this one's frames."""
        if not self._yielded:
            self._yielded = True
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._yielded = False
        if self._state is not State.CLOSED:
            self._start_requests()
            self._close_if_done()

    async def _serve(self, answer: Awaitable[bytes | None]) -> None:
        try:
            reply = await answer
            if reply is not None and self._state is not State.CLOSED:
                self._write(reply)
        finally:
            self._registry.request_ended(asyncio.current_task())
            self._in_flight -= 1
            if self._state is not State.CLOSED:
                self._active_s = self._loop.time()
                if not self._reading:
                    self._start_requests()
                self._close_if_done()

    def _pace_reading(self) -> None:
        """Read while requests can be started; what cannot be started waits in the kernel, not here."""
        if self._state is State.CLOSED or self._ended:
            return
        may_read = self._state is State.DISCARDING or (
            self._writable and not self._yielded and self._in_flight < self._limits.max_in_flight
        )
        if may_read == self._reading:
            return
        self._reading = may_read
        if may_read:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    # --- replies and the end ---

    def _write(self, reply: bytes) -> None:
        if not self._writable:
            # Requests that were under way when the client stopped reading end here, up to the limit.
            if self._transport.get_write_buffer_size() >= self._limits.max_write_buffer_bytes:
                self._transport.abort()
                return
            self._stalled_bytes += len(reply) + 1
        self._transport.write(reply + b"\n")    # uvloop sends all that one turn of the loop wrote in one call

    def _check_stall(self, now_s: float) -> None:
        """Slow is fine, as long as something moves."""
        unsent = self._transport.get_write_buffer_size()
        if unsent < self._stalled_bytes:
            self._stalled_bytes = unsent
            self._stalled_since_s = now_s
        elif now_s - self._stalled_since_s >= self._limits.write_stall_timeout_s:
            self._transport.abort()

    def _end_with(self, error: RpcError) -> None:
        """Tell the error; take no more requests; close when those under way are answered."""
        if self._state is State.CLOSED or self._state is State.DISCARDING:
            return
        self._state = State.DISCARDING
        self._write(self._answerer.refusal(error))
        self._pace_reading()
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._in_flight or self._yielded or self._state is State.CLOSED:
            return
        if self._state is State.DRAINING or self._ended:
            self._close()
        elif self._state is State.DISCARDING and self._linger_until_s is None:
            self._linger_until_s = self._loop.time() + LINGER_S
            self._transport.write_eof()

    def _close(self) -> None:
        """Take nothing more; what is buffered is sent first, as long as the client reads it."""
        self._state = State.CLOSED
        self._stalled_since_s = self._loop.time()
        self._stalled_bytes = self._transport.get_write_buffer_size()
        self._transport.close()

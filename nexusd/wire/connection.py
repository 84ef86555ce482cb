"""One connection: its socket, and the account of the requests under way on it.

Owns back-pressure both ways, deadlines, fairness between connections and the ways to end. Knows no language: what
is a request, and how a reply becomes bytes, is the matter of a front, which is chosen by the first byte.

A request that was read is carried out whether or not its sender is still there: a caller that goes away does
not undo its write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from nexusd.config_sections import LimitsConfig
from nexusd.errors import RpcError, Unauthenticated
from nexusd.wire.auth import MISSING, REFUSAL
from nexusd.wire.connection_state import Stall, State
from nexusd.wire.front import Front
from nexusd.wire.methods import Principal
from nexusd.wire.peers import Peer, has_hung_up
from nexusd.wire.registry import Registry
from nexusd.wire.shares import Share

# Unsent replies past this stop the reading of further requests; more only delays noticing a slow client.
WRITE_HIGH_WATER_BYTES = 1024 * 1024
# After an error that ends the connection, what the client still sends is read and thrown away for this long:
# a close with unread input resets the connection, and the client might never see the error.
LINGER_S = 1.0
# One that finds no room waits this long for its first byte, which says in which language to tell it so.
REFUSAL_WAIT_S = 1.0
# Requests of one connection answered at once, without a pause for others: about a millisecond.
MAX_ANSWERED_IN_A_TURN = 32
_SPACE = 0x20


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(
        self,
        registry: Registry,
        limits: LimitsConfig,
        choose_front: Callable[[Connection, int], Front],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.peer: Peer | None = None       # set once it is counted in
        self.is_admitted = False            # whether it has a role, or showed a token
        self._principal: Principal | None = None    # the peer's, or of who logged in
        self._share: Share | None = None    # of the loop's time; set with the principal
        self._made_s = loop.time()
        self._registry = registry
        self._limits = limits
        self._choose_front = choose_front   # by the first byte
        self._loop = loop
        self._front: Front | None = None
        self._refused: RpcError | None = None   # there is no room for it
        self._state = State.OPEN
        self._in_flight = 0
        self._lost = False                  # nothing more can be sent or read
        self._ended = False                 # the peer will send no more
        self._reading = True
        self._writable = True
        self._yielded = False               # requests wait for the next turn of the loop
        self._active_s = loop.time()
        self._partial_since_s: float | None = None
        self._linger_until_s: float | None = None
        self._stall = Stall()
        self._on_writable: list[Callable[[], None]] = []
        self._on_closed: list[Callable[[], None]] = []

    # --- what the event loop calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it in, or keep it only until it can be told that there is no room."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment] # asyncio's own annotation is wide
        self.set_limits(self._limits)
        try:
            self.peer = self._registry.joined(self, transport)
            self._principal = self.peer.principal
            self._share = self._registry.shares.join(self._principal.client)
            self.is_admitted = self._principal.role != "none"
        except RpcError as error:
            self._refused = error
        except OSError:     # it hung up before it was looked at, or is one too many even to be told so
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Requests under way go on; their replies have nowhere to go."""
        self._state = State.CLOSED
        self._lost = True
        self._registry.left(self)
        if self._principal is not None:
            self._registry.shares.leave(self._principal.client)
        self._front = None      # it knows us: nobody would find that out before the next garbage collection
        self._on_writable.clear()
        waiting, self._on_closed = self._on_closed, []
        for function in waiting:
            function()

    def data_received(self, data: bytes) -> None:
        """Start what is complete."""
        if self._state is State.DISCARDING or self._state is State.CLOSED:
            return
        front = self._front
        if front is None:
            front = self._front = self._choose_front(self, data[0])
            if self._refused is not None:
                self.end_with(front.refusal(self._refused))
                return
        self._active_s = self._loop.time()
        front.feed(data)
        self._start_requests()

    def eof_received(self) -> bool:
        """The peer sends no more, but may wait for its replies: finish, then close."""
        self._ended = True      # everything was looked at: an end is not read while reading is paused
        self._start_requests()
        self._close_if_done()
        return True     # keeps the sending half open

    def pause_writing(self) -> None:
        """The client does not read as fast as it asks: start nothing more of its."""
        self._writable = False
        self._watch_unsent()
        self._pace_reading()

    def resume_writing(self) -> None:
        """It reads again."""
        self._writable = True
        if self._state is not State.CLOSED:
            self._start_requests()
        waiting, self._on_writable = self._on_writable, []
        for function in waiting:
            function()

    # --- what the server calls ---

    def set_limits(self, limits: LimitsConfig) -> None:
        """Hold it to these from now on. Only how long a message may be stays as it was at its first byte."""
        self._limits = limits
        self._transport.set_write_buffer_limits(high=min(WRITE_HIGH_WATER_BYTES, limits.max_write_buffer_bytes))
        if self._front is not None:
            self._front.set_limits(limits)

    def drain(self) -> None:
        """Close as soon as nothing is under way and every reply is sent."""
        if self._state is State.OPEN:
            self._state = State.DRAINING
        self._close_if_done()

    def abort(self) -> None:
        """Close now; what was not sent is lost."""
        self._transport.abort()

    def check_grant(self) -> None:
        """End it if the token that it came in with is worth nothing any more."""
        grant = None if self._principal is None else self._principal.grant
        if grant is not None and grant.ended and self._front is not None:
            self.end_with(self._front.refusal(Unauthenticated(REFUSAL)))

    def check_deadlines(self, now_s: float) -> None:
        """End it if it kept us waiting too long. Called every now and then."""
        limits, front = self._limits, self._front
        self.check_grant()
        if not self.is_admitted and not self._in_flight and self._state is State.OPEN:
            self._check_login(now_s)
        if self._linger_until_s is not None:
            self._check_linger(now_s, self._linger_until_s)
        elif not self._writable or self._state is State.CLOSED:
            self._check_stall(now_s)
        elif front is None:
            self._check_first_byte(now_s)
        elif self._partial_since_s is not None and self._reading:
            timeout_s = limits.partial_frame_timeout_s
            if now_s - self._partial_since_s >= timeout_s:
                self.end_with(front.overdue(timeout_s))
        elif (
            not self._in_flight and self._state is State.OPEN and not self._on_closed
            and now_s - self._active_s >= limits.idle_timeout_s
        ):
            self._close()

    # --- what its front calls ---

    @property
    def principal(self) -> Principal:
        """Who is at the other end."""
        assert self._principal is not None  # noqa: S101 - requests are read only of connections that were counted in
        return self._principal

    @property
    def takes_requests(self) -> bool:
        """Whether another request may come after the one that is answered."""
        return self._state is State.OPEN

    @property
    def is_gone(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._lost or has_hung_up(self._transport)

    def peer_address(self) -> str | None:
        """The address that it comes from; None on the Unix socket."""
        return None if self.peer is None else self.peer.address

    def local_address(self) -> str | None:
        """The address at which it was reached; None on the Unix socket."""
        name = self._transport.get_extra_info("sockname")
        return str(name[0]) if isinstance(name, tuple) else None

    def become(self, principal: Principal) -> None:
        """What comes from now on is this principal's."""
        self._registry.shares.leave(self.principal.client)
        self._share = self._registry.shares.join(principal.client)
        self._principal = principal
        self.admit()

    def admit(self) -> None:
        """Whoever is there has shown a token."""
        if not self.is_admitted:
            self.is_admitted = True
            self._registry.admitted(self)
            if self._front is not None:
                self._front.admitted()

    def run(self, answer: Awaitable[Any]) -> None:
        """Wait for an answer; the front is given what comes of it."""
        self._in_flight += 1
        self._registry.request_began(self._loop.create_task(self._serve(answer)))

    def send(self, data: bytes) -> None:
        """Send, or end the connection where the client lets too much lie unread."""
        if not self._writable:
            # Requests that were under way when the client stopped reading end here, up to the limit.
            if self._transport.get_write_buffer_size() >= self._limits.max_write_buffer_bytes:
                self._transport.abort()
                return
            self._stall.bytes += len(data)
        self._transport.write(data)    # uvloop sends all that one turn of the loop wrote in one call

    def end_with(self, last: bytes) -> None:
        """Send this; take no more requests; close when those under way are answered."""
        if self._state is State.CLOSED or self._state is State.DISCARDING:
            return
        self._state = State.DISCARDING
        self.send(last)
        self._pace_reading()
        self._close_if_done()

    def offer(self, data: bytes) -> bool:
        """Send what nobody waits for, if the client keeps up; whether it was sent."""
        if not self._writable or self._state is State.CLOSED or self._state is State.DISCARDING:
            return False
        self.send(data)
        return True

    def when_writable(self, function: Callable[[], None]) -> None:
        """Call once when more can be sent; never, if it closes before."""
        if self._state is State.CLOSED or self._state is State.DISCARDING:
            return  # or whoever was refused would ask again in every turn until it is gone
        if self._writable:
            self._loop.call_soon(function)
        else:
            self._on_writable.append(function)

    def when_closed(self, function: Callable[[], None]) -> None:
        """Call once when it is gone. Until then it may be silent for any time: somebody has something to tell it."""
        if self._lost:
            self._loop.call_soon(function)
        else:
            self._on_closed.append(function)

    # --- requests ---

    def _start_requests(self) -> None:
        """Start requests while there is room for them; then read on or pause."""
        front, share = self._front, self._share
        if front is None or share is None or self._yielded:     # others come first; `_go_on` will
            return
        started = 0
        while self._writable and self._in_flight < front.max_in_flight:
            if self._state is State.DISCARDING or self._state is State.CLOSED:
                return
            if started == MAX_ANSWERED_IN_A_TURN or share.is_spent:
                self._go_on_later(share)
                break
            began_s = perf_counter()
            size = front.start_next(ended=self._ended)
            share.took(perf_counter() - began_s, size)
            if not size:
                break
            started += 1
        if not front.has_partial:
            self._partial_since_s = None
        elif started or self._partial_since_s is None or not self._reading:
            self._partial_since_s = self._loop.time()
        self._pace_reading()

    def _go_on_later(self, share: Share) -> None:
        """Other connections have their turn before the rest of this one's requests."""
        self._yielded = True
        share.wait(self._go_on, has_more=self._front is not None and self._front.has_unread)

    def _go_on(self) -> None:
        self._yielded = False
        if self._state is not State.CLOSED:
            self._start_requests()
            self._close_if_done()

    async def _serve(self, answer: Awaitable[Any]) -> None:
        try:
            outcome = await answer
            if self._state is not State.CLOSED and self._front is not None:
                self._front.answered(outcome)
        finally:
            self._registry.request_ended(asyncio.current_task())
            self._in_flight -= 1
            if self._state is not State.CLOSED:
                self._active_s = self._loop.time()
                if not self._reading:
                    self._start_requests()
                self._close_if_done()

    def _pace_reading(self) -> None:
        """Read while requests can be started; what cannot be started waits in the kernel, past one chunk."""
        front = self._front
        if front is None or self._state is State.CLOSED or self._ended:
            return
        may_read = self._state is State.DISCARDING or (
            self._writable
            and not self._yielded
            and (self._in_flight < front.max_in_flight or not front.has_unread)
        )
        if may_read == self._reading:
            return
        self._reading = may_read
        if may_read:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    # --- the end ---

    def _check_first_byte(self, now_s: float) -> None:
        """Of one that has not said anything yet."""
        waited_s = now_s - self._active_s
        if self._refused is not None and waited_s >= REFUSAL_WAIT_S:
            self._front = self._choose_front(self, _SPACE)
            self.end_with(self._front.refusal(self._refused))
        elif waited_s >= self._limits.first_byte_timeout_s:
            self._close()

    def _check_login(self, now_s: float) -> None:
        """Of one that is nobody's yet."""
        if self.peer is not None and now_s - self._made_s >= self._limits.login_timeout_s:
            if self._front is None:
                self._close()
            else:
                self.end_with(self._front.refusal(Unauthenticated(MISSING)))

    def _check_linger(self, now_s: float, until_s: float) -> None:
        """Of one that was sent its last: the time begins when all of it went out, however long a reply it is."""
        if self._transport.get_write_buffer_size():
            self._linger_until_s = now_s + LINGER_S
            self._check_stall(now_s)
        elif now_s >= until_s:
            self._transport.abort()

    def _watch_unsent(self) -> None:
        """From now on something must move."""
        self._stall.begin(self._transport.get_write_buffer_size(), self._loop.time())

    def _check_stall(self, now_s: float) -> None:
        """Slow is fine, as long as something moves."""
        if self._stall.lasts_s(self._transport.get_write_buffer_size(), now_s) >= self._limits.write_stall_timeout_s:
            self._transport.abort()

    def _close_if_done(self) -> None:
        if self._in_flight or self._yielded or self._state is State.CLOSED:
            return
        if self._state is State.DRAINING or self._ended:
            self._close()
        elif self._state is State.DISCARDING and self._linger_until_s is None:
            self._linger_until_s = self._loop.time() + LINGER_S
            self._watch_unsent()
            self._transport.write_eof()

    def _close(self) -> None:
        """Take nothing more; what is buffered is sent first, as long as the client reads it."""
        self._state = State.CLOSED
        self._watch_unsent()
        self._transport.close()

"""One connection of the asyncio client.

Owns who awaits which reply, and the pace of reading. Connects nothing, and decides nothing about a call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from nexusd.client.core import Inbox, Notification
from nexusd.client.errors import ConnectionFailed, ProtocolViolated
from nexusd.client.exchange import Lost, OnNotification, Outcome, Send, Unsent


class Link(asyncio.Protocol):
    """One connection: replies go to the futures that wait for them, a close to all of them."""

    def __init__(
        self, peer: str, on_notification: OnNotification | None, on_closed: Callable[[], None] | None = None
    ) -> None:
        self._peer = peer
        self._on_closed = on_closed
        self._held = False
        self._on_notification = on_notification
        self._inbox = Inbox()
        self._waiting: dict[int, asyncio.Future[Outcome]] = {}
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self.closed: Exception | None = None  # why, once it is

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The loop has connected it."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hand on what came."""
        try:
            for message in self._inbox.feed(data):
                if not isinstance(message, Notification):
                    self._resolve(message.id, message)
                elif self._on_notification is not None:
                    self._on_notification(message)
        except ProtocolViolated as exc:  # of the events' taker too, which finds that one is none
            self.close(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side closed it, or the network did."""
        complaint = self._inbox.complaint
        why = str(exc) if exc else complaint.message if complaint else "closed by the daemon"
        self.close(ConnectionFailed(f"the connection to {self._peer} was lost: {why}"))

    def pause_writing(self) -> None:
        """The daemon does not read as fast as is sent."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It reads again."""
        self._writable.set()

    def close(self, why: Exception) -> None:
        """End the connection and every wait on it; a second close changes nothing."""
        if self.closed is not None:
            return
        self.closed = why
        self._writable.set()
        if self._transport is not None:
            self._transport.abort()
        for request_id in list(self._waiting):
            self._resolve(request_id, Lost(why))
        if self._on_closed is not None:
            self._on_closed()

    def hold(self) -> None:
        """Read nothing more until `read_on`; what comes waits in the kernel."""
        if self._transport is not None and self.closed is None and not self._held:
            self._held = True
            self._transport.pause_reading()

    def read_on(self) -> None:
        """End a `hold`, if there is one."""
        if self._transport is not None and self.closed is None and self._held:
            self._held = False
            self._transport.resume_reading()

    async def transfer(self, step: Send) -> Outcome:
        """Send the line and wait for its reply, however long."""
        await self._writable.wait()
        if self.closed is not None or self._transport is None:
            return Unsent(self.closed or ConnectionFailed())
        reply: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[step.id] = reply
        self._inbox.expect(step.id, len(step.line))
        self._transport.write(step.line)
        try:
            return await reply
        finally:  # on cancellation too: the reply of a caller who left is dropped when it comes
            self._waiting.pop(step.id, None)
            self._inbox.forget(step.id)

    def _resolve(self, request_id: int, outcome: Outcome) -> None:
        waiter = self._waiting.pop(request_id, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(outcome)

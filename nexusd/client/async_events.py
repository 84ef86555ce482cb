"""Events for asyncio programs: an asynchronous iterator.

Owns the stream's own connection and how much of what came may wait here: past that it stops reading, and the
daemon will say `lagged`. What to ask and when to give up is `listening`'s.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from nexusd.client.core import Notification
from nexusd.client.errors import ClientClosed, ConnectionFailed
from nexusd.client.exchange import OnNotification
from nexusd.client.listening import Listening
from nexusd.model.events import Event

if TYPE_CHECKING:
    from nexusd.client.async_client import AsyncClient

MOST_WAITING = 1024     # events that came and were not taken: then nothing more is read,
FEW_WAITING = 256       # until so few are left


OpenClient = Callable[[OnNotification, Callable[[], None]], "AsyncClient"]


class _Arrivals:
    """What wakes a stream: events that come, and the end of their connection. Does not hold the stream itself."""

    def __init__(self, open_client: OpenClient, listening: Listening) -> None:
        self.news = asyncio.Event()
        self.client = open_client(self._arrive, self.news.set)  # of this stream alone
        self._listening = listening

    def _arrive(self, notification: Notification) -> None:
        self._listening.arrive(notification)
        self.news.set()
        if len(self._listening.arrived) >= MOST_WAITING and self.client.link is not None:
            self.client.link.hold()


class AsyncEvents:
    """What happens in the daemon, one event after the other, for ever; made by `AsyncClient.events`.

    It connects again when the connection is lost, and goes on where it was. An event of the topic `lagged` tells of
    a gap. Cancelling the wait for the next event loses nothing. Used by one task at a time.
    """

    def __init__(self, open_client: OpenClient, listening: Listening) -> None:
        self._listening = listening
        self._arrivals = _Arrivals(open_client, listening)
        self._client = self._arrivals.client
        self._subscribed = False
        # A stream that was dropped in the middle must not keep the daemon sending.
        weakref.finalize(self, _abandon, self._client).atexit = False

    @property
    def seq(self) -> int | None:
        """The number of the last event that came, to begin another stream with; None before it stands."""
        return self._listening.seq

    async def __aenter__(self) -> AsyncEvents:
        """Subscribe now: what happens from here on will be told."""
        await self._subscribe()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> AsyncEvents:
        return self

    async def __anext__(self) -> Event:
        """The next event, however long it takes.

        Raises:
            RpcError: the daemon refuses the subscription.
            ConnectionFailed, DeadlineExceeded, ProtocolViolated: the tries are used up.
        """
        arrived = self._listening.arrived
        while not arrived:
            try:
                await self._wait()
            except ClientClosed:
                raise StopAsyncIteration from None
        event = arrived.popleft()
        if len(arrived) == FEW_WAITING and self._client.link is not None:
            self._client.link.read_on()
        return event

    async def close(self) -> None:
        """End the stream and its connection; a task that waits for the next event sees the end."""
        await self._client.close()
        self._arrivals.news.set()   # also where there is no connection yet

    async def _wait(self) -> None:
        """Bring events, or at least the connection on which they will come."""
        if not self._subscribed:
            await self._subscribe()
            return
        link = self._client.link
        failure = None if link is None else link.closed
        if failure is None:
            await self._arrivals.news.wait()
            self._arrivals.news.clear()
        elif isinstance(failure, ConnectionFailed):
            self._subscribed = False
            await asyncio.sleep(self._listening.lost(failure))
        else:
            raise failure

    async def _subscribe(self) -> None:
        if self._subscribed:
            return
        try:
            answer = await self._client.execute(self._listening.request())
        except BaseException:
            _abandon(self._client)  # it may stand in the daemon all the same, and a second one would tell all twice
            raise
        self._listening.subscribed(answer)
        self._subscribed = True


def _abandon(client: AsyncClient) -> None:
    """Let its connection go; the next call makes another."""
    if client.link is not None:
        try:
            client.link.close(ClientClosed())
        except RuntimeError:
            return  # the loop is closed, and the connection with it

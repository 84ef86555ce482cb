"""Events for programs without an event loop: an iterator that blocks.

Owns the stream's own connection, so that waiting for events holds up no call. What to ask and when to give up is
`listening`'s.
"""

from __future__ import annotations

import threading
import weakref
from types import TracebackType
from typing import TYPE_CHECKING

from nexusd.client.errors import ClientClosed, ConnectionFailed
from nexusd.client.listening import Listening
from nexusd.model.events import Event

if TYPE_CHECKING:
    from nexusd.client.sync_client import Client


class Events:
    """What happens in the daemon, one event after the other, for ever; made by `Client.events`.

    It connects again when the connection is lost, and goes on where it was. An event of the topic `lagged` tells of
    a gap. Used by one thread; another one may `close` it, which ends the iteration.
    """

    def __init__(self, client: Client, listening: Listening) -> None:
        self._client = client   # of this stream alone, with `listening.arrive` for what comes
        self._listening = listening
        self._subscribed = False
        self._closed = threading.Event()
        # A stream that was dropped in the middle must not keep the daemon sending.
        self._end = weakref.finalize(self, client.close)

    @property
    def seq(self) -> int | None:
        """The number of the last event that came, to begin another stream with; None before it stands."""
        return self._listening.seq

    def __enter__(self) -> Events:
        """Subscribe now: what happens from here on will be told."""
        self._subscribe()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Events:
        return self

    def __next__(self) -> Event:
        """The next event, however long it takes.

        Raises:
            RpcError: the daemon refuses the subscription.
            ConnectionFailed, DeadlineExceeded, ProtocolViolated: the tries are used up.
        """
        listening = self._listening
        while not listening.arrived:
            try:
                self._wait()
            except ClientClosed:
                raise StopIteration from None
        return listening.arrived.popleft()

    def close(self) -> None:
        """End the stream and its connection; a thread that waits for the next event sees the end."""
        self._closed.set()
        self._end()

    def _wait(self) -> None:
        """Bring events, or at least the connection on which they will come."""
        if not self._subscribed:
            self._subscribe()
            return
        try:
            self._client.listen()
        except ConnectionFailed as failure:
            self._subscribed = False
            self._closed.wait(self._listening.lost(failure))

    def _subscribe(self) -> None:
        if not self._subscribed:
            self._listening.subscribed(self._client.execute(self._listening.request()))
            self._subscribed = True

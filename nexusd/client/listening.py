"""Listening to events without I/O: what to ask for, what has come, and when to give up.

Owns the place in the stream, which outlives a connection: after a loss the daemon is asked for what came since,
and says `lagged` where it does not know any more. So nothing goes missing unannounced. Both clients' streams carry
it out; neither decides.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence

import msgspec

from nexusd.client.core import Notification, Request
from nexusd.client.errors import ConnectionFailed, ProtocolViolated
from nexusd.client.exchange import Retry
from nexusd.model.events import Event, Subscription


class Listening:
    """One stream of events, over one connection after the other."""

    def __init__(
        self, topics: Sequence[str], since_seq: int | None, retry: Retry, rng: random.Random
    ) -> None:
        """Without topics: all of them. Without `since_seq`: from the subscription on."""
        if isinstance(topics, str):  # a sequence too, of letters
            raise TypeError(f"expected a list of topics, got the text {topics!r}")
        self.seq = since_seq                    # of the last event that came
        self.arrived: deque[Event] = deque()    # and was not taken yet
        self._topics = list(topics)
        self._retry = retry
        self._rng = rng
        self._lost_in_vain = 0                  # connections in a row that brought no event

    def request(self) -> Request[Subscription]:
        """The subscription to ask for now."""
        params: dict[str, object] = {"topics": self._topics}
        if self.seq is not None:
            params["sinceSeq"] = self.seq
        return Request("events.subscribe", params, Subscription, mutates=False)

    def subscribed(self, answer: Subscription) -> None:
        """It stands; events may have come before this is called."""
        if self.seq is None:
            self.seq = answer.seq

    def arrive(self, notification: Notification) -> None:
        """Something came that answers no request.

        Raises:
            ProtocolViolated: it should be an event, and is none.
        """
        if notification.method != "event":
            return
        try:
            event = msgspec.json.decode(notification.params, type=Event)
        except msgspec.DecodeError as exc:
            raise ProtocolViolated(f"not an event: {exc}") from exc
        self.seq = event.seq
        self._lost_in_vain = 0
        self.arrived.append(event)

    def lost(self, failure: ConnectionFailed) -> float:
        """The connection went; the seconds to let pass before the next.

        Raises:
            ConnectionFailed: `failure`, when one connection after the other was lost without any event.
        """
        self._lost_in_vain += 1
        if self._lost_in_vain >= self._retry.tries:
            raise failure
        longest = min(self._retry.longest_s, self._retry.first_s * 2 ** (self._lost_in_vain - 1))
        return self._rng.uniform(0.0, longest)

"""Events: what happened, told to whoever subscribed. Nobody who listens is ever waited for.

Owns the ring of the latest events, the subscriptions, and what is said to one that fell behind. A topic is a
name to it: it knows no resource, and of a connection only what a method may use. Everything here is called on
the loop's thread.

    publish -> the ring -> the line to every subscription that keeps up
                        -> one whose connection takes no more: left alone until it does; then it is told
                           `lagged`, once, and gets what the ring still holds

Nothing is left out unannounced: a subscription gets every event of its topics in their order, or `lagged` with
the place of the gap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from nexusd.clock import Clock
from nexusd.config_sections import LimitsConfig
from nexusd.errors import InvalidParams, NotFound, TooLarge
from nexusd.field_errors import FieldError
from nexusd.model.fields import Params
from nexusd.wire.methods import Client, Method, MethodTable
from nexusd.wire.replies import encode

LAGGED = "lagged"           # the topic of what a subscription itself is told
SEQS_A_MS = 1000            # numbers start at the time: no run publishes so many, so every later run's are larger
SENT_IN_A_TURN = 256        # of what the ring holds, to one subscription, before others have their turn


class _Event:
    """One event. `head` is its line up to the number of the subscription, made when first sent."""

    __slots__ = ("data", "head", "seq", "topic")

    def __init__(self, seq: int, topic: str, data: Mapping[str, Any]) -> None:
        self.seq = seq
        self.topic = topic
        self.data = data
        self.head: bytes | None = None


class _Subscription:
    """One subscription. `position`: what came up to there was sent; not kept up to date while it keeps up."""

    __slots__ = ("client", "id", "lagged", "position", "tail", "topics")

    def __init__(self, id_: int, client: Client, topics: frozenset[str], position: int) -> None:
        self.id = id_
        self.client = client
        self.topics = topics    # all, if none is named
        self.position = position
        self.lagged = False     # to be told before anything else
        self.tail = b"%d}}" % id_

    def wants(self, topic: str) -> bool:
        """Whether it is to get events of this topic."""
        return not self.topics or topic in self.topics


@dataclass(frozen=True, slots=True)
class EventStats:
    """The hub in figures; `lagged`: how often a subscription had to be told so."""

    subscriptions: int
    connections: int
    published: int
    lagged: int


class EventHub:
    """Takes events from every part, and hands them on."""

    def __init__(
        self, table: MethodTable, limits: LimitsConfig, clock: Clock, *, inner_topics: Collection[str] = ()
    ) -> None:
        """`inner_topics` are those of events that no method makes; the others are the resources of the table."""
        self._table = table
        self._inner_topics = inner_topics
        self._max_subscriptions = limits.max_subscriptions
        self._capacity = limits.event_replay
        self._began = self._seq = clock.now_ms() * SEQS_A_MS
        self._ring: dict[int, _Event] = {}              # by seq, without gaps, the latest last
        self._subscriptions: dict[int, _Subscription] = {}
        self._keeping_up: dict[int, _Subscription] = {}
        self._by_client: dict[Client, set[int]] = {}
        self._last_id = 0
        self._lagged = 0
        self._log = structlog.get_logger("nexusd.events")

    @property
    def seq(self) -> int:
        """The number of the latest event."""
        return self._seq

    @property
    def topics(self) -> list[str]:
        """What can be subscribed to, in alphabetical order."""
        resources = {method.name.partition(".")[0] for method in self._table if "." in method.name}
        return sorted(resources.union(self._inner_topics))

    def stats(self) -> EventStats:
        """The figures of now."""
        return EventStats(
            subscriptions=len(self._subscriptions),
            connections=sum(1 for mine in self._by_client.values() if mine),
            published=self._seq - self._began,
            lagged=self._lagged,
        )

    def set_limits(self, limits: LimitsConfig) -> None:
        """Keep so many events, and take so many subscriptions of a connection, from now on."""
        self._max_subscriptions = limits.max_subscriptions
        self._capacity = limits.event_replay
        for seq in list(self._ring)[: -self._capacity]:     # the oldest
            del self._ring[seq]

    # --- what happened ---

    def changed(self, method: Method, params: Params, result: Any) -> None:
        """A call changed something: an event under the method's resource. Never raises."""
        try:
            subject = _subject(method, params, result)
        except Exception:  # noqa: BLE001 - the change stands: its caller must not pay for what is said of it
            self._log.exception("no event can be made of a call", method=method.name)
            subject = {}
        if subject.get("ids") == []:  # of many items none was taken
            return
        self.publish(method.name.partition(".")[0], {"method": method.name, **subject})

    def publish(self, topic: str, data: Mapping[str, Any]) -> None:
        """Tell an event. `data` is kept and must not change any more. Never raises, never waits.

        Half a microsecond while nobody listens: it is made into a line when the first subscription wants it.
        """
        seq = self._seq = self._seq + 1
        event = self._ring[seq] = _Event(seq, topic, data)
        self._ring.pop(seq - self._capacity, None)
        if self._keeping_up:
            for subscription in list(self._keeping_up.values()):
                if subscription.wants(topic) and not self._send(subscription, event):
                    subscription.position = seq - 1
                    subscription.lagged = True
                    self._wait(subscription)

    # --- who listens ---

    def subscribe(self, client: Client, topics: Sequence[str], since_seq: int | None) -> int:
        """Tell this connection what happens from now on, or from after `since_seq`; the subscription's number.

        The first event comes in a later turn of the loop: after the reply to the request.

        Raises:
            InvalidParams: there is no such topic, or nothing has this number yet.
            TooLarge: the connection has as many subscriptions as it may.
        """
        self._check(topics, since_seq)
        mine = self._by_client.get(client)
        if mine is None:    # once a connection, and not for each subscription that comes and goes
            mine = self._by_client[client] = set()
            client.when_closed(lambda: self._gone(client))
        if len(mine) >= self._max_subscriptions:
            raise TooLarge(f"A connection has at most {self._max_subscriptions} subscriptions.")
        position = self._seq if since_seq is None else since_seq
        self._last_id += 1
        subscription = _Subscription(self._last_id, client, frozenset(topics), position)
        self._subscriptions[subscription.id] = subscription
        mine.add(subscription.id)
        asyncio.get_running_loop().call_soon(self._catch_up, subscription)
        return subscription.id

    def unsubscribe(self, client: Client, subscription: int) -> None:
        """End a subscription of this connection.

        Raises:
            NotFound: it has none of this number.
        """
        mine = self._by_client.get(client, set())
        if subscription not in mine:
            raise NotFound(f"This connection has no subscription {subscription}.")
        mine.discard(subscription)
        self._forget(subscription)

    def _check(self, topics: Sequence[str], since_seq: int | None) -> None:
        known = self.topics
        wrong = [
            FieldError(f"topics[{place}]", f"one of {', '.join(known)}")
            for place, topic in enumerate(topics)
            if topic not in known
        ]
        if since_seq is not None and since_seq > self._seq:
            wrong.append(FieldError("sinceSeq", f"at most {self._seq}, the number of the latest event"))
        if wrong:
            raise InvalidParams(fields=tuple(wrong))

    def _gone(self, client: Client) -> None:
        for subscription in self._by_client.pop(client, set()):
            self._forget(subscription)

    def _forget(self, subscription: int) -> None:
        self._subscriptions.pop(subscription, None)
        self._keeping_up.pop(subscription, None)

    # --- delivery ---

    def _catch_up(self, subscription: _Subscription) -> None:
        """Send what the ring has for it; from where there is nothing left it keeps up."""
        if subscription.id not in self._subscriptions:  # ended meanwhile
            return
        first = self._seq - len(self._ring) + 1
        if subscription.position < first - 1 or subscription.lagged:
            subscription.lagged = True
            if not self._tell_lagged(subscription, max(first, subscription.position + 1)):
                return
        for _ in range(SENT_IN_A_TURN):
            if subscription.position == self._seq:
                self._keeping_up[subscription.id] = subscription
                return
            event = self._ring[subscription.position + 1]
            if subscription.wants(event.topic) and not self._send(subscription, event):
                self._wait(subscription)
                return
            subscription.position = event.seq
        asyncio.get_running_loop().call_soon(self._catch_up, subscription)

    def _tell_lagged(self, subscription: _Subscription, next_seq: int) -> bool:
        """Say where the gap is. Its own number is the one before the next: who resumes from it misses nothing."""
        data = {"after": subscription.position, "next": next_seq}
        if not self._send(subscription, _Event(next_seq - 1, LAGGED, data)):
            self._wait(subscription)
            return False
        subscription.lagged = False
        subscription.position = next_seq - 1
        self._lagged += 1
        return True

    def _wait(self, subscription: _Subscription) -> None:
        """Leave it alone until its connection takes lines again."""
        self._keeping_up.pop(subscription.id, None)
        subscription.client.when_writable(lambda: self._catch_up(subscription))

    def _send(self, subscription: _Subscription, event: _Event) -> bool:
        if event.head is None:
            event.head = self._head(event)
        return subscription.client.notify(event.head + subscription.tail)

    def _head(self, event: _Event) -> bytes:
        try:
            data = encode(event.data)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            self._log.error("an event cannot be told", topic=event.topic, reason=type(error).__name__)
            data = b"{}"
        return b'{"jsonrpc":"2.0","method":"event","params":{"seq":%d,"topic":%b,"data":%b,"subscription":' % (
            event.seq, encode(event.topic), data,
        )  # fmt: skip


def _subject(method: Method, params: Params, result: Any) -> Mapping[str, Any]:
    """What the call was about: what the method itself says, or the id of the row, of the result before the
    parameters.
    """
    if method.subject is not None:
        return method.subject(params, result)
    for source in (result, params):
        if (id_ := getattr(source, "id", None)) is not None:
            return {"id": id_}
    return {}

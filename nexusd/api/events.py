"""events.*: being told what happens, on the connection that asked."""

from __future__ import annotations

from nexusd.errors import InvalidRequest, NotFound
from nexusd.model.events import SubscribeEvents, Subscription, UnsubscribeEvents
from nexusd.wire.events import EventHub
from nexusd.wire.methods import Call, Client, Method


class EventsApi:
    """The methods on events. Immediate, so that the reply is written before the first event."""

    def __init__(self, hub: EventHub) -> None:
        self._hub = hub

    def subscribe(self, call: Call, params: SubscribeEvents) -> Subscription:
        """Begin to listen."""
        client = _listener(call)
        if call.batched:
            raise InvalidRequest("Subscribe outside a batch: the events would come before the batch's replies.")
        return self._told(self._hub.subscribe(client, params.topics, params.since_seq))

    def unsubscribe(self, call: Call, params: UnsubscribeEvents) -> Subscription:
        """End it."""
        self._hub.unsubscribe(_listener(call), params.subscription)
        return self._told(params.subscription)

    def _told(self, subscription: int) -> Subscription:
        return Subscription(subscription=subscription, seq=self._hub.seq)

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="events.subscribe",
                summary="Get an `event` notification for what happens from now on, or from after `sinceSeq`.",
                params=SubscribeEvents,
                result=Subscription,
                handler=self.subscribe,
                role="read",
                immediate=True,
                example={"topics": ["episodes", "outbox"]},
            ),
            Method(
                name="events.unsubscribe",
                summary="End a subscription of this connection.",
                params=UnsubscribeEvents,
                result=Subscription,
                handler=self.unsubscribe,
                role="read",
                immediate=True,
                errors=(NotFound,),
            ),
        ]


def _listener(call: Call) -> Client:
    """The connection that events go to.

    Raises:
        InvalidRequest: it does not stay.
    """
    if call.client is None:
        raise InvalidRequest("Events need a connection that stays: line by line on the socket or TCP, not over HTTP.")
    return call.client

"""Events as callers subscribe to them and get them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from msgspec import Meta

from nexusd.model.fields import MAX_SAFE_INTEGER, Id, Params, Record

# How a part tells what happened: a topic and what is to be said, never any text of a memory.
Publish = Callable[[str, Mapping[str, Any]], None]

# Topics of events that come from inside, beside one for each resource (what a call changed).
INNER_TOPICS = ("backup", "embedder", "files", "index", "outbox", "system")


def tell_nobody(_topic: str, _data: Mapping[str, Any]) -> None:
    """A `Publish` for where nobody listens."""


Topic = Annotated[str, Meta(min_length=1, max_length=64)]
Seq = Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER, description="Number of an event; grows, across restarts too.")]


class SubscribeEvents(Params, frozen=True, kw_only=True):
    """Parameters of events.subscribe."""

    topics: Annotated[
        list[Topic],
        Meta(max_length=128, description="Resources, or backup, embedder, files, index, outbox, system; all if empty."),
    ] = []
    since_seq: Annotated[
        Seq | None, Meta(description="Events after this one come first, as far as they are kept; else `lagged` does.")
    ] = None


class UnsubscribeEvents(Params, frozen=True, kw_only=True):
    """Parameters of events.unsubscribe."""

    subscription: Annotated[Id, Meta(description="As events.subscribe answered it.")]


class Subscription(Record, frozen=True, kw_only=True):
    """What both answer: the subscription, and the number of the latest event of all."""

    subscription: Id
    seq: Seq


class Event(Record, frozen=True, kw_only=True):
    """One event, the parameters of the notification `event`.

    Topic `lagged`: events after `data["after"]` and before `data["next"]` did not come and will not.
    """

    seq: int
    topic: str
    data: dict[str, Any]
    subscription: int = 0

"""nexusctl events: what happens in the daemon, line by line, as it happens.

Owns the form of a line for people; into a pipe each event goes as it came, one JSON document a line.
"""

from __future__ import annotations

import sys
from typing import Annotated

import msgspec
import typer

from nexusd.cli.invocation import INTERRUPTED, Json, invocation_of, write
from nexusd.cli.texts import safe
from nexusd.model.events import Event


def events(
    ctx: typer.Context,
    *,
    topic: Annotated[
        list[str] | None,
        typer.Option("--topic", "-t", metavar="TOPIC", help="Such as episodes; may be repeated. All if none."),
    ] = None,
    since: Annotated[
        int | None, typer.Option("--since", metavar="SEQ", min=0, help="Begin after the event of this number.")
    ] = None,
    json: Json = False,
) -> None:
    """Show what happens, as it happens, until interrupted."""
    invocation = invocation_of(ctx, json=json)
    try:
        with invocation.client() as nexus, nexus.events(topic or [], since_seq=since) as stream:
            for event in stream:
                write(msgspec.json.encode(event) if invocation.json else drawn(event))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def drawn(event: Event) -> bytes:
    """An event as people on a terminal read it: number, topic, what happened, and to what."""
    data = dict(event.data)
    if event.topic == "lagged":
        what, data = f"events after {data.get('after')} and before {data.get('next')} were lost", {}
    else:
        method = str(data.pop("method", ""))
        what = method.partition(".")[2] or str(data.pop("state", method))
    rest = "  ".join(f"{name} {_shown(value)}" for name, value in data.items())
    number, topic, what, rest = (safe(text) for text in (str(event.seq), f"{event.topic:<14}", what, rest))
    return f"\x1b[2m{number}\x1b[0m  \x1b[36m{topic}\x1b[0m {what:<12} {rest}".rstrip().encode()


def _shown(value: object) -> str:
    if isinstance(value, list):
        few = ", ".join(map(_shown, value[:8]))
        return f"{few} and {len(value) - 8} more" if len(value) > 8 else few
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()

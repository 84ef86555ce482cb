"""What a shell offers after <TAB>: the daemon's methods.

Asks the daemon of the command line so far, within the time that a finger waits; without one it offers nothing.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
import typer

from nexusd.cli.connection import connected, socket_path_or_url
from nexusd.client.core import Request
from nexusd.client.errors import ClientError
from nexusd.errors import RpcError

MAX_WAIT_S = 0.3


class _Named(msgspec.Struct):
    name: str


class _Methods(msgspec.Struct):
    methods: list[_Named]


def method_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """The daemon's methods that begin like this; none when no daemon answers at once."""
    given: dict[str, Any] = ctx.parent.params if ctx.parent is not None else {}
    deadline = time.monotonic() + MAX_WAIT_S
    try:
        address = socket_path_or_url(given.get("socket"), given.get("url"))
        with connected(address, timeout_s=MAX_WAIT_S) as nexus:
            left_s = max(0.0, deadline - time.monotonic())
            answer = nexus.execute(Request("help", {}, _Methods, mutates=False), timeout_s=left_s)
    except (ClientError, RpcError, ValueError):  # a half-typed address too: a prompt is no place for complaints
        return []
    return [method.name for method in answer.methods if method.name.startswith(incomplete)]

"""What a connection asks of the server that it belongs to.

Owns that one interface. Knows nothing of how connections are counted.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from nexusd.wire.peers import Peer
from nexusd.wire.shares import Shares

if TYPE_CHECKING:
    from nexusd.wire.connection import Connection


class Registry(Protocol):
    """What a connection asks of its server."""

    shares: Shares      # of the loop's time

    def joined(self, connection: Connection, transport: asyncio.BaseTransport) -> Peer:
        """Count it in. Raises Busy where there are too many already, OSError where there is nobody to tell it."""

    def admitted(self, connection: Connection) -> None:
        """It is somebody's now, who has logged in."""

    def left(self, connection: Connection) -> None:
        """It is closed."""

    def request_began(self, task: asyncio.Task[None]) -> None:
        """Hold the task; nobody else does."""

    def request_ended(self, task: asyncio.Task[None] | None) -> None:
        """It is done."""

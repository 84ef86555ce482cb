"""A service manager's notification socket, as far as a test looks at it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def notify_socket(directory: Path) -> Iterator[socket.socket]:
    """Bound in this directory; it never waits."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(directory / "notify"))
        listening.setblocking(False)
        yield listening


def received(manager: socket.socket) -> list[bytes]:
    """Every datagram that has come since the last look."""
    messages = []
    while True:
        try:
            messages.append(manager.recv(65536))
        except BlockingIOError:
            return messages

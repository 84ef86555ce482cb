"""What a connection knows of the language that is spoken on it.

Owns that one interface: the connection moves bytes, a front makes requests of them and bytes of replies.
"""

from __future__ import annotations

from typing import Any, Protocol

from nexusd.config_sections import LimitsConfig
from nexusd.errors import RpcError

# Of a connection that is nobody's yet: enough for a login, or for the head of a request with a token.
MAX_STRANGER_BYTES = 4096


class Front(Protocol):
    """One language. Made for one connection; the connection calls it, and it calls the connection back."""

    max_in_flight: int

    @property
    def has_partial(self) -> bool:
        """Whether the beginning of a request waits for its end."""

    @property
    def has_unread(self) -> bool:
        """Whether there are bytes that were not looked at yet."""

    def feed(self, data: bytes) -> None:
        """Take what was read."""

    def start_next(self, *, ended: bool) -> int:
        """Start the next complete request, if there is one; `ended`: no more bytes come. Its bytes, 0 for none."""

    def answered(self, answer: Any) -> None:
        """Send what came of an answer that was waited for."""

    def refusal(self, error: RpcError) -> bytes:
        """An error that is no answer to a request in particular."""

    def overdue(self, timeout_s: float) -> bytes:
        """What to say of a request that was not complete within this time."""

    def set_limits(self, limits: LimitsConfig) -> None:
        """Hold what comes from now on to these."""

    def admitted(self) -> None:
        """The connection is somebody's from now on: what it may send is no longer what a stranger may."""

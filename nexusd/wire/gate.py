"""Whether requests are let in: not before the daemon has started, not once it stops.

Owns that one state. Knows neither why nor who asks.
"""

from __future__ import annotations

from typing import Literal

from nexusd.errors import Starting, Stopping

RETRY_STARTING_MS = 500     # a start takes about this long
RETRY_STOPPING_MS = 2000    # until a service manager has it up again


class Gate:
    """Closed, then open, then closed for good."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.state: Literal["starting", "open", "stopping"] = "open" if is_open else "starting"
        self._retry_after_ms = RETRY_STARTING_MS
        self._again = False

    def open(self) -> None:
        """Let requests in; without effect once it stops."""
        if self.state == "starting":
            self.state = "open"

    def stop(self, *, again: bool = False) -> None:
        """Let nothing in any more; `again`: this process is about to start anew, with a gate of its own."""
        if self.state != "stopping":
            self.state = "stopping"
            self._again = again
            self._retry_after_ms = RETRY_STARTING_MS if again else RETRY_STOPPING_MS

    def check(self) -> None:
        """Pass, or say why not.

        Raises:
            Starting, Stopping: the gate is closed.
        """
        if self.state == "starting":
            raise Starting(retry_after_ms=RETRY_STARTING_MS)
        if self.state == "stopping":
            raise Stopping(retry_after_ms=self._retry_after_ms)

    def check_again(self) -> None:
        """For a write that was let in and has waited: pass, unless the data that it is for will be set aside.

        Raises:
            Stopping: it is for the next run.
        """
        if self._again:
            raise Stopping(retry_after_ms=self._retry_after_ms)

"""Where encrypted connections come in: accepted, counted, and only then asked for a handshake.

Owns accepting on one listener and the handshakes under way there. A connection takes its place from the accept on and
has the time of its first byte for the handshake as well, so that neither is to be had for nothing. The loop's own
server would count only those whose handshake is done. Knows no language and no certificate's content.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

import structlog

from nexusd.config_sections import LimitsConfig
from nexusd.errors import Busy
from nexusd.wire.tls_connection import TlsConnection
from nexusd.wire.tls_keys import TlsKeys

MAX_ACCEPTED_IN_A_TURN = 64     # others have their turn then; the rest waits in the kernel
PAUSE_S = 1.0                   # without a file descriptor to be had, until the next try
# What clients say first that speak no TLS
_PLAIN_TEXT = frozenset({"HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG"})


class Registry(Protocol):
    """What the door asks of its server."""

    def expect(self, connection: TlsConnection, host: str) -> None:
        """Count it in before its handshake, as of this address. Raises Busy or OSError where there is no room."""

    def turned_away(self, connection: TlsConnection) -> None:
        """Its handshake is over: if it did not join meanwhile, it will not."""


class TlsDoor:
    """One listener that speaks TLS."""

    def __init__(
        self,
        listener: socket.socket,
        keys: TlsKeys,
        registry: Registry,
        make: Callable[[], TlsConnection],
        limits: Callable[[], LimitsConfig],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._listener = listener
        self._keys = keys
        self._registry = registry
        self._make = make
        self._limits = limits
        self._loop = loop
        self._shaking: dict[asyncio.Task[None], TlsConnection] = {}
        self._pause: asyncio.TimerHandle | None = None
        self._is_open = False
        self._log = structlog.get_logger("nexusd.wire")

    def open(self) -> None:
        """Accept from now on."""
        self._is_open = True
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Accept no more; handshakes go on."""
        if not self._is_open:
            return
        self._is_open = False
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()

    def abandon(self) -> None:
        """End the handshakes that are under way."""
        for task, connection in self._shaking.items():
            if connection.abandon():    # one that has just joined stays: its requests are waited for
                task.cancel()

    async def abandoned(self) -> None:
        """Wait until they are ended."""
        await asyncio.gather(*self._shaking, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(MAX_ACCEPTED_IN_A_TURN):
            try:
                accepted, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:    # no file descriptor is left, say: asked again at once it would be the same
                self._log.warning("cannot accept connections", reason=error.strerror, pause_s=PAUSE_S)
                self._loop.remove_reader(self._listener.fileno())
                self._pause = self._loop.call_later(PAUSE_S, self.open)
                return
            self._receive(accepted)

    def _receive(self, accepted: socket.socket) -> None:
        connection = self._make()
        try:
            accepted.setblocking(False)  # noqa: FBT003  socket's own signature
            host = accepted.getpeername()[0]
            self._registry.expect(connection, host)
        except (Busy, OSError) as error:    # told nothing: the handshake for it is what there is no room for
            self._log.debug("connection not taken", reason=str(error))
            accepted.close()
            return
        task = self._loop.create_task(self._shake_hands(accepted, connection, host))
        self._shaking[task] = connection
        task.add_done_callback(self._shaking.pop)

    async def _shake_hands(self, accepted: socket.socket, connection: TlsConnection, host: str) -> None:
        limits = self._limits()
        try:
            await self._loop.connect_accepted_socket(
                lambda: connection, accepted, ssl=self._keys.context,
                ssl_handshake_timeout=limits.first_byte_timeout_s,
                ssl_shutdown_timeout=limits.idle_timeout_s,     # the connection's own deadlines are shorter
            )
        except OSError as error:    # those of TLS are of this kind too
            self._log.debug("no TLS connection came of it", peer=f"ip:{host}", reason=_reason(error))
        finally:
            self._registry.turned_away(connection)


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        said = error.reason or ""
        return "it speaks no TLS" if said in _PLAIN_TEXT else said.replace("_", " ").lower() or "the handshake failed"
    return str(error) or "it went away"

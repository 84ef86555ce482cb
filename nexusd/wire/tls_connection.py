"""A connection whose bytes are encrypted.

Owns what differs from a plain one: there is no half of it that can be closed, and who is at the other end may have
been proved by a certificate. All the rest is `connection`'s. Makes no handshake.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import cast

from nexusd.config_sections import LimitsConfig, Role
from nexusd.wire.certificates import principal_of
from nexusd.wire.connection import Connection
from nexusd.wire.front import Front
from nexusd.wire.registry import Registry
from nexusd.wire.tls_transport import TlsTransport


class TlsConnection(Connection):
    """One client's connection. Its first deadline runs from the accept, so that a handshake is no way around it."""

    def __init__(
        self,
        registry: Registry,
        limits: LimitsConfig,
        choose_front: Callable[[Connection, int], Front],
        loop: asyncio.AbstractEventLoop,
        roles: Mapping[str, Role],
    ) -> None:
        super().__init__(registry, limits, choose_front, loop)
        self._roles = roles
        self._made = False
        self._abandoned = False

    def abandon(self) -> bool:
        """Nobody waits for its handshake any more; whether it was still to come."""
        self._abandoned = not self._made
        return self._abandoned

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is done."""
        inner = cast("asyncio.Transport", transport)
        if self._abandoned:
            inner.abort()
            return
        self._made = True
        proved = principal_of(inner.get_extra_info("peercert"), self._roles)
        self._tls = TlsTransport(inner, proved, super().pause_writing, super().resume_writing)
        super().connection_made(self._tls)

    def eof_received(self) -> bool:
        """The client closed it; the layer below closes our side too, whatever is answered here."""
        super().eof_received()
        return False

    def pause_writing(self) -> None:
        """The layer below has enough for now; when that is too much, the transport in between says."""
        self._tls.hold()

    def resume_writing(self) -> None:
        """It takes more."""
        self._tls.release()

    def connection_lost(self, exc: Exception | None) -> None:
        """An abandoned one was never in."""
        if self._made:
            super().connection_lost(exc)

    def _check_linger(self, now_s: float, until_s: float) -> None:
        """What lies in the layer below is not known: it is given the time that may pass with nothing moving."""
        super()._check_linger(now_s, until_s + self._limits.write_stall_timeout_s)

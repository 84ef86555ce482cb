"""The certificate that new connections are shown, and how another one takes its place.

Owns which certificate holds, when the files are looked at, and the account of one that was refused. A connection keeps
what it was made with. Knows no listener.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from nexusd.clock import Clock
from nexusd.config_sections import Config, Role, TlsConfig
from nexusd.errors import ConfigError
from nexusd.wire.tls_files import SECTION, Loaded, Stamp, load, stamp_of

LOOK_INTERVAL_S = 10.0  # three looks at the directory; a certificate is renewed weeks before it must be


@dataclass(frozen=True, slots=True)
class CertificateState:
    """How things stand."""

    file: str
    names: tuple[str, ...]
    not_after_s: float
    refusal: str | None     # why the files as they are now were not taken


class TlsKeys:
    """The certificate, its key, and who signs for clients. Used on one event loop."""

    def __init__(self, config: TlsConfig, clock: Clock) -> None:
        """Read the files.

        Raises:
            ConfigError: they cannot be used.
        """
        self._config = config
        self._clock = clock
        self._log = structlog.get_logger("nexusd.wire")
        self._held = load(config)
        self._refused: tuple[Stamp, str] | None = None
        self._turn = asyncio.Lock()
        if self._is_over(self._held):
            self._log.warning("the certificate is out of date; clients will refuse it", file=config.cert_file,
                              not_after=_day(self._held))

    @property
    def context(self) -> ssl.SSLContext:
        """What the next handshake is made with."""
        return self._held.context

    @property
    def roles(self) -> Mapping[str, Role]:
        """Names of clients' certificates and the roles that they have."""
        return self._held.roles

    def state(self) -> CertificateState:
        """What is shown to clients, and whether something newer could not be."""
        held, refused = self._held, self._refused
        return CertificateState(
            str(self._config.cert_file), held.names, held.not_after_s, None if refused is None else refused[1]
        )

    def take(self, config: Config) -> None:
        """Take other settings.

        Raises:
            ConfigError: they or their files cannot be used; what held goes on holding.
        """
        tls = config.server.tcp.tls
        if tls.cert_file is None:
            raise ConfigError(f"{SECTION}.certFile: TLS is left by a restart, not while connections are promised it")
        if tls == self._config:     # given back what holds
            return
        new = load(tls)
        self._config = tls
        self._hold(new)

    async def look(self) -> None:
        """Take the files as they are now, if they changed."""
        async with self._turn:
            config, stamp = self._config, await asyncio.to_thread(stamp_of, self._config)
            if stamp == self._held.stamp or (self._refused is not None and stamp == self._refused[0]):
                return
            try:
                new = await asyncio.to_thread(load, config)
            except ConfigError as error:
                self._refuse(stamp, error.message)
                return
            if self._is_over(new) and not self._is_over(self._held):
                self._refuse(stamp, f"{SECTION}.certFile: {config.cert_file} is out of date since {_day(new)}")
            elif config is self._config:    # else other settings came meanwhile, with files of their own
                self._hold(new)

    async def run(self) -> None:
        """Look every now and then, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            await self.look()

    def _hold(self, new: Loaded) -> None:
        self._held = new
        self._refused = None
        self._log.info("certificate taken", file=self._config.cert_file, names=", ".join(new.names),
                       not_after=_day(new))

    def _refuse(self, stamp: Stamp, why: str) -> None:
        self._refused = stamp, why
        self._log.error("certificate refused; the old one holds", problems=why)

    def _is_over(self, loaded: Loaded) -> bool:
        return loaded.not_after_s * 1000 < self._clock.now_ms()


def _day(loaded: Loaded) -> str:
    return datetime.fromtimestamp(loaded.not_after_s, UTC).date().isoformat()

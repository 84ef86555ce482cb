"""A household's certificates as tests use them: made by the command itself, and the wrong ones beside them."""

from __future__ import annotations

import contextlib
import io
import os
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from nexusd.cli import authority
from nexusd.cli.tls_command import client, init
from nexusd.config_sections import TlsConfig

NOW = datetime(2025, 6, 1, tzinfo=UTC)  # of certificates that must be out of date


class Household:
    """A directory of certificates: an authority, this machine's, and one for each client that is asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.said = self._run(lambda: init(directory=directory))
        self.ca_file = str(directory / "ca.crt")
        self.cert_file = str(directory / "server.crt")
        self.key_file = str(directory / "server.key")

    def settings(self, *, roles: str | None = None, clients: bool = False) -> TlsConfig:
        """What a daemon is configured with."""
        asks = clients or roles is not None
        return TlsConfig(
            cert_file=self.cert_file, key_file=self.key_file, client_ca_file=self.ca_file if asks else None,
            client_roles=roles,
        )

    def renew(self) -> str:
        """Another certificate of the server by the same authority; what was said."""
        return self._run(lambda: init(directory=self.directory, renew=True))

    def client(self, name: str) -> tuple[str, str]:
        """The files of a client's certificate and its key."""
        if not (self.directory / f"{name}.crt").exists():
            self._run(lambda: client(name=name, directory=self.directory))
        return str(self.directory / f"{name}.crt"), str(self.directory / f"{name}.key")

    def signer(self) -> authority.Signed:
        """The authority."""
        return authority.Signed(Path(self.ca_file).read_bytes(), (self.directory / "ca.key").read_bytes())

    def write(self, signed: authority.Signed, name: str) -> tuple[str, str]:
        """Put down a certificate that the command would not make; its files."""
        files = self.directory / f"{name}.crt", self.directory / f"{name}.key"
        for file, content in zip(files, (signed.certificate, signed.key), strict=True):
            file.write_bytes(content)
            file.chmod(0o600)
        return str(files[0]), str(files[1])

    def outdated(self) -> TlsConfig:
        """A certificate for this machine that was good until 2025."""
        signed = authority.make_server(self.signer(), ["localhost", "127.0.0.1"], 30, NOW - timedelta(days=31))
        cert_file, key_file = self.write(signed, "outdated")
        return TlsConfig(cert_file=cert_file, key_file=key_file)

    def elsewhere(self) -> TlsConfig:
        """A certificate by the same authority, but for another host."""
        signed = authority.make_server(self.signer(), ["attic.local"], 30, datetime.now(UTC))
        cert_file, key_file = self.write(signed, "attic")
        return TlsConfig(cert_file=cert_file, key_file=key_file)

    def trusting(self, client_name: str | None = None) -> ssl.SSLContext:
        """How a client connects that knows the authority."""
        context = ssl.create_default_context(cafile=self.ca_file)
        if client_name is not None:
            context.load_cert_chain(*self.client(client_name))
        return context

    @staticmethod
    def _run(command: object) -> str:
        assert callable(command)
        said = io.StringIO()
        mask = os.umask(0)  # the widest: what is closed then is closed by the command
        try:
            with contextlib.redirect_stdout(said):
                command()
        finally:
            os.umask(mask)
        return said.getvalue()

"""Where a daemon listens: a Unix socket's path, or a host and port, with or without TLS.

Owns how an address is written. Opens nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix socket."""

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"tcp://{_bracketed(self.host)}:{self.port}"


@dataclass(frozen=True, slots=True)
class Trust:
    """Files in PEM. `ca_file`: who must have signed the daemon's certificate; None: whom the system believes.

    The other two are the client's own certificate and its key, which may stand in the same file.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


@dataclass(frozen=True, slots=True)
class TlsAddress:
    """A TCP port that speaks TLS."""

    host: str
    port: int
    trust: Trust = Trust()

    def __str__(self) -> str:
        return f"tls://{_bracketed(self.host)}:{self.port}"


Address = UnixAddress | TcpAddress | TlsAddress
HTTPS_PORT = 443


def parse_address(text: str | Path, trust: Trust | None = None) -> Address:
    """Read a path, `unix:PATH`, `unix://PATH`, `tcp://HOST:PORT` or `tls://HOST:PORT` (an IPv6 host in brackets).

    `https://HOST:PORT` means the same as `tls`: one port speaks both languages.

    Raises:
        ValueError: it is none of these, or files are named for an address that has no use for them.
    """
    if isinstance(text, Path) or not text.startswith(("tls://", "https://")):
        if trust is not None and trust != Trust():
            raise ValueError(f"expected tls://HOST:PORT where certificates are named, got {text}")
        return _without_tls(text)
    host, port = _host_and_port(text, HTTPS_PORT if text.startswith("https:") else None)
    return TlsAddress(host, port, trust or Trust())


def _without_tls(text: str | Path) -> Address:
    if isinstance(text, Path):
        return UnixAddress(str(text))
    if text.startswith("tcp://"):
        return TcpAddress(*_host_and_port(text))
    path = text
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
    elif "://" in text:
        raise ValueError(f"expected a socket path, tcp://HOST:PORT or tls://HOST:PORT, got {text}")
    if not path:
        raise ValueError("expected a socket path, tcp://HOST:PORT or tls://HOST:PORT, got nothing")
    return UnixAddress(path)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _host_and_port(text: str, usual_port: int | None = None) -> tuple[str, int]:
    expected = f"expected {text.partition(':')[0]}://HOST:PORT, got {text}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as exc:  # a port that is no number or too large, a bracket that does not close
        raise ValueError(f"{expected}: {exc}") from exc
    port = usual_port if port is None else port
    if not host or not port or parts.path not in {"", "/"} or parts.query or parts.fragment or parts.username:
        raise ValueError(expected)
    return host, port

"""Where a daemon listens: a Unix socket's path, or a host and port.

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
        return f"tcp://[{self.host}]:{self.port}" if ":" in self.host else f"tcp://{self.host}:{self.port}"


Address = UnixAddress | TcpAddress


def parse_address(text: str | Path) -> Address:
    """Read a path, `unix:PATH`, `unix://PATH` or `tcp://HOST:PORT` (an IPv6 host in brackets).

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(text, Path):
        return UnixAddress(str(text))
    if text.startswith("tcp://"):
        return _tcp(text)
    path = text
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
    elif "://" in text:
        raise ValueError(f"expected a socket path or tcp://HOST:PORT, got {text}")
    if not path:
        raise ValueError("expected a socket path or tcp://HOST:PORT, got nothing")
    return UnixAddress(path)


def _tcp(text: str) -> TcpAddress:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as exc:  # a port that is no number or too large, a bracket that does not close
        raise ValueError(f"expected tcp://HOST:PORT, got {text}: {exc}") from exc
    if not host or not port or parts.path not in {"", "/"} or parts.query or parts.fragment or parts.username:
        raise ValueError(f"expected tcp://HOST:PORT, got {text}")
    return TcpAddress(host, port)

"""Which daemon nexusctl talks to, and what is said when there is none.

Owns the places where a socket is looked for. Makes no calls.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from nexusd.client.address import Address, Trust, UnixAddress, parse_address
from nexusd.client.errors import ConnectionFailed
from nexusd.client.sync_client import Client

MAX_TOKEN_FILE_BYTES = 4096
TLS_SCHEMES = ("tls://", "https://")
# The system's daemon first, then one that was started by hand in this directory.
DEFAULT_SOCKETS = ("/run/nexusd/nexusd.sock", "data/nexusd.sock")


@dataclass(frozen=True, slots=True)
class Token:
    """What is shown to be let in. One of the environment is for the network: a socket knows its user by itself."""

    text: str
    is_of_environment: bool = False

    def __repr__(self) -> str:
        """Without the secret."""
        return "Token(...)"

    def for_address(self, address: Address) -> str | None:
        """What to show there."""
        return None if self.is_of_environment and isinstance(address, UnixAddress) else self.text


def choose_token(text: str | None, file: Path | None, *, from_environment: Collection[str]) -> Token | None:
    """The token to show: what is said now goes before what was said once. `from_environment` names what was.

    Raises:
        ValueError: the file holds none.
    """
    if text and "token" not in from_environment:
        return Token(text)
    if file is not None:
        return Token(read_token(file), is_of_environment="token_file" in from_environment)
    return Token(text, is_of_environment=True) if text else None


def read_token(file: Path) -> str:
    """The token in a file.

    Raises:
        ValueError: it cannot be read, or holds none.
    """
    try:
        text = file.read_bytes()[:MAX_TOKEN_FILE_BYTES].decode("ascii").strip()
    except OSError as exc:
        raise ValueError(f"{file}: {exc.strerror}") from exc
    except UnicodeDecodeError:
        text = ""
    if not text.startswith("nx1_"):
        raise ValueError(f"{file}: expected a token, which begins with nx1_")
    return text


def connected(
    given: str | None, *, timeout_s: float, token: Token | None = None, trust: Trust | None = None
) -> Client:
    """A client connected to the given address, or to the first default place where a daemon listens.

    `trust` is looked at where the address is of the kind that has a use for it.

    Raises:
        ConnectionFailed: none does; the message names every place that was tried and why not.
        ValueError: the given address is none.
    """
    if given is not None and not given.startswith(TLS_SCHEMES):
        trust = None
    addresses: list[Address] = [parse_address(given, trust)] if given else [UnixAddress(p) for p in DEFAULT_SOCKETS]
    failures = []
    for address in addresses:
        shown = None if token is None else token.for_address(address)
        client = Client(address, token=shown, timeout_s=timeout_s)
        try:
            client.connect(timeout_s=timeout_s)
        except ConnectionFailed as exc:
            failures.append(exc.message)
            continue
        return client
    if given is None:
        failures.append("start one with nexusd, or name its socket: nexusctl --socket PATH")
    raise ConnectionFailed("\n  ".join(failures))


def socket_path_or_url(socket: str | None, url: str | None) -> str | None:
    """The one address of both options.

    Raises:
        ValueError: both were given, or the URL is only a path.
    """
    if socket is not None and url is not None:
        raise ValueError("expected one of --socket and --url, got both")
    if url is not None and "://" not in url:
        hint = f"; for a socket say --socket {url}" if Path(url).exists() else ""
        raise ValueError(f"expected --url tls://HOST:PORT or tcp://HOST:PORT, got {url}{hint}")
    return url or socket

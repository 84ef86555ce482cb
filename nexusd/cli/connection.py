"""Which daemon nexusctl talks to, and what is said when there is none.

Owns the places where a socket is looked for. Makes no calls.
"""

from __future__ import annotations

from pathlib import Path

from nexusd.client.address import Address, UnixAddress, parse_address
from nexusd.client.errors import ConnectionFailed
from nexusd.client.sync_client import Client

# The system's daemon first, then one that was started by hand in this directory.
DEFAULT_SOCKETS = ("/run/nexusd/nexusd.sock", "data/nexusd.sock")


def connected(given: str | None, *, timeout_s: float) -> Client:
    """A client connected to the given address, or to the first default place where a daemon listens.

    Raises:
        ConnectionFailed: none does; the message names every place that was tried and why not.
        ValueError: the given address is none.
    """
    addresses: list[Address] = [parse_address(given)] if given else [UnixAddress(p) for p in DEFAULT_SOCKETS]
    failures = []
    for address in addresses:
        client = Client(address, timeout_s=timeout_s)
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
        raise ValueError(f"expected --url tcp://HOST:PORT, got {url}{hint}")
    return url or socket

from __future__ import annotations

from pathlib import Path

import pytest

from nexusd.client.address import Address, TcpAddress, UnixAddress, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("/run/nexusd/nexusd.sock", UnixAddress("/run/nexusd/nexusd.sock")),
        ("data/nexusd.sock", UnixAddress("data/nexusd.sock")),
        (Path("/run/x"), UnixAddress("/run/x")),
        ("unix:/run/x", UnixAddress("/run/x")),
        ("unix:///run/x", UnixAddress("/run/x")),
        ("tcp://127.0.0.1:3002", TcpAddress("127.0.0.1", 3002)),
        ("tcp://[::1]:3002", TcpAddress("::1", 3002)),
        ("tcp://house.local:3002/", TcpAddress("house.local", 3002)),
    ],
)
def test_addresses_are_read(text: str | Path, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "", "unix:", "unix://", "http://127.0.0.1:3002", "tcp://", "tcp://host", "tcp://host:0", "tcp://:3002",
        "tcp://host:65536", "tcp://host:x", "tcp://[::1:3002", "tcp://host:1/path", "tcp://me@host:1",
        "tcp://host:1?x", "tcp://host:1#x",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected "):
        parse_address(text)


@pytest.mark.parametrize("text", ["tcp://127.0.0.1:3002", "tcp://[::1]:3002", "/run/x"])
def test_address_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_address(text)) == text

from __future__ import annotations

from pathlib import Path

import pytest

from nexusd.client.address import Address, TcpAddress, TlsAddress, Trust, UnixAddress, parse_address


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
        ("tls://house.local:3002", TlsAddress("house.local", 3002)),
        ("https://[::1]:3002/", TlsAddress("::1", 3002)),
        ("https://house.local", TlsAddress("house.local", 443)),
    ],
)
def test_addresses_are_read(text: str | Path, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "", "unix:", "unix://", "http://127.0.0.1:3002", "tcp://", "tcp://host", "tcp://host:0", "tcp://:3002",
        "tcp://host:65536", "tcp://host:x", "tcp://[::1:3002", "tcp://host:1/path", "tcp://me@host:1",
        "tcp://host:1?x", "tcp://host:1#x", "tls://host", "tls://host:0", "https://host:1/rpc", "https://", "tls://a@b:1",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected "):
        parse_address(text)


@pytest.mark.parametrize("text", ["tcp://127.0.0.1:3002", "tcp://[::1]:3002", "/run/x", "tls://[::1]:1", "tls://a.b:2"])
def test_address_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_address(text)) == text


def test_files_are_for_an_address_that_has_a_use_for_them() -> None:
    trust = Trust(ca_file="ca.crt")
    assert parse_address("tls://a:1", trust) == TlsAddress("a", 1, trust)
    assert parse_address("/run/x", Trust()) == UnixAddress("/run/x")
    for text in ("/run/x", Path("/run/x"), "tcp://a:1"):    # nobody shall believe that it is encrypted
        with pytest.raises(ValueError, match=r"^expected tls://HOST:PORT where certificates are named"):
            parse_address(text, trust)

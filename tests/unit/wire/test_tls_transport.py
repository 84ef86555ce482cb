"""What is handed down to the layer that encrypts, and when a connection is told to pause: without a socket."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from nexusd.config_sections import LimitsConfig
from nexusd.wire.certificates import PRINCIPAL
from nexusd.wire.methods import Principal
from nexusd.wire.tls_connection import TlsConnection
from nexusd.wire.tls_transport import PIECE_BYTES, TlsTransport


class Below(asyncio.Transport):
    """The layer below: takes everything, and forgets what it has taken."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[bytes] = []
        self.ended: str | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.taken.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        del high, low

    def close(self) -> None:
        self.ended = "closed"

    def abort(self) -> None:
        self.ended = "aborted"


class Writer:
    """A transport over such a layer, and what its connection was told."""

    def __init__(self, high: int = 100_000) -> None:
        self.below = Below()
        self.told: list[str] = []
        self.transport = TlsTransport(
            self.below, None, lambda: self.told.append("full"), lambda: self.told.append("room")
        )
        self.transport.set_write_buffer_limits(high=high)


def test_a_long_reply_is_handed_down_in_pieces_in_its_order() -> None:
    writer = Writer()
    text = bytes(range(256)) * 1000
    writer.transport.write(b"first")
    writer.transport.write(text)
    assert b"".join(writer.below.taken) == b"first" + text
    assert max(map(len, writer.below.taken)) == PIECE_BYTES
    assert (writer.transport.get_write_buffer_size(), writer.told) == (0, [])


def test_while_the_layer_below_is_full_everything_waits_and_counts() -> None:
    writer = Writer()
    writer.transport.hold()
    for _ in range(3):
        writer.transport.write(b"x" * 50_000)
    assert (writer.below.taken, writer.transport.get_write_buffer_size()) == ([], 150_000)
    assert writer.told == ["full"]
    writer.transport.release()
    assert sum(map(len, writer.below.taken)) == 150_000
    assert (writer.transport.get_write_buffer_size(), writer.told) == (0, ["full", "room"])


def test_a_close_comes_after_what_waits_and_an_abort_before_it() -> None:
    closing, aborting = Writer(), Writer()
    for writer in (closing, aborting):
        writer.transport.hold()
        writer.transport.write(b"last")
    closing.transport.close()
    assert (closing.below.ended, closing.transport.is_closing()) == (None, True)
    closing.transport.release()
    assert (closing.below.taken, closing.below.ended) == ([b"last"], "closed")
    aborting.transport.abort()
    assert (aborting.below.taken, aborting.below.ended) == ([], "aborted")


def test_who_was_proved_is_told_to_those_who_ask() -> None:
    principal = Principal("cert:kitchen", "read")
    transport = TlsTransport(Below(), principal, lambda: None, lambda: None)
    assert transport.get_extra_info(PRINCIPAL) is principal
    assert Writer().transport.get_extra_info(PRINCIPAL, "nobody") == "nobody"


class Counts:
    """A server, as far as a connection asks it to count."""

    def __init__(self) -> None:
        self.left_by: list[Any] = []

    def joined(self, _connection: Any, _transport: Any) -> Any:
        raise ConnectionResetError

    def left(self, connection: Any) -> None:
        self.left_by.append(connection)


@pytest.mark.anyio
async def test_one_that_joined_is_not_abandoned_and_one_that_was_abandoned_never_joins() -> None:
    counts: Any = Counts()
    loop = asyncio.get_running_loop()

    def fresh() -> TlsConnection:
        return TlsConnection(counts, LimitsConfig(), lambda _connection, _byte: pytest.fail("it spoke"), loop, {})

    joined, late = fresh(), fresh()
    joined.connection_made(Below())
    assert not joined.abandon()
    joined.connection_lost(None)
    assert counts.left_by == [joined]
    assert late.abandon()
    late.connection_made(below := Below())
    late.connection_lost(None)
    assert (below.ended, counts.left_by) == ("aborted", [joined])

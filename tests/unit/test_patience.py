"""More time from systemd: asked for again and again, and not for ever."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.clock import ManualClock
from harness.notify import notify_socket, received

from nexusd.clock import SystemClock
from nexusd.lifecycle import Notifier
from nexusd.patience import EXTENSION_PAUSE_S, STOP_MARGIN_S, Patience

pytestmark = pytest.mark.anyio


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with notify_socket(tmp_path) as listening:
        yield listening


async def test_more_time_is_asked_for_again_and_again_up_to_the_limit(manager: socket.socket) -> None:
    clock = ManualClock()
    notifier = Notifier(manager.getsockname())

    async def sleep(seconds: float) -> None:
        clock.advance(seconds)
        await asyncio.sleep(0)

    Patience(notifier, clock, sleep=sleep).for_the_stop(20)
    asked = []
    for _ in range(50):
        await asyncio.sleep(0)
        asked += received(manager)
    assert set(asked) == {b"EXTEND_TIMEOUT_USEC=30000000"}
    assert len(asked) == (20 + STOP_MARGIN_S) / EXTENSION_PAUSE_S
    notifier.close()


async def test_who_has_enough_time_asks_no_more_and_may_ask_anew(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexusd.patience.EXTENSION_PAUSE_S", 0.001)
    loop = asyncio.get_running_loop()
    notifier = Notifier(manager.getsockname())
    patience = Patience(notifier, SystemClock())
    patience.for_the_start()
    for _ in range(3):
        assert (await loop.sock_recv(manager, 4096)).startswith(b"EXTEND_TIMEOUT_USEC=")
    patience.enough()
    received(manager)
    await asyncio.sleep(0.01)
    assert received(manager) == []
    patience.for_the_start()
    assert await loop.sock_recv(manager, 4096)
    patience.enough()
    notifier.close()


async def test_where_nobody_listens_nobody_is_asked() -> None:
    patience = Patience(Notifier(None), SystemClock())
    patience.for_the_start()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "patience"]

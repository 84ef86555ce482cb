"""Signs of life as long as everything gets on, and silence as soon as a part does not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.clock import ManualClock
from structlog.testing import capture_logs

from nexusd.lifecycle import Notifier
from nexusd.watchdog import LONGEST_PAUSE_S, SIGNS_IN_TIME, Part, Pulse, Watchdog

pytestmark = pytest.mark.anyio


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


def signs(manager: socket.socket) -> int:
    """How many signs of life came since the last look."""
    count = 0
    while True:
        try:
            assert manager.recv(4096) == b"WATCHDOG=1"
        except BlockingIOError:
            return count
        count += 1


@pytest.fixture
def notifier(manager: socket.socket) -> Iterator[Notifier]:
    notifier = Notifier(manager.getsockname())
    yield notifier
    notifier.close()


async def test_a_part_that_does_not_get_on_silences_it_and_is_named_once(
    manager: socket.socket, notifier: Notifier
) -> None:
    stalled = {"writer": 0.0, "outbox": 9.0}
    parts = [Part("writer", lambda: stalled["writer"], 10), Part("outbox", lambda: stalled["outbox"], 10)]
    watchdog = Watchdog(notifier, parts, 30)
    watchdog.look()
    assert signs(manager) == 1
    stalled["writer"] = 10.5
    with capture_logs() as entries:
        watchdog.look()
        watchdog.look()
    assert signs(manager) == 0
    [entry] = entries
    assert (entry["log_level"], entry["part"], entry["stalled_s"]) == ("critical", "writer", 10.5)
    stalled["writer"] = 0.1
    watchdog.look()
    assert signs(manager) == 1


@pytest.mark.parametrize(("interval_s", "pause_s"), [(0.02, 0.02 / SIGNS_IN_TIME), (3600, LONGEST_PAUSE_S)])
async def test_signs_come_several_times_in_the_time_that_systemd_gives(
    manager: socket.socket, notifier: Notifier, interval_s: float, pause_s: float
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    running = asyncio.create_task(Watchdog(notifier, [], interval_s, sleep=sleep).run())
    while len(slept) < 3:
        await asyncio.sleep(0)
    running.cancel()
    assert set(slept) == {pause_s}
    assert signs(manager) == len(slept)


async def test_a_number_that_stands_still_is_a_stall_unless_its_owner_rests() -> None:
    clock, count, resting = ManualClock(), 0, False
    pulse = Pulse(lambda: count, lambda: resting, clock)
    clock.advance(5)
    assert pulse.stalled_s() == 5
    count += 1
    assert pulse.stalled_s() == 0
    clock.advance(7)
    assert pulse.stalled_s() == 7
    resting = True
    assert pulse.stalled_s() == 0
    clock.advance(100)
    assert pulse.stalled_s() == 0
    resting = False
    clock.advance(2)
    assert pulse.stalled_s() == 2   # not the time of its rest

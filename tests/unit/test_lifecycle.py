"""Tasks that never end unseen, one request to stop, and what systemd is told."""

from __future__ import annotations

import asyncio
import io
import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.notify import notify_socket, received
from structlog.testing import capture_logs

from nexusd.lifecycle import (
    HEALTHY_AFTER_S,
    MAX_RESTART_DELAY_S,
    MAX_STATUS_CHARACTERS,
    ExitCode,
    Notifier,
    StopSignal,
    Supervisor,
    reload_on_hangup,
    stop_on_signals,
)

pytestmark = pytest.mark.anyio


class HandClock:
    """A clock that is moved by hand, and a sleep that moves it."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.slept: list[float] = []

    def now_ms(self) -> int:
        return int(self.now_s * 1000)

    def monotonic_s(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds
        await asyncio.sleep(0)


class Bench:
    """A supervisor with everything by hand, and a task that fails as often as it is told to."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.stop = StopSignal()
        self.supervisor = Supervisor(
            self.stop, self.clock, chance=random.Random(7), sleep=self.clock.sleep
        )
        self.running = asyncio.Event()
        self.failures = 0
        self.lives = 0

    async def task(self) -> None:
        self.lives += 1
        if self.lives <= self.failures:
            raise RuntimeError(f"life {self.lives}")
        self.running.set()
        await asyncio.Event().wait()


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_a_task_that_dies_is_restarted_and_said_so(bench: Bench) -> None:
    bench.failures = 3
    with capture_logs() as entries:
        bench.supervisor.start("outbox", bench.task)
        await bench.running.wait()
    [state] = bench.supervisor.states()
    assert (state.name, state.state, state.restarts, state.last_error) == (
        "outbox", "running", 3, "RuntimeError: life 3",
    )  # fmt: skip
    assert [entry["event"] for entry in entries] == ["task failed; restarting"] * 3
    assert [entry["log_level"] for entry in entries] == ["error"] * 3
    assert entries[0]["reason"] == "RuntimeError: life 1"
    assert isinstance(entries[0]["exc_info"], RuntimeError)
    assert not bench.stop.requested.is_set()
    await bench.supervisor.close()


async def test_restarts_wait_a_random_time_whose_bound_doubles_up_to_a_limit(bench: Bench) -> None:
    bench.failures = 200
    bench.supervisor.start("outbox", bench.task)
    await bench.running.wait()
    bounds = [min(0.1 * 2**n, MAX_RESTART_DELAY_S) for n in range(200)]
    assert all(0 <= slept <= bound for slept, bound in zip(bench.clock.slept, bounds, strict=True))
    assert max(bench.clock.slept) > MAX_RESTART_DELAY_S * 0.9
    assert len(set(bench.clock.slept)) == 200
    await bench.supervisor.close()


async def test_a_task_that_lived_long_enough_starts_its_backoff_anew(bench: Bench) -> None:
    lives = 0

    async def task() -> None:
        nonlocal lives
        lives += 1
        if lives == 20:
            bench.clock.now_s += HEALTHY_AFTER_S
        if lives <= 20:
            raise OSError("gone")
        bench.running.set()
        await asyncio.Event().wait()

    bench.supervisor.start("outbox", task)
    await bench.running.wait()
    assert max(bench.clock.slept[10:19]) > 1
    assert bench.clock.slept[19] <= 0.1
    await bench.supervisor.close()


async def test_a_task_that_returns_has_died_as_well(bench: Bench) -> None:
    lives = 0

    async def task() -> None:
        nonlocal lives
        lives += 1
        if lives == 2:
            bench.running.set()
            await asyncio.Event().wait()

    bench.supervisor.start("outbox", task)
    await bench.running.wait()
    assert bench.supervisor.states()[0].last_error == "ended by itself"
    await bench.supervisor.close()


async def test_a_task_that_ends_by_its_nature_is_finished(bench: Bench) -> None:
    done = asyncio.Event()

    async def task() -> None:
        done.set()

    bench.supervisor.start("warm up", task, ends=True)
    await done.wait()
    await asyncio.sleep(0)
    assert bench.supervisor.states()[0].state == "finished"
    assert not bench.stop.requested.is_set()
    await bench.supervisor.close()
    assert bench.supervisor.states()[0].state == "finished"


async def test_a_task_that_must_not_fail_stops_the_daemon_with_its_reason(bench: Bench) -> None:
    bench.failures = 1
    with capture_logs() as entries:
        bench.supervisor.start("writer", bench.task, on_failure="stop")
        assert await bench.stop.wait() == "writer: RuntimeError: life 1"
    assert bench.stop.exit_code == ExitCode.INTERNAL == 70
    assert bench.supervisor.states()[0].state == "failed"
    assert bench.lives == 1
    assert [entry["log_level"] for entry in entries] == ["critical"]
    await bench.supervisor.close()


async def test_a_task_that_awaited_something_cancelled_has_failed_and_is_restarted(bench: Bench) -> None:
    lives = 0

    async def task() -> None:
        nonlocal lives
        lives += 1
        if lives == 1:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        bench.running.set()
        await asyncio.Event().wait()

    bench.supervisor.start("outbox", task)
    await bench.running.wait()
    assert bench.supervisor.states()[0].restarts == 1
    await bench.supervisor.close()


async def test_close_cancels_in_reverse_and_waits_for_each_before_the_next(bench: Bench) -> None:
    order: list[str] = []
    ready = asyncio.Semaphore(0)

    def task(name: str) -> object:
        async def run() -> None:
            try:
                ready.release()
                await asyncio.Event().wait()
            finally:
                order.append(f"{name} begins to end")
                await asyncio.sleep(0)
                order.append(f"{name} ended")

        return run

    for name in ("a", "b", "c"):
        bench.supervisor.start(name, task(name))  # type: ignore[arg-type]
    for _ in range(3):
        await ready.acquire()
    await bench.supervisor.close()
    assert order == [f"{name} {what}" for name in "cba" for what in ("begins to end", "ended")]
    assert [state.state for state in bench.supervisor.states()] == ["stopped"] * 3


async def test_close_does_not_wait_for_ever_for_a_task_that_swallows_its_cancellation(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexusd.lifecycle.CANCEL_GRACE_S", 0.01)
    release = asyncio.Event()

    async def stubborn() -> None:
        bench.running.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await release.wait()

    bench.supervisor.start("stubborn", stubborn)
    await bench.running.wait()
    with capture_logs() as entries:
        await bench.supervisor.close()
    assert [entry["event"] for entry in entries] == ["task does not end; leaving it behind"]
    release.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    [state] = bench.supervisor.states()
    assert (state.state, state.restarts) == ("stopped", 0)  # when it ends at last, it is not started again


async def test_a_task_that_waits_for_its_restart_is_stopped_too(bench: Bench) -> None:
    waiting = asyncio.Event()

    async def sleep(_seconds: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    async def task() -> None:
        raise OSError("gone")

    supervisor = Supervisor(bench.stop, bench.clock, sleep=sleep)
    supervisor.start("outbox", task)
    await waiting.wait()
    assert supervisor.states()[0].state == "waiting"
    await supervisor.close()
    assert supervisor.states()[0].state == "stopped"


async def test_a_name_runs_once_and_nothing_starts_while_closing(bench: Bench) -> None:
    bench.supervisor.start("outbox", bench.task)
    with pytest.raises(ValueError, match="outbox is running already"):
        bench.supervisor.start("outbox", bench.task)
    await bench.supervisor.close()
    with pytest.raises(ValueError, match="while the daemon stops"):
        bench.supervisor.start("other", bench.task)


async def test_the_first_reason_to_stop_stays_and_a_later_failure_shows_in_the_exit_code() -> None:
    stop = StopSignal()
    stop.request("SIGTERM")
    stop.request("writer: OSError: gone", ExitCode.INTERNAL)
    stop.request("SIGINT")
    assert (stop.reason, stop.exit_code) == ("SIGTERM", ExitCode.INTERNAL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_asks_to_stop_and_a_second_one_ends_at_once(number: signal.Signals) -> None:
    stop = StopSignal()
    second: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    with stop_on_signals(stop, second.set_result):
        os.kill(os.getpid(), number)
        assert await stop.wait() == number.name
        assert not second.done()
        os.kill(os.getpid(), signal.SIGTERM)
        assert await second == signal.SIGTERM
    assert stop.exit_code == ExitCode.OK == 0


class Stream(io.StringIO):
    """Standard error, connected to a terminal for as long as there is one."""

    terminal = True

    def isatty(self) -> bool:
        return self.terminal


async def test_a_hangup_asks_for_new_settings_unless_it_means_that_the_terminal_is_gone() -> None:
    stop, stream = StopSignal(), Stream()
    asked = asyncio.Event()
    with reload_on_hangup(asked.set, stop, stream):
        os.kill(os.getpid(), signal.SIGHUP)
        await asked.wait()
        assert not stop.requested.is_set()
        stream.terminal = False
        os.kill(os.getpid(), signal.SIGHUP)
        assert await stop.wait() == "SIGHUP: the terminal is gone"


async def test_a_hangup_of_a_service_always_asks_for_new_settings() -> None:
    stop, asked = StopSignal(), asyncio.Event()
    with reload_on_hangup(asked.set, stop, io.StringIO()):
        os.kill(os.getpid(), signal.SIGHUP)
        await asked.wait()
    assert not stop.requested.is_set()


# --- systemd ----------------------------------------------------------------------------------------------


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with notify_socket(tmp_path) as listening:
        yield listening


async def test_each_matter_is_a_datagram_of_its_own(manager: socket.socket) -> None:
    notifier = Notifier(manager.getsockname())
    notifier.status("starting")
    notifier.ready("3 sessions")
    notifier.stopping("draining")
    assert received(manager) == [
        b"STATUS=starting", b"READY=1", b"STATUS=3 sessions", b"STOPPING=1", b"STATUS=draining",
    ]  # fmt: skip
    notifier.close()


@pytest.mark.parametrize(
    ("status", "sent"),
    [
        ("42 \N{RIGHTWARDS ARROW} k\N{LATIN SMALL LETTER O WITH DIAERESIS}ln", b"STATUS=42 ? k?ln"),
        ("all well\nREADY=1\r\nSTOPPING=1", b"STATUS=all well READY=1 STOPPING=1"),
        ("\ud800", b"STATUS=?"),
        ("x" * 10_000, b"STATUS=" + b"x" * MAX_STATUS_CHARACTERS),
    ],
)  # fmt: skip
async def test_a_status_is_one_short_line_of_ascii(manager: socket.socket, status: str, sent: bytes) -> None:
    notifier = Notifier(manager.getsockname())
    notifier.status(status)
    assert received(manager) == [sent]
    notifier.close()


async def test_the_same_status_is_sent_once(manager: socket.socket) -> None:
    notifier = Notifier(manager.getsockname())
    for text in ("a", "a", "b", "a"):
        notifier.status(text)
    assert received(manager) == [b"STATUS=a", b"STATUS=b", b"STATUS=a"]
    notifier.close()


async def test_without_a_notify_socket_nothing_is_sent_wherever_the_environment_points(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
    notifier = Notifier(None)
    notifier.ready("here")
    assert not notifier.enabled
    assert received(manager) == []


async def test_the_socket_of_the_settings_counts_and_may_be_abstract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    name = f"nexusd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        manager.setblocking(False)
        notifier = Notifier(f"@{name}")
        notifier.ready("here")
        assert received(manager) == [b"READY=1", b"STATUS=here"]
        notifier.close()


async def test_a_manager_that_is_not_there_or_goes_away_is_a_warning(
    manager: socket.socket, tmp_path: Path
) -> None:
    with capture_logs() as entries:
        assert not Notifier(str(tmp_path / "nothing")).enabled
        notifier = Notifier(manager.getsockname())
        manager.close()
        notifier.ready("here")
        notifier.close()
        notifier.status("after the close")
    assert {entry["event"] for entry in entries} == {"systemd cannot be notified", "systemd was not notified"}
    assert all(entry["log_level"] == "warning" for entry in entries)


async def test_a_full_queue_never_blocks_and_ready_comes_through_when_there_is_room(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexusd.lifecycle.NOTIFY_RETRY_S", 0.001)
    notifier = Notifier(manager.getsockname())
    for number in range(10_000):  # the queue of a datagram socket is a few hundred messages at most
        notifier.status(f"line {number}")
    notifier.ready("ready")
    waiting = received(manager)
    assert waiting
    assert b"READY=1" not in waiting
    loop = asyncio.get_running_loop()
    messages: list[bytes] = []
    while b"READY=1" not in messages:
        messages.append(await loop.sock_recv(manager, 65536))
    notifier.close()


async def test_a_reload_begins_with_its_time_in_the_same_message_and_ends_with_ready(manager: socket.socket) -> None:
    notifier = Notifier(manager.getsockname())
    before_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    notifier.ready("all well")
    begun, over, status = received(manager)
    assert begun.startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    assert before_us <= int(begun.rpartition(b"=")[2]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert (over, status) == (b"READY=1", b"STATUS=all well")
    notifier.close()


async def test_nothing_is_ready_any_more_once_it_stops(manager: socket.socket) -> None:
    notifier = Notifier(manager.getsockname())
    notifier.stopping("draining")
    notifier.reloading()
    notifier.ready("all well")
    assert received(manager) == [b"STOPPING=1", b"STATUS=draining"]
    notifier.close()


async def test_what_must_arrive_arrives_in_its_order_however_full_the_queue_was(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexusd.lifecycle.NOTIFY_RETRY_S", 0.001)
    notifier = Notifier(manager.getsockname())
    for number in range(10_000):
        notifier.status(f"line {number}")
    notifier.reloading()
    received(manager)   # from here on there is room; but the first is still waiting for its next try
    notifier.ready("ready")
    notifier.stopping("stopping")
    messages: list[bytes] = []
    while b"STOPPING=1" not in messages:
        messages.append(await asyncio.get_running_loop().sock_recv(manager, 65536))
    told = [message.partition(b"=")[0] for message in messages if not message.startswith(b"STATUS=")]
    assert told == [b"RELOADING", b"READY", b"STOPPING"]
    notifier.close()


async def test_a_manager_that_never_listens_is_given_up(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexusd.lifecycle.NOTIFY_RETRY_S", 0.0)
    notifier = Notifier(manager.getsockname())
    for number in range(10_000):
        notifier.status(f"line {number}")
    notifier.ready("ready")
    while notifier._unsent:
        await asyncio.sleep(0)
    notifier.close()


async def test_signs_of_life_and_of_the_end_are_what_systemd_understands(manager: socket.socket) -> None:
    notifier = Notifier(manager.getsockname())
    notifier.alive()
    notifier.broken()
    notifier.needs(30)
    assert received(manager) == [b"WATCHDOG=1", b"WATCHDOG=trigger", b"EXTEND_TIMEOUT_USEC=30000000"]
    notifier.close()


def test_to_begin_again_is_asked_for_once_and_gives_way_to_a_stop() -> None:
    stop = StopSignal()
    stop.request_again("restoring one")
    stop.request_again("restoring another")
    assert (stop.again, stop.reason) == (True, "restoring one")
    stop.request("SIGTERM")
    assert (stop.again, stop.reason, stop.exit_code) == (False, "SIGTERM", ExitCode.OK)
    stop.request_again("restoring a third")
    assert (stop.again, stop.reason) == (False, "SIGTERM")


def test_a_daemon_that_fails_on_the_way_does_not_begin_again() -> None:
    stop = StopSignal()
    stop.request_again("restoring one")
    stop.request("store: it fails", ExitCode.INTERNAL)
    assert (stop.again, stop.exit_code) == (False, ExitCode.INTERNAL)


async def test_a_signal_while_it_begins_again_stops_it_and_a_second_one_ends_it() -> None:
    stop, at_once = StopSignal(), list[int]()
    with stop_on_signals(stop, at_once.append):
        stop.request_again("restoring one")
        os.kill(os.getpid(), signal.SIGTERM)
        while stop.again:
            await asyncio.sleep(0)
        assert (stop.reason, at_once) == ("SIGTERM", [])
        os.kill(os.getpid(), signal.SIGTERM)
        while not at_once:
            await asyncio.sleep(0)
    assert at_once == [signal.SIGTERM]

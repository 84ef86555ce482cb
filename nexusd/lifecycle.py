"""What keeps the daemon running, and what ends it.

Owns the supervised tasks, the request to stop with its reason, signals, and what systemd is told. Knows no
part by name and not what any task does.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal, TextIO

import sdnotify
import structlog

from nexusd.clock import Clock
from nexusd.exception_text import describe_error

FIRST_RESTART_DELAY_S = 0.1
MAX_RESTART_DELAY_S = 30.0
HEALTHY_AFTER_S = 60.0    # a task that lived this long starts its backoff anew
CANCEL_GRACE_S = 5.0      # a task that has not ended by then after its cancellation is left behind
MAX_STATUS_CHARACTERS = 240  # a line for people; systemd cuts nothing, a terminal does
NOTIFY_RETRY_S = 0.05
NOTIFY_ATTEMPTS = 40      # for READY and STOPPING: systemd may be busy, and it waits for these

TaskFactory = Callable[[], Coroutine[Any, Any, None]]
OnFailure = Literal["restart", "stop"]


class ExitCode(IntEnum):
    """How the process ends, by sysexits.h; the unit files build on these."""

    OK = 0
    INTERNAL = 70  # something inside failed: starting again may help
    REFUSED = 78   # settings or data are wrong: starting again will not help


class StopSignal:
    """The request to stop: asked for once, by whoever is first; waited for by the one who stops."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.reason = ""
        self.exit_code = ExitCode.OK
        self.again = False  # whether a new run follows in this process

    def request(self, reason: str, exit_code: ExitCode = ExitCode.OK) -> None:
        """Ask the daemon to stop. The first reason stays; a failure on the way out shows in the code."""
        if not self.requested.is_set() or self.again:
            self.reason = reason
            self.requested.set()
        self.again = False
        self.exit_code = max(self.exit_code, exit_code)

    def request_again(self, reason: str) -> None:
        """Ask it to stop and to begin anew; without effect where it is to stop for good, before or afterwards."""
        if not self.requested.is_set():
            self.reason = reason
            self.again = True
            self.requested.set()

    async def wait(self) -> str:
        """Wait until somebody asks, and answer the reason."""
        await self.requested.wait()
        return self.reason


@contextlib.contextmanager
def stop_on_signals(stop: StopSignal, at_once: Callable[[int], object]) -> Iterator[None]:
    """SIGTERM and SIGINT ask to stop; a second one, of either kind, calls `at_once` with its number."""
    loop = asyncio.get_running_loop()

    def received(number: signal.Signals) -> None:
        if stop.requested.is_set() and not stop.again:
            at_once(number)
        else:
            stop.request(number.name)

    handled = (signal.SIGTERM, signal.SIGINT)
    for number in handled:
        loop.add_signal_handler(number, received, number)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def reload_on_hangup(request: Callable[[], object], stop: StopSignal, stream: TextIO) -> Iterator[None]:
    """SIGHUP asks for new settings; where it means that the terminal is gone, as `stream` tells, it asks to stop."""
    loop = asyncio.get_running_loop()
    was_terminal = stream.isatty()

    def received() -> None:
        if was_terminal and not stream.isatty():
            stop.request("SIGHUP: the terminal is gone")
        else:
            request()

    loop.add_signal_handler(signal.SIGHUP, received)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


@dataclass(slots=True)
class TaskState:
    """A supervised task as status shows it."""

    name: str
    state: Literal["running", "waiting", "finished", "failed", "stopped"]  # waiting: to be restarted
    restarts: int = 0
    last_error: str = ""


class Supervisor:
    """Named tasks that never end unseen: one that dies is restarted, or stops the daemon with its reason."""

    def __init__(
        self,
        stop: StopSignal,
        clock: Clock,
        *,
        chance: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._stop = stop
        self._clock = clock
        self._chance = chance if chance is not None else random.Random()  # noqa: S311 (spreads restarts only)
        self._sleep = sleep
        self._log = structlog.get_logger("nexusd.lifecycle")
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._states: dict[str, TaskState] = {}
        self._closing = False

    def start(
        self, name: str, factory: TaskFactory, *, on_failure: OnFailure = "restart", ends: bool = False
    ) -> None:
        """Run the coroutine that `factory` makes, and make another each time it must be restarted.

        A task that returns has failed as well, unless it `ends` by its nature. "restart" waits a random time
        that doubles from 0.1 s to 30 s; "stop" asks the daemon to stop with exit code 70.

        Raises:
            ValueError: a task of this name runs already, or the supervisor is closing.
        """
        if self._closing:
            raise ValueError(f"task {name} would start while the daemon stops")
        earlier = self._tasks.get(name)
        if earlier is not None and not earlier.done():
            raise ValueError(f"task {name} is running already")
        state = TaskState(name=name, state="running")
        self._states[name] = state
        self._tasks.pop(name, None)  # close goes by the order of starting
        self._tasks[name] = asyncio.create_task(self._keep(state, factory, on_failure, ends=ends), name=name)

    def states(self) -> list[TaskState]:
        """Every task that was ever started, in the order of starting."""
        return list(self._states.values())

    async def close(self) -> None:
        """Cancel every task, the last started first, each waited for before the next."""
        self._closing = True
        for name, task in reversed(self._tasks.items()):
            if task.done():
                continue
            task.cancel()
            # not wait_for: it would wait for a task that swallows its cancellation for ever
            await asyncio.wait({task}, timeout=CANCEL_GRACE_S)
            if not task.done():
                self._log.error("task does not end; leaving it behind", task=name, waited_s=CANCEL_GRACE_S)
            elif self._states[name].state in {"running", "waiting"}:
                self._states[name].state = "stopped"

    async def _keep(
        self, state: TaskState, factory: TaskFactory, on_failure: OnFailure, *, ends: bool
    ) -> None:
        delay_s = FIRST_RESTART_DELAY_S
        while True:
            state.state = "running"
            began_s = self._clock.monotonic_s()
            error = await self._run_once(factory)
            if self._ending():  # it swallowed its cancellation; ended is ended
                state.state = "stopped"
                return
            if error is None and ends:
                state.state = "finished"
                return
            state.last_error = "ended by itself" if error is None else describe_error(error)
            if on_failure == "stop":
                state.state = "failed"
                self._log.critical("task failed; stopping", task=state.name, reason=state.last_error,
                                   exc_info=error)
                self._stop.request(f"{state.name}: {state.last_error}", ExitCode.INTERNAL)
                return
            if self._clock.monotonic_s() - began_s >= HEALTHY_AFTER_S:
                delay_s = FIRST_RESTART_DELAY_S
            wait_s = self._chance.uniform(0, delay_s)  # full jitter: tasks that died together come back apart
            delay_s = min(delay_s * 2, MAX_RESTART_DELAY_S)
            state.state = "waiting"
            state.restarts += 1
            self._log.error("task failed; restarting", task=state.name, reason=state.last_error,
                            restarts=state.restarts, delay_s=round(wait_s, 3), exc_info=error)
            await self._sleep(wait_s)

    async def _run_once(self, factory: TaskFactory) -> BaseException | None:
        """Why the task ended; None when it returned."""
        try:
            await factory()
        except asyncio.CancelledError as error:
            if self._ending():
                raise
            return error  # it awaited something that was cancelled: that is a failure like another
        except Exception as error:  # noqa: BLE001 (the one place that must see every way to die)
            return error
        return None

    def _ending(self) -> bool:
        """Whether the current task was asked to end, by `close` or by the end of the loop."""
        current = asyncio.current_task()
        return self._closing or (current is not None and current.cancelling() > 0)


class _BoundNotifier(sdnotify.SystemdNotifier):  # type: ignore[misc]  # sdnotify ships no types
    """sdnotify's sender on a socket of ours: its own reads the environment, blocks, and hides its errors."""

    def __init__(self, address: str) -> None:
        self.debug = True  # raise, so that an unsent message is seen
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self.socket.connect("\0" + address[1:] if address.startswith("@") else address)
        except OSError:
            self.socket.close()
            raise


class Notifier:
    """Tells systemd how we are, where it asked to be told ($NOTIFY_SOCKET); else does nothing."""

    def __init__(self, notify_socket: str | None) -> None:
        self._log = structlog.get_logger("nexusd.lifecycle")
        self._sender: _BoundNotifier | None = None
        self._last_status = ""
        self._stopping = False
        self._unsent: deque[str] = deque()  # what must arrive, and in this order
        if notify_socket is None:
            return
        try:
            self._sender = _BoundNotifier(notify_socket)
        except OSError as error:
            self._log.warning("systemd cannot be notified", socket=notify_socket, reason=str(error))

    @property
    def enabled(self) -> bool:
        """Whether anybody is told."""
        return self._sender is not None

    def ready(self, status: str) -> None:
        """The sockets answer, or new settings were dealt with."""
        if self._stopping:
            return
        self._send_surely("READY=1")
        self.status(status)

    def reloading(self) -> None:
        """New settings are being taken; `ready` says that it is over, however it ended."""
        if not self._stopping:
            # systemd compares the time with that of its own signal: only in one message do the two belong together
            now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            self._send_surely(f"RELOADING=1\nMONOTONIC_USEC={now_us}")

    def stopping(self, status: str) -> None:
        """The drain has begun; nothing is ready from now on."""
        self._stopping = True
        self._send_surely("STOPPING=1")
        self.status(status)

    def status(self, text: str) -> None:
        """A line for people, in `systemctl status`. The same line again is not sent."""
        # sdnotify drops a message that is not Latin-1, and a line break would begin another assignment
        line = " ".join(text.split()).encode("ascii", "replace").decode("ascii")[:MAX_STATUS_CHARACTERS]
        if line == self._last_status:
            return
        try:
            if self._send(f"STATUS={line}"):
                self._last_status = line
        except BlockingIOError:     # the next one says how things are then
            return

    def alive(self) -> None:
        """A sign of life, for the watchdog."""
        self._try_to_send("WATCHDOG=1")

    def broken(self) -> None:
        """What cannot be mended from inside: systemd does at once what it does where signs of life stay away."""
        self._send_surely("WATCHDOG=trigger")

    def needs(self, seconds: int) -> None:
        """The start, or the stop, takes so much longer."""
        self._try_to_send(f"EXTEND_TIMEOUT_USEC={seconds * 1_000_000}")

    def close(self) -> None:
        """Give the socket back."""
        if self._sender is not None:
            self._sender.socket.close()
            self._sender = None

    def _send_surely(self, message: str) -> None:
        """Send it, now or as soon as systemd takes it, and after what was to be sent before it."""
        self._unsent.append(message)
        if len(self._unsent) == 1:
            self._send_unsent(NOTIFY_ATTEMPTS)

    def _send_unsent(self, attempts: int) -> None:
        while self._unsent:
            try:
                self._send(self._unsent[0])
            except BlockingIOError:
                if attempts > 1:
                    asyncio.get_running_loop().call_later(NOTIFY_RETRY_S, self._send_unsent, attempts - 1)
                    return
            self._unsent.popleft()

    def _try_to_send(self, message: str) -> None:
        """What comes again soon."""
        try:
            self._send(message)
        except BlockingIOError:
            return

    def _send(self, message: str) -> bool:
        """One datagram a matter, so that nothing is lost with something else. Never waits.

        Raises:
            BlockingIOError: systemd's queue is full.
        """
        if self._sender is None:
            return False
        try:
            self._sender.notify(message)
        except BlockingIOError:
            raise
        except OSError as error:
            self._log.warning("systemd was not notified", message=message, reason=str(error))
            return False
        return True

"""A process that works for the daemon: started, watched, restarted, asked.

Owns the process, the pipe to it, the requests under way and the pace of restarts. Knows no meaning of
any operation. A child that dies fails every request under way with `ChildUnavailable`; a child that does
not answer within a call's deadline is killed, so that no write of a timed-out call can still happen later.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog

from nexusd.child_channel import LENGTH, MAX_CHILD_FRAME_BYTES, pack_frame
from nexusd.errors import NexusError

FIRST_RESTART_DELAY_S = 0.1
MAX_RESTART_DELAY_S = 10.0
HEALTHY_AFTER_S = 10.0  # a child that lived this long starts its backoff anew
CLOSE_GRACE_S = 5.0


class ChildUnavailable(NexusError):
    """The child process is not running, died before it answered, or did not answer in time."""


class ChildDied(ChildUnavailable):
    """The child ended, or was killed for its silence, while it had this request: the request may be why."""


class ChildRefused(NexusError):
    """The child answered that it cannot do this. `kind` says why, `details` has the rest."""

    def __init__(self, kind: str, message: str, details: dict[str, Any]) -> None:
        super().__init__(message)
        self.kind = kind
        self.details = details


class ChildProcess:
    """`python -m MODULE FD ARGUMENT...`, kept alive from the first call (or `start`) until `close`."""

    def __init__(
        self,
        name: str,
        module: str,
        arguments: list[str],
        *,
        on_started: Callable[[ChildProcess], Awaitable[None]] | None = None,
        on_running: Callable[[bool], None] | None = None,
    ) -> None:
        """`on_running` is told when calls are taken, and when they are not any more; not of the close."""
        self.name = name
        self.restarts = 0
        self.has_ended = False  # a process of it, at least once
        self.last_error = ""
        self._fault = ""        # what this run of it ended with
        self._module = module
        self._arguments = arguments
        self._on_started = on_started
        self._on_running = on_running
        self._told_running = False
        self._log = structlog.get_logger("nexusd.child").bind(child=name)
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._up = asyncio.Event()
        self._closing = False

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None else None

    @property
    def running(self) -> bool:
        """Whether calls are taken right now."""
        return self._up.is_set()

    def start(self) -> None:
        """Start it, if it was not; returns at once."""
        if self._keeper is None and not self._closing:
            self._keeper = asyncio.create_task(self._keep(), name=f"child:{self.name}")

    async def call(self, op: str, payload: object, *, timeout_s: float) -> Any:
        """Ask the child and wait for its answer.

        Raises:
            ChildUnavailable: it is not there, died, or took longer than `timeout_s` (and was killed for it).
            ChildRefused: it answered no.
        """
        if self._closing:
            raise ChildUnavailable(f"{self.name} is stopping")
        self.start()
        if self._writer is not None and self._writer.is_closing():
            self._take_no_calls()  # it ended this moment, and nobody had a turn yet to notice: wait for the next
        deadline = time.monotonic() + timeout_s
        try:
            async with asyncio.timeout(timeout_s):  # not wait_for: until 3.12 it can swallow a cancellation
                await self._up.wait()
        except TimeoutError:
            raise ChildUnavailable(f"{self.name} is not running: {self.last_error or 'starting'}") from None
        return await self._exchange(op, payload, max(0.001, deadline - time.monotonic()))

    async def call_starting(self, op: str, payload: object, *, timeout_s: float) -> Any:
        """As `call`, but for `on_started`: the child takes no other calls yet."""
        return await self._exchange(op, payload, timeout_s)

    async def _exchange(self, op: str, payload: object, timeout_s: float) -> Any:
        writer = self._writer
        if writer is None or self._closing:
            raise ChildUnavailable(f"{self.name} is not running: {self.last_error or 'stopped'}")
        if writer.is_closing():  # uvloop would call a write an error of ours
            raise ChildUnavailable(f"{self.name} has just ended")
        request_id = next(self._ids)
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = reply
        try:
            writer.write(pack_frame([request_id, op, payload]))
            async with asyncio.timeout(timeout_s):
                return await reply
        except TimeoutError:
            self.last_error = self._fault = f"no answer to {op} within {timeout_s:.1f} s"
            self._log.error("child does not answer; killing it", op=op, timeout_s=round(timeout_s, 1))
            self.kill()
            raise ChildDied(f"{self.name}: {self.last_error}") from None
        finally:
            self._waiting.pop(request_id, None)

    def kill(self) -> None:
        """End the process now; it will be started again. Calls made from here on wait for the next one."""
        self._take_no_calls()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it was faster
                self._process.kill()

    async def close(self) -> None:
        """Close the pipe, give the child a moment to end, then insist."""
        self._closing = True
        if self._keeper is None:
            return
        self._up.set()  # who waits for it to come up sees that it will not
        if self._writer is not None:
            self._writer.close()
        process = self._process
        if process is not None:
            try:
                async with asyncio.timeout(CLOSE_GRACE_S):
                    await process.wait()
            except TimeoutError:
                self._log.warning("child does not end; killing it", pid=process.pid)
                with contextlib.suppress(ProcessLookupError):  # it was faster
                    process.kill()
                await process.wait()
        self._keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._keeper
        self._keeper = None

    async def _keep(self) -> None:
        """Run the child, again and again, until closed."""
        delay_s = FIRST_RESTART_DELAY_S
        while True:
            began = time.monotonic()
            try:
                await self._run_once()
            except (OSError, NexusError, msgspec.MsgspecError) as error:
                self.last_error = f"{error} ({self._fault})" if self._fault else str(error)
            except Exception as error:  # noqa: BLE001  a bug in on_started must not leave the daemon without child
                self.last_error = f"{type(error).__name__}: {error}"
                self._log.exception("child failed in an unforeseen way")
            if self._closing:
                return
            if time.monotonic() - began > HEALTHY_AFTER_S:
                delay_s = FIRST_RESTART_DELAY_S
            self.restarts += 1
            self._log.warning("child ended; restarting", reason=self.last_error, delay_s=delay_s)
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, MAX_RESTART_DELAY_S)

    async def _run_once(self) -> None:
        self._fault = ""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)  # noqa: FBT003  socket's own signature
        try:
            with theirs:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", self._module, str(theirs.fileno()), *self._arguments,
                    pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL,
                )
            reader, self._writer = await asyncio.open_connection(sock=ours)
        except BaseException:  # no process, or nobody to talk to it; cancelled by `close` included
            ours.close()
            self.kill()
            self._process = None
            raise
        receiving = asyncio.create_task(self._receive(reader), name=f"child:{self.name}:receive")
        try:
            if self._on_started is not None:
                await self._on_started(self)
            self._log.info("child started", pid=self._process.pid)
            self._up.set()
            self._tell(running=True)
            await receiving
        finally:
            # `close` may cancel us at the await below: whoever waits is told before it
            self._take_no_calls()
            if not self._closing:  # `close` gives it a moment to end well
                self._tell(running=False)
                self.kill()
            receiving.cancel()
            self._writer.close()
            self._writer = None
            self._fail_waiting()
            process, self._process = self._process, None
            returncode = await process.wait()
            self.last_error = self._fault = self._fault or f"ended with {returncode}"

    def _take_no_calls(self) -> None:
        self._up.clear()
        self.has_ended = True

    def _tell(self, *, running: bool) -> None:
        if self._on_running is not None and running != self._told_running:
            self._told_running = running
            self._on_running(running)

    def _fail_waiting(self) -> None:
        for reply in self._waiting.values():
            if not reply.done():
                reply.set_exception(ChildDied(f"{self.name} died before it answered"))
        self._waiting.clear()

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        """Hand each reply to its caller, until the child closes the pipe."""
        try:
            while True:
                (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                if length > MAX_CHILD_FRAME_BYTES:
                    raise ChildUnavailable(f"{self.name} sent a broken frame")
                request_id, succeeded, payload = msgspec.msgpack.decode(await reader.readexactly(length))
                reply = self._waiting.get(request_id)
                if reply is None or reply.done():  # its caller went away
                    continue
                if succeeded:
                    self.last_error = ""
                    reply.set_result(payload)
                else:
                    kind, message = payload.pop("kind"), payload.pop("message")
                    reply.set_exception(ChildRefused(kind, message, payload))
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            # at once: `on_started` may be among those who wait, and nobody may ask a child that is gone
            self._take_no_calls()
            self._fail_waiting()

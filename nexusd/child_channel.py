"""The child's end of the pipe between the daemon and a process that works for it.

Owns the frame (four bytes of length, then msgpack) and what a child process must do at birth. Runs in
the child, blocking; knows no asyncio and no meaning of any operation.

    request  [id, op, payload]        reply  [id, true, payload]  or  [id, false, {kind, message, ...}]
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import select
import signal
import socket
import struct
import threading
import time
from typing import Any

import msgspec

LENGTH = struct.Struct("<I")
MAX_CHILD_FRAME_BYTES = 256 * 1024 * 1024  # only a length read from a broken stream is larger
_PR_SET_PDEATHSIG = 1


def pack_frame(message: list[Any]) -> bytes:
    """One message as it travels."""
    body = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(body)) + body


def become_child() -> None:
    """Die with the daemon, and leave signals that are meant for it to it."""
    with contextlib.suppress(OSError, AttributeError):  # not Linux: the end of the pipe ends us too
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Ctrl-C and systemctl stop reach the whole group; the daemon decides when its children end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def lower_priority(niceness: int, thread_id: int = 0) -> None:
    """Yield the processor to everything that answers somebody. On Linux this is per thread."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread_id, niceness)


class ChildChannel:
    """Blocking requests in, replies out. `reply` and `fail` may be called from any thread."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(True)  # noqa: FBT003  socket's own signature
        # not select(): a busy daemon's descriptor may be past the 1023 that select can take
        self._readable = select.poll()
        self._readable.register(self._socket, select.POLLIN)
        self._buffer = bytearray()
        self._send_lock = threading.Lock()

    def watch(self, fd: int) -> None:
        """From now on `receive` also returns, with None, when this descriptor has something to read."""
        self._readable.register(fd, select.POLLIN)

    def unwatch(self, fd: int) -> None:
        """Take `watch` back; before the descriptor is closed."""
        self._readable.unregister(fd)

    def receive(self, timeout_s: float | None = None) -> tuple[int, str, Any] | None:
        """The next request, or None when none came in time.

        Raises:
            EOFError: the daemon closed the pipe; there is nothing left to do but to end.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while (message := self._take()) is None:
            remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = self._readable.poll(None if remaining is None else math.ceil(remaining * 1000))
            if all(fd != self._socket.fileno() for fd, _ in ready):
                return None
            try:
                chunk = self._socket.recv(1 << 20)
            except ConnectionError as error:  # it went with replies unread
                raise EOFError("the daemon closed the pipe") from error
            if not chunk:
                raise EOFError("the daemon closed the pipe")
            self._buffer += chunk
        return message

    def _take(self) -> tuple[int, str, Any] | None:
        if len(self._buffer) < LENGTH.size:
            return None
        (length,) = LENGTH.unpack_from(self._buffer)
        if length > MAX_CHILD_FRAME_BYTES:
            raise EOFError(f"a frame of {length} bytes: the stream is broken")
        end = LENGTH.size + length
        if len(self._buffer) < end:
            return None
        request_id, op, payload = msgspec.msgpack.decode(bytes(self._buffer[LENGTH.size : end]))
        del self._buffer[:end]
        return request_id, op, payload

    def reply(self, request_id: int, payload: object) -> None:
        """Answer a request.

        Raises:
            EOFError: the daemon closed the pipe.
        """
        self._send([request_id, True, payload])

    def fail(self, request_id: int, kind: str, message: str, **details: object) -> None:
        """Answer that it could not be done; `kind` is what the daemon's side matches on."""
        self._send([request_id, False, {"kind": kind, "message": message, **details}])

    def _send(self, message: list[Any]) -> None:
        frame = pack_frame(message)
        try:
            with self._send_lock:
                self._socket.sendall(frame)
        except ConnectionError as error:
            raise EOFError("the daemon closed the pipe") from error

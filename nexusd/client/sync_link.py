"""One connection of the blocking client, used by one request at a time.

Owns the socket and its deadlines. Decides nothing about a call.
"""

from __future__ import annotations

import socket
import time

from nexusd.client.address import Address, TlsAddress, UnixAddress
from nexusd.client.core import Inbox, Notification, Reply
from nexusd.client.exchange import Expired, OnNotification, Outcome, Send
from nexusd.client.security import tls_context

_READ_BYTES = 256 * 1024
# A Ctrl-C that comes just before a read does not end that read: Python looks for signals when it returns.
_NOTICED_S = 0.5


def left(deadline: float) -> float:
    """Seconds until the deadline.

    Raises:
        TimeoutError: there are none.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def is_ours(exc: OSError) -> bool:
    """Whether a timeout of this side's, and not one of the network's, which has a number."""
    return isinstance(exc, TimeoutError) and exc.errno is None


class Link:
    """One connection, used by one request at a time."""

    def __init__(self, address: Address, deadline: float) -> None:
        """Connect.

        Raises:
            OSError: nobody listens there; a TimeoutError when the deadline passed first.
        """
        self._inbox = Inbox()
        if isinstance(address, UnixAddress):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self._socket.settimeout(left(deadline))
                self._socket.connect(address.path)
            except OSError:
                self._socket.close()
                raise
        else:
            self._socket = socket.create_connection((address.host, address.port), left(deadline))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A peer that was switched off says nothing; without probes its calls would all wait out.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if isinstance(address, TlsAddress):
            self._encrypt(address, deadline)

    def _encrypt(self, address: TlsAddress, deadline: float) -> None:
        try:
            context = tls_context(address)
            self._socket.settimeout(left(deadline))     # for each step of the handshake, of which there are three
            self._socket = context.wrap_socket(self._socket, server_hostname=address.host)
        except BaseException:
            self._socket.close()
            raise

    def send(self, step: Send) -> None:
        """Send the line; after any exception part of it may be on the way and the link is of no more use."""
        self._socket.settimeout(left(step.deadline))
        self._socket.sendall(step.line)

    def receive(self, step: Send, on_notification: OnNotification | None) -> Outcome:
        """Read until the reply is there, or the deadline: then the late reply will be dropped.

        Raises:
            OSError: the connection is lost.
            ProtocolViolated: it is of no more use.
        """
        self._inbox.expect(step.id, len(step.line))
        try:
            while True:
                reply = None
                for message in self._inbox.feed(self._read(step.deadline)):
                    if isinstance(message, Reply):
                        reply = message  # the only one that is expected
                    elif on_notification is not None:
                        on_notification(message)
                if reply is not None:
                    return reply
        except TimeoutError as exc:
            if not is_ours(exc):
                raise
            return Expired()
        finally:
            self._inbox.forget(step.id)

    def listen(self, on_notification: OnNotification | None) -> None:
        """Read once, however long it takes, where no reply is expected.

        Raises:
            OSError: the connection is lost.
            ProtocolViolated: it is of no more use.
        """
        for message in self._inbox.feed(self._read_at_last()):
            if isinstance(message, Notification) and on_notification is not None:
                on_notification(message)

    def _read_at_last(self) -> bytes:
        while True:
            try:
                return self._read(time.monotonic() + _NOTICED_S)
            except TimeoutError as exc:
                if not is_ours(exc):
                    raise

    def _read(self, deadline: float) -> bytes:
        self._socket.settimeout(left(deadline))
        data = self._socket.recv(_READ_BYTES)
        if not data:
            complaint = self._inbox.complaint
            raise ConnectionResetError(complaint.message if complaint else "closed by the daemon")
        return data

    def close(self) -> None:
        """Close the socket; a thread that is reading from it wakes up."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other side was quicker
        self._socket.close()

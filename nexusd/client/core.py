"""One connection's protocol without the connection: requests to lines, bytes to replies.

Owns framing, ids, and who a reply belongs to. Both clients feed it what they read and send what it
encodes. Knows no socket, no time and no retry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from nexusd.client.errors import ProtocolViolated, WireError

T = TypeVar("T")

# A page of 500 of the largest episodes stays under it; a peer that never ends its line does not.
MAX_LINE_BYTES = 256 * 1024 * 1024

_TOO_LARGE = -32005


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """A call to make: the method, its parameters by wire name, and the type of its result.

    `mutates` says whether the method takes an idempotencyKey; None: the daemon is asked (`help`).
    """

    method: str
    params: dict[str, Any]
    result: type[T]
    mutates: bool | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one request: its raw result, or the error."""

    id: int
    result: msgspec.Raw | None = None
    error: WireError | None = None


@dataclass(frozen=True, slots=True)
class Notification:
    """A message that answers nothing, such as an event."""

    method: str
    params: msgspec.Raw


class _Envelope(Struct, frozen=True):
    id: Any = None
    method: str | None = None
    params: msgspec.Raw = msgspec.Raw(b"null")
    result: msgspec.Raw | UnsetType = UNSET
    error: WireError | None = None


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_ENCODER = msgspec.json.Encoder()


def encode_request(request_id: int, method: str, params: dict[str, Any]) -> bytes:
    """The request as a line.

    Raises:
        ValueError: a parameter cannot be written as JSON.
    """
    message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
    try:
        return _ENCODER.encode(message) + b"\n"
    except UnicodeEncodeError as exc:
        raise ValueError("a parameter is not valid UTF-8") from exc
    except (TypeError, OverflowError) as exc:
        raise ValueError(f"the parameters of {method} cannot be written as JSON: {exc}") from exc


def decode_result(request: Request[T], result: msgspec.Raw) -> T:
    """The result as the type that the request names.

    Raises:
        ProtocolViolated: it is not of this type.
    """
    if request.result is msgspec.Raw:
        return result  # type: ignore[return-value]  # T is Raw here
    try:
        return msgspec.json.decode(result, type=request.result)
    except msgspec.DecodeError as exc:
        raise ProtocolViolated(f"{request.method} answered something unexpected: {exc}") from exc


class Inbox:
    """What one connection has received, and the requests on it that still wait for a reply."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._parts: list[bytes] = []  # of the line that has not ended yet; joined once
        self._parts_bytes = 0
        self._waiting: dict[int, int] = {}  # id -> bytes of the request
        self.complaint: WireError | None = None  # an error that named no request; says why a close followed

    def expect(self, request_id: int, size: int) -> None:
        """A request of `size` bytes was sent; its reply is wanted."""
        self._waiting[request_id] = size

    def forget(self, request_id: int) -> None:
        """Nobody wants this reply any more; when it comes it is dropped."""
        self._waiting.pop(request_id, None)

    def feed(self, data: bytes) -> list[Reply | Notification]:
        """Take what was read; answer the messages that it completes, in the order they came.

        Raises:
            ProtocolViolated: this is not nexusd speaking; nothing after it can be trusted.
        """
        messages = []
        for line in self._lines(data):
            message = self._message(line)
            if message is not None:
                messages.append(message)
        return messages

    def _lines(self, data: bytes) -> list[bytes]:
        *ended, rest = data.split(b"\n")
        if ended:
            ended[0] = b"".join([*self._parts, ended[0]])
            self._parts, self._parts_bytes = [], 0
        if rest:
            self._parts.append(rest)
            self._parts_bytes += len(rest)
        if self._parts_bytes > self._max_line_bytes:
            raise ProtocolViolated(f"a reply of more than {self._max_line_bytes} bytes")
        return [line for line in ended if line.strip()]

    def _message(self, line: bytes) -> Reply | Notification | None:
        try:
            envelope = _ENVELOPE.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise ProtocolViolated(f"not a JSON-RPC message: {exc}") from exc
        if envelope.method is not None:
            return Notification(envelope.method, envelope.params)
        request_id = envelope.id
        if envelope.error is not None:
            if request_id is None:
                request_id = self._blamed(envelope.error)
            reply = Reply(request_id, error=envelope.error)
        elif envelope.result is not UNSET:
            reply = Reply(request_id, result=envelope.result)
        else:
            raise ProtocolViolated("a message with neither method, result nor error")
        if type(request_id) is not int or request_id not in self._waiting:
            return None  # the caller of this one gave up
        del self._waiting[request_id]
        return reply

    def _blamed(self, error: WireError) -> int | None:
        """Whose error it is when the daemon could not read an id: plain with one request on the way.

        With more of them only an oversized message has a face: it is the largest.
        """
        self.complaint = error
        if len(self._waiting) == 1 or (self._waiting and error.code == _TOO_LARGE):
            return max(self._waiting, key=self._waiting.__getitem__)
        return None

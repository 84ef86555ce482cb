"""HTTP responses as bytes.

Owns the form of a response. h11 could write it too, for 50 us a response: the head is one template instead, filled
with values that are our own. Pure; decides nothing.
"""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus
from math import ceil

from msgspec import Struct

from nexusd.clock import Clock
from nexusd.errors import RpcError
from nexusd.wire.http_errors import STATUS_OF_KIND, HttpRefusal
from nexusd.wire.replies import encode, error_object

JSON = b"application/json"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# What is answered is somebody's memory: no cache on the way needs a copy, no page may try it as a script.
_PRIVATE = b"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
_FIRST_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}


class Response(Struct, frozen=True):
    """What is answered. `headers` are whole lines, each with its line end."""

    status: int
    body: bytes = b""
    headers: bytes = b""
    content_type: bytes = JSON


def error_response(status: int, error: RpcError, request_id: str, headers: bytes = b"") -> Response:
    """An error, told as it is told everywhere."""
    if error.retry_after_ms is not None:
        headers += b"Retry-After: %d\r\n" % ceil(error.retry_after_ms / 1000)
    return Response(status, encode({"error": error_object(error, request_id)}), headers)


def kind_response(error: RpcError, request_id: str) -> Response:
    """An error with the status of its kind."""
    return error_response(STATUS_OF_KIND[error.kind], error, request_id)


def refusal_response(refusal: HttpRefusal, error: RpcError, request_id: str) -> Response:
    """A refusal with the status that it names."""
    headers = b"" if refusal.allow is None else b"Allow: %b\r\n" % refusal.allow.encode("ascii")
    if refusal.status == 401:   # as HTTP asks of every 401
        headers += b"WWW-Authenticate: Bearer\r\n"
    return error_response(refusal.status, error, request_id, headers)


class ResponseWriter:
    """Responses -> bytes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._second = -1
        self._date = b""

    def write(self, response: Response, *, only_head: bool = False, closes: bool = False) -> bytes:
        """The whole response. `only_head`: it answers HEAD; `closes`: it is the last one on its connection."""
        second = self._clock.now_ms() // 1000
        if second != self._second:
            self._second = second
            self._date = b"Date: %b\r\n" % formatdate(second, usegmt=True).encode("ascii")
        end = b"Connection: close\r\n\r\n" if closes else b"\r\n"
        if response.status == 204:
            return b"%b%b%b%b" % (_FIRST_LINES[204], self._date, response.headers, end)
        return b"%b%bContent-Type: %b\r\nContent-Length: %d\r\n%b%b%b%b" % (
            _FIRST_LINES[response.status], self._date, response.content_type, len(response.body), _PRIVATE,
            response.headers, end, b"" if only_head else response.body,
        )

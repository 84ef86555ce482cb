"""The HTTP front: requests one after the other, each answered before the next is started.

Owns what HTTP is to a connection: when a response is the last one, and how an error of the connection itself is told.
Knows neither routes nor JSON.
"""

from __future__ import annotations

from nexusd.config_sections import LimitsConfig
from nexusd.errors import InvalidRequest, RpcError
from nexusd.wire.connection import Connection
from nexusd.wire.http_errors import HttpRefusal, malformed
from nexusd.wire.http_heads import Head
from nexusd.wire.http_requests import HttpRequest, RequestReader
from nexusd.wire.http_responses import CONTINUE, Response
from nexusd.wire.http_service import HttpService


class HttpFront:
    """Speaks HTTP/1.1 with one client."""

    # Responses come in the order of the requests. What is pipelined waits, at most a chunk of it here.
    max_in_flight = 1

    def __init__(
        self, connection: Connection, service: HttpService, limits: LimitsConfig, max_message_bytes: int
    ) -> None:
        self._connection = connection
        self._service = service
        self._requests = RequestReader(limits.max_header_bytes, max_message_bytes, self._accept)
        self._head: Head | None = None      # of the request that is answered

    # --- what the connection calls ---

    @property
    def has_partial(self) -> bool:
        """Whether the beginning of a request waits for its end."""
        return self._requests.has_partial

    @property
    def has_unread(self) -> bool:
        """Whether there are bytes from which no request was taken yet."""
        return self._requests.has_unread

    def feed(self, data: bytes) -> None:
        """Take what was read."""
        self._requests.feed(data)

    def start_next(self, *, ended: bool) -> bool:
        """Have the next request answered."""
        try:
            request = self._requests.next_request()
            if request is None and ended and self._requests.has_partial:
                raise malformed("it ends before it is complete")
        except HttpRefusal as refusal:
            self._refuse(refusal)
            return not refusal.ends
        if request is None:
            if self._requests.wants_continue():
                self._connection.send(CONTINUE)
            return False
        self._begin(request)
        return True

    def answered(self, answer: Response) -> None:
        """Send a response."""
        self._answer(answer, ends=False)

    def refusal(self, error: RpcError) -> bytes:
        """An error that is no answer to a request in particular."""
        return self._service.writer.write(self._service.failure(error), closes=True)

    def overdue(self, timeout_s: float) -> bytes:
        """A half sent request came to nothing."""
        error = InvalidRequest(f"The request was not finished within {timeout_s:g} s.")
        return self._service.writer.write(self._service.refusal(HttpRefusal(408, error)), closes=True)

    def set_limits(self, _limits: LimitsConfig) -> None:
        """Nothing changes: requests are answered one after the other, and their size was agreed on at the start."""

    # --- one request ---

    def _accept(self, head: Head) -> object:
        self._head = head
        return self._service.accept(head, self._connection.local_address)

    def _begin(self, request: HttpRequest) -> None:
        answer = self._service.begin(request, self._connection.principal)
        if isinstance(answer, Response):
            self._answer(answer, ends=False)
        else:
            self._connection.run(answer)

    def _refuse(self, refusal: HttpRefusal) -> None:
        self._answer(self._service.refusal(refusal), ends=refusal.ends)

    def _answer(self, response: Response, *, ends: bool) -> None:
        head, self._head = self._head, None
        closes = ends or head is None or not head.keeps_alive or not self._connection.takes_requests
        only_head = head is not None and head.verb == "HEAD"
        data = self._service.writer.write(response, only_head=only_head, closes=closes)
        if closes:
            self._connection.end_with(data)
        else:
            self._connection.send(data)

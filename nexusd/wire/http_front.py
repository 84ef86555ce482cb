"""The HTTP front: requests one after the other, each answered before the next is started.

Owns what HTTP is to a connection: when a response is the last one, and how an error of the connection itself is told.
Knows neither routes nor JSON.
"""

from __future__ import annotations

import asyncio

from nexusd.config_sections import LimitsConfig
from nexusd.errors import InvalidRequest, RpcError
from nexusd.wire.auth import PREFIX, REFUSAL, Authenticator
from nexusd.wire.connection import Connection
from nexusd.wire.front import MAX_STRANGER_BYTES
from nexusd.wire.http_errors import HttpRefusal, malformed, unauthenticated
from nexusd.wire.http_heads import Head
from nexusd.wire.http_requests import HttpRequest, RequestReader
from nexusd.wire.http_responses import CONTINUE, Response
from nexusd.wire.http_service import HttpService
from nexusd.wire.methods import Principal


class HttpFront:
    """Speaks HTTP/1.1 with one client."""

    # Responses come in the order of the requests. What is pipelined waits, at most a chunk of it here.
    max_in_flight = 1

    def __init__(
        self, connection: Connection, service: HttpService, limits: LimitsConfig, max_message_bytes: int,
        authenticator: Authenticator | None = None,
    ) -> None:
        self._connection = connection
        self._service = service
        self._limits = limits
        self._max_message_bytes = max_message_bytes
        self._authenticator = authenticator
        self._requests = RequestReader(
            min(MAX_STRANGER_BYTES, limits.max_header_bytes), min(MAX_STRANGER_BYTES, max_message_bytes), self._accept
        )
        self._head: Head | None = None      # of the request that is answered
        self._shown: tuple[bytes, Principal] | None = None  # the header of the request before, and whose it is
        self._ends = False                  # after the answer that is waited for
        if connection.is_admitted:
            self.admitted()

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

    def start_next(self, *, ended: bool) -> int:
        """Have the next request answered."""
        try:
            request = self._requests.next_request()
            if request is None and ended and self._requests.has_partial:
                raise malformed("it ends before it is complete")
        except HttpRefusal as refusal:
            if refusal.delay_s:
                self._ends = refusal.ends
                self._connection.run(self._late(refusal))
                return 0
            self._refuse(refusal)
            return 0 if refusal.ends else 1
        if request is None:
            if self._requests.wants_continue():
                self._connection.send(CONTINUE)
            return 0
        self._begin(request)
        return 1 + len(request.body)

    def answered(self, answer: Response) -> None:
        """Send a response."""
        self._answer(answer, ends=self._ends)

    def refusal(self, error: RpcError) -> bytes:
        """An error that is no answer to a request in particular."""
        return self._service.writer.write(self._service.failure(error), closes=True)

    def overdue(self, timeout_s: float) -> bytes:
        """A half sent request came to nothing."""
        error = InvalidRequest(f"The request was not finished within {timeout_s:g} s.")
        return self._service.writer.write(self._service.refusal(HttpRefusal(408, error)), closes=True)

    def set_limits(self, _limits: LimitsConfig) -> None:
        """Nothing changes: requests are answered one after the other, and their size was agreed on at the start."""

    def admitted(self) -> None:
        """Requests may be as long as messages are."""
        self._requests.set_limits(self._limits.max_header_bytes, self._max_message_bytes)

    # --- one request ---

    def _accept(self, head: Head) -> object:
        self._head = head
        return self._service.accept(head, self._connection.local_address, self._admit)

    def _admit(self, head: Head) -> Principal:
        """Whose request it is: the token's, if it shows one, else the connection's."""
        shown = head.headers.get(b"authorization")
        principal = self._connection.principal
        if shown is None or self._authenticator is None:
            return principal
        if self._shown is not None and self._shown[0] == shown and not _has_ended(self._shown[1]):
            return self._shown[1]
        scheme, _, token = shown.decode("latin-1").partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else ""
        if principal.role != "none" and not token.startswith(PREFIX):
            return principal    # what is meant for others is no business of ours, where nothing need be shown
        peer = self._connection.principal.peer
        found = self._authenticator.recognise(token, self._connection.peer_address(), peer)
        if found is None:
            raise unauthenticated(REFUSAL, ends=True, delay_s=self._authenticator.failed(peer))
        self._authenticator.noted(found, self._connection.peer_address())
        self._shown = (shown, found)
        self._connection.admit()
        return found

    async def _late(self, refusal: HttpRefusal) -> Response:
        await asyncio.sleep(refusal.delay_s)
        return self._service.refusal(refusal)

    def _begin(self, request: HttpRequest) -> None:
        answer = self._service.begin(request)
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


def _has_ended(principal: Principal) -> bool:
    return principal.grant is not None and principal.grant.ended

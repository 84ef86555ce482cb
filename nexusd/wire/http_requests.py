"""Bytes in, HTTP requests out.

Owns the cutting of a stream into requests, and the limits on their size. Pure: knows no socket, no route and no
JSON. Memory stays within one request and one chunk, whatever is sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import h11
from msgspec import Struct

from nexusd.wire.http_errors import HttpRefusal, too_large
from nexusd.wire.http_heads import Head, HeadReader, as_refusal

# A chunk costs 10 us however small it is: a body of 1 MiB in chunks of one byte would take ten seconds. So many
# may be small; the others must come to this many bytes each on the average.
SMALL_CHUNKS = 1024
CHUNK_BYTES = 256

_HEAD_END = re.compile(rb"\n\r?\n")     # as h11 sees it


class HttpRequest(Struct, frozen=True):
    """A whole request. `accepted` is what the check of its head answered."""

    head: Head
    body: bytes
    accepted: Any


class RequestReader:
    """Feed it a chunk, then take requests until there is none.

    `accept` looks at a head before its body is read, and may raise HttpRefusal. A body whose length is told is cut
    off here; chunks are h11's matter.
    """

    def __init__(self, max_header_bytes: int, max_body_bytes: int, accept: Callable[[Head], Any]) -> None:
        self._max_header_bytes = max_header_bytes
        self._max_body_bytes = max_body_bytes
        self._accept = accept
        self._heads = HeadReader()
        self._rest = b""                            # what nothing was made of yet
        self._head: Head | None = None              # while its body is read
        self._accepted: Any = None
        self._continue_due = False
        self._body = bytearray()                    # one buffer: it may come byte by byte, and an object each takes 50
        self._missing = 0                           # of a body that told its length
        self._chunks: h11.Connection | None = None  # of one that did not
        self._chunk_count = 0

    def set_limits(self, max_header_bytes: int, max_body_bytes: int) -> None:
        """Hold what was not read yet to these."""
        self._max_header_bytes = max_header_bytes
        self._max_body_bytes = max_body_bytes

    @property
    def has_partial(self) -> bool:
        """Whether the beginning of a request waits for its end (as far as requests were taken)."""
        return self._head is not None or bool(self._rest)

    @property
    def has_unread(self) -> bool:
        """Whether there are bytes between requests."""
        return self._head is None and bool(self._rest)

    def feed(self, data: bytes) -> None:
        """Add what was read."""
        self._rest = self._rest + data if self._rest else data

    def wants_continue(self) -> bool:
        """Whether the client waits to be told to send the body. Once a request."""
        due, self._continue_due = self._continue_due, False
        return due

    def next_request(self) -> HttpRequest | None:
        """The next whole request, or None: more bytes are needed.

        Raises:
            HttpRefusal: it is refused. Unless the refusal `ends` the stream, the next request may be taken.
        """
        head = self._head or self._read_head()
        if head is None or not (self._read_body() if self._chunks is None else self._read_chunks(self._chunks)):
            return None
        body = bytes(self._body)
        self._head, self._body = None, bytearray()
        return HttpRequest(head, body, self._accepted)

    def _read_head(self) -> Head | None:
        rest = self._rest
        if rest[:1] in {b"\r", b"\n"}:  # an empty line before a request is tolerated
            rest = self._rest = rest.lstrip(b"\r\n")
        if not rest:
            return None
        end = _HEAD_END.search(rest, 0, self._max_header_bytes)
        if end is None:
            if len(rest) < self._max_header_bytes:
                return None
            if b"\n" not in rest[:self._max_header_bytes]:
                raise too_large(414, f"The first line has at most {self._max_header_bytes} bytes.")
            raise too_large(431, f"The headers have at most {self._max_header_bytes} bytes together.")
        raw = rest[:end.end()]
        self._rest = rest[end.end():]
        head = self._heads.read(raw)
        try:
            self._accepted = self._accept(head)
        except HttpRefusal as refusal:
            refusal.ends |= head.has_body   # a body that nobody wants is not waited for
            raise
        self._missing = head.length or 0
        self._hold_limit(self._missing)
        if head.is_chunked:
            self._chunks, self._chunk_count = h11.Connection(h11.SERVER, self._max_header_bytes), 0
            self._chunks.receive_data(raw)
            self._chunks.next_event()   # the head, which it reads a second time
        self._continue_due = head.has_body and head.headers.get(b"expect", b"").lower() == b"100-continue"
        self._head = head
        return head

    def _read_body(self) -> bool:
        """Take what is there of a body that told its length; whether that is all."""
        rest = self._rest
        if self._missing and rest:
            self._continue_due = False
            piece = rest[:self._missing]
            self._rest = rest[self._missing:]
            self._missing -= len(piece)
            self._body += piece
        return not self._missing

    def _read_chunks(self, parser: h11.Connection) -> bool:
        """Take what is there of a chunked body; whether that is all."""
        if self._rest:
            self._continue_due = False
            parser.receive_data(self._rest)
            self._rest = b""
        try:
            while isinstance(event := parser.next_event(), h11.Data):
                self._body += event.data
                self._chunk_count += event.chunk_start
                self._hold_limit(len(self._body))
                if self._chunk_count > SMALL_CHUNKS + len(self._body) // CHUNK_BYTES:
                    raise too_large(413, "The body comes in too many small chunks.")
        except h11.RemoteProtocolError as error:
            raise as_refusal(error) from None
        if not isinstance(event, h11.EndOfMessage):
            return False
        self._rest = bytes(parser.trailing_data[0])
        self._chunks = None
        return True

    def _hold_limit(self, body_bytes: int) -> None:
        if body_bytes > self._max_body_bytes:
            raise too_large(413, f"A message has at most {self._max_body_bytes} bytes.")

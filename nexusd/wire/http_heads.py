"""The head of an HTTP request: bytes -> what they mean.

Owns which heads are taken: h11 parses them, and what it lets pass although two readers could understand it in two
ways is refused here. Pure: knows no socket, no route and no body.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import h11
from msgspec import Struct

from nexusd.wire.http_errors import HttpRefusal, malformed, not_taken

VERBS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
MAX_COMPLAINT = 100     # characters of h11's words, which may hold a header of any length
# A client sends the same headers with every request of a connection, but for the length of the body. So many
# different ones are kept, none longer than this.
KNOWN_HEADERS = 8
MAX_KNOWN_BYTES = 1024

_PLAIN_LINE = re.compile(rb"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.1\r\n")
_PLAIN_LENGTH = re.compile(rb"\r\nContent-Length: ([0-9]{1,15})(?=\r\n)", re.IGNORECASE)
_FOLDED_LINE = re.compile(rb"\n[ \t]")
_LENGTHS = re.compile(rb"^content-length[ \t]*:(.*)$", re.IGNORECASE | re.MULTILINE)


class Head(Struct, frozen=True):
    """The first line and the headers of a request. A header that came several times has its values joined."""

    verb: str
    path: str
    query: str
    headers: Mapping[bytes, bytes]  # by name in lower case; all but Content-Length
    length: int | None              # of the body, where it is told
    is_chunked: bool
    keeps_alive: bool

    @property
    def has_body(self) -> bool:
        """Whether anything comes after the head."""
        return bool(self.length) or self.is_chunked

    def header(self, name: bytes) -> str | None:
        """The value of a header, or None."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")


class HeadReader:
    """Reads the heads of one connection. Headers that were taken before, byte for byte, are not parsed again."""

    def __init__(self) -> None:
        self._known: dict[bytes, Mapping[bytes, bytes]] = {}    # header lines but the length -> what they say

    def read(self, raw: bytes) -> Head:
        """What a whole head means, from its first byte to the empty line.

        Raises:
            HttpRefusal: it is not HTTP, or ambiguous, or asks for what is not done here.
        """
        line = _PLAIN_LINE.match(raw)
        if line is None:
            return _parsed(raw)
        lines = raw[line.end() - 2:]
        length = _PLAIN_LENGTH.search(lines)
        if length is not None:
            lines = lines[:length.start()] + lines[length.end():]
        headers = self._known.get(lines)
        if headers is not None:
            body_length = None if length is None else int(length[1])
            return _head(line[1], line[2], b"1.1", headers, body_length, is_chunked=False)
        head = _parsed(raw)
        # Not a length in another spelling, which would be missing from what is kept, and no chunks.
        if len(lines) <= MAX_KNOWN_BYTES and (head.length is None) == (length is None) and not head.is_chunked:
            if len(self._known) == KNOWN_HEADERS:
                self._known.clear()
            self._known[lines] = head.headers
        return head


def _parsed(raw: bytes) -> Head:
    """As h11 reads it; the checks are ours where it takes more than we do."""
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=len(raw))
    parser.receive_data(raw)
    try:
        request = parser.next_event()
    except h11.RemoteProtocolError as error:
        raise as_refusal(error) from None
    if not isinstance(request, h11.Request):
        raise malformed("no head")
    if request.http_version not in {b"1.1", b"1.0"}:
        raise not_taken(505, "HTTP/1.1 and HTTP/1.0 are spoken here.", ends=True)
    if _FOLDED_LINE.search(raw):
        raise malformed("a header is folded over lines")
    headers: dict[bytes, bytes] = {}
    for name, value in request.headers:
        headers[name] = headers[name] + b", " + value if name in headers else value
    if request.http_version == b"1.0":
        headers.pop(b"expect", None)    # a client of 1.0 would take 100 Continue for the response
    is_chunked = b"transfer-encoding" in headers
    length = headers.pop(b"content-length", None)
    if is_chunked and length is not None:
        raise malformed("both Content-Length and Transfer-Encoding")
    if is_chunked and request.http_version == b"1.0":
        raise malformed("Transfer-Encoding in HTTP/1.0")
    if length is not None:  # h11 takes it twice, if it is the same
        told = _LENGTHS.findall(raw)
        if len(told) != 1 or b"," in told[0]:
            raise malformed("Content-Length more than once")
    return _head(
        request.method, request.target, request.http_version, headers,
        None if length is None else int(length), is_chunked=is_chunked,
    )


def _head(
    method: bytes, target: bytes, version: bytes, headers: Mapping[bytes, bytes], length: int | None, *,
    is_chunked: bool,
) -> Head:
    verb = method.decode("ascii")
    if verb not in VERBS:
        raise not_taken(501, "There is no such HTTP method here.", ends=True)
    path, _, query = target.decode("ascii").partition("?")
    if not path.startswith("/") and path != "*":
        raise malformed("the target is not a path")
    connection = headers.get(b"connection")
    return Head(
        verb, path, query, headers, length, is_chunked,
        version == b"1.1" and (connection is None or not _says_close(connection)),
    )


def _says_close(connection: bytes) -> bool:
    return any(option.strip() == b"close" for option in connection.lower().split(b","))


def as_refusal(error: h11.RemoteProtocolError) -> HttpRefusal:
    """What h11 cannot make sense of."""
    if error.error_status_hint == 501:
        return not_taken(501, "Of the transfer codings only chunked is taken.", ends=True)
    complaint = str(error)
    return malformed(complaint if len(complaint) <= MAX_COMPLAINT else complaint[:MAX_COMPLAINT] + "...")

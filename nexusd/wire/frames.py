"""Bytes in, frames out: one JSON value a line.

Owns the splitting of a stream into lines and the limit on their size. Pure: knows no socket and no JSON.
Memory stays within one frame and one chunk, whatever is sent: lines are cut only when asked for, and
of a line past the limit nothing is kept.
"""

from __future__ import annotations

_NDJSON_FIRST_BYTES = frozenset(b"{[ \t\r\n")
_HTTP_FIRST_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_BLANK = b" \t\r"


def is_ndjson(first_byte: int) -> bool:
    """Whether a connection that begins with this byte speaks one JSON value a line."""
    return first_byte in _NDJSON_FIRST_BYTES


def is_http(first_byte: int) -> bool:
    """Whether it speaks HTTP: every method begins with a capital letter, a TLS handshake and JSON with none."""
    return first_byte in _HTTP_FIRST_BYTES


class FrameReader:
    """Cuts a stream into frames. Feed it a chunk, then take frames until there is none.

    LF ends a frame, a CR before it is tolerated, empty lines are passed over.
    """

    __slots__ = ("_chunk", "_max_bytes", "_offset", "_partial", "overflowed")

    def __init__(self, max_bytes: int) -> None:
        self.overflowed = False     # a line was longer than max_bytes: the stream is of no further use
        self._max_bytes = max_bytes
        self._chunk = b""
        self._offset = 0
        self._partial = bytearray()

    def set_max_bytes(self, max_bytes: int) -> None:
        """Take lines of this length from now on."""
        self._max_bytes = max_bytes

    @property
    def has_partial(self) -> bool:
        """Whether the beginning of a frame is waiting for its end (as far as frames were taken)."""
        return bool(self._partial)

    @property
    def has_unread(self) -> bool:
        """Whether there are bytes from which no frame was taken yet."""
        return self._offset < len(self._chunk)

    def feed(self, data: bytes) -> None:
        """Add what was read. Ignored once a line was too long."""
        if self.overflowed:
            return
        if self._offset < len(self._chunk):
            data = self._chunk[self._offset:] + data
        self._chunk = data
        self._offset = 0

    def next_frame(self) -> bytes | None:
        """The next complete frame without its line end, or None: more bytes are needed, or `overflowed`."""
        while not self.overflowed:
            end = self._chunk.find(b"\n", self._offset)
            if end < 0:
                self._keep_rest()
                return None
            line = self._chunk[self._offset:end]
            self._offset = end + 1
            if self._partial:
                self._partial += line
                line = bytes(self._partial)
                self._partial = bytearray()
            if len(line) > self._max_bytes and len(line.rstrip(b"\r")) > self._max_bytes:
                self._overflow()
                return None
            if line and (line[0] not in _BLANK or line.strip(_BLANK)):
                return line
        return None

    def last_frame(self) -> bytes | None:
        """The unfinished line at the end of the stream: a JSON value ends by itself, so it may be whole."""
        rest = bytes(self._partial).strip(_BLANK)
        self._partial = bytearray()
        return rest or None

    def _keep_rest(self) -> None:
        rest = self._chunk[self._offset:] if self._offset else self._chunk
        self._chunk = b""
        self._offset = 0
        if rest:
            # one byte more than the limit: it may be the CR of a frame that just fits
            if len(self._partial) + len(rest) > self._max_bytes + 1:
                self._overflow()
            else:
                self._partial += rest

    def _overflow(self) -> None:
        self.overflowed = True
        self._chunk = b""
        self._offset = 0
        self._partial = bytearray()

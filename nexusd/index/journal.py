"""The journal of a collection: what was asked of it since its last flush. Runs in the index's child only.

Owns `<collection>/journal-<n>`. An update is acknowledged when it is in here and the file is on disk: one
fsync, in a thread, while searches go on. The engine's own flush makes ten of them and holds the interpreter's
lock all the while, so it comes rarely, and the file begins anew after it.

What makes replaying safe: operations carry whole points, so that doing all of them again, in order, ends in
the same state; and nothing in a file is acknowledged before the removal of the file before it is on disk, so
that an old operation never comes back over a newer one. A frame is length, crc32, msgpack; the first that
does not fit ends the file: it was never acknowledged.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from nexusd.index.durable import sync_directory

_HEAD = struct.Struct("<II")
_NAME = re.compile(r"journal-([0-9]+)")


class Journal:
    """Append in the loop's thread; `sync` in any."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._number = max((number for number, _ in _files(directory)), default=0) + 1
        self._fd = self._open()
        self._size = 0
        self._renewed = True
        self.operations = 0

    def _open(self) -> int:
        path = self._directory / f"journal-{self._number}"
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)

    @property
    def size(self) -> int:
        """Bytes that a replay would read."""
        return self._size

    def append(self, op: str, items: list[Any]) -> None:
        """Write an operation; on disk after the next `sync`.

        Raises:
            OSError: no room, say; the journal is as before.
        """
        body = msgspec.msgpack.encode([op, items])
        frame = _HEAD.pack(len(body), zlib.crc32(body)) + body
        written = 0
        try:
            while written < len(frame):
                written += os.write(self._fd, frame[written:])
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(frame)
        self.operations += len(items)

    def sync(self) -> None:
        """Put what was appended, and the end of the files before, on disk."""
        os.fdatasync(self._fd)
        if self._renewed:
            self._renewed = False
            sync_directory(self._directory)

    def renew(self) -> None:
        """Begin anew: all in here is on disk elsewhere."""
        old_fd, old_number = self._fd, self._number
        self._number += 1
        self._fd = self._open()
        self._size = self.operations = 0
        self._renewed = True
        os.close(old_fd)
        for number, path in _files(self._directory):
            if number <= old_number:
                path.unlink()

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)


def replay(directory: Path) -> Iterator[tuple[str, list[Any]]]:
    """Every operation in the journals that are there, in order."""
    for _, path in sorted(_files(directory)):
        content = path.read_bytes()
        at = 0
        while at + _HEAD.size <= len(content):
            length, checksum = _HEAD.unpack_from(content, at)
            body = content[at + _HEAD.size : at + _HEAD.size + length]
            if len(body) < length or zlib.crc32(body) != checksum:
                break
            op, items = msgspec.msgpack.decode(body)
            yield op, items
            at += _HEAD.size + length


def _files(directory: Path) -> list[tuple[int, Path]]:
    matches = ((_NAME.fullmatch(path.name), path) for path in directory.iterdir())
    return [(int(match[1]), path) for match, path in matches if match is not None]

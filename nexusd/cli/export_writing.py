"""The file of an export on its way to disk, or to standard output.

Owns the lines around the rows, the hash, the compression, and that a file under its name is whole: it is written
beside it, and named when it is on disk. Knows no daemon.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Protocol, cast

import msgspec
import zstandard

from nexusd.model.exports import ExportEnd, ExportHeader

UNFINISHED_SUFFIX = ".unfinished"
STANDARD_OUTPUT = "-"
GZIP_LEVEL = 6      # 9 takes three times as long for the last percent
ZSTD_LEVEL = 3


class Out(Protocol):
    """Where bytes go."""

    def write(self, data: bytes, /) -> object:
        """Write them."""


class FileExistsAlready(ValueError):
    """The file is there; its message says so."""


class ExportWriter:
    """Lines of an export, in their order."""

    def __init__(self, out: Out, header: ExportHeader) -> None:
        self.rows: Counter[str] = Counter()
        self._out = out
        self._hash = hashlib.sha256()
        self._write(msgspec.json.encode(header) + b"\n")

    def add(self, table: str, lines: Sequence[bytes]) -> None:
        """Rows of a table, each a JSON object with its `table`."""
        if lines:
            self.rows[table] += len(lines)
            self._write(b"\n".join(lines) + b"\n")

    def end(self) -> ExportEnd:
        """The last line: what was written, and its hash."""
        end = ExportEnd(end="nexusd-export", rows=dict(self.rows), sha256=self._hash.hexdigest())
        self._out.write(msgspec.json.encode(end) + b"\n")
        return end

    def _write(self, data: bytes) -> None:
        self._hash.update(data)
        self._out.write(data)


@contextlib.contextmanager
def opened_for_export(name: str, *, replace: bool) -> Iterator[Out]:
    """Where an export of this name goes; compressed where the name says so. `-` is standard output.

    A file gets its name at the end alone: what was broken off leaves nothing that looks like an export.

    Raises:
        FileExistsAlready: it is there, and was not to be replaced.
        OSError: it cannot be written.
    """
    if name == STANDARD_OUTPUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(name)
    if path.exists() and not replace:
        raise FileExistsAlready(f"{path} is there already; --force replaces it")
    unfinished = path.with_name(path.name + UNFINISHED_SUFFIX)
    # what is in a memory is nobody else's business
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with _compressed(file, path.suffix) as out:
                yield out
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


@contextlib.contextmanager
def _compressed(file: IO[bytes], suffix: str) -> Iterator[Out]:
    if suffix == ".gz":
        with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=GZIP_LEVEL, filename="") as packed:
            yield packed
    elif suffix == ".zst":
        with zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True).stream_writer(
            file, closefd=False
        ) as stream:
            yield cast("Out", stream)
    else:
        yield file


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)    # the name too
    finally:
        os.close(descriptor)

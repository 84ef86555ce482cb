"""The file of an export, read: checked as a whole before any of it is used.

Owns the lines' format and what is said of a file that is damaged, cut off, or somebody's idea of a joke. Knows no
daemon; the ids in the rows are the file's own.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import msgspec
import zstandard

from nexusd.cli.texts import safe
from nexusd.cli.transfer_progress import Progress
from nexusd.model.exports import (
    FORMAT,
    VERSION,
    ExportedMcpServer,
    ExportedPreset,
    ExportedTool,
    ExportEnd,
    ExportHeader,
)
from nexusd.model.fields import Params
from nexusd.model.imports import (
    ImportConversation,
    ImportEntity,
    ImportEpisode,
    ImportGroup,
    ImportMessage,
    ImportProject,
    ImportRelationship,
    ImportSession,
    ImportSummary,
    ImportToolLog,
    ImportUser,
    ImportVector,
)

MAX_LINE_BYTES = 64 * 1024 * 1024   # twice what the longest row takes, with its vector
MAX_SHOWN = 80
GZIP_MAGIC, ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"

# What a line of each table holds, in the order in which they come: what others refer to first.
LINES: dict[str, type[Params]] = {
    "projects": ImportProject, "sessions": ImportSession, "episodes": ImportEpisode, "summaries": ImportSummary,
    "entities": ImportEntity, "relationships": ImportRelationship, "users": ImportUser, "groups": ImportGroup,
    "conversations": ImportConversation, "messages": ImportMessage, "toolLogs": ImportToolLog,
    "vectors": ImportVector, "presets": ExportedPreset, "tools": ExportedTool, "mcpServers": ExportedMcpServer,
}  # fmt: skip
_ORDER = {table: place for place, table in enumerate(LINES)}
_NOT_IN_FILES = ("occurrence", "takenBefore")   # an import's own
_COMPLAINT = re.compile(r"(.*?)(?: - at `(?:key in )?\$\.?([^`]*)`)?", re.DOTALL)


class ExportFileError(ValueError):
    """The file is no export, or damaged; the message says in which line."""


@dataclass(slots=True)
class Stretch:
    """The lines of one table: where they begin, and which ids they have."""

    table: str
    offset: int         # in the bytes that are not compressed
    line: int
    rows: int = 0
    smallest_id: int | None = None


@dataclass(slots=True)
class Outline:
    """What a file holds."""

    header: ExportHeader
    stretches: list[Stretch] = field(default_factory=list)
    end: ExportEnd | None = None


@dataclass(frozen=True, slots=True)
class FileRow:
    """A row as its line has it."""

    line: int
    fields: dict[str, Any]


def is_export(path: Path) -> bool:
    """Whether the file begins as an export does, compressed or not."""
    try:
        with path.open("rb") as file:
            begin = file.read(4)
    except OSError:
        return False
    return begin.startswith((b"{", GZIP_MAGIC, ZSTD_MAGIC))


class ExportFile:
    """An export that was read and found whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self, progress: Progress) -> Outline:
        """Read all of it: every line must be what it should be, and the hash that of the lines.

        Raises:
            ExportFileError: it is not so; the message names the line, and the field where it is one's fault.
        """
        outline: Outline | None = None
        hash_, offset, line = hashlib.sha256(), 0, 0
        with self._opened(0) as file:
            for line, data in enumerate(_lines(file), 1):
                if outline is not None and outline.end is not None:
                    raise ExportFileError(f"line {line}: there is more after the line that ends the export")
                value = _object(line, data)
                if outline is None:
                    outline = Outline(_header(value))
                    progress.table("checking", sum(outline.header.rows.values()))
                elif "end" in value:
                    outline.end = _end(line, value, hash_.hexdigest(), outline)
                else:
                    _note(outline, line, offset, value)
                    progress.advance(outline.stretches[-1].table in outline.header.rows)    # which counts no files
                hash_.update(data)
                offset += len(data)
        if outline is None:
            raise ExportFileError("line 1: expected the first line of an export, found the end of the file")
        if outline.end is None:
            raise ExportFileError(f"line {line + 1}: expected the line that ends an export: it was cut off")
        return outline

    def rows(self, stretch: Stretch, above_id: int | None) -> Iterator[FileRow]:
        """A table's rows. With `above_id` those with larger ids come first, which may keep them."""
        above = None if above_id is None else lambda row_id: row_id > above_id
        yield from self._walk(stretch, above)
        if above_id is not None and stretch.smallest_id is not None and stretch.smallest_id <= above_id:
            yield from self._walk(stretch, lambda row_id: row_id <= above_id)

    def _walk(self, stretch: Stretch, wanted: Callable[[int], bool] | None) -> Iterator[FileRow]:
        with self._opened(stretch.offset) as file:
            for line, data in zip(range(stretch.line, stretch.line + stretch.rows), _lines(file), strict=False):
                fields = _object(line, data)    # it may have been changed since it was checked
                if fields.pop("table", None) != stretch.table:
                    raise ExportFileError(f"line {line}: the file changed while it was read")
                if wanted is None or wanted(_id_of(fields)):
                    yield FileRow(line, fields)

    @contextlib.contextmanager
    def _opened(self, offset: int) -> Iterator[IO[bytes]]:
        """The bytes from an offset on, not compressed.

        Raises:
            ExportFileError: it cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                begin = file.read(4)
                file.seek(0)
                if begin.startswith(GZIP_MAGIC):
                    stream = cast("IO[bytes]", gzip.GzipFile(fileobj=file, mode="rb"))
                elif begin == ZSTD_MAGIC:
                    unpacking = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
                    stream = cast("IO[bytes]", io.BufferedReader(cast("io.RawIOBase", unpacking), 1 << 20))
                else:
                    stream = file
                _skip(stream, offset)
                yield stream
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise ExportFileError(f"{self.path} cannot be read to its end: {error}") from None


def _skip(stream: IO[bytes], offset: int) -> None:
    if stream.seekable():
        stream.seek(offset)
        return
    while offset > 0 and (chunk := stream.read(min(offset, 1 << 20))):
        offset -= len(chunk)


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    line = 0
    while data := file.readline(MAX_LINE_BYTES + 1):
        line += 1
        if len(data) > MAX_LINE_BYTES:
            raise ExportFileError(f"line {line}: longer than {MAX_LINE_BYTES} bytes")
        yield data


def _object(line: int, data: bytes) -> dict[str, Any]:
    if not data.endswith(b"\n"):
        raise ExportFileError(f"line {line}: cut off: it has no end")
    try:
        value = msgspec.json.decode(data)
    except RecursionError:
        raise ExportFileError(f"line {line}: nested too deep") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ExportFileError(f"line {line}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ExportFileError(f"line {line}: expected a JSON object")
    return value


def _header(value: dict[str, Any]) -> ExportHeader:
    if value.get("format") != FORMAT:
        raise ExportFileError(f'line 1: expected the first line of an export, with "format": "{FORMAT}"')
    version = value.get("version")
    if isinstance(version, int) and version > VERSION:
        raise ExportFileError(
            f"line 1: version {version} of the format; this program knows {VERSION} at most: a newer nexusd wrote it"
        )
    return cast("ExportHeader", _convert(1, value, ExportHeader))


def _end(line: int, value: dict[str, Any], sha256: str, outline: Outline) -> ExportEnd:
    end = cast("ExportEnd", _convert(line, value, ExportEnd))
    rows = Counter({stretch.table: stretch.rows for stretch in outline.stretches})
    if rows != Counter(end.rows):
        raise ExportFileError(f"line {line}: rows: the lines before are not as many as it says")
    if end.sha256 != sha256:
        raise ExportFileError(f"line {line}: sha256: the lines before are not those that were written: damaged")
    return end


def _note(outline: Outline, line: int, offset: int, value: dict[str, Any]) -> None:
    """Check a row, and note where its table begins."""
    table = value.pop("table", None)
    if not isinstance(table, str) or table not in LINES:
        raise ExportFileError(f"line {line}: table: {_shown(table)} is no table of an export")
    for name in _NOT_IN_FILES:
        if name in value:
            raise ExportFileError(f"line {line}: {name}: no such name")
    _convert(line, value, LINES[table])
    last = outline.stretches[-1] if outline.stretches else None
    if last is None or last.table != table:
        if last is not None and _ORDER[table] < _ORDER[last.table]:
            raise ExportFileError(f"line {line}: table: {table} after {last.table}, which may refer to it")
        last = Stretch(table, offset, line)
        outline.stretches.append(last)
    last.rows += 1
    row_id = _id_of(value)
    last.smallest_id = row_id if last.smallest_id is None else min(last.smallest_id, row_id)


def _id_of(fields: dict[str, Any]) -> int:
    """The row's id; 0 where it has none, which no row has."""
    row_id = fields.get("id")
    return row_id if isinstance(row_id, int) else 0


def _convert(line: int, value: dict[str, Any], type_: type[msgspec.Struct]) -> msgspec.Struct:
    try:
        return msgspec.convert(value, type_, strict=True)
    except msgspec.ValidationError as error:
        found = _COMPLAINT.fullmatch(str(error))
        words, where = (found[1], found[2]) if found else (str(error), None)
        place = f"{_shown(where)}: " if where else ""
        raise ExportFileError(f"line {line}: {place}{safe(words.replace('`', ''))}") from None


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return safe(text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "...")

"""Files that are no export, or were one: refused with the line and the field, whatever is in them."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import assume, given
from hypothesis import strategies as st

from nexusd.cli.export_reading import LINES, ExportFile, ExportFileError, is_export
from nexusd.cli.export_writing import ExportWriter, FileExistsAlready, opened_for_export
from nexusd.cli.transfer_progress import Silent
from nexusd.model.exports import ExportHeader, ExportModel, ExportScope

HEADER = ExportHeader(
    format="nexusd-export", version=1, created_at=5, created="1970-01-01T00:00:00+00:00", program="nexusd 0",
    schema_version=3, epoch="e", scope=ExportScope(of="everything"), vectors=False,
    model=ExportModel(key="k", dimension=8), rows={"sessions": 2},
)
ROWS: list[dict[str, Any]] = [
    {"table": "sessions", "id": 1, "externalId": "a", "createdAt": 5},
    {"table": "sessions", "id": 2, "externalId": "b", "createdAt": 5},
    {"table": "episodes", "id": 1, "sessionId": 1, "userMessage": "u", "aiResponse": "", "createdAt": 5},
]


def written(path: Path, lines: list[bytes | dict[str, Any]], header: bytes | None = None) -> Path:
    """An export of these rows, with a hash that is right: what is wrong is in the lines alone."""
    first = header or msgspec.json.encode(HEADER)
    body = b"".join(line + b"\n" for line in (
        first, *(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    ))
    rows: dict[str, int] = {}
    for line in lines:
        table = line.get("table") if isinstance(line, dict) else None
        if isinstance(table, str):
            rows[table] = rows.get(table, 0) + 1
    end = {"end": "nexusd-export", "rows": rows, "sha256": hashlib.sha256(body).hexdigest()}
    path.write_bytes(body + json.dumps(end).encode() + b"\n")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ExportFileError) as refused:
        ExportFile(path).check(Silent())
    return str(refused.value)


def changed(**fields: Any) -> list[bytes | dict[str, Any]]:
    return [ROWS[0], {**ROWS[1], **fields}, ROWS[2]]


def test_a_whole_file_is_read_with_its_tables_and_lines(tmp_path: Path) -> None:
    outline = ExportFile(written(tmp_path / "e", list(ROWS))).check(Silent())
    assert [(s.table, s.line, s.rows, s.smallest_id) for s in outline.stretches] == [
        ("sessions", 2, 2, 1), ("episodes", 4, 1, 1),
    ]
    assert outline.header == HEADER


def test_rows_with_larger_ids_come_first(tmp_path: Path) -> None:
    file = ExportFile(written(tmp_path / "e", list(ROWS)))
    sessions = file.check(Silent()).stretches[0]
    assert [(row.line, row.fields["id"]) for row in file.rows(sessions, 1)] == [(3, 2), (2, 1)]
    assert [row.line for row in file.rows(sessions, 2)] == [2, 3]
    assert [row.line for row in file.rows(sessions, 0)] == [2, 3]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (changed(createdAt="yesterday"), "line 3: createdAt: Expected int, got str"),
        (changed(metadata=[1]), "line 3: metadata: Expected object, got array"),
        (changed(externalId=""), "line 3: externalId: "),
        (changed(id=2**60), "line 3: id: "),
        (changed(colour="red"), "line 3: Object contains unknown field colour"),
        (changed(occurrence=3), "line 3: occurrence: no such name"),
        (changed(table="passwords"), "line 3: table: passwords is no table"),
        (changed(table=["x"]), 'line 3: table: ["x"] is no table'),
        ([ROWS[0], {"table": "sessions", "id": 2}], "line 3: Object missing required field "),
        ([ROWS[2], ROWS[0]], "line 3: table: sessions after episodes"),
        ([ROWS[0], b"[1, 2]"], "line 3: expected a JSON object"),
        ([ROWS[0], b"{'table': 1}"], "line 3: not JSON"),
        ([ROWS[0], b'{"table": "sessions", "name": "\xff\xfe"}'], "line 3: not JSON"),
        ([ROWS[0], b'{"a":' * 100_000], "line 3: nested too deep"),
        ([ROWS[0], b""], "line 3: not JSON"),
    ],
)
def test_a_bad_line_is_named_with_its_field(
    tmp_path: Path, lines: list[bytes | dict[str, Any]], words: str
) -> None:
    assert words in refusal(written(tmp_path / "e", lines))


def test_a_line_that_never_ends_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexusd.cli.export_reading.MAX_LINE_BYTES", 2000)
    path = written(tmp_path / "e", changed(name="x" * 3000))
    assert refusal(path) == "line 3: longer than 2000 bytes"


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b'{"format": "other"}', 'line 1: expected the first line of an export, with "format"'),
        (b'{"format": "nexusd-export", "version": 2}', "line 1: version 2 of the format; this program knows 1 at most"),
        (b'{"format": "nexusd-export", "version": "1"}', "line 1: version: Expected int, got str"),
        (b'{"format": "nexusd-export", "version": 0}', "line 1: version: "),
    ],
)
def test_a_first_line_of_another_kind_is_refused(tmp_path: Path, header: bytes, words: str) -> None:
    assert words in refusal(written(tmp_path / "e", list(ROWS), header))


def test_a_file_that_was_cut_off_says_where(tmp_path: Path) -> None:
    path = written(tmp_path / "e", list(ROWS))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    assert refusal(path) == "line 5: expected the line that ends an export: it was cut off"
    path.write_bytes(b"".join(lines[:3]) + lines[3][:-1])
    assert refusal(path) == "line 4: cut off: it has no end"
    path.write_bytes(b"")
    assert refusal(path).startswith("line 1: ")
    path.write_bytes(b"".join([*lines, lines[1]]))
    assert refusal(path) == "line 6: there is more after the line that ends the export"


@pytest.mark.parametrize(
    "pack", [lambda data: data, gzip.compress, zstandard.ZstdCompressor(write_checksum=True).compress]
)
def test_a_flipped_bit_anywhere_is_found(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = written(tmp_path / "e", list(ROWS))
    whole = pack(path.read_bytes())
    packed = whole != path.read_bytes()
    for place in range(0, len(whole), 1 if packed else 7):
        if whole[:2] == b"\x1f\x8b" and 2 < place < 10:
            continue    # flags, the time and the system in a header of gzip: of no meaning to anybody
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert refusal(path)


@given(damage=st.binary(max_size=60), at=st.integers(0, 2000))
def test_whatever_is_in_a_file_the_answer_is_a_refusal_in_words(
    tmp_path_factory: pytest.TempPathFactory, damage: bytes, at: int
) -> None:
    path = written(tmp_path_factory.mktemp("e") / "e", list(ROWS))
    whole = path.read_bytes()
    assume(at + len(damage) < whole.rindex(b'{"end"'))     # of the last line a space may become another
    spoilt = whole[:at] + damage + whole[at + len(damage) :]
    path.write_bytes(spoilt)
    if spoilt == whole:
        ExportFile(path).check(Silent())
    else:
        assert refusal(path)


def test_files_are_told_apart_by_what_is_in_them(tmp_path: Path) -> None:
    export = written(tmp_path / "old.db", list(ROWS))
    assert is_export(export)
    (tmp_path / "e.jsonl").write_bytes(b"SQLite format 3\x00")
    assert not is_export(tmp_path / "e.jsonl")
    assert not is_export(tmp_path / "missing")
    (tmp_path / "packed").write_bytes(gzip.compress(b"x"))
    assert is_export(tmp_path / "packed")


def test_an_export_that_breaks_off_leaves_nothing_under_its_name(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl.zst"
    with pytest.raises(RuntimeError), opened_for_export(str(path), replace=False) as out:
        ExportWriter(out, HEADER).add("sessions", [b"{}"])
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with opened_for_export(str(path), replace=False) as out:
        ExportWriter(out, HEADER).end()
    assert ExportFile(path).check(Silent()).stretches == []
    before = path.read_bytes()
    with pytest.raises(FileExistsAlready), opened_for_export(str(path), replace=False):
        pass
    assert path.read_bytes() == before


def test_a_symlink_in_the_place_of_the_unfinished_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "e.jsonl.unfinished").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"), opened_for_export(str(tmp_path / "e.jsonl"), replace=False):
        pass
    assert victim.read_text() == "mine"


def test_every_table_has_its_line() -> None:
    assert list(LINES)[:3] == ["projects", "sessions", "episodes"]
    assert len(LINES) == 15

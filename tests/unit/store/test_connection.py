from __future__ import annotations

import time
from pathlib import Path

import apsw
import pytest

from nexusd.errors import Busy, DatabaseRefusedError
from nexusd.store.connection import (
    APPLICATION_ID,
    Connection,
    deadline,
    open_reader,
    open_writer,
    refuse_foreign_file,
)
from nexusd.store.migrations import load_migrations, migrate

FOR_EVER = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
NEWEST = len(load_migrations())


def snapshot(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def make(path: Path, *statements: str) -> None:
    db = apsw.Connection(str(path))
    for statement in statements:
        db.execute(statement).fetchall()
    db.close()


def test_writer_is_durable_and_strict(db: Connection) -> None:
    pragmas = {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "wal_autocheckpoint": 0,
        "trusted_schema": 0,
        "application_id": APPLICATION_ID,
    }
    assert {name: db.pragma(name) for name in pragmas} == pragmas


def test_reader_cannot_write(db: Connection, tmp_path: Path) -> None:
    reader = open_reader(tmp_path / "nexus.db")
    with pytest.raises(apsw.ReadOnlyError):
        reader.execute("DELETE FROM meta")
    reader.close()


def test_deadline_stops_a_query_and_leaves_the_connection_usable(db: Connection) -> None:
    with pytest.raises(Busy), deadline(db, time.monotonic() + 0.02):
        db.execute(FOR_EVER).fetchall()
    assert db.execute("SELECT 1").get == 1


@pytest.mark.parametrize(
    "statements",
    [
        ("PRAGMA application_id = 1234", "CREATE TABLE t (x)"),
        ("CREATE TABLE t (x)",),
        ("PRAGMA user_version = 3", "CREATE TABLE t (x)"),
        ("PRAGMA journal_mode = WAL", "PRAGMA application_id = 1234", "CREATE TABLE t (x)"),
        (f"PRAGMA application_id = {APPLICATION_ID}", "PRAGMA user_version = 99"),
    ],
    ids=["other application", "no application", "versioned by another", "other in WAL", "newer"],
)
def test_foreign_and_newer_files_are_refused_untouched(tmp_path: Path, statements: tuple[str, ...]) -> None:
    path = tmp_path / "nexus.db"
    make(path, *statements)
    before = snapshot(tmp_path)
    with pytest.raises(DatabaseRefusedError):
        refuse_foreign_file(path, NEWEST)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("content", [b"x", b"not a database\n" * 50, b"SQLite format 3\x00" + b"\xff" * 4096])
def test_garbage_is_refused_untouched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "nexus.db"
    path.write_bytes(content)
    with pytest.raises(DatabaseRefusedError):
        refuse_foreign_file(path, NEWEST)
    assert snapshot(tmp_path) == {"nexus.db": content}


def test_a_version_that_stands_only_in_the_wal_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "nexus.db"
    db = open_writer(path, "FULL")
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    migrate(db, load_migrations())
    db.execute("PRAGMA user_version = 99")
    db.close()
    header = path.read_bytes()[:100]
    assert int.from_bytes(header[60:64], "big") == 0    # else this test proves nothing
    before = {name: data for name, data in snapshot(tmp_path).items() if not name.endswith("-shm")}
    with pytest.raises(DatabaseRefusedError, match="99"):
        refuse_foreign_file(path, NEWEST)
    assert {n: d for n, d in snapshot(tmp_path).items() if not n.endswith("-shm")} == before


def test_missing_empty_and_own_files_are_welcome(tmp_path: Path) -> None:
    path = tmp_path / "nexus.db"
    refuse_foreign_file(path, NEWEST)
    assert not path.exists()
    path.touch()
    refuse_foreign_file(path, NEWEST)
    db = open_writer(path, "FULL")
    migrate(db, load_migrations())
    db.close()
    refuse_foreign_file(path, NEWEST)

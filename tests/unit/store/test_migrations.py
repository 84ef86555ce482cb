from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from nexusd.errors import DatabaseRefusedError
from nexusd.store.connection import APPLICATION_ID, Connection, open_writer
from nexusd.store.meta import get_epoch
from nexusd.store.migrations import Migration, load_migrations, migrate

STEPS = (
    Migration(1, "CREATE TABLE a (x INTEGER) STRICT;"),
    Migration(2, "CREATE TABLE b (x INTEGER) STRICT; INSERT INTO b VALUES (1);"),
)
BROKEN = Migration(3, "CREATE TABLE c (x INTEGER) STRICT; INSERT INTO nowhere VALUES (1);")


@pytest.fixture
def empty(tmp_path: Path) -> Connection:
    return open_writer(tmp_path / "nexus.db", "FULL")


def tables(db: Connection) -> set[str]:
    return {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}


def test_numbers_are_complete_and_every_table_is_strict(db: Connection) -> None:
    assert [step.version for step in load_migrations()] == list(range(1, len(load_migrations()) + 1))
    loose = db.execute(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND NOT strict"
        " AND name NOT LIKE 'sqlite_%'"
    ).fetchall()
    assert loose == []


def test_each_step_is_applied_once_and_the_file_is_marked_as_ours(empty: Connection) -> None:
    assert migrate(empty, STEPS) == 0
    assert migrate(empty, STEPS) == 2
    assert empty.pragma("user_version") == 2
    assert empty.pragma("application_id") == APPLICATION_ID
    assert empty.execute("SELECT count(*) FROM b").get == 1


def test_a_failed_step_leaves_the_database_as_before_it(empty: Connection) -> None:
    with pytest.raises(DatabaseRefusedError, match="0003"):
        migrate(empty, (*STEPS, BROKEN))
    assert empty.pragma("user_version") == 2
    assert tables(empty) == {"a", "b"}
    assert not empty.in_transaction


def test_the_hook_runs_once_and_only_where_there_is_something_to_lose(empty: Connection) -> None:
    seen: list[int] = []

    def note(db: Connection, version: int) -> None:
        assert tables(db) == {"a"}
        seen.append(version)

    migrate(empty, STEPS[:1], note)
    assert seen == []
    migrate(empty, STEPS, note)
    migrate(empty, STEPS, note)
    assert seen == [1]


def test_a_hook_that_fails_stops_the_migration(empty: Connection) -> None:
    def refuse(_db: Connection, _version: int) -> None:
        raise OSError("no room for a backup")

    migrate(empty, STEPS[:1])
    with pytest.raises(OSError, match="backup"):
        migrate(empty, STEPS, refuse)
    assert empty.pragma("user_version") == 1


def test_every_database_has_an_epoch_of_its_own(tmp_path: Path) -> None:
    epochs = set()
    for name in ("a.db", "b.db"):
        db = open_writer(tmp_path / name, "FULL")
        migrate(db, load_migrations())
        epochs.add(get_epoch(db))
        migrate(db, load_migrations())
        epochs.add(get_epoch(db))
        db.close()
    assert len(epochs) == 2
    assert all(len(epoch) == 32 for epoch in epochs)


@pytest.mark.parametrize("table", ["sessions", "episodes", "entities", "relationships", "summaries"])
def test_metadata_is_json(db: Connection, table: str) -> None:
    db.execute("PRAGMA foreign_keys = OFF")
    columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
    required = {"metadata": "'{'"}
    for _, name, kind, not_null, default, _ in db.execute(f"PRAGMA table_info({table})").fetchall():
        if not_null and default is None:
            required[name] = "'x'" if kind == "TEXT" else "1"
    assert "metadata" in columns
    with pytest.raises(apsw.ConstraintError, match="json_valid"):
        db.execute(
            f"INSERT INTO {table} ({', '.join(required)}) VALUES ({', '.join(required.values())})"
        )


def test_rows_of_version_1_are_found_and_wait_for_the_index_since_the_upgrade(empty: Connection) -> None:
    migrate(empty, load_migrations()[:1])
    empty.execute("""
        INSERT INTO sessions (external_id, created_at, updated_at) VALUES ('s', 1, 1);
        INSERT INTO episodes (session_id, user_message, ai_response, created_at, updated_at)
            VALUES (1, 'a', '', 7, 7), (1, 'b', '', 9, 9);
        INSERT INTO entities (name, type, notes, created_at, updated_at) VALUES ('Ada', 'person', 'likes tea', 1, 1);
        INSERT INTO summaries (session_id, content, first_episode_id, last_episode_id, created_at, updated_at)
            VALUES (1, 'They greeted.', 1, 2, 1, 1), (1, 'Of exchanges that went.', 5, 6, 1, 1);
    """).fetchall()
    migrate(empty, load_migrations())
    found = empty.execute(
        "SELECT rowid FROM entities_fts('teas') UNION ALL SELECT rowid FROM summaries_fts('greeting')"
    )
    assert found.fetchall() == [(1,), (1,)]
    runs = empty.execute("SELECT first_episode_at, last_episode_at FROM summaries ORDER BY id").fetchall()
    assert runs == [(7, 9), (None, None)]
    waiting = empty.execute(
        "SELECT collection, row_id, unixepoch() * 1000 - created_ms < 60000 FROM outbox ORDER BY seq"
    )
    assert waiting.fetchall() == [
        ("episodes", 1, 0), ("episodes", 2, 0),     # by the change itself, as it was then
        ("entities", 1, 1), ("summaries", 1, 1), ("summaries", 2, 1),
    ]

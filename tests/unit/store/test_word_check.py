from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from nexusd.model.episodes import NewEpisode
from nexusd.model.sessions import CreateSession
from nexusd.store.connection import Connection, open_reader, open_writer
from nexusd.store.episodes import insert_episode
from nexusd.store.memory_filter import TEXT_TABLES
from nexusd.store.migrations import load_migrations, migrate
from nexusd.store.sessions import insert_session
from nexusd.store.word_check import WordCheck


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "nexus.db"


@pytest.fixture
def db(path: Path) -> Iterator[Connection]:
    connection = open_writer(path, "FULL")
    migrate(connection, load_migrations())
    session = insert_session(connection, CreateSession(external_id="first"), 1)
    for text in ("green tea", "black tea", "coffee \N{HOT BEVERAGE}\0 and milk"):
        insert_episode(connection, NewEpisode(session_id=session.id, user_message=text, ai_response="ok"), 1)
    yield connection
    connection.close()


def sound(check: WordCheck, name: str) -> bool | None:
    """In a thread of its own, whose priority it lowers."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(check.sound, name).result()


def test_words_and_rows_agree_in_every_table_as_they_are_made(db: Connection, path: Path) -> None:
    assert [sound(WordCheck(path), name) for name in TEXT_TABLES] == [True] * len(TEXT_TABLES)
    assert db.execute("SELECT count(*) FROM episodes_fts WHERE episodes_fts MATCH 'tea'").get == 2


@pytest.mark.parametrize(
    "damage",
    [
        "INSERT INTO episodes_fts (episodes_fts) VALUES ('delete-all')",
        "INSERT INTO episodes_fts (rowid, user_message, ai_response) VALUES (1, 'juice', 'ok')",
        "INSERT INTO episodes_fts (episodes_fts, rowid, user_message, ai_response) VALUES ('delete', 2, 'tea', 'ok')",
        "INSERT INTO episodes_fts (rowid, user_message, ai_response) VALUES (99, 'juice', 'ok')",
        "DELETE FROM episodes_fts_docsize WHERE id = 2",
        "DELETE FROM episodes_fts_data WHERE id > 10",
        "DROP TRIGGER episodes_fts_update; UPDATE episodes SET user_message = 'green coffee' WHERE id = 1",
    ],
)
def test_every_difference_is_found(db: Connection, path: Path, damage: str) -> None:
    db.execute(damage)
    check = WordCheck(path)
    assert sound(check, "episodes") is False
    assert sound(check, "messages") is True


def test_the_copy_is_for_nobody_else_and_is_removed(
    db: Connection, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    compare = WordCheck._compare

    def seen(self: WordCheck, collection: str) -> bool:
        modes.append(path.with_name("nexus.db.words").stat().st_mode & 0o777)
        return compare(self, collection)  # type: ignore[arg-type]  # a name

    monkeypatch.setattr(WordCheck, "_compare", seen)
    before = sorted(path.parent.iterdir())
    assert sound(WordCheck(path), "episodes")
    assert modes == [0o600]
    assert sorted(path.parent.iterdir()) == before


def test_a_write_goes_on_while_words_are_compared(
    db: Connection, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = WordCheck._compare

    def writes_first(self: WordCheck, collection: str) -> bool:
        db.execute("UPDATE episodes SET user_message = 'juice' WHERE id = 1")
        assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall() == [(0, 0, 0)]  # nobody reads any more
        return compare(self, collection)  # type: ignore[arg-type]  # a name

    monkeypatch.setattr(WordCheck, "_compare", writes_first)
    reader = open_reader(path)
    assert sound(WordCheck(path), "episodes")
    reader.close()


def test_what_a_crash_left_is_removed(db: Connection, path: Path) -> None:
    left = path.with_name("nexus.db.words")
    left.write_text("texts of memories")
    WordCheck(path).sweep()
    assert not left.exists()
    left.write_text("texts of memories")
    assert sound(WordCheck(path), "episodes")
    assert not left.exists()


def test_without_room_for_a_copy_nothing_is_said(
    db: Connection, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1024))
    assert sound(WordCheck(path), "episodes") is None


def test_a_check_that_is_stopped_says_nothing_and_leaves_nothing(
    db: Connection, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = WordCheck(path)
    copy_out = WordCheck._copy_out

    def stopped_after(self: WordCheck, collection: str) -> None:
        copy_out(self, collection)  # type: ignore[arg-type]  # a name
        check.stop()

    monkeypatch.setattr(WordCheck, "_copy_out", stopped_after)
    before = sorted(path.parent.iterdir())
    assert sound(check, "episodes") is None
    assert sorted(path.parent.iterdir()) == before


def test_a_check_in_a_thread_is_interrupted(db: Connection, path: Path) -> None:
    with db:
        for n in range(20_000):
            db.execute(
                "INSERT INTO episodes (session_id, user_message, ai_response, created_at, updated_at)"
                " VALUES (1, ?, 'ok', 1, 1)", (f"word{n} and more of it",),
            )
    check = WordCheck(path)
    answers: list[bool | None] = []
    thread = threading.Thread(target=lambda: answers.append(check.sound("episodes")))
    thread.start()
    while not path.with_name("nexus.db.words").exists() and thread.is_alive():
        time.sleep(0)
    check.stop()
    thread.join(10)
    assert answers == [None]


def test_a_full_disk_says_nothing_and_leaves_nothing(
    db: Connection, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexusd.store.word_check.BEGIN", "BEGIN; PRAGMA main.max_page_count = 5")
    before = sorted(path.parent.iterdir())
    assert sound(WordCheck(path), "episodes") is None
    assert sorted(path.parent.iterdir()) == before

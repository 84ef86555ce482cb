from __future__ import annotations

import pytest

from nexusd.model.conversations import CreateConversation
from nexusd.model.entities import NewEntity
from nexusd.model.episodes import NewEpisode
from nexusd.model.messages import NewMessage
from nexusd.model.sessions import CreateSession, Session
from nexusd.model.summaries import CreateSummary
from nexusd.store.connection import Connection
from nexusd.store.conversations import insert_conversation
from nexusd.store.entities import upsert_entity
from nexusd.store.episodes import insert_episode
from nexusd.store.integrity import check_integrity, check_table, count_full_text, newest_ms, table_names
from nexusd.store.memory_filter import TEXT_TABLES
from nexusd.store.messages import insert_message
from nexusd.store.meta import get_meta, set_meta
from nexusd.store.sessions import insert_session
from nexusd.store.summaries import insert_summary


def test_a_sound_database_has_no_findings(db: Connection, session: Session) -> None:
    insert_episode(db, NewEpisode(session_id=session.id, user_message="apples", ai_response="x"), 1)
    assert check_integrity(db) == []


@pytest.mark.parametrize("table", ["episodes", "entities", "summaries", "messages"])
def test_an_emptied_full_text_index_is_found(db: Connection, session: Session, table: str) -> None:
    insert_episode(db, NewEpisode(session_id=session.id, user_message="apples", ai_response="x"), 1)
    upsert_entity(db, NewEntity(name="apples", type="fruit"), 1)
    insert_summary(db, CreateSummary(session_id=session.id, content="apples"), 1)
    conversation = insert_conversation(db, CreateConversation(), 1)
    insert_message(db, NewMessage(conversation_id=conversation.id, role="user", content="apples"), 1)
    assert check_integrity(db) == []
    db.execute(f"INSERT INTO {table}_fts ({table}_fts) VALUES ('delete-all')")
    assert [finding.split()[0] for finding in check_integrity(db)] == [f"{table}_fts"]


def test_every_full_text_index_is_looked_at(db: Connection) -> None:
    there = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE sql LIKE '%USING fts5 (%'")}
    assert there == {f"{table.name}_fts" for table in TEXT_TABLES.values()}


def test_a_lost_parent_is_found(db: Connection, session: Session) -> None:
    insert_episode(db, NewEpisode(session_id=session.id, user_message="apples", ai_response="x"), 1)
    db.execute("PRAGMA foreign_keys = OFF")
    db.execute("DELETE FROM sessions")
    assert [finding.split(":")[0] for finding in check_integrity(db)] == ["foreign_key_check"]


def test_facts_are_set_replaced_and_forgotten(db: Connection) -> None:
    assert get_meta(db, "collection.episodes") is None
    set_meta(db, "collection.episodes", "a")
    set_meta(db, "collection.episodes", "b")
    assert get_meta(db, "collection.episodes") == "b"
    set_meta(db, "collection.episodes", None)
    assert get_meta(db, "collection.episodes") is None


def test_a_table_looked_at_by_itself_tells_damage_of_its_full_text_index(db: Connection, session: Session) -> None:
    insert_episode(db, NewEpisode(session_id=session.id, user_message="apples", ai_response="x"), 1)
    assert {"episodes", "sessions", "episodes_fts_data"} <= set(table_names(db))
    assert [finding for name in table_names(db) for finding in check_table(db, name)] == []
    assert check_table(db, "episodes_fts") == []
    db.execute("UPDATE episodes_fts_data SET block = zeroblob(9) WHERE id > 10")
    db.execute("PRAGMA query_only = ON")    # a reader sees it as well
    assert [finding.split(":")[0] for finding in check_table(db, "episodes_fts")] == ["table episodes_fts"]


def test_rows_without_an_entry_and_entries_without_a_row_are_counted(db: Connection, session: Session) -> None:
    for number in range(3):
        insert_episode(db, NewEpisode(session_id=session.id, user_message=f"apples {number}", ai_response="x"), 1)
    assert count_full_text(db, "episodes") == (0, 0)
    db.execute("DELETE FROM episodes_fts_docsize WHERE id = 1")
    db.execute("DROP TRIGGER episodes_fts_delete")
    db.execute("DELETE FROM episodes WHERE id = 3")
    assert count_full_text(db, "episodes") == (1, 1)
    db.execute("INSERT INTO episodes_fts (episodes_fts) VALUES ('delete-all')")
    assert count_full_text(db, "episodes") == (2, 0)


def test_the_newest_moment_is_the_daemons_and_not_what_a_caller_says(db: Connection) -> None:
    assert newest_ms(db) is None
    session = insert_session(db, CreateSession(external_id="a"), 7_000)
    assert newest_ms(db) == 7_000
    later = NewEpisode(session_id=session.id, user_message="x", ai_response="", created_at=99_000)
    insert_episode(db, later, 8_000)
    assert newest_ms(db) == 8_000

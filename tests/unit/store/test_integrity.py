from __future__ import annotations

import pytest

from nexusd.model.conversations import CreateConversation
from nexusd.model.entities import NewEntity
from nexusd.model.episodes import NewEpisode
from nexusd.model.messages import NewMessage
from nexusd.model.sessions import Session
from nexusd.model.summaries import CreateSummary
from nexusd.store.connection import Connection
from nexusd.store.conversations import insert_conversation
from nexusd.store.entities import upsert_entity
from nexusd.store.episodes import insert_episode
from nexusd.store.integrity import check_integrity
from nexusd.store.memory_filter import TEXT_TABLES
from nexusd.store.messages import insert_message
from nexusd.store.meta import get_meta, set_meta
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

from __future__ import annotations

from nexusd.model.episodes import NewEpisode
from nexusd.model.sessions import Session
from nexusd.store.connection import Connection
from nexusd.store.episodes import insert_episode
from nexusd.store.integrity import check_integrity
from nexusd.store.meta import get_meta, set_meta


def test_a_sound_database_has_no_findings(db: Connection, session: Session) -> None:
    insert_episode(db, NewEpisode(session_id=session.id, user_message="apples", ai_response="x"), 1)
    assert check_integrity(db) == []


def test_an_emptied_full_text_index_is_found(db: Connection, session: Session) -> None:
    insert_episode(db, NewEpisode(session_id=session.id, user_message="apples", ai_response="x"), 1)
    db.execute("INSERT INTO episodes_fts (episodes_fts) VALUES ('delete-all')")
    assert [finding.split()[0] for finding in check_integrity(db)] == ["episodes_fts"]


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

from __future__ import annotations

from nexusd.model.episodes import NewEpisode
from nexusd.model.sessions import Session
from nexusd.store.connection import Connection
from nexusd.store.episodes import insert_episode
from nexusd.store.integrity import check_integrity
from nexusd.store.memory_filter import TEXT_TABLES
from nexusd.store.mending import (
    FULL_TEXT_COLUMNS,
    forget_orphaned,
    forget_outdated,
    forget_unknown,
    insert_words,
    rebuild_words,
    requeue_rows,
)
from nexusd.store.outbox import claim_batch, finish_batch

HASH, OTHER = b"0123456789abcdef", b"fedcba9876543210"


def add(db: Connection, session: Session, text: str = "tea") -> int:
    return insert_episode(db, NewEpisode(session_id=session.id, user_message=text, ai_response=""), 1).id


def add_vector(db: Connection, row_id: int, model: str, content_hash: bytes = HASH) -> None:
    db.execute("INSERT INTO embeddings VALUES ('episodes', ?, ?, 1, ?, zeroblob(4))", (row_id, model, content_hash))


def vectors(db: Connection) -> list[tuple[int, str]]:
    return list(db.execute("SELECT row_id, model FROM embeddings ORDER BY 1, 2"))


def test_the_columns_are_those_of_the_full_text_indexes(db: Connection) -> None:
    made = {
        name: ", ".join(row[1] for row in db.execute(f"PRAGMA table_info({name}_fts)")) for name in TEXT_TABLES
    }
    assert made == FULL_TEXT_COLUMNS


def test_a_row_on_its_way_is_queued_after_it(db: Connection, session: Session) -> None:
    on_its_way, settled, out = (add(db, session) for _ in range(3))
    db.execute("DELETE FROM outbox WHERE row_id <> ?", (on_its_way,))
    db.execute("INSERT INTO unindexed VALUES ('episodes', ?)", (out,))
    claimed = claim_batch(db, 10, 5, 1000, ["episodes"])
    assert requeue_rows(db, "episodes", [on_its_way, settled, out, 99], 5) == 2
    assert finish_batch(db, claimed) == 0
    assert {row for (row,) in db.execute("SELECT row_id FROM outbox WHERE state = 'pending'")} == {on_its_way, settled}


def test_a_vector_goes_only_while_it_is_of_the_text_that_it_was_found_with(db: Connection) -> None:
    for row_id in (1, 2):
        add_vector(db, row_id, "m")
        add_vector(db, row_id, "n")
    add_vector(db, 3, "m", OTHER)
    assert forget_outdated(db, "episodes", "m", {1: HASH.hex(), 3: HASH.hex(), 4: HASH.hex()}) == 1
    assert vectors(db) == [(1, "n"), (2, "m"), (2, "n"), (3, "m")]
    assert forget_outdated(db, "messages", "m", {2: HASH.hex()}) == 0


def test_a_vector_without_a_row_goes_and_one_whose_row_is_there_stays(db: Connection, session: Session) -> None:
    row_id = add(db, session)
    for each in (row_id, 98, 99):
        add_vector(db, each, "m")
    assert forget_orphaned(db, "episodes", [row_id, 99]) == 1
    assert vectors(db) == [(row_id, "m"), (98, "m")]


def test_vectors_of_models_that_are_known_stay(db: Connection, session: Session) -> None:
    row_id = add(db, session)
    for model in ("serves", "next", "unknown"):
        add_vector(db, row_id, model)
    db.execute(
        "INSERT INTO models (key, state, provider, model, dimension, since_ms) VALUES ('next', 'next', '', '', 1, 1)"
    )
    assert forget_unknown(db, "episodes", "serves", [row_id]) == 1
    assert vectors(db) == [(row_id, "next"), (row_id, "serves")]


def test_words_are_put_in_once(db: Connection, session: Session) -> None:
    ids = [add(db, session, text) for text in ("green tea", "black tea", "coffee")]
    db.execute(
        "INSERT INTO episodes_fts (episodes_fts, rowid, user_message, ai_response) VALUES ('delete', ?, ?, '')",
        (ids[1], "black tea"),
    )
    assert check_integrity(db) != []
    assert insert_words(db, "episodes", [*ids, 99]) == 1
    assert check_integrity(db) == []
    assert insert_words(db, "episodes", ids) == 0
    found = db.execute("SELECT rowid FROM episodes_fts WHERE episodes_fts MATCH 'tea'").fetchall()
    assert found == [(ids[0],), (ids[1],)]


def test_words_that_differ_are_right_when_all_were_made_anew(db: Connection, session: Session) -> None:
    row_id = add(db, session, "tea")
    db.execute("INSERT INTO episodes_fts (rowid, user_message, ai_response) VALUES (?, 'coffee', '')", (row_id,))
    assert check_integrity(db) != []
    rebuild_words(db, "episodes")
    assert check_integrity(db) == []

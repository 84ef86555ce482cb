from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexusd.model.episodes import NewEpisode
from nexusd.model.fields import IndexedCollection
from nexusd.model.sessions import Session
from nexusd.store.connection import Connection
from nexusd.store.embeddings import save_vectors
from nexusd.store.episodes import delete_episode, insert_episode
from nexusd.store.verifying import (
    LAST_ID,
    MAX_SLICE_BYTES,
    TEXT_COLUMNS,
    RowState,
    Slice,
    count_tables,
    read_slice,
    row_states,
)
from nexusd.sync.sources import LOADERS, TEXTS

MODEL = "m"


def add(db: Connection, session: Session, text: str = "tea") -> int:
    return insert_episode(db, NewEpisode(session_id=session.id, user_message=text, ai_response=""), 1).id


def add_vector(db: Connection, row_id: int, model: str = MODEL, content_hash: bytes = b"0123456789abcdef") -> None:
    db.execute("INSERT INTO embeddings VALUES ('episodes', ?, ?, 1, ?, zeroblob(4))", (row_id, model, content_hash))


def read(db: Connection, after: int = 0, end: int = LAST_ID, limit: int = 100) -> Slice:
    return read_slice(db, "episodes", MODEL, after, end, limit)


def test_a_slice_has_everything_that_is_kept_of_its_rows(db: Connection, session: Session) -> None:
    ids = [add(db, session, f"text {n}") for n in range(6)]
    db.execute("DELETE FROM outbox")
    db.execute("UPDATE episodes SET version = 2 WHERE id = ?", (ids[1],))
    db.execute("UPDATE outbox SET state = 'dead'")
    db.execute("INSERT INTO unindexed VALUES ('episodes', ?), ('messages', ?)", (ids[2], ids[0]))
    add_vector(db, ids[0])
    add_vector(db, ids[3], "gone")
    add_vector(db, ids[3], "kept")
    db.execute(
        "INSERT INTO models (key, state, provider, model, dimension, since_ms) VALUES ('kept', 'kept', '', '', 1, 1)"
    )
    add_vector(db, 70)
    add_vector(db, 71, "gone")
    found = read(db)
    assert found.rows == [
        [row_id, 2 if row_id == ids[1] else 1, 0, f"text {n}", ""] for n, row_id in enumerate(ids)
    ]
    assert (found.queued, found.out) == ({ids[1]: "dead"}, {ids[2]})
    assert found.hashes == {ids[0]: b"0123456789abcdef".hex(), 70: b"0123456789abcdef".hex()}
    assert sorted(found.orphaned_vectors) == [70, 71]
    assert found.unknown_models == [ids[3]]
    assert found.worded == set(ids)
    assert found.until == LAST_ID


def test_slices_meet_and_leave_nothing_out(db: Connection, session: Session) -> None:
    ids = [add(db, session) for _ in range(7)]
    db.execute("DELETE FROM episodes WHERE id = ?", (ids[3],))
    seen, after = list[int](), 0
    while after < LAST_ID:
        found = read(db, after, limit=2)
        assert len(found.rows) <= 2
        seen += [row[0] for row in found.rows]
        after = found.until
    assert seen == ids[:3] + ids[4:]


def test_a_slice_ends_where_it_was_told_to_though_there_is_no_row(db: Connection, session: Session) -> None:
    ids = [add(db, session) for _ in range(4)]
    assert read(db, end=ids[1]).until == ids[1]
    assert read(db, after=ids[-1], end=1000).until == 1000
    assert read(db, limit=4).until == ids[-1]
    assert read(db, limit=5).until == LAST_ID


def test_long_texts_make_a_slice_short_and_the_longest_is_alone(db: Connection, session: Session) -> None:
    third, whole = "x" * (MAX_SLICE_BYTES // 3), "x" * (2 * MAX_SLICE_BYTES)
    ids = [add(db, session, text) for text in (third, third, third, third, whole, "tea")]
    runs, after = list[list[int]](), 0
    while after < LAST_ID:
        found = read(db, after)
        runs.append([row[0] for row in found.rows])
        after = found.until
    assert runs == [ids[:3], ids[3:4], ids[4:5], ids[5:]]


@pytest.mark.parametrize("collection", list(TEXT_COLUMNS))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.tuples(*[st.text(st.characters(exclude_categories=["Cs"]), max_size=20)] * 3))
def test_the_text_made_of_a_slice_is_the_text_that_is_embedded(
    db: Connection, session: Session, collection: IndexedCollection, texts: tuple[str, str, str]
) -> None:
    ROWS[collection](db, session, texts)
    found = read_slice(db, collection, MODEL, 0, LAST_ID, 1000)
    documents = {each.id: each for each in LOADERS[collection](db, [row[0] for row in found.rows], "")}
    assert documents
    assert {row[0]: TEXTS[collection](*row[3:]) for row in found.rows} == {
        id_: each.text for id_, each in documents.items()
    }
    assert {row[0] for row in found.rows if row[2]} == {
        id_ for id_, each in documents.items() if each.vector is not None and each.vector_model == MODEL
    }


def _row(sql: str) -> Any:
    def insert(db: Connection, session: Session, texts: tuple[str, str, str]) -> None:
        db.execute(sql, {"session": session.id, "a": texts[0], "b": texts[1], "c": texts[2]})

    return insert


ROWS: dict[str, Any] = {
    "episodes": _row(
        "INSERT INTO episodes (session_id, user_message, ai_response, created_at, updated_at)"
        " VALUES (:session, :a, :b, 1, 1)"
    ),
    "entities": _row(
        "INSERT OR REPLACE INTO entities (name, type, notes, created_at, updated_at)"
        " VALUES (:a, :b, nullif(:c, ''), 1, 1)"
    ),
    "summaries": _row(
        "INSERT INTO summaries (session_id, content, created_at, updated_at) VALUES (:session, :a, 1, 1)"
    ),
    "messages": _row(
        "INSERT INTO conversations (created_at, updated_at) VALUES (1, 1);"
        "INSERT INTO messages (conversation_id, role, content, created_at, updated_at)"
        " VALUES (last_insert_rowid(), :a, :b, 1, 1)"
    ),
    "vectors": _row(
        "INSERT OR REPLACE INTO vectors (key, text, embedding, embedding_model, created_at, updated_at)"
        " VALUES (:a, :b, iif(length(:c) % 2, zeroblob(4), NULL), iif(length(:a) % 2, 'm', 'another'), 1, 1)"
    ),
}


def test_a_callers_own_vector_of_another_model_is_none_for_this_one(db: Connection) -> None:
    for key, model in ((1, MODEL), (2, "another"), (3, None)):
        db.execute(
            "INSERT INTO vectors (key, text, embedding, embedding_model, created_at, updated_at)"
            " VALUES (?, 'tea', zeroblob(4), ?, 1, 1)", (key, model),
        )
    found = read_slice(db, "vectors", MODEL, 0, LAST_ID, 10)
    assert [own for _, _, own, _ in found.rows] == [1, 0, 0]


def test_a_rows_state_is_what_the_index_should_hold_of_it_and_whether_it_waits(
    db: Connection, session: Session
) -> None:
    settled, waiting, out, gone = (add(db, session) for _ in range(4))
    delete_episode(db, gone)
    db.execute("DELETE FROM outbox WHERE row_id NOT IN (?, ?)", (waiting, gone))
    db.execute("INSERT INTO unindexed VALUES ('episodes', ?)", (out,))
    assert row_states(db, "episodes", [settled, waiting, out, gone, 99]) == {
        settled: RowState(1, queued=False),
        waiting: RowState(1, queued=True),
        out: RowState(None, queued=False),
        gone: RowState(None, queued=True),
        99: RowState(None, queued=False),
    }


def test_tables_are_counted(db: Connection, session: Session) -> None:
    add(db, session)
    assert count_tables(db, ["episodes", "vectors"]) == {"episodes": 1, "vectors": 0}


def test_a_vector_that_the_worker_keeps_is_of_the_text_of_the_slice(db: Connection, session: Session) -> None:
    row_id = add(db, session)
    (document,) = LOADERS["episodes"](db, [row_id], "")
    save_vectors(db, "episodes", MODEL, 1, [(row_id, 1, document.content_hash, bytes(4))])
    assert read(db).hashes == {row_id: document.content_hash.hex()}

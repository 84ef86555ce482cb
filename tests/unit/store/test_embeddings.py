from __future__ import annotations

import struct

import apsw
import pytest

from nexusd.model.episodes import NewEpisode, UpdateEpisode
from nexusd.model.sessions import DeleteSession, Session
from nexusd.store.connection import Connection
from nexusd.store.embeddings import forget_vectors, replace_vector, save_vectors, select_vectors
from nexusd.store.episodes import delete_episode, insert_episodes, update_episode
from nexusd.store.sessions import delete_session


def vector(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


@pytest.fixture
def ids(db: Connection, session: Session) -> list[int]:
    items = [NewEpisode(session_id=session.id, user_message=f"m{i}", ai_response="") for i in range(70)]
    return [episode.id for episode in insert_episodes(db, items, 1)]


def test_vectors_are_kept_by_row_and_model(db: Connection, ids: list[int]) -> None:
    vectors = [(i, 1, i.to_bytes(16, "big"), vector(i, 1)) for i in ids]
    save_vectors(db, "episodes", "m1", 2, vectors)
    save_vectors(db, "episodes", "m2", 1, [(ids[0], 1, b"h" * 32, vector(3))])
    assert select_vectors(db, "episodes", ids, "m1") == {i: (h, v) for i, _, h, v in vectors}
    assert select_vectors(db, "episodes", [ids[0], 999], "m2") == {ids[0]: (b"h" * 32, vector(3))}
    assert select_vectors(db, "entities", ids, "m1") == {}
    forget_vectors(db, "episodes", ids[1:], "m1")
    assert set(select_vectors(db, "episodes", ids, "m1")) == {ids[0]}
    assert set(select_vectors(db, "episodes", ids, "m2")) == {ids[0]}


def test_a_new_vector_takes_the_place_of_the_old(db: Connection, ids: list[int]) -> None:
    for text in (b"a" * 16, b"b" * 16):
        save_vectors(db, "episodes", "m", 1, [(ids[0], 1, text, vector(1))])
    assert select_vectors(db, "episodes", ids, "m") == {ids[0]: (b"b" * 16, vector(1))}


def test_a_vector_that_comes_late_takes_no_place_of_a_newer_one(db: Connection, ids: list[int]) -> None:
    changed, new = ids[:2]
    update_episode(db, UpdateEpisode(id=changed, user_message="other"), 2)
    replace_vector(db, "episodes", changed, "m", b"other" * 3 + b"!", vector(7))     # a caller's own
    for row_id in (changed, new):
        save_vectors(db, "episodes", "m", 1, [(row_id, 1, b"a" * 16, vector(1))])
    kept = select_vectors(db, "episodes", ids, "m")
    assert kept == {changed: (b"other" * 3 + b"!", vector(7)), new: (b"a" * 16, vector(1))}
    save_vectors(db, "episodes", "m", 1, [(changed, 2, b"b" * 16, vector(2))])
    assert select_vectors(db, "episodes", [changed], "m") == {changed: (b"b" * 16, vector(2))}


def test_vectors_go_with_their_rows_and_never_come_after(
    db: Connection, session: Session, ids: list[int]
) -> None:
    save_vectors(db, "episodes", "m", 1, [(i, 1, b"h" * 16, vector(1)) for i in ids])
    delete_episode(db, ids[0])
    save_vectors(db, "episodes", "m", 1, [(i, 1, b"h" * 16, vector(1)) for i in ids[:2]])
    assert set(select_vectors(db, "episodes", ids, "m")) == set(ids[1:])
    delete_session(db, DeleteSession(id=session.id))
    assert db.execute("SELECT count(*) FROM embeddings").get == 0


def test_a_vector_of_another_length_is_refused(db: Connection, ids: list[int]) -> None:
    with pytest.raises(apsw.ConstraintError):
        save_vectors(db, "episodes", "m", 2, [(ids[0], 1, b"h" * 16, vector(1))])

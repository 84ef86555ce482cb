"""Rows of another store: recognised, placed, and never looked for longer than there are others to be."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from nexusd.errors import Conflict, RowNotFound, RpcError
from nexusd.model.imports import ComparedRow, ImportedRow, ImportTable
from nexusd.model.sessions import Session
from nexusd.store.connection import Connection
from nexusd.store.import_targets import TARGETS
from nexusd.store.imports import compare_rows, import_rows

NOON = 1_700_000_000_000


def rows(table: ImportTable, *fields: dict[str, Any]) -> list[Any]:
    return [msgspec.convert({"createdAt": NOON, **each}, TARGETS[table].row) for each in fields]


def store(db: Connection, table: ImportTable, *fields: dict[str, Any], **how: Any) -> list[ImportedRow | RpcError]:
    return import_rows(db, rows(table, *fields), table, "model", **how)


def said(session: Session, text: str, **more: Any) -> dict[str, Any]:
    return {"sessionId": session.id, "userMessage": text, "aiResponse": "", **more}


def statements(db: Connection, run: Any) -> list[str]:
    """What was read and written, of the import itself."""
    seen: list[str] = []

    def note(_cursor: Any, sql: str, _bindings: Any) -> bool:
        seen.append(sql)
        return True

    db.exec_trace = note
    try:
        run()
    finally:
        db.exec_trace = None
    return seen


def test_thousands_of_rows_at_one_time_are_not_compared_with_each_other(db: Connection, session: Session) -> None:
    def run() -> None:
        for call in range(8):
            batch = [said(session, f"{call} {n}", takenBefore=call * 500) for n in range(500)]
            assert all(isinstance(answer, ImportedRow) for answer in store(db, "episodes", *batch))

    seen = statements(db, run)
    assert not any("user_message" in sql for sql in seen if sql.startswith("SELECT"))
    assert len(seen) < 8 * 20, "many rows a statement"


def test_a_run_again_finds_its_rows_under_their_ids_and_reads_no_other(db: Connection, session: Session) -> None:
    batch = [said(session, f"{n}", id=n + 1, takenBefore=0) for n in range(500)]
    store(db, "episodes", *batch)
    seen = statements(db, lambda: store(db, "episodes", *batch))
    assert not any("ORDER BY id" in sql for sql in seen)
    spoilt = [{**batch[0], "userMessage": "else"}]
    assert store(db, "episodes", *spoilt) == [ImportedRow(501, "inserted")]


def test_of_equal_rows_as_many_are_here_as_are_in_the_file(db: Connection, session: Session) -> None:
    store(db, "episodes", said(session, "no"), said(session, "yes"))
    items = [said(session, "yes", id=n + 1, occurrence=n, takenBefore=0) for n in range(3)]
    assert [one.outcome for one in store(db, "episodes", *items) if isinstance(one, ImportedRow)] == [
        "existing", "inserted", "inserted",
    ]
    assert db.execute("SELECT count(*) FROM episodes WHERE user_message = 'yes'").get == 3


def test_rows_that_others_put_in_the_same_place_are_compared(db: Connection, session: Session) -> None:
    store(db, "episodes", said(session, "mine"), said(session, "yours"))
    answers = store(db, "episodes", *(said(session, text, takenBefore=0) for text in ("new", "yours", "mine")))
    assert [answer.outcome for answer in answers if isinstance(answer, ImportedRow)] == [
        "inserted", "existing", "existing",
    ]


def test_a_run_that_was_cut_off_finds_its_rows_whatever_it_says_it_took(db: Connection, session: Session) -> None:
    texts = [f"t{n % 7}" for n in range(40)]    # many that are equal
    items = [said(session, text, occurrence=texts[:n].count(text)) for n, text in enumerate(texts)]
    first = store(db, "episodes", *({**item, "takenBefore": 0} for item in items[:25]))
    again = store(db, "episodes", *({**item, "takenBefore": 0} for item in items[:20]))
    assert [answer.id for answer in again if isinstance(answer, ImportedRow)] == [
        answer.id for answer in first[:20] if isinstance(answer, ImportedRow)
    ]
    rest = store(db, "episodes", *({**item, "takenBefore": 20} for item in items[20:]))
    outcomes = [answer.outcome for answer in rest if isinstance(answer, ImportedRow)]
    assert outcomes == ["existing"] * 5 + ["inserted"] * 15
    assert db.execute("SELECT count(*) FROM episodes").get == 40


def test_one_bad_row_of_a_batch_spoils_no_other_and_takes_no_id(db: Connection, session: Session) -> None:
    lost = {"sessionId": 999, "userMessage": "lost", "aiResponse": ""}
    items = [said(session, "a", id=5), {**lost, "id": 6}, said(session, "b"), said(session, "c", id=9)]
    one, bad, two, three = store(db, "episodes", *({**item, "takenBefore": 0} for item in items))
    assert isinstance(bad, RowNotFound)
    assert (one, two, three) == (ImportedRow(5, "inserted"), ImportedRow(6, "inserted"), ImportedRow(9, "inserted"))


def test_the_rule_decides_about_a_row_that_says_something_else(db: Connection, session: Session) -> None:
    row = {"externalId": session.external_id, "name": "new", "updatedAt": NOON + 5}
    assert store(db, "sessions", row) == [ImportedRow(session.id, "existing")]
    assert store(db, "sessions", row, rule="skip") == [ImportedRow(session.id, "kept")]
    (refused,) = store(db, "sessions", row, rule="fail")
    assert isinstance(refused, Conflict)
    assert store(db, "sessions", row, rule="update") == [ImportedRow(session.id, "updated")]
    assert store(db, "sessions", row, rule="fail") == [ImportedRow(session.id, "existing")]
    assert db.execute("SELECT name, updated_at FROM sessions WHERE id = ?", (session.id,)).fetchone() == (
        "new", NOON + 5,
    )
    (dangling,) = store(db, "sessions", {**row, "projectId": 99}, rule="update")
    assert isinstance(dangling, RowNotFound)


@pytest.mark.parametrize("change", [{"metadata": {"a": True}}, {"tokenCount": 4}])
def test_a_change_is_queued_for_the_index(db: Connection, session: Session, change: dict[str, Any]) -> None:
    first = said(session, "a", metadata={"a": 1})
    store(db, "episodes", first)
    db.execute("DELETE FROM outbox")
    store(db, "episodes", first, rule="update")
    assert db.execute("SELECT count(*) FROM outbox").get == 0
    store(db, "episodes", {**first, **change}, rule="update")
    assert db.execute("SELECT row_id, version FROM outbox").fetchall() == [(1, 2)]


def test_comparing_writes_nothing_and_tells_the_same(db: Connection, session: Session) -> None:
    store(db, "episodes", said(session, "a"), said(session, "b"))
    before = db.total_changes()
    items = rows("episodes", said(session, "b", metadata={"n": 1}), said(session, "a"), said(session, "c"))
    assert compare_rows(db, items, "episodes", "model") == [
        ComparedRow(2, "different"), ComparedRow(1, "same"), ComparedRow(None, "new"),
    ]
    assert db.total_changes() == before


def test_the_ends_of_a_run_that_are_gone_keep_their_times(db: Connection, session: Session) -> None:
    store(db, "summaries", {"sessionId": session.id, "content": "c", "firstEpisodeAt": 7, "lastEpisodeAt": 9})
    assert db.execute("SELECT first_episode_at, last_episode_at FROM summaries").fetchone() == (7, 9)


def test_a_vector_of_another_model_is_kept_as_that_models(db: Connection) -> None:
    store(db, "vectors", {"id": "k", "text": "t", "embedding": [1.0], "embeddingModel": "other"},
          {"id": "l", "text": "t", "embedding": [1.0]})
    assert db.execute("SELECT embedding_model FROM vectors").fetchall() == [("other",), ("model",)]

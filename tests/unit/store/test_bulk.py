from __future__ import annotations

import apsw
import pytest

from nexusd.errors import Conflict
from nexusd.model.sessions import CreateSession
from nexusd.store.bulk import write_one_by_one
from nexusd.store.connection import Connection
from nexusd.store.sessions import insert_session

NAMES = "SELECT external_id FROM sessions ORDER BY id"


def names(db: Connection) -> list[str]:
    return [name for (name,) in db.execute(NAMES)]


def write(db: Connection, name: str, now_ms: int) -> str:
    """Writes before it fails, so that there is something to undo."""
    insert_session(db, CreateSession(external_id=name), now_ms)
    if name.startswith("refused"):
        raise Conflict(name)
    if name.startswith("broken"):
        raise apsw.SQLError(name)
    return name.upper()


def test_an_item_that_is_refused_is_undone_alone(db: Connection) -> None:
    db.execute("BEGIN")
    answers = write_one_by_one(db, ["a", "refused", "b", "refused", "a"], write, 7)
    db.execute("COMMIT")
    assert [answer if isinstance(answer, str) else answer.message for answer in answers] == [
        "A", "refused", "B", "refused", "There is a session with this externalId already.",
    ]
    assert names(db) == ["a", "b"]
    assert db.execute("SELECT DISTINCT created_at FROM sessions").get == 7


def test_any_other_error_is_everybodys(db: Connection) -> None:
    db.execute("BEGIN")
    db.execute("SAVEPOINT request")
    with pytest.raises(apsw.SQLError):
        write_one_by_one(db, ["a", "broken", "b"], write, 1)
    db.execute("ROLLBACK TO request")   # as the writer does; the savepoint of the item is no obstacle
    db.execute("RELEASE request")
    write(db, "later", 1)
    db.execute("COMMIT")
    assert names(db) == ["later"]


def test_no_items_are_no_work(db: Connection) -> None:
    assert write_one_by_one(db, [], write, 1) == []

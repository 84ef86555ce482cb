from __future__ import annotations

import msgspec
import pytest

from nexusd.errors import IdempotencyMismatch, SessionNotFound
from nexusd.model.episodes import CreateEpisode, Episode
from nexusd.model.projects import CreateProject
from nexusd.model.sessions import Session
from nexusd.store.connection import Connection
from nexusd.store.episodes import insert_episode
from nexusd.store.idempotency import (
    KEPT_MS,
    PRUNE_EVERY,
    NotTogetherError,
    Receipt,
    answer_once,
    once,
    prune_receipts,
)
from nexusd.store.projects import insert_project

RECEIPT = Receipt("key", "uid:1", "projects.create", b"hash")


def create(db: Connection, receipt: Receipt = RECEIPT, now_ms: int = 1) -> object:
    return answer_once(db, receipt, now_ms, insert_project, (CreateProject(name="é"), now_ms))


def count(db: Connection, table: str) -> int:
    return db.execute(f"SELECT count(*) FROM {table}").get


def test_the_same_call_gets_the_same_reply_and_is_done_once(db: Connection) -> None:
    first = create(db)
    again = create(db, now_ms=1 + KEPT_MS - 1)
    assert isinstance(again, msgspec.Raw)
    assert msgspec.json.encode(again) == msgspec.json.encode(first)
    assert count(db, "projects") == 1


@pytest.mark.parametrize(
    "other",
    [
        Receipt("key", "uid:1", "projects.create", b"other"),
        Receipt("key", "uid:1", "sessions.create", b"hash"),
    ],
)
def test_the_key_of_another_call_is_refused(db: Connection, other: Receipt) -> None:
    create(db)
    with pytest.raises(IdempotencyMismatch):
        create(db, other)
    assert count(db, "projects") == 1


def test_keys_belong_to_their_principal(db: Connection) -> None:
    create(db)
    assert not isinstance(create(db, Receipt("key", "uid:2", "projects.create", b"hash")), msgspec.Raw)
    assert count(db, "projects") == 2


def test_an_expired_key_is_free_for_any_call(db: Connection) -> None:
    create(db)
    other = Receipt("key", "uid:1", "projects.create", b"other")
    assert not isinstance(create(db, other, 1 + KEPT_MS), msgspec.Raw)
    assert isinstance(create(db, other, 2 + KEPT_MS), msgspec.Raw)
    assert count(db, "idempotency") == 1


def test_a_failed_call_leaves_no_receipt(db: Connection) -> None:
    bad = CreateEpisode(session_id=99, user_message="x", ai_response="")
    for _ in range(2):
        with pytest.raises(SessionNotFound):
            answer_once(db, RECEIPT, 1, insert_episode, (bad, 1))
    assert count(db, "idempotency") == 0


def calls(session: Session, keys: list[str], now_ms: int = 1) -> list[tuple[object, ...]]:
    return [
        (
            Receipt(key, "uid:1", "episodes.create", b"hash"),
            now_ms,
            insert_episode,
            (CreateEpisode(session_id=session.id, user_message=key, ai_response=""), now_ms),
        )
        for key in keys
    ]


def test_calls_done_together_keep_a_receipt_each(db: Connection, session: Session) -> None:
    grouped = once(insert_episode)
    assert grouped is once(insert_episode)      # or neighbours would never be done together
    keys = [f"k{i}" for i in range(70)]
    rows = grouped.many(db, calls(session, keys))
    assert [row.user_message for row in rows] == keys
    for call, row in zip(calls(session, keys), rows, strict=True):
        again = grouped(db, *call)
        assert isinstance(again, msgspec.Raw)
        assert msgspec.json.decode(again, type=Episode) == row
    assert count(db, "episodes") == 70


@pytest.mark.parametrize("keys", [["a", "b", "a"], ["c", "known"]])
def test_calls_with_a_key_twice_or_known_are_not_done_together(
    db: Connection, session: Session, keys: list[str]
) -> None:
    grouped = once(insert_episode)
    grouped(db, *calls(session, ["known"])[0])
    with pytest.raises(NotTogetherError):
        grouped.many(db, calls(session, keys))
    assert count(db, "idempotency") == count(db, "episodes") == 1


def test_old_receipts_go_with_new_ones(db: Connection) -> None:
    for i in range(PRUNE_EVERY - 1):
        create(db, Receipt(f"old{i}", "uid:1", "projects.create", b"hash"))
    for i in range(PRUNE_EVERY):
        create(db, Receipt(f"new{i}", "uid:1", "projects.create", b"hash"), 2 + KEPT_MS)
    keys = {key for (key,) in db.execute("SELECT key FROM idempotency")}
    assert keys == {f"new{i}" for i in range(PRUNE_EVERY)}


def test_living_receipts_are_not_pruned(db: Connection) -> None:
    create(db)
    assert prune_receipts(db, KEPT_MS) == 0
    assert prune_receipts(db, KEPT_MS + 2) == 1

from __future__ import annotations

from typing import Any

import pytest

from nexusd.errors import InvalidParams, SessionNotFound, SummaryNotFound
from nexusd.model.episodes import NewEpisode
from nexusd.model.sessions import CreateSession, Session
from nexusd.model.summaries import CreateSummary, ListSummaries, Summary
from nexusd.store.connection import Connection
from nexusd.store.episodes import delete_episode, insert_episode
from nexusd.store.integrity import check_integrity
from nexusd.store.sessions import insert_session
from nexusd.store.summaries import delete_summary, insert_summary, list_summaries, select_summary
from nexusd.wire.validation import validate


def episode(db: Connection, session_id: int, created_at: int) -> int:
    new = NewEpisode(session_id=session_id, user_message="q", ai_response="a", created_at=created_at)
    return insert_episode(db, new, 1).id


def summarise(db: Connection, session_id: int, content: str = "s", **fields: Any) -> Summary:
    return insert_summary(db, CreateSummary(session_id=session_id, content=content, **fields), 5)


def test_a_summary_comes_back_as_it_was_made(db: Connection, session: Session) -> None:
    first, last = episode(db, session.id, 1), episode(db, session.id, 2)
    new = CreateSummary(
        session_id=session.id, content="all of it", first_episode_id=first, last_episode_id=last, token_count=3,
        metadata={"model": "m"},
    )
    made = insert_summary(db, new, 5)
    assert made == Summary(
        id=made.id, session_id=session.id, content="all of it", first_episode_id=first, last_episode_id=last,
        token_count=3, metadata={"model": "m"}, version=1, created_at=5, updated_at=5, vector="pending",
    )
    assert select_summary(db, made.id) == made
    queued = db.execute("SELECT row_id, version, op FROM outbox WHERE collection = 'summaries'").fetchall()
    assert queued == [(made.id, 1, "upsert")]
    found = db.execute("SELECT rowid FROM summaries_fts WHERE summaries_fts MATCH 'all'").fetchall()
    assert found == [(made.id,)]


def test_an_imported_summary_keeps_its_time(db: Connection, session: Session) -> None:
    made = summarise(db, session.id, created_at=2)
    assert (made.created_at, made.updated_at) == (2, 5)


def test_a_run_of_one_exchange_is_a_run(db: Connection, session: Session) -> None:
    only = episode(db, session.id, 1)
    assert summarise(db, session.id, first_episode_id=only, last_episode_id=only).first_episode_id == only


def test_the_order_of_a_run_is_by_time_and_only_then_by_id(db: Connection, session: Session) -> None:
    late, early, early_too = (episode(db, session.id, created_at) for created_at in (9, 1, 1))
    summarise(db, session.id, first_episode_id=early, last_episode_id=late)
    summarise(db, session.id, first_episode_id=early, last_episode_id=early_too)
    for first, last in ((late, early), (early_too, early)):
        with pytest.raises(InvalidParams) as refused:
            summarise(db, session.id, first_episode_id=first, last_episode_id=last)
        assert [field.path for field in refused.value.fields] == ["lastEpisodeId"]


def test_the_ends_of_a_run_are_exchanges_of_the_session(db: Connection, session: Session) -> None:
    other = insert_session(db, CreateSession(external_id="other"), 1)
    mine, foreign = episode(db, session.id, 1), episode(db, other.id, 1)
    for first, last, wrong in (
        (foreign, mine, ["firstEpisodeId"]), (mine, 999, ["lastEpisodeId"]),
        (foreign, foreign, ["firstEpisodeId", "lastEpisodeId"]),
    ):
        with pytest.raises(InvalidParams) as refused:
            summarise(db, session.id, first_episode_id=first, last_episode_id=last)
        assert [field.path for field in refused.value.fields] == wrong
    assert db.execute("SELECT count(*) FROM summaries").get == 0


def test_an_unknown_session_is_not_found_with_a_run_and_without(db: Connection, session: Session) -> None:
    mine = episode(db, session.id, 1)
    with pytest.raises(SessionNotFound):
        summarise(db, 99)
    with pytest.raises(SessionNotFound):
        summarise(db, 99, first_episode_id=mine, last_episode_id=mine)
    with pytest.raises(SessionNotFound):
        list_summaries(db, ListSummaries(session_id=99))


def test_a_summary_outlives_its_exchanges(db: Connection, session: Session) -> None:
    only = episode(db, session.id, 1)
    made = summarise(db, session.id, first_episode_id=only, last_episode_id=only)
    delete_episode(db, only)
    assert select_summary(db, made.id) == made


@pytest.mark.parametrize(
    ("wrong", "path"),
    [({"content": ""}, "content"), ({"content": " \n\t"}, "content"), ({"firstEpisodeId": 1}, ""),
     ({"lastEpisodeId": 1}, ""), ({"tokenCount": -1}, "tokenCount"), ({"createdAt": -1}, "createdAt")],
)
def test_what_no_summary_may_be_is_refused_by_name(wrong: dict[str, object], path: str) -> None:
    with pytest.raises(InvalidParams) as refused:
        validate(CreateSummary, {"sessionId": 1, "content": "\n c", **wrong})
    assert [field.path for field in refused.value.fields] == [path]


def test_a_sessions_summaries_are_listed_by_time_newest_first(db: Connection, session: Session) -> None:
    other = insert_session(db, CreateSession(external_id="other"), 1)
    made = [summarise(db, session.id, created_at=created_at) for created_at in (3, 1, 1, 2)]
    summarise(db, other.id)
    wanted = [made[place] for place in (0, 3, 2, 1)]
    first = list_summaries(db, ListSummaries(session_id=session.id, limit=2))
    delete_summary(db, first.items[-1].id)      # the one that the cursor stands on
    rest = list_summaries(db, ListSummaries(session_id=session.id, cursor=first.next_cursor))
    assert first.items + rest.items == wanted
    assert list_summaries(db, ListSummaries(session_id=session.id, offset=1, limit=1)).items == wanted[2:3]
    with pytest.raises(InvalidParams):
        list_summaries(db, ListSummaries(session_id=session.id, cursor="x"))


def test_a_page_ends_where_its_texts_would_be_too_much(db: Connection, session: Session) -> None:
    for _ in range(3):
        summarise(db, session.id, content="x" * (4 * 1024 * 1024))
    first = list_summaries(db, ListSummaries(session_id=session.id))
    rest = list_summaries(db, ListSummaries(session_id=session.id, cursor=first.next_cursor))
    assert (len(first.items), len(rest.items)) == (1, 1)
    assert rest.next_cursor is not None


def test_a_deleted_summary_is_queued_for_removal_and_no_longer_found(db: Connection, session: Session) -> None:
    made = summarise(db, session.id)
    db.execute("DELETE FROM outbox")
    gone = delete_summary(db, made.id)
    assert (gone.deleted, gone.points_queued) == ({"summaries": 1}, 1)
    assert db.execute("SELECT collection, row_id, op FROM outbox").fetchall() == [("summaries", made.id, "delete")]
    for missing in (select_summary, delete_summary):
        with pytest.raises(SummaryNotFound):
            missing(db, made.id)
    assert check_integrity(db) == []

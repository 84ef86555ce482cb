from __future__ import annotations

import random

import pytest

from nexusd.errors import EpisodeNotFound, SessionNotFound
from nexusd.model.episodes import CreateEpisode, Episode, ListEpisodes, NewEpisode, UpdateEpisode
from nexusd.model.memory import MemoryFilter
from nexusd.model.projects import CreateProject
from nexusd.model.sessions import CreateSession, Session
from nexusd.store.connection import Connection
from nexusd.store.episodes import (
    LIST_EPISODES_DOWN,
    LIST_EPISODES_UP,
    EpisodeSource,
    count_episodes,
    delete_episode,
    insert_episode,
    insert_episodes,
    list_episodes,
    recent_episodes,
    select_episode,
    select_episode_sources,
    select_episodes,
    update_episode,
)
from nexusd.store.outbox import bury, claim_batch, finish_batch
from nexusd.store.projects import insert_project
from nexusd.store.sessions import insert_session


def new(session: Session, text: str = "hello", **more: object) -> NewEpisode:
    return NewEpisode(session_id=session.id, user_message=text, ai_response="", **more)


def found(db: Connection, words: str) -> list[int]:
    sql = "SELECT rowid FROM episodes_fts WHERE episodes_fts MATCH ? ORDER BY 1"
    return [row_id for (row_id,) in db.execute(sql, (words,))]


def test_episode_comes_back_as_it_was_made(db: Connection, session: Session) -> None:
    params = CreateEpisode(
        session_id=session.id, user_message="naïve \U0001f600\x00x", ai_response="", token_count=3,
        metadata={"k": {"deep": [1.5, "é"]}}, created_at=7,
    )
    made = insert_episode(db, params, 1_000)
    assert made == Episode(
        id=made.id, session_id=session.id, user_message=params.user_message, ai_response="", token_count=3,
        metadata=params.metadata, version=1, created_at=7, updated_at=1_000, vector="pending",
    )
    assert select_episode(db, made.id) == made


def test_many_together_are_the_same_as_one_by_one(db: Connection, session: Session) -> None:
    calls = [(new(session, f"m{i}", metadata={"i": i}), 100 + i) for i in range(70)]
    rows = insert_episode.many(db, calls)
    assert [row.id for row in rows] == sorted(row.id for row in rows)
    for (item, now_ms), row in zip(calls, rows, strict=True):
        assert row == select_episode(db, row.id)
        assert (row.user_message, row.metadata, row.created_at) == (item.user_message, item.metadata, now_ms)
    assert insert_episode(db, new(session), 1).id == rows[-1].id + 1
    assert count_episodes(db) == 71


def test_unknown_session_is_named(db: Connection, session: Session) -> None:
    stranger = NewEpisode(session_id=99, user_message="x", ai_response="")
    with pytest.raises(SessionNotFound):
        insert_episode(db, stranger, 1)
    results = insert_episodes(db, [new(session, "a"), stranger, new(session, "b")], 1)
    assert [type(result) for result in results] == [Episode, SessionNotFound, Episode]
    assert found(db, "a OR b OR x") == [results[0].id, results[2].id]


def test_ids_are_never_used_twice(db: Connection, session: Session) -> None:
    first = insert_episode(db, new(session), 1)
    delete_episode(db, first.id)
    second = insert_episode.many(db, [(new(session), 1)])[0]
    delete_episode(db, second.id)
    assert first.id < second.id < insert_episode(db, new(session), 1).id


def test_vector_says_what_the_outbox_owes(db: Connection, session: Session) -> None:
    one, two = (insert_episode(db, new(session), 1) for _ in range(2))
    entries = {entry.row_id: entry for entry in claim_batch(db, 10, 10**15, 0, ["episodes"])}
    assert select_episode(db, one.id).vector == "pending"
    finish_batch(db, [entries[one.id]])
    bury(db, entries[two.id], "bad_content", "why")
    assert [select_episode(db, e.id).vector for e in (one, two)] == ["indexed", "dead"]


def test_update_bumps_the_version_and_moves_the_words(db: Connection, session: Session) -> None:
    episode = insert_episode(db, new(session, "apples"), 1)
    finish_batch(db, claim_batch(db, 10, 10**15, 0, ["episodes"]))
    changed = update_episode(db, UpdateEpisode(id=episode.id, user_message="pears"), 2)
    assert (changed.version, changed.updated_at, changed.vector) == (2, 2, "pending")
    assert found(db, "apples") == []
    assert found(db, "pears") == [episode.id]
    assert update_episode(db, UpdateEpisode(id=episode.id, metadata={"a": 1}), 3).version == 3
    assert update_episode(db, UpdateEpisode(id=episode.id, metadata={"a": True}), 3).version == 4


def test_update_that_changes_nothing_queues_nothing(db: Connection, session: Session) -> None:
    episode = insert_episode(db, new(session, "apples"), 1)
    finish_batch(db, claim_batch(db, 10, 10**15, 0, ["episodes"]))
    same = update_episode(db, UpdateEpisode(id=episode.id, user_message="apples", token_count=None), 2)
    assert (same.version, same.updated_at, same.vector) == (1, 1, "indexed")


def test_what_is_not_there_is_not_found(db: Connection) -> None:
    with pytest.raises(EpisodeNotFound):
        select_episode(db, 1)
    with pytest.raises(EpisodeNotFound):
        update_episode(db, UpdateEpisode(id=1, ai_response="x"), 1)
    with pytest.raises(EpisodeNotFound):
        delete_episode(db, 1)
    with pytest.raises(SessionNotFound):
        list_episodes(db, ListEpisodes(session_id=1))


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_follow_created_at_and_stay_stable(db: Connection, session: Session, order: str) -> None:
    chance = random.Random(5)
    times = [chance.randrange(1, 5) for _ in range(20)]    # many equal times
    rows = insert_episodes(db, [new(session, f"m{i}", created_at=t) for i, t in enumerate(times)], 50)
    expected = sorted((row.created_at, row.id) for row in rows)
    if order == "desc":
        expected.reverse()
    seen, cursor = [], None
    while True:
        page = list_episodes(db, ListEpisodes(session_id=session.id, limit=3, cursor=cursor, order=order))
        seen += [(e.created_at, e.id) for e in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
        # a row before the cursor comes and the cursor's own row goes: neither moves what follows
        insert_episode(db, new(session, "late", created_at=0 if order == "asc" else 1_000), 60)
        delete_episode(db, page.items[-1].id)
    assert [place for place in seen if place[0] != 1_000] == expected
    assert list_episodes(db, ListEpisodes(session_id=session.id, offset=10**9)).items == []


@pytest.mark.parametrize("sql", [LIST_EPISODES_DOWN, LIST_EPISODES_UP])
def test_a_page_is_read_from_the_index_without_sorting(db: Connection, sql: str) -> None:
    plan = " ".join(row[3] for row in db.execute("EXPLAIN QUERY PLAN " + sql, (1, 1, 1, 1, 0)))
    assert "episodes_by_session" in plan
    assert "TEMP B-TREE" not in plan


def test_recent_episodes_are_the_latest_oldest_first(db: Connection, session: Session) -> None:
    rows = insert_episodes(db, [new(session, str(i), created_at=i) for i in (3, 1, 2)], 1)
    assert [e.id for e in recent_episodes(db, session.id, 2)] == [rows[2].id, rows[0].id]
    assert recent_episodes(db, 99, 2) == []


def test_filter_holds_on_the_rows(db: Connection) -> None:
    project = insert_project(db, CreateProject(name="p"), 1)
    inside = insert_session(db, CreateSession(external_id="in", project_id=project.id), 1)
    outside = insert_session(db, CreateSession(external_id="out"), 1)
    odd_key = 'a"b.c\\é'
    rows = insert_episodes(
        db,
        [
            new(inside, "a", created_at=10, metadata={"n": 1, odd_key: "x"}),
            new(inside, "b", created_at=20, metadata={"n": True}),
            new(outside, "c", created_at=30, metadata={"n": "1"}),
        ],
        1,
    )
    a, b, c = (row.id for row in rows)
    for where, expected in [
        (MemoryFilter(), {a, b, c}),
        (MemoryFilter(session_id=inside.id), {a, b}),
        (MemoryFilter(project_id=project.id), {a, b}),
        (MemoryFilter(since=20), {b, c}),
        (MemoryFilter(until=20), {a}),
        (MemoryFilter(metadata={"n": 1}), {a}),
        (MemoryFilter(metadata={"n": True}), {b}),
        (MemoryFilter(metadata={"n": False}), set()),
        (MemoryFilter(metadata={"n": "1"}), {c}),
        (MemoryFilter(metadata={odd_key: "x"}), {a}),
        (MemoryFilter(metadata={"n": 1, "m": 1}), set()),
        (MemoryFilter(since=10, until=31, metadata={"n": "1"}), {c}),
    ]:
        assert set(select_episodes(db, [a, b, c, 999], where)) == expected, where
    assert select_episodes(db, [a], MemoryFilter())[a] == select_episode(db, a)


def test_sources_carry_what_the_index_needs(db: Connection) -> None:
    project = insert_project(db, CreateProject(name="p"), 1)
    session = insert_session(db, CreateSession(external_id="in", project_id=project.id), 1)
    episode = insert_episode(db, new(session, "hi", created_at=4, metadata={"a": 1}), 9)
    (source,) = select_episode_sources(db, [episode.id, 99])
    assert source == EpisodeSource(
        id=episode.id, version=1, session_id=session.id, project_id=project.id, user_message="hi",
        ai_response="", metadata={"a": 1}, created_at=4,
    )


def test_a_page_of_very_long_exchanges_ends_early_and_the_cursor_goes_on(db: Connection, session: Session) -> None:
    texts = [f"{n} " + "x" * 3_000_000 for n in range(5)]
    for text in texts:
        insert_episode(db, new(session, text), 1_000)
    seen, cursor, pages = [], None, 0
    while True:
        page = list_episodes(db, ListEpisodes(session_id=session.id, order="asc", cursor=cursor))
        assert page.items
        seen += [episode.user_message[0] for episode in page.items]
        pages, cursor = pages + 1, page.next_cursor
        if cursor is None:
            break
    assert (seen, pages) == (["0", "1", "2", "3", "4"], 3)

from __future__ import annotations

import pytest
from harness.examples import undone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexusd.errors import InvalidParams
from nexusd.model.episodes import NewEpisode
from nexusd.model.sessions import CreateSession, Session
from nexusd.model.summaries import CreateSummary, ListPendingSummaries, PendingSummary
from nexusd.store.connection import Connection
from nexusd.store.episodes import delete_episode, insert_episode
from nexusd.store.sessions import insert_session
from nexusd.store.summaries import insert_summary
from nexusd.store.unsummarised import list_unsummarised


def episodes(db: Connection, session_id: int, *times: int) -> list[int]:
    return [
        insert_episode(db, NewEpisode(session_id=session_id, user_message="q", ai_response="a", created_at=time), 1).id
        for time in times
    ]


def cover(db: Connection, session_id: int, first: int | None = None, last: int | None = None) -> None:
    new = CreateSummary(session_id=session_id, content="s", first_episode_id=first, last_episode_id=last)
    insert_summary(db, new, 1)


def pending(db: Connection, **page: object) -> list[PendingSummary]:
    return list_unsummarised(db, ListPendingSummaries(**page)).items  # type: ignore[arg-type]


def test_a_session_without_summaries_waits_as_a_whole(db: Connection, session: Session) -> None:
    assert pending(db) == []    # and one without exchanges for nothing
    last, first, middle = episodes(db, session.id, 9, 5, 7)
    assert middle
    cover(db, session.id)       # a summary of no run covers nothing
    assert pending(db) == [
        PendingSummary(
            session_id=session.id, external_id="first", name=None, pending_episodes=3, first_episode_id=first,
            last_episode_id=last, oldest_at=5,
        )
    ]


def test_what_stands_between_two_runs_waits(db: Connection, session: Session) -> None:
    ids = episodes(db, session.id, *range(10))
    cover(db, session.id, ids[6], ids[7])
    cover(db, session.id, ids[1], ids[3])
    (one,) = pending(db)
    assert (one.pending_episodes, one.first_episode_id, one.last_episode_id) == (5, ids[0], ids[9])
    cover(db, session.id, ids[0], ids[9])   # holds the others
    assert pending(db) == []


def test_a_run_keeps_its_place_when_its_ends_are_deleted(db: Connection, session: Session) -> None:
    ids = episodes(db, session.id, *range(6))
    cover(db, session.id, ids[1], ids[4])
    delete_episode(db, ids[1])
    delete_episode(db, ids[4])
    (one,) = pending(db)
    assert (one.pending_episodes, one.first_episode_id, one.last_episode_id) == (2, ids[0], ids[5])


def test_the_longest_waiting_come_first_in_pages(db: Connection) -> None:
    waiting = []
    for i, oldest in enumerate((30, 10, 20, 10)):
        session = insert_session(db, CreateSession(external_id=f"s{i}", name=f"name {i}"), 1)
        episodes(db, session.id, oldest, *range(40, 40 + i))
        waiting.append(session.id)
    order = [waiting[place] for place in (1, 3, 2, 0)]
    assert [one.session_id for one in pending(db)] == order
    first = list_unsummarised(db, ListPendingSummaries(limit=1))
    rest = list_unsummarised(db, ListPendingSummaries(cursor=first.next_cursor))
    assert [one.session_id for one in first.items + rest.items] == order
    assert rest.next_cursor is None
    assert [one.session_id for one in pending(db, limit=2, offset=1)] == order[1:3]
    assert [one.session_id for one in pending(db, min_episodes=3)] == [waiting[3], waiting[2]]
    assert first.items[0].name == "name 1"
    with pytest.raises(InvalidParams):
        pending(db, cursor="x")


TIMES = st.lists(st.integers(0, 5), max_size=8)     # times are often the same: then ids decide
RUNS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=5)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(TIMES, RUNS), max_size=3), st.sets(st.integers(0, 20), max_size=3), st.integers(1, 3))
def test_what_waits_is_what_no_run_holds(
    db: Connection, sessions: list[tuple[list[int], list[tuple[int, int]]]], dropped: set[int], least: int
) -> None:
    with undone(db):
        expected = []
        for number, (times, runs) in enumerate(sessions):
            session_id = insert_session(db, CreateSession(external_id=f"x{number}"), 1).id
            places = sorted(zip(times, episodes(db, session_id, *times), strict=True))
            held = []
            for ends in runs if places else []:
                first, last = sorted(places[end % len(places)] for end in ends)
                cover(db, session_id, first[1], last[1])
                held.append((first, last))
            for place in [places[index] for index in dropped if index < len(places)]:
                delete_episode(db, place[1])
                places.remove(place)
            open_ = [place for place in places if not any(first <= place <= last for first, last in held)]
            if len(open_) >= least:
                expected.append((open_[0][0], session_id, len(open_), open_[0][1], open_[-1][1]))
        found = pending(db, min_episodes=least)
    assert [
        (one.oldest_at, one.session_id, one.pending_episodes, one.first_episode_id, one.last_episode_id)
        for one in found
    ] == sorted(expected)

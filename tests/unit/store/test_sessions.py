from __future__ import annotations

import pytest

from nexusd.errors import Conflict, InvalidParams, ProjectNotFound, SessionNotFound
from nexusd.model.episodes import NewEpisode
from nexusd.model.projects import CreateProject
from nexusd.model.sessions import CreateSession, DeleteSession, ListSessions, Session, UpdateSession
from nexusd.store.connection import Connection
from nexusd.store.episodes import insert_episodes
from nexusd.store.outbox import claim_batch, finish_batch, unfinished
from nexusd.store.projects import delete_project, insert_project
from nexusd.store.sessions import (
    delete_session,
    insert_session,
    list_sessions,
    select_session,
    select_session_by_external_id,
    update_session,
)


def add_episodes(db: Connection, session: Session, count: int) -> list[int]:
    items = [NewEpisode(session_id=session.id, user_message=f"m{i}", ai_response="a") for i in range(count)]
    return [episode.id for episode in insert_episodes(db, items, 1)]


def settle(db: Connection) -> None:
    finish_batch(db, claim_batch(db, 10_000, 10**15, 0, ["episodes"]))


def versions(db: Connection) -> dict[int, int]:
    return dict(db.execute("SELECT row_id, version FROM outbox").fetchall())


def test_session_comes_back_as_it_was_made(db: Connection) -> None:
    project = insert_project(db, CreateProject(name="p"), 1)
    new = CreateSession(
        external_id="é\U0001f600", name="n", project_id=project.id, metadata={"a": [1, None]}
    )
    made = insert_session(db, new, 5)
    assert made == Session(
        id=made.id, external_id="é\U0001f600", name="n", project_id=project.id, metadata={"a": [1, None]},
        created_at=5, updated_at=5,
    )
    assert select_session(db, made.id) == made
    assert select_session_by_external_id(db, made.external_id) == made


def test_external_id_is_used_once(db: Connection, session: Session) -> None:
    with pytest.raises(Conflict):
        insert_session(db, CreateSession(external_id=session.external_id), 2)


def test_unknown_project_is_named(db: Connection, session: Session) -> None:
    with pytest.raises(ProjectNotFound):
        insert_session(db, CreateSession(external_id="x", project_id=99), 2)
    with pytest.raises(ProjectNotFound):
        update_session(db, UpdateSession(id=session.id, project_id=99), 2)


def test_unknown_sessions_are_not_found(db: Connection) -> None:
    with pytest.raises(SessionNotFound):
        select_session(db, 1)
    with pytest.raises(SessionNotFound):
        select_session_by_external_id(db, "x")
    with pytest.raises(SessionNotFound):
        update_session(db, UpdateSession(id=1, name="x"), 1)
    with pytest.raises(SessionNotFound):
        delete_session(db, DeleteSession(external_id="x"))


def test_pages_are_stable_under_inserts_and_deletes(db: Connection) -> None:
    ids = [insert_session(db, CreateSession(external_id=f"s{i}"), 1).id for i in range(7)]
    first = list_sessions(db, ListSessions(limit=3))
    insert_session(db, CreateSession(external_id="new"), 1)
    delete_session(db, DeleteSession(id=first.items[-1].id))    # the row that the cursor stands on
    second = list_sessions(db, ListSessions(limit=3, cursor=first.next_cursor))
    third = list_sessions(db, ListSessions(limit=3, cursor=second.next_cursor))
    assert [s.id for page in (first, second, third) for s in page.items] == ids[::-1]
    assert third.next_cursor is None


def test_offset_counts_and_goes_on_by_cursor(db: Connection) -> None:
    ids = [insert_session(db, CreateSession(external_id=f"s{i}"), 1).id for i in range(5)]
    page = list_sessions(db, ListSessions(limit=2, offset=1))
    rest = list_sessions(db, ListSessions(limit=10, cursor=page.next_cursor))
    assert [s.id for s in page.items + rest.items] == ids[::-1][1:]


def test_list_of_a_project_holds_its_sessions_only(db: Connection) -> None:
    project = insert_project(db, CreateProject(name="p"), 1)
    mine = insert_session(db, CreateSession(external_id="a", project_id=project.id), 1)
    insert_session(db, CreateSession(external_id="b"), 1)
    assert list_sessions(db, ListSessions(project_id=project.id)).items == [mine]
    assert list_sessions(db, ListSessions(project_id=project.id + 1)).items == []


def test_bad_cursor_is_refused_by_name(db: Connection) -> None:
    with pytest.raises(InvalidParams):
        list_sessions(db, ListSessions(cursor="nonsense"))


def test_update_changes_what_is_given(db: Connection, session: Session) -> None:
    changed = update_session(db, UpdateSession(external_id="first", name="new"), 2_000)
    assert (changed.name, changed.metadata, changed.updated_at) == ("new", session.metadata, 2_000)
    for value in (True, 1):     # equal to Python, not to JSON
        update_session(db, UpdateSession(id=session.id, metadata={"a": value}), 3_000)
        assert select_session(db, session.id).metadata["a"] is value


def test_update_that_changes_nothing_changes_nothing(db: Connection, session: Session) -> None:
    assert update_session(db, UpdateSession(id=session.id, metadata={}), 9_000) == session


def test_new_project_queues_the_sessions_points_again(db: Connection, session: Session) -> None:
    project = insert_project(db, CreateProject(name="p"), 1)
    other = insert_session(db, CreateSession(external_id="other"), 1)
    mine, _others = add_episodes(db, session, 2), add_episodes(db, other, 1)
    settle(db)
    update_session(db, UpdateSession(id=session.id, project_id=project.id), 2)
    assert versions(db) == dict.fromkeys(mine, 2)
    settle(db)
    update_session(db, UpdateSession(id=session.id, name="only the name"), 3)
    assert versions(db) == {}
    update_session(db, UpdateSession(id=session.id, project_id=None), 4)
    assert versions(db) == dict.fromkeys(mine, 3)


def test_deleting_a_project_keeps_its_sessions_and_queues_their_points(db: Connection) -> None:
    project = insert_project(db, CreateProject(name="p"), 1)
    session = insert_session(db, CreateSession(external_id="a", project_id=project.id), 1)
    ids = add_episodes(db, session, 2)
    settle(db)
    assert delete_project(db, project.id).deleted == {"projects": 1}
    assert select_session(db, session.id).project_id is None
    assert versions(db) == dict.fromkeys(ids, 2)
    with pytest.raises(ProjectNotFound):
        delete_project(db, project.id)


def test_delete_takes_everything_and_queues_every_point(db: Connection, session: Session) -> None:
    ids = add_episodes(db, session, 3)
    settle(db)
    db.execute(
        "INSERT INTO summaries (session_id, content, created_at, updated_at) VALUES (?, 's', 1, 1)",
        (session.id,),
    )
    gone = delete_session(db, DeleteSession(id=session.id))
    assert gone.deleted == {"sessions": 1, "episodes": 3, "summaries": 1}
    assert gone.points_queued == 4
    assert set(unfinished(db, "episodes", ids)) == set(ids)
    assert {op for (op,) in db.execute("SELECT op FROM outbox")} == {"delete"}
    assert db.execute("SELECT count(*) FROM episodes").get == 0
    assert insert_session(db, CreateSession(external_id="first"), 1).id > session.id

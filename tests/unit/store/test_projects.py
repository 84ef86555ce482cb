from __future__ import annotations

import pytest

from nexusd.errors import InvalidParams, ProjectNotFound
from nexusd.model.episodes import NewEpisode
from nexusd.model.projects import CreateProject, ListProjects, Project, UpdateProject
from nexusd.model.sessions import CreateSession, DeleteSession, UpdateSession
from nexusd.model.summaries import CreateSummary
from nexusd.store.connection import Connection
from nexusd.store.episodes import insert_episodes
from nexusd.store.projects import delete_project, insert_project, list_projects, select_project, update_project
from nexusd.store.sessions import delete_session, insert_session, select_session, update_session
from nexusd.store.summaries import insert_summary
from nexusd.store.text_budget import MAX_ANSWER_TEXT
from nexusd.wire.validation import validate

QUEUED = "SELECT collection, row_id, op FROM outbox ORDER BY collection, row_id"


def fill(db: Connection, external_id: str, project_id: int | None, *, episodes: int, summaries: int) -> int:
    session = insert_session(db, CreateSession(external_id=external_id, project_id=project_id), 1).id
    items = [NewEpisode(session_id=session, user_message="q", ai_response="a") for _ in range(episodes)]
    insert_episodes(db, items, 1)
    for _ in range(summaries):
        insert_summary(db, CreateSummary(session_id=session, content="s"), 1)
    return session


def queued(db: Connection) -> list[tuple[str, int, str]]:
    return db.execute(QUEUED).fetchall()


def test_a_project_comes_back_as_it_was_made(db: Connection) -> None:
    made = insert_project(db, CreateProject(name="p", description="d", colour="#3d3a79", icon="\U0001f331"), 5)
    assert made == Project(
        id=made.id, name="p", description="d", colour="#3d3a79", icon="\U0001f331", created_at=5, updated_at=5
    )
    assert select_project(db, made.id) == made


def test_two_projects_may_have_one_name(db: Connection) -> None:
    assert insert_project(db, CreateProject(name="p"), 1).id != insert_project(db, CreateProject(name="p"), 1).id


def test_unknown_projects_are_not_found(db: Connection) -> None:
    with pytest.raises(ProjectNotFound):
        select_project(db, 1)
    with pytest.raises(ProjectNotFound):
        update_project(db, UpdateProject(id=1, name="x"), 1)
    with pytest.raises(ProjectNotFound):
        delete_project(db, 1)


def test_pages_go_from_the_newest_to_the_oldest_by_cursor_and_by_offset(db: Connection) -> None:
    ids = [insert_project(db, CreateProject(name=f"p{i}"), 1).id for i in range(5)][::-1]
    first = list_projects(db, ListProjects(limit=2))
    delete_project(db, ids[1])      # the one that the cursor stands on
    rest = list_projects(db, ListProjects(limit=3, cursor=first.next_cursor))
    assert [project.id for project in first.items + rest.items] == ids
    assert rest.next_cursor is None
    assert [project.id for project in list_projects(db, ListProjects(limit=2, offset=1)).items] == ids[2:4]
    with pytest.raises(InvalidParams):
        list_projects(db, ListProjects(cursor="x"))


def test_a_page_ends_where_its_texts_would_be_too_much(db: Connection) -> None:
    count = MAX_ANSWER_TEXT // 65_536 + 2
    for i in range(count):
        insert_project(db, CreateProject(name=f"p{i}", description="d" * 65_536), 1)
    first = list_projects(db, ListProjects(limit=500))
    rest = list_projects(db, ListProjects(limit=500, cursor=first.next_cursor))
    assert (len(first.items), len(rest.items)) == (count - 2, 2)


def test_update_changes_what_is_given_and_null_takes_away(db: Connection) -> None:
    made = insert_project(db, CreateProject(name="p", description="d", colour="red", icon="i"), 1)
    renamed = update_project(db, UpdateProject(id=made.id, name="q"), 2)
    assert (renamed.name, renamed.description, renamed.colour, renamed.icon) == ("q", "d", "red", "i")
    assert (renamed.created_at, renamed.updated_at) == (1, 2)
    bare = update_project(db, UpdateProject(id=made.id, description=None, colour=None, icon=None), 3)
    assert (bare.name, bare.description, bare.colour, bare.icon) == ("q", None, None, None)
    assert select_project(db, made.id) == bare


def test_an_update_that_changes_nothing_leaves_the_time(db: Connection) -> None:
    made = insert_project(db, CreateProject(name="p", icon="i"), 1)
    assert update_project(db, UpdateProject(id=made.id, name="p", colour=None, icon="i"), 9) == made


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"name": ""}, "name"),
        ({"name": None}, "name"),
        ({"description": "x" * 65_537}, "description"),
        ({"colour": "x" * 65}, "colour"),
        ({"icon": "x" * 4_097}, "icon"),
        ({"title": "x"}, "title"),
        ({}, ""),
    ],
)
def test_what_no_project_may_be_is_refused_by_name(wrong: dict[str, object], path: str) -> None:
    with pytest.raises(InvalidParams) as refused:
        validate(UpdateProject, {"id": 1, **wrong})
    assert [field.path for field in refused.value.fields] == [path]
    with pytest.raises(InvalidParams):
        validate(CreateProject, wrong)


def test_deleting_a_project_tells_how_many_points_it_queued(db: Connection) -> None:
    project = insert_project(db, CreateProject(name="p"), 1).id
    mine = [fill(db, f"s{i}", project, episodes=i, summaries=2) for i in range(3)]
    fill(db, "other", None, episodes=2, summaries=2)
    db.execute("DELETE FROM outbox")    # all is in the index
    gone = delete_project(db, project)
    assert gone.deleted == {"projects": 1}
    assert gone.points_queued == len(queued(db)) == 3 + 6
    assert {op for _, _, op in queued(db)} == {"upsert"}
    assert [select_session(db, session).project_id for session in mine] == [None] * 3


def test_moving_a_session_queues_its_exchanges_and_summaries(db: Connection) -> None:
    project = insert_project(db, CreateProject(name="p"), 1).id
    session = fill(db, "s", None, episodes=2, summaries=3)
    fill(db, "other", None, episodes=1, summaries=1)
    db.execute("DELETE FROM outbox")
    update_session(db, UpdateSession(id=session, project_id=project), 2)
    assert [collection for collection, _, _ in queued(db)] == ["episodes"] * 2 + ["summaries"] * 3


def test_deleting_a_session_counts_the_points_of_its_summaries(db: Connection) -> None:
    session = fill(db, "s", None, episodes=2, summaries=3)
    fill(db, "other", None, episodes=1, summaries=1)
    db.execute("DELETE FROM outbox")
    gone = delete_session(db, DeleteSession(id=session))
    assert gone.deleted == {"sessions": 1, "episodes": 2, "summaries": 3}
    assert gone.points_queued == len(queued(db)) == 5
    assert {op for _, _, op in queued(db)} == {"delete"}

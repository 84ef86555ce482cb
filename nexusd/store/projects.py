"""Projects in SQLite."""

from __future__ import annotations

from typing import Any

from nexusd.errors import ProjectNotFound
from nexusd.model.fields import UNSET, Deletion, Listing
from nexusd.model.projects import CreateProject, ListProjects, Project, UpdateProject
from nexusd.store.cascades import PROJECT, PROJECT_WITH_CONTENTS
from nexusd.store.connection import Connection
from nexusd.store.cursors import decode_cursor, encode_cursor
from nexusd.store.paging import take_page
from nexusd.store.slices import Cascade, delete_whole

_COLUMNS = "id, name, description, colour, icon, created_at, updated_at"
_TEXTS = (2, 4)     # the columns that may be long
_LISTING = "projects"

# a new project
INSERT_PROJECT = f"""
INSERT INTO projects (name, description, colour, icon, created_at, updated_at)
VALUES (?, ?, ?, ?, ?, ?) RETURNING {_COLUMNS}"""

# one project
SELECT_PROJECT = f"SELECT {_COLUMNS} FROM projects WHERE id = ?"

# the newest projects before an id
LIST_PROJECTS = f"SELECT {_COLUMNS} FROM projects WHERE id < ? ORDER BY id DESC LIMIT ? OFFSET ?"

# change what may change
UPDATE_PROJECT = f"""
UPDATE projects SET name = ?, description = ?, colour = ?, icon = ?, updated_at = ? WHERE id = ?
RETURNING {_COLUMNS}"""

_LAST_ID = 2**63 - 1


def _project(row: tuple[Any, ...]) -> Project:
    return Project(
        id=row[0],
        name=row[1],
        description=row[2],
        colour=row[3],
        icon=row[4],
        created_at=row[5],
        updated_at=row[6],
    )


def insert_project(db: Connection, new: CreateProject, now_ms: int) -> Project:
    """Make a project. Names need not be unique."""
    values = (new.name, new.description, new.colour, new.icon, now_ms, now_ms)
    return _project(db.execute(INSERT_PROJECT, values).fetchall()[0])


def select_project(db: Connection, project_id: int) -> Project:
    """One project.

    Raises:
        ProjectNotFound: there is none of this id.
    """
    row = db.execute(SELECT_PROJECT, (project_id,)).fetchone()
    if row is None:
        raise ProjectNotFound
    return _project(row)


def list_projects(db: Connection, page: ListProjects) -> Listing[Project]:
    """A page of projects, newest first.

    Raises:
        InvalidParams: the cursor is none of this listing.
    """
    (before,) = decode_cursor(_LISTING, page.cursor, 1) if page.cursor is not None else (_LAST_ID,)
    rows = db.execute(LIST_PROJECTS, (before, page.limit + 1, page.offset or 0))
    projects, more = take_page(rows, page.limit, _project, _TEXTS)
    return Listing(items=projects, next_cursor=encode_cursor(_LISTING, projects[-1].id) if more else None)


def update_project(db: Connection, change: UpdateProject, now_ms: int) -> Project:
    """Change what is given.

    Raises:
        ProjectNotFound: there is none of this id.
    """
    old = select_project(db, change.id)
    values = (
        old.name if change.name is UNSET else change.name,
        old.description if change.description is UNSET else change.description,
        old.colour if change.colour is UNSET else change.colour,
        old.icon if change.icon is UNSET else change.icon,
    )
    if values == (old.name, old.description, old.colour, old.icon):
        return old
    return _project(db.execute(UPDATE_PROJECT, (*values, now_ms, old.id)).fetchall()[0])


def delete_project(db: Connection, project_id: int, *, with_contents: bool = False) -> Deletion:
    """Delete a project at once. Its sessions stay, and their points are queued anew, without it; or they go with it.

    Raises:
        ProjectNotFound: there is none of this id.
    """
    return delete_whole(db, project_cascade(with_contents=with_contents), project_id)


def project_cascade(*, with_contents: bool) -> Cascade:
    """What goes with the project."""
    return PROJECT_WITH_CONTENTS if with_contents else PROJECT

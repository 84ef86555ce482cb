"""Projects in SQLite."""

from __future__ import annotations

from typing import Any

from nexusd.errors import ProjectNotFound
from nexusd.model.fields import Deletion
from nexusd.model.projects import CreateProject, Project
from nexusd.store.connection import Connection

_COLUMNS = "id, name, description, colour, icon, created_at, updated_at"

# a new project
INSERT_PROJECT = f"""
INSERT INTO projects (name, description, colour, icon, created_at, updated_at)
VALUES (?, ?, ?, ?, ?, ?) RETURNING {_COLUMNS}"""

# one project
SELECT_PROJECT = f"SELECT {_COLUMNS} FROM projects WHERE id = ?"

# the project; its sessions stay, without one
DELETE_PROJECT = "DELETE FROM projects WHERE id = ?"


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


def delete_project(db: Connection, project_id: int) -> Deletion:
    """Delete a project. Its sessions stay; their exchanges' points are queued anew, without a project.

    Raises:
        ProjectNotFound: there is none of this id.
    """
    db.execute(DELETE_PROJECT, (project_id,))
    if db.changes() == 0:
        raise ProjectNotFound
    return Deletion(deleted={"projects": 1}, points_queued=0)

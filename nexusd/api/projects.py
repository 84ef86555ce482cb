"""projects.*: named groupings of sessions."""

from __future__ import annotations

import msgspec

from nexusd.api.receipts import receipt_for
from nexusd.clock import Clock
from nexusd.errors import ProjectNotFound
from nexusd.model.fields import Deletion, Listing
from nexusd.model.projects import (
    CreateProject,
    DeleteProject,
    GetProject,
    ListProjects,
    Project,
    UpdateProject,
)
from nexusd.store.database import Database
from nexusd.store.projects import (
    insert_project,
    list_projects,
    project_cascade,
    select_project,
    update_project,
)
from nexusd.wire.methods import Call, Method


class ProjectsApi:
    """The methods on projects."""

    def __init__(self, store: Database, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def create(self, call: Call, params: CreateProject) -> Project | msgspec.Raw:
        """Make a project."""
        receipt = receipt_for(call, "projects.create", params)
        return await self._store.write_once(receipt, insert_project, params, self._clock.now_ms())

    async def page(self, _call: Call, params: ListProjects) -> Listing[Project]:
        """A page of projects, newest first."""
        return await self._store.read(list_projects, params)

    def get(self, _call: Call, params: GetProject) -> Project:
        """One project by its id."""
        return self._store.peek(select_project, params.id)

    async def update(self, call: Call, params: UpdateProject) -> Project | msgspec.Raw:
        """Change a project."""
        receipt = receipt_for(call, "projects.update", params)
        return await self._store.write_once(receipt, update_project, params, self._clock.now_ms())

    async def delete(self, call: Call, params: DeleteProject) -> Deletion | msgspec.Raw:
        """Remove a project; its sessions stay, unless they are to go with it."""
        receipt = receipt_for(call, "projects.delete", params)
        cascade = project_cascade(with_contents=params.with_contents)
        return await self._store.delete_in_slices(receipt, cascade, lambda _db: params.id)

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="projects.create",
                summary="Make a project: a named grouping of sessions.",
                params=CreateProject,
                result=Project,
                handler=self.create,
                role="write",
                mutates=True,
                example={"name": "Garden"},
            ),
            Method(
                name="projects.list",
                summary="List projects, newest first.",
                params=ListProjects,
                result=Listing[Project],
                handler=self.page,
                role="read",
                example={"limit": 10},
            ),
            Method(
                name="projects.get",
                summary="Get a project by its id.",
                params=GetProject,
                result=Project,
                handler=self.get,
                role="read",
                immediate=True,
                errors=(ProjectNotFound,),
            ),
            Method(
                name="projects.update",
                summary="Change a project; what is not given stays as it is, null takes it away.",
                params=UpdateProject,
                result=Project,
                handler=self.update,
                role="write",
                mutates=True,
                errors=(ProjectNotFound,),
            ),
            Method(
                name="projects.delete",
                summary="Delete a project; its sessions stay, without one, or go with it. Answers what went.",
                params=DeleteProject,
                result=Deletion,
                handler=self.delete,
                role="write",
                mutates=True,
                errors=(ProjectNotFound,),
            ),
        ]

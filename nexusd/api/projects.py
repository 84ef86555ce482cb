"""projects.*: named groupings of sessions."""

from __future__ import annotations

import msgspec

from nexusd.api.receipts import receipt_for
from nexusd.clock import Clock
from nexusd.model.projects import CreateProject, Project
from nexusd.store.database import Database
from nexusd.store.projects import insert_project
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
        ]

"""exports.*: the store's rows as the lines of a file, page by page."""

from __future__ import annotations

from collections.abc import Callable

from nexusd import __version__
from nexusd.clock import Clock
from nexusd.errors import ProjectNotFound, SessionNotFound
from nexusd.model.exports import BeginExport, ExportBegun, ExportModel, ExportPage, PageExport
from nexusd.store.database import Database
from nexusd.store.exports import begin_export, read_export
from nexusd.store.meta import get_epoch
from nexusd.store.projects import select_project
from nexusd.store.sessions import select_session
from nexusd.wire.methods import Call, Method


class ExportsApi:
    """The methods on exports."""

    def __init__(self, store: Database, clock: Clock, space: Callable[[], tuple[str, int]]) -> None:
        """`space` is the embedding model that serves, and its dimension."""
        self._store = store
        self._clock = clock
        self._space = space

    async def begin(self, _call: Call, params: BeginExport) -> ExportBegun:
        """Note where the tables end."""
        if params.session_id is not None:
            await self._store.read(select_session, params.session_id)
        if params.project_id is not None:
            await self._store.read(select_project, params.project_id)
        cursor, rows = await self._store.read(begin_export, params)
        model, dimension = self._space()
        return ExportBegun(
            cursor=cursor, created_at=self._clock.now_ms(), program=__version__,
            schema_version=self._store.stats().schema_version, epoch=self._store.peek(get_epoch),
            model=ExportModel(key=model, dimension=dimension), rows=rows,
        )

    async def page(self, _call: Call, params: PageExport) -> ExportPage:
        """Read on."""
        items, next_cursor = await self._store.read(read_export, params.cursor, params.limit, self._space()[0])
        return ExportPage(items=items, next_cursor=next_cursor)

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="exports.begin",
                summary="Begin an export of everything, or of a session or a project: says how many rows will come.",
                params=BeginExport,
                result=ExportBegun,
                handler=self.begin,
                role="admin",
                errors=(SessionNotFound, ProjectNotFound),
                example={},
            ),
            Method(
                name="exports.page",
                summary="The next rows of an export, all of one table; rows made after it began are not among them.",
                params=PageExport,
                result=ExportPage,
                handler=self.page,
                role="admin",
            ),
        ]

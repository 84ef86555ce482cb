"""graph.*: what hangs together with what."""

from __future__ import annotations

from nexusd.errors import EntityNotFound
from nexusd.model.graph import FindNeighbours, Neighbourhood
from nexusd.store.database import Database
from nexusd.store.graph import find_neighbours
from nexusd.wire.methods import Call, Method


class GraphApi:
    """The methods on the graph of entities."""

    def __init__(self, store: Database) -> None:
        self._store = store

    async def neighbours(self, _call: Call, params: FindNeighbours) -> Neighbourhood:
        """What can be reached from an entity, the nearest first."""
        return await self._store.read(find_neighbours, params)

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="graph.neighbours",
                summary="Tell what can be reached from an entity over relationships, the nearest first.",
                params=FindNeighbours,
                result=Neighbourhood,
                handler=self.neighbours,
                role="read",
                errors=(EntityNotFound,),
            ),
        ]

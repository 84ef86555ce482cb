"""index.*: whether the vector index agrees with the rows, and what it holds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

from nexusd.model.fields import NoParams
from nexusd.model.index import CheckIndex, IndexCollection, IndexReport, IndexState, ModelInfo, ReembedProgress
from nexusd.store.database import Database
from nexusd.store.verifying import count_tables
from nexusd.sync.verify import COLLECTIONS, Verifier
from nexusd.wire.methods import Call, Method


class IndexApi:
    """The methods on the index as a whole.

    `points` counts what the index holds by collection, None while it does not answer; `physical` names what stands
    behind a logical collection; `reembed` and `kept` tell of other models than the one that serves.
    """

    def __init__(
        self,
        store: Database,
        verifier: Verifier,
        *,
        backend: Literal["embedded", "server"],
        complete: Callable[[], bool],
        physical: Callable[[str], str],
        points: Callable[[], Awaitable[Mapping[str, int] | None]],
        reembed: Callable[[], ReembedProgress],
        kept: Callable[[], list[ModelInfo]],
    ) -> None:
        self._store = store
        self._verifier = verifier
        self._backend = backend
        self._complete = complete
        self._physical = physical
        self._points = points
        self._reembed = reembed
        self._kept = kept

    async def verify(self, _call: Call, params: CheckIndex) -> IndexReport:
        """Compare, and tell."""
        return await self._verifier.check("verify", params.collections, params.timeout_ms / 1000)

    async def repair(self, _call: Call, params: CheckIndex) -> IndexReport:
        """Compare, mend, and tell."""
        return await self._verifier.check("repair", params.collections, params.timeout_ms / 1000)

    async def status(self, _call: Call, _params: NoParams) -> IndexState:
        """What there is, and what was found last."""
        return await self.state()

    async def state(self) -> IndexState:
        """The same, for who asks from inside."""
        points = await self._points()
        rows = await self._store.read(count_tables, COLLECTIONS)
        return IndexState(
            backend=self._backend,
            complete=self._complete(),
            collections=[
                IndexCollection(
                    collection=name,
                    physical=self._physical(name),
                    rows=rows[name],
                    points=None if points is None else points.get(name, 0),
                )
                for name in COLLECTIONS
            ],
            reembed=self._reembed(),
            kept=self._kept(),
            job=self._verifier.job,
            last_verify=self._verifier.last,
            dropped_hits=self._verifier.dropped_hits,
        )

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="index.verify",
                summary="Compare rows, full text, stored vectors and the vector index, while everything goes on.",
                params=CheckIndex,
                result=IndexReport,
                handler=self.verify,
                role="write",  # it changes nothing, but keeps the disk and a processor busy
                waits=True,
                example={"collections": ["episodes"], "timeoutMs": 1000},
            ),
            Method(
                name="index.repair",
                summary="Compare as index.verify does, and mend exactly what differs; the outbox does the rest.",
                params=CheckIndex,
                result=IndexReport,
                handler=self.repair,
                role="admin",
                waits=True,
                example={"timeoutMs": 1000},
            ),
            Method(
                name="index.status",
                summary="Tell what the vector index holds, which model's vectors, and what was verified last.",
                params=NoParams,
                result=IndexState,
                handler=self.status,
                role="read",
                example={},
            ),
        ]

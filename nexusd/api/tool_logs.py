"""toolLogs.*: which tool was called with what, and what came of it."""

from __future__ import annotations

import msgspec

from nexusd.api.receipts import receipt_for
from nexusd.clock import Clock
from nexusd.errors import ConversationNotFound, ToolLogNotFound
from nexusd.model.fields import Deletion, Listing
from nexusd.model.tool_logs import AppendToolLog, GetToolLog, ListToolLogs, PruneToolLogs, ToolLog
from nexusd.store.database import Database
from nexusd.store.tool_logs import (
    MoreToPruneError,
    insert_tool_log,
    list_tool_logs,
    prune_bound,
    prune_rest,
    prune_slice,
    select_tool_log,
)
from nexusd.wire.methods import Call, Method


class ToolLogsApi:
    """The methods on tool logs."""

    def __init__(self, store: Database, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def append(self, call: Call, params: AppendToolLog) -> ToolLog | msgspec.Raw:
        """Log a call."""
        receipt = receipt_for(call, "toolLogs.append", params)
        return await self._store.write_once(receipt, insert_tool_log, params, self._clock.now_ms())

    async def page(self, _call: Call, params: ListToolLogs) -> Listing[ToolLog]:
        """A page of calls, newest first."""
        return await self._store.read(list_tool_logs, params)

    def get(self, _call: Call, params: GetToolLog) -> ToolLog:
        """One call by its id."""
        return self._store.peek(select_tool_log, params.id)

    async def prune(self, call: Call, params: PruneToolLogs) -> Deletion | msgspec.Raw:
        """Delete old calls, in slices: other writes go on between them.

        The last slice carries the receipt, and is tried first: a repeated call is answered before it deletes
        anything. A call that is cut off leaves what it had not come to; it counts what it deletes itself.
        """
        receipt = receipt_for(call, "toolLogs.prune", params)
        bound = await self._store.read(prune_bound, params, self._clock.now_ms())
        gone = 0
        while True:
            try:
                return await self._store.write_once(receipt, prune_rest, bound, gone)
            except MoreToPruneError:
                gone += await self._store.write(prune_slice, bound)

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="toolLogs.append",
                summary="Log a call of a tool: what it was called with, and what came of it.",
                params=AppendToolLog,
                result=ToolLog,
                handler=self.append,
                role="write",
                mutates=True,
                errors=(ConversationNotFound,),
                example={"tool": "weather", "arguments": {"city": "Graz"}, "result": "clear", "durationMs": 84},
            ),
            Method(
                name="toolLogs.list",
                summary="List calls of tools, newest first.",
                params=ListToolLogs,
                result=Listing[ToolLog],
                handler=self.page,
                role="read",
                example={"status": "error"},
            ),
            Method(
                name="toolLogs.get",
                summary="Get a logged call by its id.",
                params=GetToolLog,
                result=ToolLog,
                handler=self.get,
                role="read",
                immediate=True,
                errors=(ToolLogNotFound,),
            ),
            Method(
                name="toolLogs.prune",
                summary="Delete logged calls that are too old or too many; answers how many went.",
                params=PruneToolLogs,
                result=Deletion,
                handler=self.prune,
                role="write",
                mutates=True,
                example={"olderThanMs": 7776000000, "keep": 100000},
                subject=lambda _params, result: {"deleted": result.deleted},
            ),
        ]

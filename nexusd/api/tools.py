"""tools.*: JavaScript files, kept for those who run them.

What is put here runs elsewhere, with the rights of whoever runs it: that takes the role admin.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from nexusd.api.receipts import receipt_for
from nexusd.errors import BadContent, BadName, TooLarge, ToolNotFound
from nexusd.files.tools import ToolFiles
from nexusd.model.fields import Deletion, Listing
from nexusd.model.tools import DeleteTool, GetTool, ListTools, PutTool, Tool, ToolFile
from nexusd.wire.methods import Call, Method


class ToolsApi:
    """The methods on tools."""

    def __init__(self, tools: ToolFiles) -> None:
        self._tools = tools

    def page(self, _call: Call, params: ListTools) -> Listing[ToolFile]:
        """A page of tools."""
        return self._tools.page(params)

    async def get(self, _call: Call, params: GetTool) -> Tool:
        """One tool with its source."""
        return await self._tools.get(params.name)

    async def put(self, call: Call, params: PutTool) -> ToolFile | msgspec.Raw:
        """Store a tool."""
        return await self._tools.put(params.name, params.source, receipt_for(call, "tools.put", params))

    async def delete(self, call: Call, params: DeleteTool) -> Deletion | msgspec.Raw:
        """Remove a tool."""
        return await self._tools.delete(params.name, receipt_for(call, "tools.delete", params))

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="tools.list",
                summary="List the tools by name, without their sources.",
                params=ListTools,
                result=Listing[ToolFile],
                handler=self.page,
                role="read",
                immediate=True,
                example={"limit": 10},
            ),
            Method(
                name="tools.get",
                summary="Get a tool with its source.",
                params=GetTool,
                result=Tool,
                handler=self.get,
                role="read",
                errors=(ToolNotFound, BadName, BadContent),
            ),
            Method(
                name="tools.put",
                summary="Store a tool as tools/NAME.js; the daemon never runs it.",
                params=PutTool,
                result=ToolFile,
                handler=self.put,
                role="admin",
                mutates=True,
                errors=(BadName, BadContent, TooLarge),
                example={"name": "dice", "source": "export default () => 1 + Math.floor(Math.random() * 6)\n"},
                subject=_subject,
            ),
            Method(
                name="tools.delete",
                summary="Remove a tool.",
                params=DeleteTool,
                result=Deletion,
                handler=self.delete,
                role="admin",
                mutates=True,
                errors=(ToolNotFound, BadName, BadContent),
                subject=_subject,
            ),
        ]


def _subject(params: PutTool | DeleteTool, _result: object) -> Mapping[str, str]:
    return {"name": params.name}

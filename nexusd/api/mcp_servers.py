"""mcpServers.*: the entries of mcp-servers.json.

`env` and `headers` hold secrets, and a `command` runs where a client starts it: to read or write an entry takes the
role admin. The list shows names and kinds alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from nexusd.api.receipts import receipt_for
from nexusd.errors import BadContent, BadName, McpServerNotFound, TooLarge
from nexusd.files.mcp_servers import McpServersFile
from nexusd.model.fields import Deletion
from nexusd.model.mcp_servers import (
    DeleteMcpServer,
    GetMcpServer,
    ListMcpServers,
    McpServer,
    McpServerEntry,
    McpServers,
    PutMcpServer,
)
from nexusd.wire.methods import Call, Method


class McpServersApi:
    """The methods on MCP servers."""

    def __init__(self, servers: McpServersFile) -> None:
        self._servers = servers

    def page(self, _call: Call, params: ListMcpServers) -> McpServers:
        """A page of servers."""
        return self._servers.page(params)

    def get(self, _call: Call, params: GetMcpServer) -> McpServerEntry:
        """One server with its configuration."""
        return self._servers.get(params.name)

    async def put(self, call: Call, params: PutMcpServer) -> McpServer | msgspec.Raw:
        """Write a server."""
        return await self._servers.put(params.name, params.config, receipt_for(call, "mcpServers.put", params))

    async def delete(self, call: Call, params: DeleteMcpServer) -> Deletion | msgspec.Raw:
        """Remove a server."""
        return await self._servers.delete(params.name, receipt_for(call, "mcpServers.delete", params))

    def methods(self) -> list[Method]:
        """What this module registers."""
        return [
            Method(
                name="mcpServers.list",
                summary="List the MCP servers by name, without what may be secret.",
                params=ListMcpServers,
                result=McpServers,
                handler=self.page,
                role="read",
                immediate=True,
                example={"limit": 10},
            ),
            Method(
                name="mcpServers.get",
                summary="Get an MCP server with its whole configuration.",
                params=GetMcpServer,
                result=McpServerEntry,
                handler=self.get,
                role="admin",
                immediate=True,
                errors=(McpServerNotFound,),
            ),
            Method(
                name="mcpServers.put",
                summary="Write an MCP server into mcp-servers.json; the rest of the file stays.",
                params=PutMcpServer,
                result=McpServer,
                handler=self.put,
                role="admin",
                mutates=True,
                errors=(BadName, BadContent, TooLarge),
                example={"name": "files", "config": {"command": "mcp-files", "args": ["--read-only"]}},
                subject=_subject,
            ),
            Method(
                name="mcpServers.delete",
                summary="Take an MCP server out of mcp-servers.json; the rest of the file stays.",
                params=DeleteMcpServer,
                result=Deletion,
                handler=self.delete,
                role="admin",
                mutates=True,
                errors=(McpServerNotFound, BadContent),
                subject=_subject,
            ),
        ]


def _subject(params: PutMcpServer | DeleteMcpServer, _result: object) -> Mapping[str, str]:
    return {"name": params.name}

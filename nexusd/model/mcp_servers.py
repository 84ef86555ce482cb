"""MCP servers: the entries of mcp-servers.json."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from nexusd.model.fields import Mutation, Page, Params, Record

McpServerName = Annotated[
    str, Meta(min_length=1, max_length=128, description="The entry's name in mcp-servers.json; no control characters.")
]


class McpServer(Record, frozen=True, kw_only=True):
    """An entry without what may be secret in it: a `command` that clients start, or the `url` of a service."""

    name: str
    kind: Literal["command", "url"]


class McpServerEntry(Record, frozen=True, kw_only=True):
    """An entry with its configuration, secrets and all."""

    name: str
    kind: Literal["command", "url"]
    config: dict[str, Any]


class McpServers(Record, frozen=True, kw_only=True):
    """What mcpServers.list answers; `problem` says why the file cannot be read as it is now."""

    items: list[McpServer]
    next_cursor: str | None
    problem: str | None


class ListMcpServers(Page, frozen=True, kw_only=True):
    """Parameters of mcpServers.list: by name."""


class GetMcpServer(Params, frozen=True, kw_only=True):
    """Parameters of mcpServers.get."""

    name: McpServerName


class PutMcpServer(Mutation, frozen=True, kw_only=True):
    """Parameters of mcpServers.put."""

    name: McpServerName
    config: Annotated[
        dict[str, Any],
        Meta(description="Either `command` (with args, env, cwd) or `url` (with headers, type); other members stay."),
    ]


class DeleteMcpServer(Mutation, frozen=True, kw_only=True):
    """Parameters of mcpServers.delete."""

    name: McpServerName

"""Indexes on a Qdrant server for tests: over the client library's in-memory mode, and over a real server."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from nexusd.clock import SystemClock
from nexusd.config_sections import IndexConfig
from nexusd.index.server import ServerIndex
from nexusd.index.server_calls import ServerCalls

REAL_SERVER = "NEXUSD_TEST_QDRANT_URL"


class InMemoryClient(AsyncQdrantClient):
    """The library's in-memory mode, with what a server does and it does not."""

    def __init__(self) -> None:
        super().__init__(":memory:")

    async def get_collection(self, collection_name: str, **kwargs: Any) -> models.CollectionInfo:
        """A server answers 404, the in-memory mode raises a ValueError."""
        if not await self.collection_exists(collection_name):
            raise UnexpectedResponse(404, "Not Found", b'{"status": {"error": "Not found"}}', httpx.Headers())
        return await super().get_collection(collection_name, **kwargs)

    async def create_payload_index(self, *args: Any, **kwargs: Any) -> models.UpdateResult:
        """It has none, and warns."""
        return models.UpdateResult(operation_id=0, status=models.UpdateStatus.COMPLETED)

    async def query_points(self, *args: Any, **kwargs: Any) -> models.QueryResponse:
        """It compares all points, and warns where it is told how a graph is to be searched."""
        return await super().query_points(*args, **{**kwargs, "search_params": None})

    async def close(self, **kwargs: Any) -> None:
        """A server outlives the connection."""


def in_memory_index(client: AsyncQdrantClient, config: IndexConfig | None = None) -> ServerIndex:
    """An index over an in-memory client, which stands for the server: a second index over it finds what is there."""
    return ServerIndex(
        config or IndexConfig(backend="server"), SystemClock(),
        connect=lambda config: ServerCalls(client, config),
    )


def real_config(prefix: str) -> IndexConfig:
    """For the server that the environment names."""
    return IndexConfig(backend="server", url=os.environ[REAL_SERVER], collection_prefix=prefix)


@asynccontextmanager
async def own_prefix() -> AsyncIterator[str]:
    """A prefix that no other test has on the real server; what is made under it is removed."""
    prefix = f"nexusd-test-{uuid.uuid4().hex[:12]}-"
    yield prefix
    client = AsyncQdrantClient(url=os.environ[REAL_SERVER], check_compatibility=False)
    for each in (await client.get_collections()).collections:
        if each.name.startswith(prefix):
            await client.delete_collection(each.name)
    await client.close()

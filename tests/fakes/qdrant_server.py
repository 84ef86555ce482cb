"""A small Qdrant over HTTP, for what goes wrong between a daemon and its server.

Its meaning of points and filters is the client library's in-memory mode; of its own it has the REST shapes of the
calls that nexusd makes, payload indexes by name, and faults. It keeps its collections while it is stopped, as a server
does on disk. It proves nothing about a real Qdrant's speed, durability or clustering.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import ssl
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from fakes.closing import close_port
from qdrant_client import models
from qdrant_client.local.async_qdrant_local import AsyncQdrantLocal

Answer = TypeVar("Answer")

VERSION = "1.17.0"
Handler = Callable[["FakeQdrant", str, Any], Awaitable[Any]]


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status


class FakeQdrant:
    """One server. Faults are attributes, and hold from the next request on."""

    def __init__(self) -> None:
        self.title, self.version = "qdrant - vector search engine", VERSION
        self.key: str | None = None
        self.status: dict[str, tuple[int, str]] = {}  # operation -> what it is refused with
        self.headers: dict[str, str] = {}  # sent with a refusal
        self.stalled: set[str] = set()  # operations that are read and never answered
        self.late: set[str] = set()  # the same, but `carry_out_late` carries them out
        self.cut: set[str] = set()  # operations whose answer ends in the middle
        self.seen: list[str] = []  # operations asked for, in order
        self.asked_with: dict[str, set[str]] = {}  # operation -> what stood after the ? of its address
        self.made: dict[str, Any] = {}  # collection -> what it was asked to be made as
        self.port = 0
        self.tls: ssl.SSLContext | None = None
        self._local = AsyncQdrantLocal(":memory:")
        self._indexes: dict[str, set[str]] = {}
        self._held: list[tuple[str, str, Any]] = []
        self._listener: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen: at first at any port, then at the same again."""
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.tls)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the port and every connection; what is stored stays."""
        if self._listener is not None:
            server, self._listener = self._listener, None
            await close_port(server)
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def wipe(self) -> None:
        """Lose everything."""
        self._local = AsyncQdrantLocal(":memory:")
        self._indexes.clear()

    def collections(self) -> dict[str, list[int]]:
        """The ids in every collection."""
        found = {}
        for name, collection in self._local.collections.items():
            found[name] = sorted(id_ for id_, at in collection.ids.items() if not collection.deleted[at])
        return found

    def versions(self, name: str) -> dict[int, int]:
        """The versions of the rows that a collection holds."""
        collection = self._local.collections[name]
        held = collection.ids.items()
        return {id_: collection.payload[at]["version"] for id_, at in held if not collection.deleted[at]}

    def vectors(self, name: str) -> dict[int, list[float]]:
        """The vectors that a collection holds, of unit length."""
        collection = self._local.collections[name]
        rows = collection.vectors[""]
        return {id_: rows[at].tolist() for id_, at in collection.ids.items() if not collection.deleted[at]}

    async def remove(self, name: str) -> None:
        """Remove a collection, as somebody else might."""
        await self._remove(name, None)

    async def remake(self, name: str, *, dimension: int, distance: str = "Cosine") -> None:
        """Replace a collection by one of another dimension or distance, as somebody else might."""
        await self._local.delete_collection(name)
        vectors = models.VectorParams(size=dimension, distance=models.Distance(distance))
        await self._local.create_collection(name, vectors_config=vectors)

    def shape(self, name: str) -> tuple[int, str]:
        """The dimension and the distance of a collection."""
        vectors = self._local.collections[name].config.vectors
        return vectors.size, vectors.distance.value

    def mark(self, name: str) -> dict[str, Any]:
        """The metadata of a collection."""
        return dict(self._local.collections[name].config.metadata or {})

    def put_back(self, name: str, metadata: dict[str, Any]) -> None:
        """What a snapshot brings back of a collection: here its metadata alone."""
        self._local.collections[name].config.metadata = metadata

    def snapshot(self) -> dict[str, Any]:
        """Everything as it is now, to be put back by `restore`."""
        return copy.deepcopy(self._local.collections)

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Be again as it was then; payload indexes are counted as there."""
        self._local.collections = copy.deepcopy(snapshot)

    def aliases(self) -> dict[str, str]:
        """Collection by alias."""
        return dict(self._local.aliases)

    def indexes(self, name: str) -> set[str]:
        """The payload indexes of a collection."""
        return self._indexes.setdefault(name, set())

    async def carry_out_late(self) -> int:
        """Carry out what was held back by `late`; how many operations that were."""
        self.late.clear()
        held, self._held = self._held, []
        for operation, name, body in held:
            with contextlib.suppress(Refused):
                await HANDLERS[operation](self, name, body)
        return len(held)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:] if line)}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        operation, name = _operation(method, urlsplit(target).path)
        self.seen.append(operation)
        self.asked_with.setdefault(operation, set()).add(urlsplit(target).query)
        body = json.loads(raw) if raw else None
        if operation in self.late:
            self._held.append((operation, name, body))
        if operation in self.late | self.stalled:
            await asyncio.Event().wait()
        status, answer = await self._answer(operation, name, body, headers.get("api-key"))
        content = json.dumps(answer).encode()
        extra = "".join(f"{key}: {value}\r\n" for key, value in self.headers.items()) if status >= 400 else ""
        start = f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\n{extra}\r\n".encode()
        if operation in self.cut:
            writer.write(start + content[: len(content) // 2])
            await writer.drain()
            return False
        writer.write(start + content)
        await writer.drain()
        return True

    async def _answer(self, operation: str, name: str, body: Any, key: str | None) -> tuple[int, Any]:
        if self.key is not None and key != self.key and operation != "greet":
            return 401, {"status": {"error": "Must provide an API key"}}
        if operation in self.status:
            status, error = self.status[operation]
            return status, {"status": {"error": error}, "time": 0.0}
        if operation == "greet":
            return 200, {"title": self.title, "version": self.version, "commit": "0"}
        try:
            result = await HANDLERS[operation](self, name, body)
        except Refused as refused:
            return refused.status, {"status": {"error": str(refused)}, "time": 0.0}
        if hasattr(result, "model_dump"):
            result = result.model_dump(mode="json", exclude_none=True)
        return 200, {"result": result, "status": "ok", "time": 0.0}

    def _known(self, name: str) -> str:
        if name not in self._local.collections:
            raise Refused(404, f"Not found: Collection `{name}` doesn't exist!")
        return name

    def _check_size(self, name: str, vectors: list[Any]) -> None:
        size = self._local.collections[self._known(name)].config.vectors.size
        for vector in vectors:
            if (given := len(vector)) != size:
                raise Refused(400, f"Wrong input: Vector dimension error: expected dim: {size}, got {given}")

    async def _list(self, _name: str, _body: Any) -> Any:
        return await self._local.get_collections()

    async def _read(self, name: str, _body: Any) -> Any:
        info = (await self._local.get_collection(self._known(name))).model_dump(mode="json", exclude_none=True)
        schema = {key: {"data_type": "integer", "points": 0} for key in self._indexes.get(name, ())}
        return {**info, "payload_schema": schema}

    async def _create(self, name: str, body: Any) -> Any:
        if name in self._local.collections:
            raise Refused(409, f"Wrong input: Collection `{name}` already exists!")
        self.made[name] = body
        asked = models.CreateCollection(**body)
        return await self._local.create_collection(name, vectors_config=asked.vectors, metadata=asked.metadata)

    async def _change(self, name: str, body: Any) -> Any:
        return await self._local.update_collection(self._known(name), metadata=body["metadata"])

    async def _remove(self, name: str, _body: Any) -> Any:
        self._indexes.pop(name, None)
        return await self._local.delete_collection(name)

    async def _index(self, name: str, body: Any) -> Any:
        self._indexes.setdefault(self._known(name), set()).add(body["field_name"])
        return COMPLETED

    async def _upsert(self, name: str, body: Any) -> Any:
        asked = models.PointsList(**body)
        self._check_size(name, [point.vector for point in asked.points])
        await self._local.upsert(name, asked.points, update_filter=asked.update_filter)
        return COMPLETED

    async def _delete(self, name: str, body: Any) -> Any:
        await self._local.delete(self._known(name), models.FilterSelector(**body))
        return COMPLETED

    async def _retrieve(self, name: str, body: Any) -> Any:
        asked = models.PointRequest(**body)
        points = await self._local.retrieve(
            self._known(name), asked.ids, with_payload=asked.with_payload or False, with_vectors=False
        )
        return [point.model_dump(mode="json", exclude_none=True) for point in points]

    async def _query(self, name: str, body: Any) -> Any:
        asked = models.QueryRequest(**body)
        self._check_size(name, [body["query"]["nearest"] if isinstance(body["query"], dict) else body["query"]])
        return await self._local.query_points(
            self._known(name), query=asked.query, limit=asked.limit or 10, query_filter=asked.filter,
            with_payload=asked.with_payload or False,
        )

    async def _scroll(self, name: str, body: Any) -> Any:
        asked = models.ScrollRequest(**body)
        points, following = await self._local.scroll(
            self._known(name), limit=asked.limit or 10, offset=asked.offset, with_payload=asked.with_payload or False,
        )
        return {"points": [point.model_dump(mode="json") for point in points], "next_page_offset": following}

    async def _alias(self, _name: str, body: Any) -> Any:
        asked = models.ChangeAliasesOperation(**body)
        try:
            return await self._local.update_collection_aliases(asked.actions)
        except ValueError as error:
            raise Refused(409, f"Wrong input: {error}") from None

    async def _count(self, name: str, _body: Any) -> Any:
        return await self._local.count(self._known(name), exact=True)


COMPLETED = {"operation_id": 0, "status": "completed"}
HANDLERS: dict[str, Handler] = {
    "list": FakeQdrant._list,
    "read": FakeQdrant._read,
    "create": FakeQdrant._create,
    "change": FakeQdrant._change,
    "remove": FakeQdrant._remove,
    "index": FakeQdrant._index,
    "upsert": FakeQdrant._upsert,
    "delete": FakeQdrant._delete,
    "retrieve": FakeQdrant._retrieve,
    "query": FakeQdrant._query,
    "scroll": FakeQdrant._scroll,
    "count": FakeQdrant._count,
    "alias": FakeQdrant._alias,
}
ROUTES = {
    ("GET", ""): "read",
    ("PUT", ""): "create",
    ("PATCH", ""): "change",
    ("DELETE", ""): "remove",
    ("PUT", "index"): "index",
    ("PUT", "points"): "upsert",
    ("POST", "points"): "retrieve",
    ("POST", "points/delete"): "delete",
    ("POST", "points/query"): "query",
    ("POST", "points/scroll"): "scroll",
    ("POST", "points/count"): "count",
}


def _operation(method: str, path: str) -> tuple[str, str]:
    parts = path.strip("/").split("/")
    if parts == [""]:
        return "greet", ""
    if (method, parts) == ("GET", ["collections"]):
        return "list", ""
    if (method, parts) == ("POST", ["collections", "aliases"]):
        return "alias", ""
    assert parts[0] == "collections", f"nexusd asks for nothing else: {method} {path}"
    return ROUTES[method, "/".join(parts[2:])], unquote(parts[1])


class InThread:
    """A loop of its own in a thread, for a server beside a test that blocks."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Do this there, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

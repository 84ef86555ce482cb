"""The calls to a Qdrant server, through the client library. Imported only where a server is configured.

Owns the client, the shape of each call, and what each failure of the library means in the index's own errors.
Keeps no state of the connection and no deadline: both are `nexusd.index.server`'s.
"""

from __future__ import annotations

import math
import re
import ssl
from array import array
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeVar

import httpx
import msgspec
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from nexusd.config import DEFAULT_INDEX_URL
from nexusd.config_sections import IndexConfig
from nexusd.errors import BadContent, IndexUnavailable
from nexusd.index.filters import Filter
from nexusd.index.index import CollectionSpec, Hit, Payload, Point, PointVersion, Vector
from nexusd.index.server_claim import Found, Mark
from nexusd.index.server_errors import CollectionLost, Unreachable
from nexusd.index.server_filters import STAMP, needs_scan, not_newer, server_filter
from nexusd.index.stored_payload import (
    CREATED_AT,
    EPOCH,
    TERMS,
    VERSION,
    epoch_of,
    stored_payload,
    version_of,
    within_64_bits,
)

OLDEST_VERSION = (1, 16)  # the first with conditional updates and metadata of a collection
CONNECTIONS = 16
MARK = "nexusd"  # the part of a collection's metadata that is ours
LAST_ROW_ID = 2**63 - 1  # of SQLite; a server's ids go to twice that
SEARCH_EF = 128  # candidates looked at on the way
EXACT_BELOW = 10_000  # points that pass a filter up to which all are compared
# A body is encoded in one piece by the loop's own thread: 5 ms for this many numbers, and a megabyte.
NUMBERS_IN_A_REQUEST = 32_768
MAX_RETRY_AFTER_S = 3600  # one that asks for more is asked once an hour
TOLD_CHARACTERS = 200  # of what a server says
# Writes go through one replica that orders them; on a single node it is no difference.
ORDERING = models.WriteOrdering.MEDIUM
INDEXED = {
    TERMS: models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER, lookup=True, range=False),
    CREATED_AT: models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER, lookup=False, range=True),
    STAMP: models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER, lookup=False, range=True),
}
_DISK_FULL = re.compile(r"no space left|out of disk|disk (is )?full|insufficient storage", re.IGNORECASE)
_ANOTHER_DIMENSION = re.compile(r"dimension", re.IGNORECASE)
_NOT_UNDERSTOOD = re.compile(r"format error|deserialize|unknown field", re.IGNORECASE)

Answer = TypeVar("Answer")


def connect(config: IndexConfig) -> AsyncQdrantClient:
    """A client for the configured server; nothing is sent yet.

    Raises:
        OSError, ssl.SSLError: the certificates cannot be read.
    """
    url = config.url or DEFAULT_INDEX_URL
    verify: ssl.SSLContext | bool = True
    if url.startswith("https:"):
        verify = ssl.create_default_context(cafile=config.tls.ca_file)
        if not config.tls.verify:
            verify.check_hostname = False
            verify.verify_mode = ssl.CERT_NONE
    return AsyncQdrantClient(
        url=url,
        port=443 if url.startswith("https:") else 6333,
        # not api_key: with it the library warns of plain http, where nobody reads warnings
        headers={} if config.api_key is None else {"api-key": config.api_key},
        timeout=math.ceil(max(config.call_timeout_s, config.connect_timeout_s)) + 1,  # ours is the shorter one
        check_compatibility=False,  # its own check would ask in a thread of its own, and warn
        cloud_inference=True,  # no vector of ours is a text: nothing needs to look for one in every point
        trust_env=False,
        verify=verify,
        limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
    )


class ServerCalls:
    """One server. `prefix` begins the name of every collection there."""

    def __init__(self, client: AsyncQdrantClient, config: IndexConfig) -> None:
        self._client = client
        self._config = config

    def _named(self, collection: str) -> str:
        return self._config.collection_prefix + collection

    async def close(self) -> None:
        """Drop all connections."""
        await self._client.close()

    async def greet(self) -> str:
        """The server's version.

        Raises:
            Unreachable: it does not answer, is no Qdrant, or is too old.
        """
        seen = await _asked(self._client.info())
        if "qdrant" not in seen.title.lower():
            raise Unreachable(f"what answers there is no Qdrant: {_short(seen.title)}")
        numbers = re.match(r"(\d+)\.(\d+)", seen.version)
        if numbers is None or (int(numbers[1]), int(numbers[2])) < OLDEST_VERSION:
            oldest = ".".join(map(str, OLDEST_VERSION))
            raise Unreachable(f"Qdrant {_short(seen.version)} is too old; {oldest} or newer is needed")
        return seen.version

    async def check_key(self) -> None:
        """Raises Unreachable if the server does not take the key; it greets anybody."""
        await _asked(self._client.get_collections())

    async def look(self, name: str) -> Found | None:
        """The collection as it is; None: there is none."""
        try:
            seen = await _asked(self._client.get_collection(self._named(name)))
        except CollectionLost:
            return None
        vectors = seen.config.params.vectors
        alone = vectors if isinstance(vectors, models.VectorParams) else None  # ours have no name
        status = seen.optimizer_status
        return Found(
            name=self._named(name),
            dimension=0 if alone is None else alone.size,
            distance="none" if alone is None else str(alone.distance.value),
            mark=_read_mark(seen.config.metadata),
            whole=INDEXED.keys() <= (seen.payload_schema or {}).keys(),
            busy=seen.status in {models.CollectionStatus.YELLOW, models.CollectionStatus.GREY},
            trouble=_short(status.error) if isinstance(status, models.OptimizersStatusOneOf1) else "",
        )

    async def create(self, spec: CollectionSpec, mark: Mark) -> None:
        """Make the collection; one that somebody else made meanwhile stays."""
        config = self._config
        kilobytes = spec.dimension * 4 / 1024
        try:
            await _asked(
                self._client.create_collection(
                    self._named(spec.name),
                    vectors_config=models.VectorParams(size=spec.dimension, distance=models.Distance(spec.distance)),
                    hnsw_config=models.HnswConfigDiff(full_scan_threshold=max(10, round(EXACT_BELOW * kilobytes))),
                    # a server's default may be strict and refuse what has no index of its own
                    strict_mode_config=models.StrictModeConfig(enabled=False),
                    shard_number=config.shard_number,
                    replication_factor=config.replication_factor,
                    write_consistency_factor=config.write_consistency_factor,
                    metadata={MARK: msgspec.to_builtins(mark)},
                )
            )
        except BadContent as error:
            if "already exists" not in error.message:
                raise IndexUnavailable(f"{spec.name} cannot be made: {error.message}") from error

    async def complete(self, name: str) -> None:
        """Make the payload indexes that are missing."""
        seen = await _asked(self._client.get_collection(self._named(name)))
        for key, schema in INDEXED.items():
            if key not in (seen.payload_schema or {}):
                _done(await _asked(self._client.create_payload_index(self._named(name), key, schema, wait=True)))

    async def set_mark(self, name: str, mark: Mark) -> None:
        """Write the mark of the collection."""
        await _asked(
            self._client.update_collection(self._named(name), metadata={MARK: msgspec.to_builtins(mark)})
        )

    async def stamps_of(self, name: str, points: Sequence[int]) -> dict[int, int]:
        """The stamps of the writes that stored these points, of those that there are."""
        found = await _asked(
            self._client.retrieve(self._named(name), list(points), with_payload=[STAMP], with_vectors=False)
        )
        return {each.id: int((each.payload or {}).get(STAMP, 0)) for each in found if isinstance(each.id, int)}

    async def drop(self, name: str) -> None:
        """Remove the collection, if there is one."""
        try:
            await _asked(self._client.delete_collection(self._named(name)))
        except CollectionLost:
            return

    async def upsert(self, name: str, points: Sequence[Point], stamp: int) -> None:
        """Store the points, but over none that has a newer stamp."""
        slice_ = max(1, NUMBERS_IN_A_REQUEST // max(1, len(points[0].vector) // 4))
        try:
            structs = [
                models.PointStruct(id=each.id, vector=array("f", each.vector).tolist(), payload=_kept(each, stamp))
                for each in points
            ]
        except (TypeError, UnicodeEncodeError) as error:
            raise BadContent(f"the payload cannot be stored: {error}") from error
        for at in range(0, len(structs), slice_):
            _done(
                await _asked(
                    self._client.upsert(
                        self._named(name), structs[at : at + slice_], wait=True, ordering=ORDERING,
                        update_filter=not_newer(stamp),
                    )
                )
            )

    async def delete(self, name: str, ids: Sequence[int], stamp: int) -> None:
        """Remove the points, but none that has a newer stamp."""
        selected = models.FilterSelector(filter=not_newer(stamp, ids))
        _done(await _asked(self._client.delete(self._named(name), selected, wait=True, ordering=ORDERING)))

    async def search(self, spec: CollectionSpec, vector: Vector, limit: int, where: Filter | None) -> list[Hit]:
        """The nearest points that pass the filter, nearest first."""
        try:
            asked = None if where is None else server_filter(where)
        except (ValueError, RecursionError) as error:
            raise BadContent(f"the filter cannot be asked: {error}") from error
        found = await _asked(
            self._client.query_points(
                self._named(spec.name),
                query=array("f", vector).tolist(),
                limit=limit,
                query_filter=asked,
                search_params=models.SearchParams(
                    hnsw_ef=max(SEARCH_EF, 2 * limit),
                    exact=where is not None and needs_scan(where),
                    # looks past neighbours that the filter refuses: without it they are walls
                    acorn=None if where is None else models.AcornSearchParams(enable=True),
                ),
                with_payload=[VERSION],
                timeout=math.ceil(self._config.search_timeout_s),
            )
        )
        sign = -1.0 if spec.distance == "Euclid" else 1.0  # a distance; callers are promised that higher is nearer
        return [
            Hit(point.id, version_of(point.payload), sign * point.score)
            for point in found.points
            if isinstance(point.id, int)
        ]

    async def scroll(self, name: str, after_id: int, limit: int) -> list[PointVersion]:
        """The next points, ascending. A server may hold ids that no row can have: they come last, and are left out."""
        records, _ = await _asked(
            self._client.scroll(
                self._named(name), offset=max(0, after_id + 1), limit=limit, with_payload=[VERSION, EPOCH],
                with_vectors=False,
            )
        )
        return [
            PointVersion(record.id, version_of(record.payload), epoch_of(record.payload))
            for record in records
            if isinstance(record.id, int) and record.id <= LAST_ROW_ID
        ]

    async def publish(self, names: Mapping[str, str]) -> None:
        """Let every name be an alias of its collection, whatever it was before: one change, which nobody sees half."""
        changes: list[models.AliasOperations] = []
        for name, collection in names.items():
            alias = self._named(name)
            changes.append(models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)))
            made = models.CreateAlias(alias_name=alias, collection_name=self._named(collection))
            changes.append(models.CreateAliasOperation(create_alias=made))
        await _asked(self._client.update_collection_aliases(changes))

    async def count(self, name: str) -> int:
        """How many points there are, exactly."""
        return int((await _asked(self._client.count(self._named(name), exact=True))).count)


async def _asked(call: Awaitable[Answer]) -> Answer:
    """The call's answer, its failure in the errors that the index has.

    Raises:
        Unreachable, CollectionLost, IndexUnavailable, BadContent: see `_refusal` for what means what.
    """
    try:
        return await call
    except UnexpectedResponse as error:
        raise _refusal(error.status_code or 0, _said(error.content)) from error
    except QdrantException as error:  # 429 with a time to come back; of its own kind if the time is a number
        after_s = error.retry_after_s if isinstance(error, ResourceExhaustedResponse) else 0
        raise IndexUnavailable(
            "the server takes no more requests now (429)",
            retry_after_ms=min(max(0, after_s), MAX_RETRY_AFTER_S) * 1000 or None,
        ) from error
    except ResponseHandlingException as error:
        raise _unreachable(error.source) from error
    except (ValueError, AssertionError) as error:  # what the library raises over a body that is no JSON, or lacks
        raise _unreachable(error) from error


def _refusal(status: int, said: str) -> IndexUnavailable | BadContent:
    """What an answer that is no success means."""
    meaning: IndexUnavailable | BadContent = IndexUnavailable(f"the server answers {status}: {said}")
    if status == 401:
        meaning = Unreachable("the server refuses the key (401); see index.apiKey")
    elif status == 403:
        meaning = IndexUnavailable("the key may not do this on the server (403); it must be one that may write")
    elif status == 404:
        meaning = CollectionLost(f"the server does not have it: {said}")
    elif status == 507 or _DISK_FULL.search(said):
        meaning = IndexUnavailable(f"the server's disk is full: {said}")
    elif status in {502, 503, 504}:
        meaning = Unreachable(f"the server does not serve ({status}): {said}")
    elif status in {400, 409, 413, 422}:
        if _ANOTHER_DIMENSION.search(said):
            # every vector was checked against what was ensured: it is the collection that is another one
            meaning = CollectionLost(f"the collection is not what it was: {said}")
        elif not _NOT_UNDERSTOOD.search(said):  # else it is all requests, and none of them is to blame
            meaning = BadContent(f"the server refuses it ({status}): {said}")
    return meaning


def _unreachable(source: Exception) -> Unreachable:
    if isinstance(source, httpx.ConnectError):
        return Unreachable(f"no connection: {_short(str(source))}")
    if isinstance(source, httpx.HTTPError):
        return Unreachable(f"the connection failed: {type(source).__name__} {_short(str(source))}".rstrip())
    return Unreachable("what answers there does not speak as Qdrant does")


def _said(content: bytes) -> str:
    """The words in an error's body; Qdrant puts them into status.error."""
    try:
        status = msgspec.json.decode(content)["status"]
        return _short(str(status["error"]))
    except (msgspec.DecodeError, LookupError, TypeError):
        return _short(content.decode(errors="replace"))


def _short(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= TOLD_CHARACTERS else f"{plain[:TOLD_CHARACTERS]}..."


def _done(result: models.UpdateResult) -> None:
    """Raises IndexUnavailable unless the write was carried out: one that was only noted counts for nothing."""
    if result.status is not models.UpdateStatus.COMPLETED:
        raise IndexUnavailable(f"the server did not carry the write out in time: {result.status.value}")


def _kept(point: Point, stamp: int) -> Payload:
    """What is stored of the payload.

    Raises:
        TypeError, UnicodeEncodeError: JSON cannot say it.
    """
    payload = within_64_bits(point.payload)
    msgspec.msgpack.encode(payload)
    return {**stored_payload(payload, point.version), STAMP: stamp}


def _read_mark(metadata: dict[str, Any] | None) -> Mark | None:
    try:
        return msgspec.convert((metadata or {}).get(MARK), Mark)
    except msgspec.ValidationError:
        return None

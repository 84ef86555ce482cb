"""An index in memory that keeps the protocol's promises, and breaks on command."""

from __future__ import annotations

import array
import asyncio
import math
from collections.abc import Mapping, Sequence

from nexusd.errors import BadContent, DimensionMismatch, IndexUnavailable
from nexusd.index.filters import Filter, passes
from nexusd.index.index import CollectionSpec, Hit, IndexHealth, Point, PointVersion, Vector


class FakeIndex:
    """Brute force over dictionaries. `down` makes every call fail; `refused` ids are never taken; ids in `twice` are
    there twice until they are deleted.
    """

    def __init__(self) -> None:
        self.down = False
        self.incarnation = "first"
        self.refused: set[int] = set()
        self.twice: set[int] = set()
        self.upserts: list[list[int]] = []
        self.before_upsert: asyncio.Event | None = None  # an upsert under way waits for it
        self.upsert_began = asyncio.Event()
        self.names: dict[str, str] = {}  # as published
        self._specs: dict[str, CollectionSpec] = {}
        self._points: dict[str, dict[int, Point]] = {}

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def ensure(self, spec: CollectionSpec) -> str:
        self._check_up()
        known = self._specs.setdefault(spec.name, spec)
        if known != spec:
            raise DimensionMismatch
        self._points.setdefault(spec.name, {})
        return self.incarnation

    async def drop(self, collection: str) -> None:
        self._check_up()
        self._specs.pop(collection, None)
        self._points.pop(collection, None)

    def wipe(self) -> None:
        """Lose everything and begin anew, as a damaged collection does; give it another `incarnation` too."""
        for points in self._points.values():
            points.clear()

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        held = self._held(collection)
        for point in points:
            if len(point.vector) != 4 * self._specs[collection].dimension:
                raise DimensionMismatch
            norm = math.hypot(*array.array("f", point.vector))
            if point.id in self.refused or not math.isfinite(norm) or norm == 0:
                raise BadContent(f"point {point.id}")
        self.upsert_began.set()
        if self.before_upsert is not None:
            await self.before_upsert.wait()
            self._check_up()
        self.upserts.append([point.id for point in points])
        held.update({point.id: point for point in points})

    async def delete(self, collection: str, ids: Sequence[int]) -> None:
        held = self._held(collection)
        for point_id in ids:
            held.pop(point_id, None)
            self.twice.discard(point_id)

    async def search(self, collection: str, vector: Vector, limit: int, where: Filter | None) -> list[Hit]:
        wanted = array.array("f", vector)
        hits = [
            Hit(point.id, point.version, _cosine(wanted, array.array("f", point.vector)))
            for point in self._held(collection).values()
            if where is None or passes(where, point.id, point.payload)
        ]
        return sorted(hits, key=lambda hit: (-hit.score, hit.id))[:limit]

    async def scroll(self, collection: str, after_id: int, limit: int) -> list[PointVersion]:
        held = [*self._held(collection).values()]
        points = sorted([*held, *(point for point in held if point.id in self.twice)], key=lambda point: point.id)
        return [PointVersion(p.id, p.version, p.payload.get("epoch", "")) for p in points if p.id > after_id][:limit]

    async def count(self, collection: str) -> int:
        return len(self._held(collection))

    async def publish(self, names: Mapping[str, str]) -> None:
        self._check_up()
        self.names = dict(names)

    def health(self) -> IndexHealth:
        return IndexHealth(available=not self.down, detail="down" if self.down else "",
                           incarnations=dict.fromkeys(self._specs, self.incarnation))

    def versions(self, collection: str) -> dict[int, int]:
        """Everything that is held."""
        return {point.id: point.version for point in self._points.get(collection, {}).values()}

    def point(self, collection: str, point_id: int) -> Point:
        return self._points[collection][point_id]

    def payload(self, collection: str, point_id: int) -> dict[str, object]:
        return self._points[collection][point_id].payload

    def _held(self, collection: str) -> dict[int, Point]:
        self._check_up()
        if collection not in self._points:
            raise IndexUnavailable(f"the collection {collection} is not open yet")
        return self._points[collection]

    def _check_up(self) -> None:
        if self.down:
            raise IndexUnavailable("down")


def _cosine(a: array.array[float], b: array.array[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))

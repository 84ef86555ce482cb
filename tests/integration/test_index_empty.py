"""Collections of the embedded index in which nothing was stored yet: they cost nothing, and become real ones."""

from __future__ import annotations

import json
import shutil
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nexusd.clock import SystemClock
from nexusd.config_sections import IndexConfig
from nexusd.errors import BadContent, DimensionMismatch, IndexUnavailable
from nexusd.index.embedded import EmbeddedIndex
from nexusd.index.filters import Filter, Match
from nexusd.index.index import CollectionSpec, Point, PointVersion

pytestmark = pytest.mark.anyio
SPEC = CollectionSpec("entities-1a2b", 4)
VECTOR = array("f", [1, 0, 0, 0]).tobytes()


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[EmbeddedIndex]:
    index = EmbeddedIndex(directory, IndexConfig(), SystemClock())
    await index.start()
    try:
        yield index
    finally:
        await index.close()


def shards(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / SPEC.name).glob("shard-*"))


async def test_an_empty_collection_has_no_shard_and_answers_as_one_without_points(tmp_path: Path) -> None:
    async with opened(tmp_path) as index:
        incarnation = await index.ensure(SPEC)
        assert await index.search(SPEC.name, VECTOR, 5, Filter(must=(Match("type", ("x",)),))) == []
        assert await index.scroll(SPEC.name, 0, 5) == []
        assert await index.count(SPEC.name) == 0
        await index.delete(SPEC.name, [1, 2])
        with pytest.raises(BadContent):
            await index.search(SPEC.name, VECTOR, 5, Filter(must=(Match("...", ("x",)),)))
        assert shards(tmp_path) == []
    async with opened(tmp_path) as index:
        assert await index.ensure(SPEC) == incarnation
        assert shards(tmp_path) == []


async def test_the_first_point_makes_the_shard_and_the_incarnation_stays(tmp_path: Path) -> None:
    async with opened(tmp_path) as index:
        incarnation = await index.ensure(SPEC)
        await index.upsert(SPEC.name, [Point(3, 7, VECTOR, {})])
        assert shards(tmp_path) == ["shard-1"]
        assert await index.ensure(SPEC) == incarnation
        assert await index.scroll(SPEC.name, 0, 5) == [PointVersion(3, 7)]
    async with opened(tmp_path) as index:
        assert await index.ensure(SPEC) == incarnation
        assert await index.scroll(SPEC.name, 0, 5) == [PointVersion(3, 7)]


async def test_what_a_crash_left_of_a_first_shard_is_begun_anew(tmp_path: Path) -> None:
    async with opened(tmp_path) as index:
        incarnation = await index.ensure(SPEC)
        (tmp_path / SPEC.name / "shard-1").mkdir()  # before the manifest named it
        (tmp_path / SPEC.name / "shard-1" / "half").touch()
        await index.upsert(SPEC.name, [Point(3, 7, VECTOR, {})])
        assert await index.ensure(SPEC) == incarnation
        assert await index.count(SPEC.name) == 1


async def test_an_empty_collection_keeps_its_dimension(tmp_path: Path) -> None:
    async with opened(tmp_path) as index:
        await index.ensure(SPEC)
    async with opened(tmp_path) as index:
        with pytest.raises(DimensionMismatch):
            await index.ensure(CollectionSpec(SPEC.name, 5))
        await index.ensure(SPEC)


async def test_an_empty_collection_can_be_dropped(tmp_path: Path) -> None:
    async with opened(tmp_path) as index:
        before = await index.ensure(SPEC)
        await index.drop(SPEC.name)
        assert not (tmp_path / SPEC.name).exists()
        with pytest.raises(IndexUnavailable):
            await index.count(SPEC.name)
        assert await index.ensure(SPEC) != before


async def test_an_empty_collection_with_a_broken_manifest_is_begun_anew(tmp_path: Path) -> None:
    async with opened(tmp_path) as index:
        before = await index.ensure(SPEC)
    (tmp_path / SPEC.name / "manifest.json").write_bytes(b"\x00")
    async with opened(tmp_path) as index:
        assert await index.ensure(SPEC) != before
        await index.upsert(SPEC.name, [Point(3, 7, VECTOR, {})])
        assert await index.count(SPEC.name) == 1


async def test_a_collection_whose_first_shard_was_lost_is_begun_anew_not_taken_for_empty(tmp_path: Path) -> None:
    async with opened(tmp_path) as index:
        before = await index.ensure(SPEC)
        await index.upsert(SPEC.name, [Point(3, 7, VECTOR, {})])
    shutil.rmtree(tmp_path / SPEC.name / "shard-1")
    assert json.loads((tmp_path / SPEC.name / "manifest.json").read_text())["shard"] == "shard-1"
    async with opened(tmp_path) as index:
        assert await index.ensure(SPEC) != before  # by which the caller sees that all must be sent again

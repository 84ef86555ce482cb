"""Where deletes are secure, a collection's files hold nothing of a deleted point when the index says so."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nexusd.clock import SystemClock
from nexusd.config_sections import IndexConfig
from nexusd.errors import IndexUnavailable
from nexusd.index.embedded import EmbeddedIndex
from nexusd.index.index import CollectionSpec, Point

pytestmark = pytest.mark.anyio

SPEC = CollectionSpec("episodes", 8)
FAULTS = Path(__file__).with_name("index_faults")
OTHER_STEPS = ["copying", "building", "caught-up", "adopted", "removed"]
WORD = "zqkwvbtrwx"  # the name of a number, which is kept as it is
VECTOR = array("f", [0.6, 0.8, 0, 0, 0, 0, 0, 0]).tobytes()


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no test waits for the quiet after a delete."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FAULTS), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("NEXUSD_TEST_ERASE_AFTER_S", "0.05")


@asynccontextmanager
async def opened(directory: Path, *, secure: bool = True) -> AsyncIterator[EmbeddedIndex]:
    index = EmbeddedIndex(directory, IndexConfig(), SystemClock(), secure_delete=secure, child_module="dying_child")
    await index.start()
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    await index.ensure(SPEC)
                    break
                except IndexUnavailable:
                    await asyncio.sleep(0.02)
        yield index
    finally:
        await index.close()


def point(id_: int, word: str = "") -> Point:
    """One that says the word, with a vector that nothing else has; or one of the others."""
    metadata = {word: 5} if word else {"n": id_}
    others = array("f", [0, 0, 1, id_, 0, 0, 0, 0]).tobytes()
    return Point(id_, 1, VECTOR if word else others, {"name": word or "plain", "metadata": metadata})


def traces(directory: Path) -> list[str]:
    """The files that hold the word or the vector."""
    found = []
    for path in directory.rglob("*"):
        if path.is_file():
            content = path.read_bytes().translate(None, b"\0")
            if WORD.encode() in content or VECTOR[:8].translate(None, b"\0") in content:
                found.append(str(path.relative_to(directory)))
    return found


async def held(index: EmbeddedIndex) -> list[int]:
    return [each.id for each in await index.scroll(SPEC.name, 0, 1000)]


async def erased(index: EmbeddedIndex) -> None:
    async with asyncio.timeout(60):
        await index.erased()


async def test_a_deleted_point_leaves_the_files_and_the_others_stay(tmp_path: Path) -> None:
    async with opened(tmp_path) as index:
        await index.upsert(SPEC.name, [point(id_) for id_ in range(1, 40)] + [point(40, WORD)])
        await erased(index)  # nothing was deleted: there is nothing to wait for
        assert traces(tmp_path)
        await index.delete(SPEC.name, [40, 7])
        await index.upsert(SPEC.name, [point(41)])
        await erased(index)
        assert traces(tmp_path) == []
        assert await held(index) == [*range(1, 7), *range(8, 40), 41]
        nearest = await index.search(SPEC.name, point(3).vector, 1, None)
        assert [hit.id for hit in nearest] == [3]
    async with opened(tmp_path) as index:
        assert len(await held(index)) == 39


async def test_a_delete_that_the_process_did_not_live_to_carry_out_in_the_files_is_not_forgotten(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as index:
        await index.upsert(SPEC.name, [point(1), point(2, WORD)])
        await index.delete(SPEC.name, [2])
        for pid in index.health().process_ids:
            os.kill(pid, signal.SIGKILL)
        await erased(index)
        assert index.health().restarts == 1
        assert traces(tmp_path) == []
        assert await held(index) == [1]


@pytest.mark.parametrize("step", ["named", *(pytest.param(step, marks=pytest.mark.long) for step in OTHER_STEPS)])
async def test_a_crash_while_a_collection_is_written_anew_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setenv("NEXUSD_TEST_DIES_AT", step)
    async with opened(tmp_path) as index:
        await index.upsert(SPEC.name, [point(1), point(2), point(3, WORD)])
        await index.delete(SPEC.name, [3])
        await erased(index)
        assert (tmp_path / f"died-at-{step}").exists() or step == "removed"  # it may end before it dies
        assert traces(tmp_path) == []
        assert await held(index) == [1, 2]


async def test_what_is_set_aside_as_broken_is_not_kept(tmp_path: Path) -> None:
    async with opened(tmp_path, secure=False) as index:
        await index.upsert(SPEC.name, [point(1, WORD)])
    shutil.copytree(tmp_path / SPEC.name, tmp_path / "entities.broken-1")  # from before the setting was on
    (tmp_path / SPEC.name / "manifest.json").write_bytes(b"{")
    assert traces(tmp_path)
    async with opened(tmp_path) as index:
        assert await held(index) == []
    assert list(tmp_path.glob("*.broken-*")) == []
    assert traces(tmp_path) == []

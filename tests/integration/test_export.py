"""nexusctl export and import: what goes out comes back, into an empty store or a full one."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import zstandard
from fakes.embedder import FakeEmbedder
from fakes.index import FakeIndex
from harness.exported import LoopClient, counts, exported, imported, rows_of
from harness.walk import WEIGHTS, Walk
from harness.whole_daemon import WholeDaemon, whole_daemon
from hypothesis import given, settings
from hypothesis import strategies as st

from nexusd.cli.export_import import ConflictFound
from nexusd.cli.export_reading import LINES
from nexusd.cli.import_report import describe_report
from nexusd.errors import NotFound

pytestmark = pytest.mark.anyio

STEPS = 120


@asynccontextmanager
async def fresh(data: Path, embedder: FakeEmbedder | None = None) -> AsyncIterator[WholeDaemon]:
    async with whole_daemon(data, embedder=embedder or FakeEmbedder(), index=FakeIndex()) as daemon:
        yield daemon


async def walk_some(walk: Walk, steps: int) -> None:
    """Random calls of everything that writes, each answered as it should be."""
    for _ in range(steps):
        (method,) = walk.chance.choices(list(WEIGHTS), list(WEIGHTS.values()))
        if method in {"outbox.retry", "toolLogs.prune", "index.reembed", "index.forget"}:
            continue
        await walk._call(method, walk.calls.params(method), None)
    await walk.drain()


async def filled(daemon: WholeDaemon) -> dict[str, Any]:
    """A row or more of every table that an export has."""
    get = daemon.get
    project = await get("projects.create", name="house", colour="#123")
    session = await get("sessions.create", externalId="kitchen", projectId=project["id"], metadata={"a": [1, None]})
    other = await get("sessions.create", externalId="cellar")
    said = [
        await get("episodes.create", sessionId=row["id"], userMessage=f"fig {n} \u2028 \u00fc", aiResponse="line\nline",
                  tokenCount=n, createdAt=1000 + n, metadata={"n": n})
        for n in range(4) for row in (session, other)
    ]  # fmt: skip
    await get("summaries.create", sessionId=session["id"], content="figs", firstEpisodeId=said[0]["id"],
              lastEpisodeId=said[4]["id"])
    anna = await get("entities.upsert", name="Anna", type="person", notes="a cook")
    fig = await get("entities.upsert", name="Fig", type="plant")
    await get("relationships.upsert", fromId=anna["id"], toId=fig["id"], label="grows")
    await get("users.set", id=7, settings={"theme": "dark"})
    await get("users.set", id="7", settings={})
    group = await get("groups.create", name="cooks", config={"n": 1.5})
    chat = await get("conversations.create", title="tea", userId=7, groupId=group["id"])
    await get("messages.create", conversationId=chat["id"], role="user", content="hot?", createdAt=5)
    await get("toolLogs.append", tool="clock", arguments={"z": 1}, error="late", conversationId=chat["id"])
    await get("vectors.store", id="note", text="the cellar is damp", embedding=[0.5] * 32)
    await get("vectors.store", id=5, text="the attic is dry")
    await get("presets.put", name="Chef", content={"temperature": 0.7})
    await get("tools.put", name="dice", source="export default 1\n")
    await get("mcpServers.put", name="files", config={"command": "run"})
    return {"project": project, "session": session, "other": other, "said": said}


async def test_what_goes_out_comes_back_the_same_with_its_ids(tmp_path: Path) -> None:
    async with fresh(tmp_path / "a") as daemon:
        await filled(daemon)
        report = await exported(daemon, tmp_path / "a.jsonl")
    rows = rows_of(tmp_path / "a.jsonl")
    assert set(report.rows) == set(LINES), "every table is in the test"
    assert [row["table"] for row in rows] == sorted((row["table"] for row in rows), key=list(LINES).index)
    async with fresh(tmp_path / "b") as daemon:
        taken = await imported(daemon, tmp_path / "a.jsonl")
        assert taken.refusals == []
        assert not any(table.new_ids for table in taken.tables)
        await exported(daemon, tmp_path / "b.jsonl")
        assert rows_of(tmp_path / "b.jsonl") == rows
        again = await imported(daemon, tmp_path / "a.jsonl")
        assert all(table.existing == table.rows for table in again.tables), describe_report(again)
        await daemon.drained()
        await exported(daemon, tmp_path / "b.jsonl")
        assert rows_of(tmp_path / "b.jsonl") == rows


@settings(max_examples=3)
@given(seed=st.integers(0, 2**16))
def test_any_store_goes_through_an_export_unchanged(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    async def run() -> None:
        here = tmp_path_factory.mktemp("walk")
        async with Walk(here / "a", seed, FakeIndex()) as walk:
            await walk_some(walk, STEPS)
            await exported(walk.daemon, here / "a.jsonl")
        rows = rows_of(here / "a.jsonl")
        async with fresh(here / "b") as daemon:
            dry = await imported(daemon, here / "a.jsonl", dry_run=True)
            assert await daemon.get("sessions.list") == {"items": [], "nextCursor": None}
            taken = await imported(daemon, here / "a.jsonl")
            assert taken.refusals == []
            assert counts(dry) == counts(taken)
            await exported(daemon, here / "b.jsonl")
            assert rows_of(here / "b.jsonl") == rows
        async with Walk(here / "c", seed + 1, FakeIndex()) as walk:
            await walk_some(walk, STEPS // 2)
            dry = await imported(walk.daemon, here / "a.jsonl", dry_run=True)
            taken = await imported(walk.daemon, here / "a.jsonl")
            assert counts(dry).keys() == counts(taken).keys()
            await exported(walk.daemon, here / "c.jsonl")
            again = await imported(walk.daemon, here / "a.jsonl")
            assert not any(table.inserted for table in again.tables), describe_report(again)
            await exported(walk.daemon, here / "c2.jsonl")
            assert rows_of(here / "c.jsonl") == rows_of(here / "c2.jsonl")

    asyncio.run(run())


async def test_ids_that_are_taken_are_mapped_and_what_refers_to_them_follows(tmp_path: Path) -> None:
    async with fresh(tmp_path / "a") as daemon:
        await filled(daemon)
        await exported(daemon, tmp_path / "a.jsonl")
    async with fresh(tmp_path / "b") as daemon:
        mine = await daemon.get("sessions.create", externalId="mine")
        await daemon.get("episodes.create", sessionId=mine["id"], userMessage="mine", aiResponse="")
        report = await imported(daemon, tmp_path / "a.jsonl")
        new_ids = {table.table: table.new_ids for table in report.tables}
        assert (new_ids["sessions"], new_ids["episodes"], new_ids["projects"]) == (1, 1, 0)
        moved = await daemon.get("sessions.getByExternalId", externalId="kitchen")
        texts = [row["tokenCount"] for row in (await daemon.get("episodes.list", sessionId=moved["id"]))["items"]]
        assert texts == [3, 2, 1, 0]
        (summary,) = (await daemon.get("summaries.list", sessionId=moved["id"]))["items"]
        assert (await daemon.get("episodes.get", id=summary["firstEpisodeId"]))["tokenCount"] == 0


async def test_a_row_that_says_something_else_here_stays_changes_or_stops_the_import(tmp_path: Path) -> None:
    async with fresh(tmp_path / "a") as daemon:
        await filled(daemon)
        await exported(daemon, tmp_path / "a.jsonl")
        await daemon.get("sessions.update", externalId="kitchen", name="renamed")
        await daemon.get("entities.upsert", name="Anna", type="person", notes="a baker")
        await daemon.get("presets.put", name="Chef", content={"temperature": 1})
        await daemon.get("vectors.store", id=5, text="the attic is wet")
        await daemon.get("episodes.update", id=1, metadata={"n": 99})
        await daemon.get("episodes.create", sessionId=1, userMessage="new", aiResponse="")
        different = {"sessions", "entities", "presets", "vectors", "episodes"}

        with pytest.raises(ConflictFound, match=r"lines 3, 5, .*Nothing was written"):
            await imported(daemon, tmp_path / "a.jsonl", rule="fail")
        skipped = await imported(daemon, tmp_path / "a.jsonl")
        assert {table.table for table in skipped.tables if table.kept} == different
        assert (await daemon.get("entities.get", id=1))["notes"] == "a baker"

        dry = await imported(daemon, tmp_path / "a.jsonl", rule="update", dry_run=True)
        assert (await daemon.get("entities.get", id=1))["notes"] == "a baker"
        updated = await imported(daemon, tmp_path / "a.jsonl", rule="update")
        assert counts(dry) == counts(updated)
        assert {table.table for table in updated.tables if table.updated} == different
        await exported(daemon, tmp_path / "b.jsonl")
        mended = [row for row in rows_of(tmp_path / "b.jsonl") if row.get("userMessage") != "new"]
        assert mended == rows_of(tmp_path / "a.jsonl")
        await daemon.drained()
        assert (await imported(daemon, tmp_path / "a.jsonl", rule="fail")).conflicts == []
        found = await daemon.get("episodes.search", query="fig")
        assert found["items"]


async def test_a_session_or_a_project_goes_out_alone_with_what_it_needs(tmp_path: Path) -> None:
    async with fresh(tmp_path / "a") as daemon:
        made = await filled(daemon)
        session = await exported(daemon, tmp_path / "s.jsonl", of="session", scope=made["session"]["id"])
        assert session.rows == {"projects": 1, "sessions": 1, "episodes": 4, "summaries": 1}
        assert {row["sessionId"] for row in rows_of(tmp_path / "s.jsonl") if "sessionId" in row} == {1}
        project = await exported(daemon, tmp_path / "p.jsonl", of="project", scope=made["project"]["id"])
        assert project.rows == session.rows
        alone = await exported(daemon, tmp_path / "o.jsonl", of="session", scope=made["other"]["id"])
        assert alone.rows == {"sessions": 1, "episodes": 4}
        with pytest.raises(NotFound):
            await exported(daemon, tmp_path / "x.jsonl", of="session", scope=999)
    async with fresh(tmp_path / "b") as daemon:
        assert (await imported(daemon, tmp_path / "o.jsonl")).refusals == []
        assert (await imported(daemon, tmp_path / "s.jsonl")).refusals == []
        assert len((await daemon.get("sessions.list"))["items"]) == 2


async def test_rows_of_a_session_that_came_into_the_project_meanwhile_are_left_out(tmp_path: Path) -> None:
    async with fresh(tmp_path / "a") as daemon:
        made = await filled(daemon)

        class Moving(LoopClient):
            def execute(self, request: Any, **options: Any) -> Any:
                answer = super().execute(request, **options)
                if request.method == "exports.page" and self.calls.count("exports.page") == 2:
                    params = {"externalId": "cellar", "projectId": made["project"]["id"]}
                    asyncio.run_coroutine_threadsafe(daemon.get("sessions.update", **params), self._loop).result(10)
                return answer

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("harness.exported.LoopClient", Moving)
            await exported(daemon, tmp_path / "p.jsonl", of="project", scope=made["project"]["id"])
    assert {row["sessionId"] for row in rows_of(tmp_path / "p.jsonl") if "sessionId" in row} == {1}


async def test_rows_made_after_it_began_are_not_in_it_and_pages_may_be_short(tmp_path: Path) -> None:
    async with fresh(tmp_path / "a") as daemon:
        await filled(daemon)
        begun = await daemon.get("exports.begin")
        await daemon.get("episodes.create", sessionId=1, userMessage="late", aiResponse="")
        late = await daemon.get("projects.create", name="late")
        await daemon.get("sessions.update", externalId="kitchen", projectId=late["id"])
        await daemon.get("episodes.delete", id=1)
        cursor, rows = begun["cursor"], []
        while cursor is not None:
            page = await daemon.get("exports.page", cursor=cursor, limit=1)
            assert len(page["items"]) <= 1
            rows += page["items"]
            cursor = page["nextCursor"]
    assert [row["id"] for row in rows if row["table"] == "episodes"] == list(range(2, 9))
    assert not any("projectId" in row for row in rows), "the project came later, so it is not told"
    (summary,) = (row for row in rows if row["table"] == "summaries")
    assert "firstEpisodeId" not in summary
    assert summary["firstEpisodeAt"] == 1000, "the end that is gone is told by its time"
    assert summary["lastEpisodeId"] == 5


async def test_vectors_in_the_file_save_the_embedding_where_they_fit(tmp_path: Path) -> None:
    async with fresh(tmp_path / "a") as daemon:
        await filled(daemon)
        await daemon.drained()
        await exported(daemon, tmp_path / "a.jsonl", vectors=True)
        await exported(daemon, tmp_path / "bare.jsonl")
    assert all("vector" in row for row in rows_of(tmp_path / "a.jsonl") if row["table"] == "episodes")
    assert not any("vector" in row for row in rows_of(tmp_path / "bare.jsonl"))
    embedder = FakeEmbedder()
    embedder.unavailable = "nothing may be embedded"
    async with fresh(tmp_path / "b", embedder) as daemon:
        assert (await imported(daemon, tmp_path / "a.jsonl")).vectors
        await daemon.drained()
        await exported(daemon, tmp_path / "b.jsonl", vectors=True)
        assert rows_of(tmp_path / "b.jsonl") == rows_of(tmp_path / "a.jsonl")
        assert (await daemon.get("episodes.get", id=1))["vector"] == "indexed"


@pytest.mark.parametrize("spoilt", ["AAAA", "////" * 11, "AAAA" * 10 + "AA==", "no base64!!!"])
async def test_a_vector_that_is_none_is_made_again(tmp_path: Path, spoilt: str) -> None:
    async with fresh(tmp_path / "a") as daemon:
        model = (await daemon.get("imports.lastIds"))["model"]
        await daemon.get("sessions.create", externalId="s")
        item = {"sessionId": 1, "userMessage": "u", "aiResponse": "a", "createdAt": 5, "vector": spoilt,
                "textHash": "0" * 32}
        (answer,) = (await daemon.get("imports.store", table="episodes", items=[item], model=model))["items"]
        assert ("error" in answer) == ("!" in spoilt)
        await daemon.drained()
        assert await daemon.select("SELECT count(*) FROM outbox WHERE state = 'dead'") == [(0,)]


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "jsonl.zst"])
async def test_an_export_is_compressed_as_its_name_says(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    async with fresh(tmp_path / "a") as daemon:
        await filled(daemon)
        await exported(daemon, path)
    data = path.read_bytes()
    plain = {"jsonl": bytes, "gz": gzip.decompress, "zst": _unpacked}[suffix.rpartition(".")[2]](data)
    *lines, end = plain.splitlines(keepends=True)
    assert json.loads(end)["sha256"] == hashlib.sha256(b"".join(lines)).hexdigest()
    assert path.stat().st_mode & 0o777 == 0o600
    assert [found.name for found in tmp_path.glob("a.*")] == [path.name], "nothing unfinished is left"
    async with fresh(tmp_path / "b") as daemon:
        await daemon.get("sessions.create", externalId="mine")  # so that tables are walked twice
        assert (await imported(daemon, path)).refusals == []


def _unpacked(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


async def test_an_import_that_was_cut_off_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexusd.cli.import_rows.MAX_ROWS", 3)
    async with fresh(tmp_path / "a") as daemon:
        await filled(daemon)
        await exported(daemon, tmp_path / "a.jsonl")

    class Stopped(Exception):
        pass

    class StopsAfter(LoopClient):
        left = 0

        def execute(self, request: Any, **options: Any) -> Any:
            StopsAfter.left -= 1
            answer = super().execute(request, **options)    # done, and nobody hears of it
            if StopsAfter.left == 0:
                raise Stopped
            return answer

    async with fresh(tmp_path / "b") as daemon:
        await daemon.get("sessions.create", externalId="mine")
        for calls in range(1, 40, 3):
            StopsAfter.left = calls
            try:
                await imported(daemon, tmp_path / "a.jsonl", client=StopsAfter(daemon))
            except Stopped:
                continue
        report = await imported(daemon, tmp_path / "a.jsonl")
        assert not any(table.inserted or table.refused for table in report.tables)
        assert (await daemon.counts())["episodes"] == 8
        assert (await daemon.counts())["messages"] == 1

"""Every kind of row on its way into the index, and rows that are to stay out of it."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fakes.embedder import FakeEmbedder
from fakes.index import FakeIndex
from harness.outbox_bench import NOW_MS, Bench, make_bench
from hypothesis import given, settings
from hypothesis import strategies as st

from nexusd.errors import DimensionMismatch, RowNotFound
from nexusd.index.index import CollectionSpec
from nexusd.model.outbox import ListOutbox
from nexusd.model.projects import CreateProject
from nexusd.model.sessions import UpdateSession
from nexusd.store.database import Database
from nexusd.store.entities import delete_entity
from nexusd.store.outbox import list_outbox
from nexusd.store.projects import insert_project
from nexusd.store.sessions import update_session
from nexusd.store.vectors import delete_vector
from nexusd.sync.points import put_point, remove_point

pytestmark = pytest.mark.anyio
COLLECTIONS = ("episodes", "entities", "summaries", "messages", "vectors")


def direction(axis: int, dimension: int = 32) -> bytes:
    return struct.pack(f"<{dimension}f", *(float(n == axis) for n in range(dimension)))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with make_bench(tmp_path) as made:
        yield made


async def put(bench: Bench, collection: str, row_id: int, vector: bytes | None = None) -> None:
    model = bench.embedder.fingerprint.short
    await bench.store.write(put_point, collection, row_id, vector, model, NOW_MS)  # type: ignore[arg-type]  # a name


async def take_out(bench: Bench, collection: str, row_id: int) -> int:
    return (await bench.store.write(remove_point, collection, row_id, NOW_MS)).points_queued  # type: ignore[arg-type]


async def one_of_each(bench: Bench) -> dict[str, int]:
    return {
        "episodes": await bench.add("tea"),
        "entities": (await bench.entity("Ada", notes="likes tea")).id,
        "summaries": await bench.summary("they had tea"),
        "messages": await bench.message("more tea"),
        "vectors": (await bench.text("cup", "a cup of tea")).row_id,
    }


async def test_every_kind_of_row_reaches_its_own_collection(bench: Bench) -> None:
    ids = await one_of_each(bench)
    bench.start()
    await bench.drained()
    for collection, row_id in ids.items():
        assert bench.holds(collection) == {row_id: 1} == await bench.rows(collection)
        assert bench.state(collection, row_id) == "indexed"
    embedded = {text for call in bench.embedder.document_calls for text in call}
    assert embedded == {
        "User: tea\nAssistant: ok", "Ada (person)\nlikes tea", "they had tea", "user: more tea", "a cup of tea",
    }


async def test_a_summary_follows_its_session_into_a_project(bench: Bench) -> None:
    summary = await bench.summary("they had tea")
    bench.start()
    await bench.drained()
    project = await bench.store.write(insert_project, CreateProject(name="p"), NOW_MS)
    await bench.store.write(update_session, UpdateSession(id=bench.session, project_id=project.id), NOW_MS)
    await bench.drained()
    assert bench.payload("summaries", summary)["projectId"] == project.id
    assert len(bench.embedder.document_calls) == 1  # the text is the same


async def test_a_text_with_its_own_vector_is_never_embedded(bench: Bench) -> None:
    bench.embedder.unavailable = "down"
    text = await bench.text("cup", "a cup of tea", direction(3))
    bench.start()
    assert (await bench.worker.wait_for("vectors", [text.row_id], 10)).done
    (hit,) = await bench.index.search(bench.collections.physical("vectors"), direction(3), 5, None)
    assert (hit.id, hit.score) == (text.row_id, pytest.approx(1.0))
    assert bench.embedder.document_calls == []


async def test_a_vector_of_another_dimension_is_a_dead_letter_and_holds_nobody_up(bench: Bench) -> None:
    wrong = await bench.text("wrong", "x", direction(0, dimension=3))
    ids = await one_of_each(bench)
    bench.start()
    await bench.drained()
    (dead,) = (await bench.store.read(list_outbox, ListOutbox())).items
    assert (dead.row_id, dead.state, dead.error_kind) == (wrong.row_id, "dead", "dimension_mismatch")
    assert [set(bench.holds(collection)) for collection in COLLECTIONS] == [{ids[each]} for each in COLLECTIONS]


@pytest.mark.parametrize("blank", ["", "  ", "\n\t"])
async def test_a_row_without_a_text_is_settled_at_once_and_has_no_vector(bench: Bench, blank: str) -> None:
    message = await bench.message(blank)
    text = await bench.text(1, blank)
    bench.start()
    await bench.drained()
    assert (bench.holds("messages"), bench.holds("vectors")) == ({}, {})
    assert (bench.state("messages", message), bench.state("vectors", text.row_id)) == ("none", "none")
    assert bench.worker.status().dead == 0
    assert bench.embedder.document_calls == []
    assert (await bench.collections.compare("vectors", NOW_MS)).agrees


async def test_a_row_that_loses_its_text_loses_its_point_and_gets_one_with_the_next(bench: Bench) -> None:
    bench.start()
    row_id = (await bench.text(1, "tea")).row_id
    await bench.drained()
    assert bench.holds("vectors") == {row_id: 1}
    await bench.text(1, "")
    await bench.drained()
    assert (bench.holds("vectors"), bench.state("vectors", row_id)) == ({}, "none")
    await bench.text(1, "coffee")
    await bench.drained()
    assert (bench.holds("vectors"), bench.state("vectors", row_id)) == ({row_id: 3}, "indexed")


async def test_a_row_that_gets_a_text_while_it_is_settled_without_one_is_indexed(tmp_path: Path) -> None:
    class Slow(FakeIndex):
        gate, reached = asyncio.Event(), asyncio.Event()

        async def delete(self, collection: str, ids: object) -> None:
            self.reached.set()
            await self.gate.wait()

    slow = Slow()
    async with make_bench(tmp_path, index=slow) as bench:
        row_id = (await bench.text(1, "")).row_id
        bench.start()
        await slow.reached.wait()
        await bench.text(1, "tea")
        slow.gate.set()
        await bench.drained()
        assert (bench.holds("vectors"), bench.state("vectors", row_id)) == ({row_id: 2}, "indexed")


async def test_a_poisoned_row_of_one_collection_holds_up_no_other(tmp_path: Path) -> None:
    class Broken(FakeIndex):
        async def upsert(self, collection: str, points: object) -> None:
            if collection.startswith("entities"):
                raise ZeroDivisionError
            await super().upsert(collection, points)  # type: ignore[arg-type]  # as it came

    async with make_bench(tmp_path, index=Broken(), max_attempts=3, max_backoff_s=300) as bench:
        first = (await bench.entity("Ada")).id
        ids = await one_of_each(bench)
        bench.start()
        for collection in COLLECTIONS:
            if collection != "entities":
                assert (await bench.worker.wait_for(collection, [ids[collection]], 10)).done
        rows = {row.row_id: row for row in (await bench.store.read(list_outbox, ListOutbox())).items}
        assert {row.collection for row in rows.values()} == {"entities"}
        assert rows[first].state in ("pending", "inflight")


async def test_a_second_start_queues_nothing(tmp_path: Path) -> None:
    index = FakeIndex()
    async with make_bench(tmp_path, index=index) as bench:
        await one_of_each(bench)
        bench.start()
        await bench.drained()
    async with make_bench(tmp_path, index=index) as bench:
        upserts = len(index.upserts)
        bench.start()
        await bench.drained()
        assert (len(index.upserts), bench.embedder.document_calls) == (upserts, [])
        for collection in COLLECTIONS:
            assert bench.holds(collection) == await bench.rows(collection)


async def test_rows_of_collections_that_were_never_pointed_at_are_queued_once(tmp_path: Path) -> None:
    async with make_bench(tmp_path) as bench:  # as a daemon of before leaves them: queued, and no pointers
        ids = await one_of_each(bench)
        await bench.store.write(lambda db: db.execute("DELETE FROM meta WHERE key LIKE 'collection.%'"))
    async with make_bench(tmp_path) as bench:
        queued = (await bench.store.read(list_outbox, ListOutbox())).items
        assert sorted(row.collection for row in queued) == sorted(ids)
        bench.start()
        await bench.drained()
        assert bench.worker.status().dead == 0
        assert sorted(len(each) for each in bench.index.upserts) == [1] * 5


# rows that are to stay out


async def test_a_row_that_was_taken_out_stays_out_until_it_changes(tmp_path: Path) -> None:
    index = FakeIndex()
    async with make_bench(tmp_path, index=index) as bench:
        bench.start()
        ids = await one_of_each(bench)
        await bench.drained()
        for collection, row_id in ids.items():
            assert await take_out(bench, collection, row_id) == 1
        await bench.drained()
        for collection, row_id in ids.items():
            assert (bench.holds(collection), bench.state(collection, row_id)) == ({}, "none")
            assert (await bench.collections.compare(collection, NOW_MS)).agrees
            assert await take_out(bench, collection, row_id) == 0  # it is out already
    index.incarnation = "another"
    async with make_bench(tmp_path, index=index, embedder=FakeEmbedder(model="another")) as bench:  # all is queued anew
        bench.start()
        other = (await bench.entity("Bob")).id
        await bench.drained()
        assert [bench.holds(name) for name in COLLECTIONS if name != "entities"] == [{}, {}, {}, {}]
        assert bench.holds("entities") == {other: 1}
        await bench.entity("Ada", notes="likes coffee")
        await bench.drained()
        assert bench.holds("entities") == {other: 1, ids["entities"]: 2}
        assert bench.state("entities", ids["entities"]) == "indexed"


async def test_a_point_that_comes_back_for_a_row_that_is_out_is_an_orphan(bench: Bench) -> None:
    bench.start()
    row_id = (await bench.entity("Ada")).id
    await bench.drained()
    target = bench.collections.physical("entities")
    point = bench.index._points[target][row_id]
    await take_out(bench, "entities", row_id)
    await bench.drained()
    bench.index._points[target][row_id] = point  # an older copy of the index, say
    found = await bench.collections.compare("entities", NOW_MS)
    assert (found.rows, found.missing, found.stale, found.orphaned) == (0, 0, 0, 1)
    await bench.drained()
    assert (bench.holds("entities"), bench.state("entities", row_id)) == ({}, "none")


async def test_put_lets_a_row_in_again_and_embeds_it_anew(bench: Bench) -> None:
    bench.start()
    row_id = (await bench.entity("Ada")).id
    await bench.drained()
    await take_out(bench, "entities", row_id)
    await bench.drained()
    await put(bench, "entities", row_id)
    await bench.drained()
    assert (bench.holds("entities"), bench.state("entities", row_id)) == ({row_id: 1}, "indexed")
    assert bench.embedder.document_calls == [["Ada (person)"]] * 2


async def test_a_given_vector_survives_a_rebuild_and_goes_with_the_text(tmp_path: Path) -> None:
    async with make_bench(tmp_path) as bench:
        bench.start()
        row_id = (await bench.entity("Ada")).id
        await bench.drained()
        await put(bench, "entities", row_id, direction(5))
        await bench.drained()
    async with make_bench(tmp_path, index=FakeIndex()) as bench:  # wiped
        bench.start()
        await bench.drained()
        target = bench.collections.physical("entities")
        assert bench.index._points[target][row_id].vector == direction(5)
        await bench.entity("Ada", metadata={"tall": True})  # not the text
        await bench.drained()
        assert bench.index._points[target][row_id].vector == direction(5)
        assert bench.embedder.document_calls == []
        await bench.entity("Ada", notes="likes tea")
        await bench.drained()
        assert bench.index._points[target][row_id].vector != direction(5)


async def test_a_vector_that_is_given_while_the_row_is_embedded_wins(bench: Bench) -> None:
    bench.embedder.gate = asyncio.Event()
    bench.start()
    row_id = (await bench.entity("Ada")).id
    async with asyncio.timeout(10):
        while not bench.embedder.document_calls:
            await asyncio.sleep(0)
    await put(bench, "entities", row_id, direction(5))
    bench.embedder.gate.set()
    await bench.drained()
    assert bench.index._points[bench.collections.physical("entities")][row_id].vector == direction(5)


@pytest.mark.parametrize("what", ["put", "take out"])
async def test_a_row_that_is_not_there_can_be_neither_put_nor_taken_out(bench: Bench, what: str) -> None:
    with pytest.raises(RowNotFound, match="no row 7 in entities"):
        await (put(bench, "entities", 7) if what == "put" else take_out(bench, "entities", 7))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["entity", "text", "blank", "own", "change", "delete", "take out", "put", "put own", "index lost",
             "index down", "index up", "embedder down", "embedder up", "crash", "turn"]
        ),
        st.integers(0, 30),
    ),
    max_size=40,
)


@settings(max_examples=25)
@given(steps=STEPS)
def test_whatever_happens_in_whatever_order_the_index_ends_with_exactly_the_rows_that_are_in(
    steps: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    asyncio.run(_run_steps(steps, tmp_path_factory.mktemp("steps")))


async def _run_steps(steps: list[tuple[str, int]], directory: Path) -> None:
    async with make_bench(directory, batch_size=3, max_backoff_s=0.11) as bench:
        bench.start()
        alive: dict[str, list[int]] = {"entities": [], "vectors": []}
        out: set[tuple[str, int]] = set()
        versions: dict[int, int] = {}
        for step, number in steps:
            collection = "vectors" if number % 2 else "entities"
            some = alive[collection]
            row_id = some[number % len(some)] if some else None
            if step == "entity":
                changed = await bench.entity(f"name {number}", notes=f"{random.random()}")
                alive["entities"] += [changed.id] if changed.created else []
                out.discard(("entities", changed.id))
            elif step in ("text", "blank", "own", "change"):
                own = direction(number % 32) if step == "own" else None
                text = await bench.text(number % 5, "" if step == "blank" else f"{random.random()}", own)
                alive["vectors"] += [] if text.row_id in alive["vectors"] else [text.row_id]
                if versions.get(text.row_id) != text.version:  # the same again changes nothing
                    out.discard(("vectors", text.row_id))
                    out |= {("vectors", text.row_id)} if step == "blank" else set()
                versions[text.row_id] = text.version
            elif step == "delete" and row_id is not None:
                some.remove(row_id)
                out.discard((collection, row_id))
                await _delete(bench.store, collection, row_id)
            elif step == "take out" and row_id is not None:
                await take_out(bench, collection, row_id)
                out.add((collection, row_id))
            elif step == "put own" and row_id is not None:
                await put(bench, collection, row_id, direction(number))
                out.discard((collection, row_id))
            elif step == "index lost":
                bench.index.wipe()
                bench.index.incarnation = f"{random.random()}"
                bench.worker.index_up()
            elif step.startswith("index"):
                bench.index.down = step == "index down"
            elif step.startswith("embedder"):
                bench.embedder.unavailable = "" if step == "embedder up" else "down"
            elif step == "crash":
                await bench.stop()
                bench.start()
            else:
                await asyncio.sleep(0)
        bench.index.down, bench.embedder.unavailable = False, ""
        await bench.drained()
        for collection, rows in alive.items():
            assert set(bench.holds(collection)) == {row_id for row_id in rows if (collection, row_id) not in out}
            assert bench.holds(collection) == await bench.rows(collection)
        assert bench.worker.status().dead == 0


async def _delete(store: Database, collection: str, row_id: int) -> None:
    if collection == "entities":
        await store.write(delete_entity, row_id)
    else:
        key = await store.read(lambda db: db.execute("SELECT key FROM vectors WHERE id = ?", (row_id,)).get)
        await store.write(delete_vector, key)


async def test_a_collection_that_cannot_be_used_holds_up_no_other_and_is_used_when_it_can(bench: Bench) -> None:
    """Made by somebody else with another dimension, say; people may remove it at any time."""
    taken = bench.collections.physical("entities")
    await bench.index.ensure(CollectionSpec(taken, 5))
    ids = await one_of_each(bench)
    bench.start()
    for collection in ("episodes", "summaries", "messages", "vectors"):
        async with asyncio.timeout(5):
            while bench.holds(collection).keys() != {ids[collection]}:
                await asyncio.sleep(0.005)
    assert taken not in bench.index.names.values()
    assert bench.worker.index_trouble == DimensionMismatch().message
    assert not bench.worker.complete
    assert not (await bench.worker.wait_for("entities", [ids["entities"]], 0.05)).done
    assert bench.worker.index_breaker.state == "closed"
    await bench.index.drop(taken)
    bench.worker.index_up()
    await bench.drained()
    assert bench.holds("entities").keys() == {ids["entities"]}
    assert (bench.worker.complete, bench.worker.index_trouble) == (True, "")
    assert bench.index.names["entities"] == taken

"""A change of the model that is cut off anywhere, and searches in the middle of it."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from harness.reembed_bench import ReembedBench, reembed_bench
from hypothesis import given, settings
from hypothesis import strategies as st

from nexusd.model.episodes import UpdateEpisode
from nexusd.model.memory import MemoryFilter, SearchMemory
from nexusd.model.outbox import ListOutbox
from nexusd.retrieval.search import MemorySearch
from nexusd.retrieval.similar import SimilaritySearch
from nexusd.store.episodes import delete_episode, update_episode
from nexusd.store.models import serve_next
from nexusd.store.outbox import list_outbox
from nexusd.store.recall import select_memories
from nexusd.sync.kept import forget
from nexusd.sync.sources import current_payloads

pytestmark = pytest.mark.anyio
STEPS = ("fill slice", "filled", "compared", "swapped", "adopted", "aliases", "collections dropped", "dropped")
SIZES = {"old": 32, "same": 32, "other": 48}


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[ReembedBench]:
    async with reembed_bench(tmp_path / "data") as made:
        yield made


async def indexed(bench: ReembedBench, count: int) -> list[int]:
    await bench.start("old")
    ids = [await bench.add(f"text {n}") for n in range(count)]
    await bench.drained()
    await bench.stop()
    return ids


@pytest.mark.parametrize("step", STEPS)
async def test_a_change_that_is_cut_off_at_any_step_is_brought_to_its_end(bench: ReembedBench, step: str) -> None:
    ids = await indexed(bench, 30)
    bench.crash_at = lambda reached: reached == step
    await bench.start("other", 48, keep_old_s=0)
    await bench.crashed()
    bench.crash_at = lambda _reached: False
    await bench.start("other", 48, keep_old_s=0)
    await bench.store.write(delete_episode, ids[0])
    await bench.settled("other", 48)
    await bench.until(lambda: not bench.models.kept())
    await bench.agree()
    assert await bench.roles() == {bench.key("other", 48): "serving"}
    embedded = [text for call in bench.embedder("other", 48).document_calls for text in call]
    assert len(embedded) == len(set(embedded)) <= 30  # nothing was paid for twice


Step = tuple[str, int]


@st.composite
def histories(draw: st.DrawFn) -> list[Step]:
    kinds = st.sampled_from(["add", "add", "change", "delete", "pause", "configure", "crash", "wipe", "forget"])
    return draw(st.lists(st.tuples(kinds, st.integers(0, 50)), min_size=5, max_size=25))


@settings(max_examples=10 if settings.default.max_examples < 1000 else 400)  # type: ignore[union-attr]  # a profile is loaded
@given(history=histories(), seed=st.integers(0, 2**16))
def test_whatever_happens_between_models_one_serves_in_the_end_and_holds_exactly_the_rows(
    history: list[Step], seed: int
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(_live_through(Path(directory), history, seed))


async def _live_through(directory: Path, history: list[Step], seed: int) -> None:
    chance = random.Random(seed)
    async with reembed_bench(directory) as bench:
        wanted, incarnation = "old", 0
        keep_old_s = chance.choice([0, 1000])
        await bench.start(wanted, SIZES[wanted], keep_old_s=keep_old_s)
        ids: list[int] = []

        async def restart() -> None:
            bench.crash_at = lambda _step: False
            await bench.start(wanted, SIZES[wanted], keep_old_s=keep_old_s)

        for kind, number in history:
            if any(task.done() for task in bench._tasks):
                await bench.stop()
                await restart()
            if kind == "add":
                ids += [await bench.add(f"text {number} {n}") for n in range(number % 7)]
            elif kind == "change" and ids:
                change = UpdateEpisode(id=ids[number % len(ids)], user_message=f"changed {number}")
                await bench.store.write(update_episode, change, 1)
            elif kind == "delete" and ids:
                await bench.store.write(delete_episode, ids.pop(number % len(ids)))
            elif kind == "pause":
                for _ in range(number * 4):
                    await asyncio.sleep(0)
            elif kind == "configure":
                wanted = sorted(SIZES)[number % len(SIZES)]
                await bench.stop()
                await restart()
            elif kind == "crash":
                step = STEPS[number % len(STEPS)]
                bench.crash_at = lambda reached, step=step: reached == step  # type: ignore[misc]  # bound now
            elif kind == "wipe":
                incarnation += 1
                bench.index.wipe()
                bench.index.incarnation = f"{incarnation}"
                bench.worker.index_up()
                bench.reembedding.index_up()
            elif kind == "forget":
                await bench.store.write(forget, None)
                await bench.models.look_again()
                bench.kept.wake()
        await bench.stop()
        await restart()
        await bench.settled(wanted, SIZES[wanted])
        await bench.until(lambda: bench.worker.complete)
        await bench.drained()
        await bench.agree()
        states = await bench.roles()
        assert list(states.values()).count("serving") == 1
        assert "next" not in states.values()
        for key in states:  # nothing that was deleted is anywhere
            assert set(bench.held(key)) <= set(ids)


@pytest.mark.parametrize(("model", "dimension"), [("same", 32), ("other", 48)])
async def test_no_search_meets_the_vectors_of_two_models_or_misses_a_memory_while_the_model_changes(
    bench: ReembedBench, model: str, dimension: int
) -> None:
    ids = await indexed(bench, 40)
    await bench.start(model, dimension, retire_after_s=1.0)
    complete = lambda: bench.worker.complete  # noqa: E731  what both are given
    search = MemorySearch(bench.store, bench.index, bench.models.serving, bench.clock, complete=complete)
    similar = SimilaritySearch(
        bench.store, bench.index, bench.models.serving, payloads=current_payloads, complete=complete
    )
    done = [0, 0]
    order = iter(range(10_000_000))

    def select(db: object, found: object, budget: object) -> dict[int, object]:
        records = select_memories(db, [("episodes", id_) for id_ in found], MemoryFilter(), budget)  # type: ignore[arg-type,attr-defined]
        return {id_: record for (_, id_), record in records.items()}

    async def ask() -> None:
        while not done[1] >= 400:
            number = next(order) % 40
            if number % 2:
                found = await search.search(SearchMemory(query=f"text {number}", mode="semantic", limit=3))
                assert not found.degraded
                assert found.items[0].id == ids[number]
            else:
                near = await similar.near_text("episodes", f"User: text {number}\nAssistant: ok", 3, None, select)  # type: ignore[type-var]
                assert not near.degraded
                assert near.hits[0][0].id == ids[number]
            done[bench.models.next is None] += 1

    await bench.until(lambda: bench.worker.complete)
    await asyncio.gather(*(ask() for _ in range(16)))
    assert min(done) > 0
    assert bench.index.searches == sum(done)
    await bench.settled(model, dimension)
    await bench.agree()


async def test_a_question_from_before_the_change_is_answered_by_the_model_of_then(bench: ReembedBench) -> None:
    ids = await indexed(bench, 10)
    old = bench.embedder("old")
    old.gate = asyncio.Event()
    await bench.start("same", retire_after_s=10)
    search = MemorySearch(bench.store, bench.index, bench.models.serving, bench.clock)
    asked = asyncio.create_task(search.search(SearchMemory(query="text 7", mode="semantic", limit=1)))
    await bench.until(lambda: bool(old.query_calls))
    await bench.settled("same")
    old.gate.set()
    found = await asked
    assert (found.degraded, [hit.id for hit in found.items]) == ([], [ids[7]])


async def test_the_outbox_after_the_change_is_what_the_new_model_owes(bench: ReembedBench) -> None:
    """What the old one gave up the new one may have, and the other way round."""
    await bench.start("old")
    bench.embedder("old").rejected.update({"User: a\nAssistant: ok", "User: b\nAssistant: ok"})
    bench.embedder("other", 48).rejected.update({"User: b\nAssistant: ok", "User: c\nAssistant: ok"})
    ids = {text: await bench.add(text) for text in "abcd"}
    await bench.drained()
    await bench.stop()
    await bench.start("other", 48)
    await bench.settled("other", 48)
    dead = (await bench.store.read(list_outbox, ListOutbox())).items
    assert {(row.row_id, row.state) for row in dead} == {(ids["b"], "dead"), (ids["c"], "dead")}
    await bench.agree()


async def test_who_waits_for_a_delete_by_its_number_is_not_told_too_early(bench: ReembedBench) -> None:
    """A delete that neither queue has carried out keeps its number when the one queue becomes the other."""
    ids = await indexed(bench, 5)
    await bench.open("other", 48)
    await bench.store.write(delete_episode, ids[2])
    await bench.store.write(update_episode, UpdateEpisode(id=ids[3], user_message="changed"), 1)
    given_up = "UPDATE outbox_next SET state = 'dead', error = 'no' WHERE row_id = ?"
    await bench.store.write(lambda db: db.execute(given_up, (ids[3],)) and None)
    before = (await bench.store.read(list_outbox, ListOutbox())).items
    assert await bench.store.write(serve_next, 1, 2) is not None
    after = (await bench.store.read(list_outbox, ListOutbox())).items
    assert [(row.seq, row.row_id, row.op) for row in after] == [(row.seq, row.row_id, row.op) for row in before]
    assert [(row.state, row.error) for row in after] == [("pending", None), ("dead", "no")]
    await bench.stop_open()


async def test_a_model_that_owes_what_the_one_before_has_does_not_serve(bench: ReembedBench) -> None:
    await indexed(bench, 5)
    bench.embedder("other", 48).gate = asyncio.Event()
    await bench.start("other", 48)
    await bench.until(lambda: bench.reembedding.progress().state == "embedding")
    assert await bench.store.write(serve_next, 1, 2) is None
    assert bench.models.serving.model.key == bench.key("old")

"""When a verification runs by itself: at night, after the server was away, and where a search met a ghost."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fakes.clock import ManualClock
from harness.outbox_bench import Bench, make_bench
from harness.verifying import Verifying, haunt, lose_point, verifying

from nexusd.model.memory import MemoryFilter, SearchMemory
from nexusd.retrieval.search import MemorySearch
from nexusd.retrieval.similar import SimilaritySearch
from nexusd.store.episodes import delete_episode
from nexusd.store.recall import select_memories
from nexusd.sync.model_watch import SENTENCE
from nexusd.sync.nightly import AFTER_FAILURE_S, AFTER_START_S
from nexusd.sync.sources import current_payloads
from nexusd.sync.verify import BETWEEN_S, SETTLING_S, SUSPECT_AFTER_S

pytestmark = pytest.mark.anyio
DAY_S = 86_400.0


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with make_bench(tmp_path) as made:
        for n in range(5):
            await made.add(f"text {n}")
        made.start()
        await made.drained()
        yield made


@pytest.fixture
def clock() -> ManualClock:
    """Noon, local time."""
    now = time.localtime(1_700_000_000)
    return ManualClock(int(time.mktime((now.tm_year, now.tm_mon, now.tm_mday, 12, 0, 0, 0, 0, -1))) * 1000)


@pytest.fixture
async def run(bench: Bench, clock: ManualClock) -> AsyncIterator[Verifying]:
    async with verifying(bench, clock) as made:
        await made.turn()
        yield made


async def jobs(run: Verifying) -> list[str]:
    """Every job that began so far."""
    await run.turn()
    return [each["job"] for each in run.told if each["state"] == "running"]


async def test_every_night_all_is_compared_and_mended(bench: Bench, run: Verifying, clock: ManualClock) -> None:
    clock.advance(15 * 3600)
    assert await jobs(run) == []
    await lose_point(bench, 1)
    clock.advance(1800)
    assert await jobs(run) == ["repair"]
    await bench.drained()
    assert bench.held == await bench.rows()
    assert bench.embedder.document_calls[-1] == [SENTENCE]
    clock.advance(DAY_S - 60)
    assert await jobs(run) == ["repair"]
    clock.advance(60)
    assert await jobs(run) == ["repair"] * 2
    assert run.verifier.last is not None
    assert run.verifier.last.agrees


async def test_it_only_tells_where_it_is_not_to_mend(bench: Bench, clock: ManualClock) -> None:
    async with verifying(bench, clock, verify_repairs=False, verify_at="13:00") as run:
        await run.turn()
        await lose_point(bench, 1)
        clock.advance(3600)
        assert await jobs(run) == ["verify"]
        assert 1 not in bench.held
        assert len(run.verifier.troubles()) == 1


async def test_it_never_runs_where_no_time_is_given(bench: Bench, clock: ManualClock) -> None:
    async with verifying(bench, clock, verify_at="") as run:
        clock.advance(10 * DAY_S)
        assert await jobs(run) == []


async def test_a_night_that_was_missed_is_made_up_after_the_start_and_once(bench: Bench, clock: ManualClock) -> None:
    async with verifying(bench, clock) as run:
        await run.turn()
    clock.advance(3 * DAY_S)
    async with verifying(bench, clock) as run:
        assert await jobs(run) == []
        clock.advance(AFTER_START_S)
        assert await jobs(run) == ["repair"]
    async with verifying(bench, clock) as run:
        clock.advance(AFTER_START_S)
        assert await jobs(run) == []


async def test_a_night_in_which_the_index_is_away_waits_for_it(
    bench: Bench, run: Verifying, clock: ManualClock
) -> None:
    run.complete = False
    clock.advance(15.5 * 3600)
    assert await jobs(run) == []
    run.complete = True
    bench.index.down = True  # and goes in that moment
    assert await jobs(run) == ["repair"]
    bench.index.down = False
    assert await jobs(run) == ["repair"]
    clock.advance(AFTER_FAILURE_S)
    assert await jobs(run) == ["repair"] * 2
    assert run.verifier.last is not None
    assert run.verifier.last.agrees


async def test_a_clock_that_was_set_back_is_noted(bench: Bench, clock: ManualClock) -> None:
    clock.jump(days=365)
    async with verifying(bench, clock) as run:
        await run.turn()
    clock.jump(days=-365)
    for _ in range(2):  # always off at night, and on for long enough
        async with verifying(bench, clock) as run:
            await run.turn()
        clock.advance(DAY_S)
    async with verifying(bench, clock) as run:
        await run.turn()
        clock.advance(AFTER_START_S)
        assert await jobs(run) == ["repair"]


async def test_a_server_that_comes_back_is_compared_in_full_but_not_again_and_again(
    bench: Bench, run: Verifying, clock: ManualClock
) -> None:
    run.verifier.index_running(True)  # its first time
    clock.advance(SETTLING_S)
    assert await jobs(run) == []
    await lose_point(bench, 1)  # acknowledged, and not on its disk when it crashed
    run.verifier.index_running(False)
    run.verifier.index_running(True)
    assert await jobs(run) == []
    clock.advance(SETTLING_S)
    assert await jobs(run) == ["repair"]
    await bench.drained()
    assert bench.held == await bench.rows()
    for _ in range(5):
        run.verifier.index_running(False)
        run.verifier.index_running(True)
        clock.advance(SETTLING_S)
        assert await jobs(run) == ["repair"]
    clock.advance(BETWEEN_S)
    assert await jobs(run) == ["repair"] * 2


async def test_a_copy_of_texts_that_a_crash_left_is_gone_after_the_start(bench: Bench, tmp_path: Path) -> None:
    (left := tmp_path / "nexus.db.words").write_text("texts of memories")
    async with verifying(bench) as run:
        await run.turn()
        assert not left.exists()


def searches(bench: Bench, run: Verifying) -> tuple[MemorySearch, SimilaritySearch]:
    parts = (bench.store, bench.index, bench.serving)
    told = run.verifier.hits_dropped
    return (
        MemorySearch(*parts, ManualClock(), on_dropped=told),
        SimilaritySearch(*parts, payloads=current_payloads, on_dropped=told),
    )


async def test_a_hit_without_a_row_is_dropped_counted_and_looked_into(
    bench: Bench, run: Verifying, clock: ManualClock
) -> None:
    await haunt(bench, 1)
    hybrid, similar = searches(bench, run)
    found = await hybrid.search(SearchMemory(query="text"))
    assert {hit.id for hit in found.items} == {1, 2, 3, 4, 5}
    assert run.verifier.dropped_hits == 1

    def select(db: object, ids: object, budget: object) -> dict[int, object]:
        keys = [("episodes", id_) for id_ in ids]  # type: ignore[attr-defined]
        return {id_: each for (_, id_), each in select_memories(db, keys, MemoryFilter(), budget).items()}  # type: ignore[arg-type]

    near = await similar.near_text("episodes", "text", 10, None, select)  # type: ignore[arg-type]
    assert len(near.hits) == 5
    assert run.verifier.dropped_hits == 2
    assert await jobs(run) == []
    clock.advance(SUSPECT_AFTER_S)
    assert await jobs(run) == ["repair"]
    assert run.verifier.last is not None
    assert [each.collection for each in run.verifier.last.collections] == ["episodes"]
    await bench.drained()
    await hybrid.search(SearchMemory(query="text"))
    assert run.verifier.dropped_hits == 2

    await haunt(bench, 2)
    await hybrid.search(SearchMemory(query="text"))
    clock.advance(SUSPECT_AFTER_S)
    assert await jobs(run) == ["repair"]  # not so soon again
    clock.advance(BETWEEN_S)
    assert await jobs(run) == ["repair"] * 2


async def test_a_hit_whose_removal_is_on_its_way_is_what_is_to_be_expected(
    bench: Bench, run: Verifying, clock: ManualClock
) -> None:
    await bench.stop()
    await bench.store.write(delete_episode, 3)
    hybrid, _ = searches(bench, run)
    found = await hybrid.search(SearchMemory(query="text"))
    assert {hit.id for hit in found.items} == {1, 2, 4, 5}
    clock.advance(SUSPECT_AFTER_S)
    assert (run.verifier.dropped_hits, await jobs(run)) == (0, [])


async def test_a_hit_whose_point_went_a_moment_later_is_no_reason_to_walk(
    bench: Bench, run: Verifying, clock: ManualClock
) -> None:
    run.verifier.hits_dropped("episodes", [77])  # struck off between the search and the word of it
    clock.advance(SUSPECT_AFTER_S)
    assert (run.verifier.dropped_hits, await jobs(run)) == (1, [])

"""The outbox worker over a real store: whatever fails, in the end the index holds exactly the rows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from fakes.embedder import FakeEmbedder
from fakes.index import FakeIndex
from harness.outbox_bench import NOW_MS, Bench, make_bench
from hypothesis import given, settings
from hypothesis import strategies as st

from nexusd.config_sections import OutboxConfig
from nexusd.embedding.embedder import EmbedderDied, Vector
from nexusd.index.index import IndexDied, Point
from nexusd.model.episodes import UpdateEpisode
from nexusd.model.outbox import ListOutbox
from nexusd.model.sessions import DeleteSession
from nexusd.store.episodes import delete_episode, update_episode
from nexusd.store.outbox import list_outbox, retry_dead
from nexusd.store.sessions import delete_session
from nexusd.sync.worker import EMBEDDER_PACE_S

pytestmark = pytest.mark.anyio


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with make_bench(tmp_path) as made:
        yield made


async def test_a_new_row_reaches_the_index_with_what_filters_need(bench: Bench) -> None:
    bench.start()
    row_id = await bench.add("tea")
    await bench.drained()
    assert bench.held == {row_id: 1}
    payload = bench.index.payload(bench.collections.physical("episodes"), row_id)
    assert payload["sessionId"] == bench.session
    assert payload["createdAt"] == NOW_MS
    assert payload["version"] == 1


async def test_an_embedder_outage_costs_no_attempt_and_ends_by_itself(bench: Bench) -> None:
    bench.embedder.unavailable = "down"
    bench.start()
    await bench.add("tea")
    async with asyncio.timeout(10):
        while bench.worker.embedder_breaker.failures < 3:
            await asyncio.sleep(0)
    (row,) = (await bench.store.read(list_outbox, ListOutbox())).items
    assert (row.state in ("pending", "inflight"), row.attempts) == (True, 0)
    assert bench.worker.status().embedder in ("open", "half_open")
    bench.embedder.unavailable = ""
    await bench.drained()
    assert bench.held == await bench.rows()
    assert bench.worker.status().embedder == "closed"


async def test_an_embedder_that_came_back_is_asked_at_once_however_long_the_pause_was(tmp_path: Path) -> None:
    async with make_bench(tmp_path, max_backoff_s=300) as bench:
        bench.embedder.unavailable, bench.embedder.retry_after_ms = "busy", 250_000
        bench.start()
        await bench.add("tea")
        async with asyncio.timeout(10):
            while bench.worker.embedder_breaker.failures == 0 or bench.worker.status().inflight:
                await asyncio.sleep(0)
        assert 240 < bench.worker.embedder_breaker.pause_left_s <= 250
        assert (await bench.worker.wait_for("episodes", [1], 0.05)).pending == 1
        bench.embedder.unavailable = ""
        bench.worker.embedder_up()
        await bench.drained()
        assert bench.held == await bench.rows()


async def test_an_index_outage_costs_no_attempt_and_ends_by_itself(bench: Bench) -> None:
    bench.index.down = True
    bench.start()
    await bench.add("tea")
    async with asyncio.timeout(10):
        while bench.worker.index_breaker.failures < 3:
            await asyncio.sleep(0)
    bench.index.down = False
    await bench.drained()
    assert bench.held == await bench.rows()


async def test_a_text_that_the_model_refuses_is_buried_alone(bench: Bench) -> None:
    rows = [await bench.add(text) for text in ("one", "poison", "three")]
    bench.embedder.rejected.add("User: poison\nAssistant: ok")
    bench.start()
    await bench.drained()
    assert set(bench.held) == {rows[0], rows[2]}
    (dead,) = (await bench.store.read(list_outbox, ListOutbox(state="dead"))).items
    assert (dead.row_id, dead.error_kind) == (rows[1], "bad_content")
    bench.embedder.rejected.clear()
    assert await bench.store.write(retry_dead, [dead.seq], NOW_MS) == 1
    await bench.drained()
    assert bench.held == await bench.rows()


async def test_a_point_that_the_index_refuses_is_found_by_halving_and_buried_alone(bench: Bench) -> None:
    rows = [await bench.add(f"text {n}") for n in range(20)]
    bench.index.refused.add(rows[13])
    bench.start()
    await bench.drained()
    assert set(bench.held) == set(rows) - {rows[13]}
    assert bench.worker.status().dead == 1
    bench.index.refused.clear()
    asked = len(bench.embedder.document_calls)
    await bench.store.write(retry_dead, [], NOW_MS)
    await bench.drained()
    assert set(bench.held) == set(rows)
    assert len(bench.embedder.document_calls) == asked + 1  # the vector that was refused is not used again


async def test_a_row_that_changes_while_it_is_sent_goes_again(bench: Bench) -> None:
    bench.index.before_upsert = asyncio.Event()
    bench.start()
    row_id = await bench.add("first")
    await bench.index.upsert_began.wait()
    await bench.store.write(update_episode, UpdateEpisode(id=row_id, user_message="second"), NOW_MS)
    bench.index.before_upsert.set()
    await bench.drained()
    assert bench.held == {row_id: 2}


async def test_a_row_that_is_deleted_while_it_is_sent_is_removed_again(bench: Bench) -> None:
    bench.index.before_upsert = asyncio.Event()
    bench.start()
    row_id = await bench.add("first")
    await bench.index.upsert_began.wait()
    await bench.store.write(delete_episode, row_id)
    bench.index.before_upsert.set()
    await bench.drained()
    assert bench.held == {}


async def test_unchanged_text_is_not_embedded_again(bench: Bench) -> None:
    bench.start()
    row_id = await bench.add("tea")
    await bench.drained()
    asked = len(bench.embedder.document_calls)
    await bench.store.write(update_episode, UpdateEpisode(id=row_id, metadata={"colour": "red"}), NOW_MS)
    await bench.drained()
    assert bench.held == {row_id: 2}
    assert len(bench.embedder.document_calls) == asked
    assert bench.index.payload(bench.collections.physical("episodes"), row_id)["metadata"] == {"colour": "red"}


async def test_a_wiped_index_is_filled_again_without_embedding(tmp_path: Path) -> None:
    async with make_bench(tmp_path) as bench:
        bench.start()
        for n in range(30):
            await bench.add(f"text {n}")
        await bench.drained()
    async with make_bench(tmp_path, index=FakeIndex()) as bench:
        bench.start()
        async with asyncio.timeout(10):
            while len(bench.held) < 30:
                await asyncio.sleep(0)
        await bench.drained()
        assert bench.held == await bench.rows()
        assert bench.embedder.document_calls == []


async def test_a_crash_between_the_index_and_the_outbox_repeats_work_and_loses_none(tmp_path: Path) -> None:
    index = FakeIndex()
    async with make_bench(tmp_path, index=index) as bench:
        index.before_upsert = asyncio.Event()
        bench.start()
        await bench.add("tea")
        await index.upsert_began.wait()
        await bench.stop()  # as if killed: the row is in flight, the index may have the point or not
        index.before_upsert = None
        bench.start()
        await bench.drained()
        assert bench.held == await bench.rows()


async def test_deleting_a_session_removes_all_its_points(bench: Bench) -> None:
    bench.start()
    for n in range(10):
        await bench.add(f"text {n}")
    await bench.drained()
    gone = await bench.store.write(delete_session, DeleteSession(id=bench.session))
    assert (gone.deleted["episodes"], gone.points_queued) == (10, 10)
    await bench.drained()
    assert bench.held == {}


async def test_an_unforeseen_error_buries_a_row_only_after_its_attempts(tmp_path: Path) -> None:
    class Broken(FakeIndex):
        async def upsert(self, *_: object) -> None:
            raise ZeroDivisionError

    async with make_bench(tmp_path, index=Broken(), max_attempts=3) as bench:
        bench.start()
        await bench.add("tea")
        await bench.drained()
        (dead,) = (await bench.store.read(list_outbox, ListOutbox())).items
        assert (dead.state, dead.attempts, dead.error) == ("dead", 3, "ZeroDivisionError")


async def test_a_row_over_which_the_index_fails_in_an_unforeseen_way_is_buried_alone(tmp_path: Path) -> None:
    class Broken(FakeIndex):
        async def upsert(self, collection: str, points: Sequence[Point]) -> None:
            if any(point.id == 7 for point in points):
                raise ZeroDivisionError
            await super().upsert(collection, points)

    async with make_bench(tmp_path, index=Broken(), max_attempts=2, max_backoff_s=0.11) as bench:
        rows = [await bench.add(f"text {n}") for n in range(20)]
        bench.start()
        await bench.drained()
        assert set(bench.held) == set(rows) - {7}
        assert bench.worker.status().dead == 1


async def test_waiting_for_a_row_does_not_wait_for_others(bench: Bench) -> None:
    bench.start()
    first = await bench.add("tea")
    assert (await bench.worker.wait_for("episodes", [first], 10)).done
    bench.embedder.unavailable = "down"
    second = await bench.add("coffee")
    assert (await bench.worker.wait_for("episodes", [first], 10)).done
    waited = await bench.worker.wait_for("episodes", [first, second], 0.05)
    assert (waited.done, waited.pending) == (False, 1)


async def test_points_without_rows_and_rows_without_points_are_found_and_mended(bench: Bench) -> None:
    bench.start()
    rows = [await bench.add(f"text {n}") for n in range(5)]
    await bench.drained()
    target = bench.collections.physical("episodes")
    await bench.index.delete(target, [rows[1]])
    held = bench.index._points[target]
    held[999] = held[rows[0]].__class__(999, 1, held[rows[0]].vector, {})
    stale = held[rows[2]]
    held[rows[2]] = stale.__class__(stale.id, 0, stale.vector, stale.payload)
    found = await bench.collections.compare("episodes", NOW_MS)
    assert (found.rows, found.missing, found.stale, found.orphaned) == (5, 1, 1, 1)
    await bench.drained()
    assert bench.held == await bench.rows()
    assert (await bench.collections.compare("episodes", NOW_MS)).agrees


class MortalEmbedder(FakeEmbedder):
    """A model whose process dies over some texts."""

    def __init__(self) -> None:
        super().__init__()
        self.deadly: set[str] = set()

    async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        if self.deadly.intersection(texts):
            self.document_calls.append(list(texts))
            raise EmbedderDied("died before it answered")
        return await super().embed_documents(texts)


async def test_a_text_that_kills_the_model_is_buried_alone(tmp_path: Path) -> None:
    embedder = MortalEmbedder()
    async with make_bench(tmp_path, embedder=embedder, max_attempts=2, max_backoff_s=0.11, batch_size=16) as bench:
        rows = [await bench.add(f"text {n}") for n in range(40)]
        deadly = await bench.add("deadly")
        rows += [await bench.add(f"more {n}") for n in range(40)]
        embedder.deadly.add("User: deadly\nAssistant: ok")
        bench.start()
        await bench.drained()
        assert set(bench.held) == set(rows)
        (dead,) = (await bench.store.read(list_outbox, ListOutbox())).items
        assert (dead.row_id, dead.state, dead.attempts) == (deadly, "dead", 2)


async def test_a_text_that_kills_the_model_holds_nobody_up_whatever_else_comes(tmp_path: Path) -> None:
    embedder = MortalEmbedder()
    async with make_bench(tmp_path, embedder=embedder, max_attempts=3, max_backoff_s=30, batch_size=16) as bench:
        embedder.deadly.add("User: deadly\nAssistant: ok")
        deadly = await bench.add("deadly")
        rows = [await bench.add(f"text {n}") for n in range(100)]
        bench.start()
        waited = await bench.worker.wait_for("episodes", rows, 20)
        assert waited.done
        assert set(bench.held) == set(rows)
        fatal = [len(call) for call in embedder.document_calls if "User: deadly\nAssistant: ok" in call]
        assert fatal[0] == 16
        assert set(fatal[1:]) <= {1}
        await bench.drained()
        (dead,) = (await bench.store.read(list_outbox, ListOutbox())).items
        assert (dead.row_id, dead.state, dead.attempts) == (deadly, "dead", 3)


async def test_a_row_that_kills_the_index_is_buried_alone(tmp_path: Path) -> None:
    class Mortal(FakeIndex):
        async def upsert(self, collection: str, points: Sequence[Point]) -> None:
            if any(point.id == 3 for point in points):
                raise IndexDied("died before it answered")
            await super().upsert(collection, points)

    async with make_bench(tmp_path, index=Mortal(), max_attempts=2, max_backoff_s=0.11) as bench:
        rows = [await bench.add(f"text {n}") for n in range(20)]
        bench.start()
        await bench.drained()
        assert set(bench.held) == set(rows) - {3}
        assert bench.worker.status().dead == 1


async def test_an_index_that_comes_up_is_looked_at_at_once_whatever_the_breaker_says(tmp_path: Path) -> None:
    async with make_bench(tmp_path, max_backoff_s=300) as bench:
        bench.index.down = True
        bench.start()
        await bench.add("tea")
        async with asyncio.timeout(10):
            while bench.worker.index_breaker.failures < 1:
                await asyncio.sleep(0)
        for _ in range(20):  # as after a long outage
            bench.worker.index_breaker.failed("down")
        bench.index.down = False
        bench.worker.index_up()
        await bench.drained()
        assert bench.held == await bench.rows()


async def test_an_index_begun_anew_while_nothing_happens_is_noticed_and_filled(bench: Bench) -> None:
    bench.start()
    await bench.add("tea")
    await bench.drained()
    await bench.worker.drain(5)  # until it rests
    assert bench.worker.complete
    bench.index.wipe()
    bench.index.incarnation = "another"
    assert not bench.worker.complete
    assert not (await bench.worker.wait_for(None, [], 0.05)).done
    bench.worker.index_up()
    await bench.drained()
    assert bench.worker.complete
    assert bench.held == await bench.rows()


async def test_points_of_another_database_are_all_replaced(tmp_path: Path) -> None:
    foreign = FakeIndex()
    foreign.incarnation = "foreign"
    async with make_bench(tmp_path / "a", index=foreign) as other:
        other.start()
        await other.add("the greenhouse is warm")
        await other.drained()
        target = other.collections.physical("episodes")
        before = foreign.payload(target, 1)["epoch"]
    async with make_bench(tmp_path / "b") as bench:  # the same ids and versions, other texts, nothing left to send
        bench.start()
        await bench.add("the cat eats salmon")
        await bench.drained()
    async with make_bench(tmp_path / "b", index=foreign) as bench:
        bench.start()
        await bench.drained()
        assert foreign.payload(target, 1)["epoch"] != before
        assert bench.held == await bench.rows()


async def test_who_waits_is_answered_when_the_daemon_stops(bench: Bench) -> None:
    bench.embedder.unavailable = "down"
    bench.start()
    row_id = await bench.add("tea")
    waiting = asyncio.create_task(bench.worker.wait_for("episodes", [row_id], 60))
    await asyncio.sleep(0)
    bench.worker.stop_waiting()
    waited = await asyncio.wait_for(waiting, 5)
    assert (waited.done, waited.pending) == (False, 1)


async def test_an_outage_of_the_model_does_not_keep_the_store_busy(tmp_path: Path) -> None:
    async with make_bench(tmp_path, max_backoff_s=300, batch_size=4) as bench:
        for n in range(100):
            await bench.add(f"text {n}")
        bench.embedder.unavailable = "down"
        for _ in range(20):
            bench.worker.embedder_breaker.failed("down")
        before = bench.store.progress().batches
        bench.start()
        async with asyncio.timeout(10):
            while bench.worker.turns < 2:
                await asyncio.sleep(0)
        assert bench.worker.turns == 2  # the second one rests before it claims again
        assert bench.store.progress().batches - before < 10


class Highest(random.Random):
    """Every pause is as long as it may be."""

    def uniform(self, _low: float, high: float) -> float:
        return high


async def test_after_a_row_failed_alone_the_others_do_not_wait_for_its_pause(tmp_path: Path) -> None:
    embedder = MortalEmbedder()
    embedder.deadly.add("User: deadly\nAssistant: ok")
    async with make_bench(tmp_path, embedder=embedder, chance=Highest(), max_backoff_s=300) as bench:
        for _ in range(20):  # the next pause is of 300 s
            bench.worker.embedder_breaker.failed("down")
        bench.worker.embedder_breaker.try_now()
        deadly = await bench.add("deadly")
        bench.start()
        async with asyncio.timeout(10):
            while not embedder.document_calls or bench.store.peek(list_outbox, ListOutbox()).items[0].attempts == 0:
                await asyncio.sleep(0)
        fine = await bench.add("fine")
        assert (await bench.worker.wait_for("episodes", [fine], 10)).done
        assert set(bench.held) == {fine}
        (row,) = (await bench.store.read(list_outbox, ListOutbox())).items
        assert (row.row_id, row.attempts, row.state) == (deadly, 1, "pending")


async def test_while_the_model_is_away_rows_are_taken_and_given_back_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_sleep, slept = asyncio.sleep, list[float]()

    async def sleep(delay: float, result: object = None) -> object:
        if delay:
            slept.append(delay)
        return await real_sleep(0, result)

    async with make_bench(tmp_path, chance=Highest(), max_backoff_s=300, batch_size=1) as bench:
        for n in range(40):
            await bench.add(f"text {n}")
        bench.embedder.unavailable = "down"
        for _ in range(20):
            bench.worker.embedder_breaker.failed("down")
        monkeypatch.setattr(asyncio, "sleep", sleep)
        bench.start()
        async with asyncio.timeout(10):
            while bench.worker.turns < 20:
                await real_sleep(0)
        await bench.stop()
        assert set(slept) == {EMBEDDER_PACE_S}
        assert len(slept) >= bench.worker.turns - 1  # the first turn need not wait


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 9)),
        st.tuples(st.just("update"), st.integers(0, 30)),
        st.tuples(st.just("delete"), st.integers(0, 30)),
        st.tuples(
            st.sampled_from(["index down", "index up", "index lost", "embedder down", "embedder up", "crash", "turn"]),
            st.integers(1, 1000),
        ),
    ),
    max_size=40,
)


@settings(max_examples=25)
@given(steps=STEPS)
def test_whatever_happens_in_whatever_order_the_index_ends_with_exactly_the_rows(
    steps: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    asyncio.run(_run_steps(steps, tmp_path_factory.mktemp("steps")))


async def _run_steps(steps: list[tuple[str, int]], directory: Path) -> None:
    async with make_bench(directory, batch_size=3, max_backoff_s=0.11) as bench:
        bench.start()
        alive: list[int] = []
        for step, number in steps:
            if step == "add":
                alive.append(await bench.add(f"text {number}"))
            elif step == "update" and alive:
                change = UpdateEpisode(id=alive[number % len(alive)], user_message=f"changed {random.random()}")
                await bench.store.write(update_episode, change, NOW_MS)
            elif step == "delete" and alive:
                await bench.store.write(delete_episode, alive.pop(number % len(alive)))
            elif step == "index lost":
                bench.index.wipe()
                bench.index.incarnation = f"{number}"
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
        assert bench.held == await bench.rows()


async def test_a_new_pace_holds_from_the_next_batch_on(tmp_path: Path) -> None:
    index = FakeIndex()
    async with make_bench(tmp_path, index=index, batch_size=2) as bench:
        bench.start()
        await bench.drained()
        bench.worker.set_pace(OutboxConfig(batch_size=7))
        before = bench.store.progress().batches
        async with asyncio.TaskGroup() as adding:   # in one commit
            for n in range(7):
                adding.create_task(bench.add(f"text {n}"))
        await bench.drained()
        # the rows, their claim, their vectors, their end: a batch of two would have taken four times as many
        assert bench.store.progress().batches - before <= 6


async def test_a_shorter_longest_pause_ends_the_one_that_is_waited_for(tmp_path: Path) -> None:
    async with make_bench(tmp_path, chance=Highest(), max_backoff_s=300) as bench:
        bench.embedder.unavailable = "down"
        for _ in range(20):
            bench.worker.embedder_breaker.failed("down")
        bench.start()
        row = await bench.add("text")
        async with asyncio.timeout(10):
            while not bench.worker.turns:
                await asyncio.sleep(0)
        bench.embedder.unavailable = ""
        bench.worker.set_pace(OutboxConfig(max_backoff_s=0.1))
        assert (await bench.worker.wait_for("episodes", [row], 10)).done


async def test_with_nothing_to_do_it_rests_and_while_it_delivers_it_does_not(bench: Bench) -> None:
    """The watchdog lets it stand still for as long as it likes in the first case only."""
    bench.index.before_upsert = asyncio.Event()
    bench.start()
    await bench.add("tea")
    await bench.index.upsert_began.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not bench.worker.resting
    bench.index.before_upsert.set()
    await bench.drained()
    async with asyncio.timeout(20):
        while not bench.worker.resting:
            await asyncio.sleep(0)

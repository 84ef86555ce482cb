"""What a verification finds, what a repair does about it, and that neither is ever wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes.embedder import FakeEmbedder
from fakes.index import FakeIndex
from harness.outbox_bench import NOW_MS, Bench, make_bench
from harness.verifying import DAMAGES, Damage, Verifying, age_point, lose_point, verifying

from nexusd.embedding.serving import KeyedModel
from nexusd.index.index import PointVersion
from nexusd.model.index import IndexReport
from nexusd.store.entities import delete_entity
from nexusd.store.episodes import delete_episode
from nexusd.store.outbox import bury, claim_batch
from nexusd.sync import model_watch, walk
from nexusd.sync.points import remove_point

pytestmark = pytest.mark.anyio


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with make_bench(tmp_path) as made:
        yield made


@pytest.fixture
async def run(bench: Bench) -> AsyncIterator[Verifying]:
    """The bench with a verifier."""
    async with verifying(bench) as made:
        yield made


async def fill(bench: Bench, count: int = 8) -> list[int]:
    """Exchanges that the index has."""
    ids = [await bench.add(f"text {n}") for n in range(count)]
    if bench.task is None:
        bench.start()
    await bench.drained()
    return ids


def of(report: IndexReport, collection: str = "episodes") -> Any:
    return next(each for each in report.collections if each.collection == collection)


def embedded(bench: Bench) -> list[str]:
    """Texts of rows that were embedded."""
    return [text for call in bench.embedder.document_calls for text in call if text != model_watch.SENTENCE]


async def test_what_the_worker_left_agrees(bench: Bench, run: Verifying) -> None:
    await fill(bench)
    await bench.entity("Ada", notes="likes tea")
    await bench.summary("they had tea")
    await bench.message("more tea")
    await bench.message("  ")
    await bench.text("cup", "a cup of tea")
    await bench.drained()
    report = await run.verify()
    assert (report.job, report.agrees, report.checked, report.total) == ("verify", True, 13, 13)
    assert report.finished_at is not None
    assert report.mended is None
    episodes, messages, vectors = of(report), of(report, "messages"), of(report, "vectors")
    assert (episodes.rows, episodes.points, episodes.vectors.stored) == (8, 8, 8)
    assert (messages.rows, messages.points, messages.unindexed) == (2, 1, 1)
    assert (episodes.full_text.sound, messages.full_text.sound, vectors.full_text) == (True, True, None)
    assert [each.examples for each in report.collections] == [{}] * 5


@pytest.mark.parametrize("damage", DAMAGES)
async def test_every_damage_is_found_and_mended_and_nothing_else_touched(
    bench: Bench, run: Verifying, damage: str
) -> None:
    inflict, kind, embeddings = DAMAGES[damage]
    ids = await fill(bench)
    await fill(bench)
    await inflict(bench, ids[3])
    before = len(embedded(bench))
    upserts = len(bench.index.upserts)

    found = await run.verify()
    assert found.agrees is False
    assert list(of(found).examples) == ([kind] if kind else [])
    assert bench.worker.status().pending == 0  # it changes nothing

    mended = await run.repair()
    assert mended.agrees is False
    assert mended.mended is not None
    await bench.drained()
    assert (await run.verify()).agrees is True
    assert bench.held == await bench.rows()
    assert len(embedded(bench)) - before == embeddings
    assert sum(len(each) for each in bench.index.upserts[upserts:]) == mended.mended.upserts_queued <= 1


async def test_the_report_counts_each_kind_and_names_ten_examples(bench: Bench, run: Verifying) -> None:
    ids = await fill(bench, 30)
    for row_id in ids[:15]:
        await lose_point(bench, row_id)
    for row_id in ids[20:22]:
        await age_point(bench, row_id)
    found = of(await run.verify("episodes"))
    assert (found.missing, found.stale, found.orphaned, found.points) == (15, 2, 0, 15)
    assert found.examples == {"missing": ids[:10], "stale": ids[20:22]}


async def test_points_that_are_there_twice_are_taken_away_and_sent_once(bench: Bench, run: Verifying) -> None:
    ids = await fill(bench)
    bench.index.twice.update(ids[2:4])
    found = of(await run.verify("episodes"))
    assert (found.duplicated, found.points, found.examples) == (2, 10, {"duplicated": ids[2:4]})
    await run.repair("episodes")
    await bench.drained()
    assert (await run.verify()).agrees
    assert bench.held == await bench.rows()


async def test_a_wiped_index_is_filled_from_stored_vectors(bench: Bench, run: Verifying) -> None:
    ids = await fill(bench, 50)
    bench.index.wipe()
    bench.embedder.unavailable = "away"  # nothing could be embedded
    repaired = await run.repair()
    assert repaired.mended is not None
    assert repaired.mended.upserts_queued == of(repaired).missing == 50
    await bench.drained()
    assert set(bench.held) == set(ids)


async def test_rows_that_wait_are_no_difference_and_are_counted(bench: Bench, run: Verifying) -> None:
    ids = await fill(bench)
    await bench.stop()
    waiting = await bench.add("waits")
    await bench.store.write(delete_episode, ids[0])
    dead = await bench.add("dead")
    entries = await bench.store.write(claim_batch, 10, NOW_MS + 10**9, 1000, ["episodes"])
    await bench.store.write(bury, next(each for each in entries if each.row_id == dead), "bad_content", "no")
    report = await run.verify("episodes")
    found = of(report)
    assert (report.agrees, found.queued, found.dead, found.rows) == (True, 2, 1, 9)
    assert waiting not in bench.held


async def test_what_is_kept_of_rows_that_need_no_vector_is_no_difference(bench: Bench, run: Verifying) -> None:
    bench.start()
    own = (await bench.text("own", "one text")).row_id
    blank = (await bench.text("blank", "another text")).row_id
    out = (await bench.entity("Ada")).id
    await bench.drained()
    await bench.text("own", "now with a vector", bytes(3) + b"\x3f" + bytes(124))
    await bench.text("blank", "  ")
    await bench.store.write(remove_point, "entities", out, NOW_MS)
    await bench.drained()
    kept = await bench.store.read(lambda db: db.execute("SELECT row_id FROM embeddings").fetchall())
    assert {row_id for (row_id,) in kept} == {own, blank}
    assert (await run.verify()).agrees


async def test_one_collection_is_looked_at_where_only_that_is_asked_for(bench: Bench, run: Verifying) -> None:
    await fill(bench)
    report = await run.verify("vectors", "entities")
    assert [each.collection for each in report.collections] == ["entities", "vectors"]
    assert report.total == 0


# --- nothing is reported that is merely on its way ---


class Shifting(FakeIndex):
    """What `shown` says of a page is answered in its place, once each."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Any] = []

    async def scroll(self, collection: str, after_id: int, limit: int) -> list[PointVersion]:
        page = await super().scroll(collection, after_id, limit)
        if self.shown and "episodes" in collection:
            show = self.shown.pop(0)
            page = show(page)
        return page


def without_first(page: Sequence[PointVersion]) -> list[PointVersion]:
    return list(page[1:])


def as_it_is(page: list[PointVersion]) -> list[PointVersion]:
    return page


@pytest.mark.parametrize("shown", [[without_first], [without_first] * 2, [without_first, as_it_is, without_first]])
async def test_a_point_that_is_missed_in_one_look_and_found_in_another_is_not_reported(
    tmp_path: Path, shown: list[Any]
) -> None:
    index = Shifting()
    async with make_bench(tmp_path, index=index) as bench, verifying(bench) as run:
        await fill(bench)
        index.shown = list(shown)
        assert (await run.verify("episodes")).agrees
        index.shown = [without_first] * 3
        assert of(await run.verify("episodes")).missing == 1


async def test_a_row_that_changes_between_two_looks_is_not_reported(tmp_path: Path) -> None:
    changes: list[Any] = []

    class Changing(FakeIndex):
        async def scroll(self, collection: str, after_id: int, limit: int) -> list[PointVersion]:
            page = await super().scroll(collection, after_id, limit)
            if changes and "entities" in collection:
                await changes.pop(0)()
            return page

    index = Changing()
    async with make_bench(tmp_path, index=index) as bench, verifying(bench) as run:
        bench.start()
        first, second = (await bench.entity("Ada")).id, (await bench.entity("Bob")).id
        await bench.drained()

        async def change() -> None:
            await bench.entity("Ada", notes=f"likes {len(index.upserts)}")
            await bench.drained()

        async def delete() -> None:
            await bench.store.write(delete_entity, second)
            await bench.drained()

        async def create() -> None:
            await bench.entity(f"Cid {len(index.upserts)}")
            await bench.drained()

        for each in ([change], [delete], [create], [change] * 3):
            changes[:] = each
            report = await run.verify("entities")
            assert report.agrees, report
            assert len(changes) < len(each)
        assert first in bench.holds("entities")


async def test_a_model_that_begins_to_serve_in_the_middle_is_walked_over_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "SLICE_ROWS", 3)
    index = Shifting()
    async with make_bench(tmp_path, index=index) as bench, verifying(bench) as run:
        await fill(bench)
        other = KeyedModel("other", bench.embedder)
        points = index._points[bench.collections.physical("episodes")]
        index._points["episodes-other"] = dict(points)
        await bench.store.write(lambda db: db.execute("UPDATE embeddings SET model = 'other'"))

        def adopt(page: list[PointVersion]) -> list[PointVersion]:
            bench.serving.adopt(other)
            return page

        index.shown = [as_it_is, adopt]
        report = await run.verify("episodes")
        assert (report.agrees, of(report).rows, of(report).points) == (True, 8, 8)


async def test_an_outbox_that_is_another_models_already_proves_nothing(tmp_path: Path) -> None:
    index = Shifting()
    async with make_bench(tmp_path, index=index) as bench, verifying(bench) as run:
        ids = await fill(bench)
        other = KeyedModel("other", bench.embedder)
        index._points["episodes-other"] = dict(index._points[bench.collections.physical("episodes")])
        await lose_point(bench, ids[0])  # which the model before was owed, and is not any more

        def swap(db: Any) -> None:
            db.execute("UPDATE embeddings SET model = 'other'")
            db.execute("UPDATE models SET state = 'kept'")
            db.execute(
                "INSERT INTO models (key, state, provider, model, dimension, since_ms) VALUES"
                " ('other', 'serving', '', '', 32, 1)"
            )

        await bench.store.write(swap)

        def adopt(page: list[PointVersion]) -> list[PointVersion]:
            bench.serving.adopt(other)
            return page

        index.shown = [as_it_is] * 4 + [adopt]
        report = await run.verify("episodes")
        assert (report.agrees, of(report).rows, index.shown) == (True, 8, [])


# --- one at a time ---


class Gated(FakeIndex):
    """Scrolls wait for the gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.scrolls = 0

    async def scroll(self, collection: str, after_id: int, limit: int) -> list[PointVersion]:
        self.scrolls += 1
        await self.gate.wait()
        return await super().scroll(collection, after_id, limit)


@pytest.fixture
async def gated(tmp_path: Path) -> AsyncIterator[tuple[Bench, Gated, Verifying]]:
    index = Gated()
    async with make_bench(tmp_path, index=index) as bench, verifying(bench) as run:
        await fill(bench)
        index.gate.clear()
        yield bench, index, run


async def test_a_second_caller_joins_the_job_that_runs(gated: tuple[Bench, Gated, Verifying]) -> None:
    _, index, run = gated
    callers = [asyncio.create_task(run.verify()) for _ in range(3)]
    callers.append(asyncio.create_task(run.verify("episodes")))
    await run.told_states(1)
    index.gate.set()
    first, *others = await asyncio.gather(*callers)
    assert all(other == first for other in others)
    assert await run.told_states(2) == [("verify", "running"), ("verify", "done")]
    assert run.told[-1]["agrees"] is True


async def test_who_wants_a_repair_gets_one_though_a_verification_runs(gated: tuple[Bench, Gated, Verifying]) -> None:
    _, index, run = gated
    verify = asyncio.create_task(run.verify())
    await run.told_states(1)
    repairs = [asyncio.create_task(run.repair("episodes")) for _ in range(2)]
    joined = asyncio.create_task(run.verify())
    await asyncio.sleep(0)
    index.gate.set()
    assert (await verify).job == (await joined).job == "verify"
    one, two = await asyncio.gather(*repairs)
    assert one == two
    assert one.job == "repair"
    assert [state for _, state in await run.told_states(4)] == ["running", "done"] * 2


async def test_when_the_time_is_up_the_reply_says_how_far_it_is(gated: tuple[Bench, Gated, Verifying]) -> None:
    _, index, run = gated
    report = await run.verifier.check("verify", [], 0.05)
    assert (report.state, report.agrees, report.checked, report.total) == ("running", None, 0, 8)
    assert run.verifier.job == report
    index.gate.set()
    assert (await run.verify()).checked == 8
    assert run.verifier.job is None


async def test_an_index_that_does_not_answer_fails_the_job_and_not_the_next_one(bench: Bench, run: Verifying) -> None:
    await fill(bench)
    bench.index.down = True
    report = await run.verifier.check("verify", [], 10)
    assert (report.state, report.error, report.agrees) == ("failed", "down", None)
    bench.index.down = False
    assert (await run.verify()).agrees
    assert [state for _, state in await run.told_states(4)] == ["running", "failed", "running", "done"]


async def test_what_nobody_foresaw_fails_the_job_and_not_the_next_one(tmp_path: Path) -> None:
    index = Shifting()
    async with make_bench(tmp_path, index=index) as bench, verifying(bench) as run:
        await fill(bench)
        index.shown = [lambda page: 1 // 0]
        report = await run.verifier.check("verify", [], 10)
        assert (report.state, report.error) == ("failed", "ZeroDivisionError")
        assert (await run.verify()).agrees


async def test_when_the_daemon_stops_nobody_is_left_waiting(gated: tuple[Bench, Gated, Verifying]) -> None:
    _, _, run = gated
    caller = asyncio.create_task(run.verifier.check("verify", [], 60))
    await run.told_states(1)
    run.verifier.stop_waiting()
    assert (await caller).state == "running"
    assert run.task is not None
    run.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run.task
    assert run.verifier.last is not None
    assert (run.verifier.last.state, run.verifier.last.error) == ("failed", "the daemon stops")


async def test_a_disagreement_is_a_trouble_until_it_is_mended(bench: Bench, run: Verifying) -> None:
    ids = await fill(bench)
    assert run.verifier.troubles() == []
    await lose_point(bench, ids[0])
    await run.verify()
    (trouble,) = run.verifier.troubles()
    assert trouble.startswith("index: differs from the rows in episodes;")
    last = await run.verify("entities")
    assert len(run.verifier.troubles()) == 1
    await run.turn()
    async with verifying(bench) as after_a_restart:
        await after_a_restart.turn()
        assert after_a_restart.verifier.last == last
        assert after_a_restart.verifier.troubles() == [trouble]
    await run.repair()
    assert run.verifier.troubles() == []


# --- whether the model is still the one that it was ---


class Retrained(FakeEmbedder):
    """Other weights under the same name, from `salt` on."""

    salt = ""

    async def embed_documents(self, texts: Sequence[str]) -> list[bytes]:
        return await super().embed_documents([f"{self.salt} {text}" if self.salt else text for text in texts])


async def test_other_weights_under_the_same_name_are_noticed(tmp_path: Path) -> None:
    embedder = Retrained()
    async with make_bench(tmp_path, embedder=embedder) as bench:
        async with verifying(bench) as run:
            await fill(bench)
            assert (await run.verify()).model_similarity == pytest.approx(1.0)
            assert run.verifier.troubles() == []
        embedder.salt = "entirely other words that lead elsewhere " * 10
        async with verifying(bench) as run:
            asked = len(embedder.document_calls)
            await run.turn()
            assert len(embedder.document_calls) == asked  # idle stays idle
            run.verifier.embedder_answers()
            await run.turn()
            (trouble,) = run.verifier.troubles()
            assert trouble.startswith("embedder: answers with other vectors than before (similarity 0.")
            assert "`nexusctl index reembed --force`" in trouble
            report = await run.verify()
            assert report.agrees
            assert report.model_similarity is not None
            assert report.model_similarity < model_watch.ALIKE
            bench.serving.adopt(KeyedModel("embedded again", embedder))
            assert run.verifier.troubles() == []


async def test_a_repair_asks_no_model_and_a_verification_goes_on_without_one(bench: Bench, run: Verifying) -> None:
    await fill(bench)
    assert (await run.repair()).model_similarity is None
    assert [model_watch.SENTENCE] not in bench.embedder.document_calls
    bench.embedder.unavailable = "away"
    report = await run.verify()
    assert (report.agrees, report.model_similarity) == (True, None)


def damage_named(name: str) -> Damage:
    return DAMAGES[name][0]


async def test_the_words_of_an_emptied_full_text_index_are_found_again(bench: Bench, run: Verifying) -> None:
    ids = await fill(bench, 300)
    await damage_named("full text is empty")(bench, 0)
    repaired = await run.repair("episodes")
    assert repaired.mended is not None
    assert (repaired.mended.full_text_rows, repaired.mended.full_text_rebuilt) == (300, [])

    def matching(db: Any) -> list[int]:
        return [row_id for (row_id,) in db.execute("SELECT rowid FROM episodes_fts WHERE episodes_fts MATCH 'text'")]

    assert await bench.store.read(matching) == ids
    await damage_named("full text has other words")(bench, ids[0])
    repaired = await run.repair("episodes")
    assert repaired.mended is not None
    assert (repaired.mended.full_text_rows, repaired.mended.full_text_rebuilt) == (0, ["episodes"])

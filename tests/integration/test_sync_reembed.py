"""Another embedding model, over a real store: it gets every row while the one before serves, and then it serves."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from fakes.clock import ManualClock
from harness.reembed_bench import ReembedBench, reembed_bench

from nexusd.config_sections import OutboxConfig
from nexusd.errors import Conflict, RowNotFound
from nexusd.index.index import CollectionSpec
from nexusd.model.episodes import UpdateEpisode
from nexusd.store.deletions import any_owed, last_seq
from nexusd.store.embeddings import select_vectors
from nexusd.store.episodes import delete_episode, update_episode
from nexusd.store.models import any_postponed, count_vectors, fill_next
from nexusd.store.outbox import requeue_collection
from nexusd.sync.kept import forget

pytestmark = pytest.mark.anyio
DAY_S = 86400


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[ReembedBench]:
    async with reembed_bench(tmp_path / "data") as made:
        yield made


async def one_of_each(bench: ReembedBench) -> None:
    await bench.add("tea")
    await bench.entity("Ada")
    await bench.message("more tea")
    await bench.text("cup", "a cup of tea")


async def with_rows(bench: ReembedBench, count: int = 20, model: str = "old", dimension: int = 32) -> list[int]:
    """A run with the old model that indexed some rows, and ended."""
    await bench.start(model, dimension)
    ids = [await bench.add(f"text {n}") for n in range(count)]
    await one_of_each(bench)
    await bench.drained()
    await bench.stop()
    return ids


async def change_all_kinds(bench: ReembedBench, ids: list[int]) -> None:
    await bench.add("new one")
    await bench.store.write(update_episode, UpdateEpisode(id=ids[0], user_message="changed"), bench.clock.now_ms())
    await bench.store.write(delete_episode, ids[1])


@pytest.mark.parametrize("dimension", [32, 48], ids=["equal dimensions", "another dimension"])
async def test_another_model_gets_every_row_and_then_serves(bench: ReembedBench, dimension: int) -> None:
    ids = await with_rows(bench)
    await bench.start("new", dimension)
    assert bench.models.serving.model.key == bench.key("old")
    await change_all_kinds(bench, ids)
    await bench.settled("new", dimension)
    await bench.agree()
    assert await bench.roles() == {bench.key("old"): "kept", bench.key("new", dimension): "serving"}
    assert bench.told[-1] == ("index", {"state": "swapped", "model": "new", "rows": 24, "dead": 0})
    await bench.add("after it")
    await bench.drained()
    await bench.agree()
    assert "User: after it\nAssistant: ok" not in [t for call in bench.embedder("old").document_calls for t in call]


async def test_what_is_under_way_is_told(bench: ReembedBench) -> None:
    await with_rows(bench)
    assert bench.reembedding.line() == ""
    bench.embedder("new").gate = asyncio.Event()
    await bench.start("new")
    await bench.until(lambda: bench.reembedding.progress().state == "embedding")
    now = bench.reembedding.progress()
    assert now.next is not None
    assert (now.serving.model, now.next.model, now.total, now.done) == ("old", "new", 24, 0)
    assert bench.reembedding.line() == "re-embedding 0 of 24 with new"
    bench.embedder("new").gate.set()
    await bench.settled("new")
    now = bench.reembedding.progress()
    assert (now.state, now.serving.model, now.next, now.done, now.total) == ("swapped", "new", None, 24, 24)


async def test_going_back_embeds_only_what_changed_meanwhile(bench: ReembedBench) -> None:
    ids = await with_rows(bench)
    await bench.start("new")
    await bench.settled("new")
    await change_all_kinds(bench, ids)
    await bench.drained()
    await bench.stop()
    calls = len(bench.embedder("old").document_calls)
    await bench.start("old")
    await bench.settled("old")
    await bench.agree()
    texts = [text for call in bench.embedder("old").document_calls[calls:] for text in call]
    assert sorted(texts) == ["User: changed\nAssistant: ok", "User: new one\nAssistant: ok"]
    assert await bench.roles() == {bench.key("old"): "serving", bench.key("new"): "kept"}


async def test_a_deleted_memory_is_in_no_collection_of_any_model(bench: ReembedBench) -> None:
    ids = await with_rows(bench)
    await bench.start("new")
    await bench.settled("new")
    await bench.store.write(delete_episode, ids[3])
    await bench.drained()
    for key in await bench.roles():
        assert ids[3] not in bench.held(key), key
        assert len(bench.held(key)) == 20


async def test_what_a_model_that_is_given_up_still_had_to_delete_is_deleted(bench: ReembedBench) -> None:
    ids = await with_rows(bench, 30)
    old, new = bench.key("old"), bench.key("new")
    await bench.start("new")
    bench.embedder("new").gate = asyncio.Event()
    bench.embedder("new").gate.set()
    await bench.until(lambda: ids[0] in bench.held(new))
    bench.index.stuck.add(new)
    row = await bench.add("keeps it from serving")
    receipt = await bench.store.write(delete_episode, ids[0])
    await bench.drained()
    assert ids[0] not in bench.held(old)
    assert ids[0] in bench.held(new)
    assert row in bench.held(old)
    await bench.stop()
    bench.index.stuck.clear()
    await bench.open("old")
    assert await bench.roles() == {old: "serving", new: "kept"}
    assert await bench.store.read(any_owed, receipt.outbox_seq)  # whoever waits by its receipt waits for this too
    bench.run()
    await bench.drained()
    await bench.agree()
    assert ids[0] not in bench.held(new)


async def test_what_the_model_before_still_had_to_delete_is_deleted_after_the_change(bench: ReembedBench) -> None:
    ids = await with_rows(bench, 30)
    old = bench.key("old")
    await bench.open("new")
    await bench.worker._prepare()
    bench.index.stuck.add(old)
    bench.run()
    await bench.store.write(delete_episode, ids[0])
    await bench.until(lambda: bench.models.next is None)
    assert ids[0] in bench.held(old)
    bench.index.stuck.clear()
    await bench.settled("new")
    await bench.agree()
    assert ids[0] not in bench.held(old)


async def test_a_third_model_in_the_middle_of_a_change_is_the_one_that_serves_in_the_end(bench: ReembedBench) -> None:
    await with_rows(bench, 200)
    bench.embedder("second").gate = asyncio.Event()
    await bench.start("second")
    await bench.until(lambda: bench.reembedding.progress().state == "embedding")
    await bench.stop()
    await bench.start("third", 48)
    await bench.settled("third", 48)
    await bench.agree()
    keys = {bench.key("old"): "kept", bench.key("second"): "kept", bench.key("third", 48): "serving"}
    assert await bench.roles() == keys


async def test_a_model_is_kept_as_long_as_it_is_said_and_then_all_of_it_goes(tmp_path: Path) -> None:
    clock = ManualClock()
    async with reembed_bench(tmp_path / "data", clock) as bench:
        await with_rows(bench)
        old = bench.key("old")
        await bench.start("new", keep_old_s=2 * DAY_S)
        await bench.until(lambda: bench.models.next is None)
        (kept,) = bench.models.kept()
        assert (kept.key, kept.keep_until) == (old, clock.now_ms() + 2 * DAY_S * 1000)
        clock.advance(2 * DAY_S - 1)
        bench.kept.wake()
        await bench.until(lambda: not bench.models.due())
        assert len(bench.held(old)) == 21
        clock.advance(2)
        bench.kept.wake()
        await bench.until(lambda: not bench.models.kept())
        assert bench.held(old) == {}
        assert await bench.store.read(count_vectors, [old]) == 0
        assert await bench.store.read(count_vectors, [bench.key("new")]) == 24
        assert old not in await bench.roles()
        await bench.agree()


async def test_a_model_that_is_not_to_be_kept_goes_when_no_search_asks_it_any_more(bench: ReembedBench) -> None:
    await with_rows(bench)
    await bench.start("new", keep_old_s=0, retire_after_s=0.3)
    await bench.until(lambda: bench.models.next is None)
    assert len(bench.held(bench.key("old"))) == 21
    assert not bench.embedder("old").closed
    await bench.until(lambda: not bench.models.kept())
    assert bench.embedder("old").closed
    assert bench.held(bench.key("old")) == {}
    await bench.agree()


async def test_kept_models_are_forgotten_when_it_is_asked_for(bench: ReembedBench) -> None:
    await with_rows(bench)
    await bench.start("new")
    await bench.settled("new")
    old, new = bench.key("old"), bench.key("new")
    with pytest.raises(RowNotFound):
        await bench.store.write(forget, "nothing")
    with pytest.raises(Conflict):
        await bench.store.write(forget, new)
    forgotten = await bench.store.write(forget, old)
    assert (forgotten.forgotten, forgotten.vectors_deleted) == ([old], 24)
    await bench.models.look_again()
    assert await bench.kept.gone([old], 20)
    assert bench.held(old) == {}
    assert await bench.store.read(count_vectors, [old]) == 0
    assert (await bench.store.write(forget, None)).forgotten == []
    await bench.stop()
    calls = len(bench.embedder("old").document_calls)
    await bench.start("old")
    await bench.settled("old")
    await bench.agree()
    assert sum(len(call) for call in bench.embedder("old").document_calls[calls:]) == 24


async def test_an_index_that_is_away_keeps_what_is_to_go_and_lets_it_go_when_it_is_back(bench: ReembedBench) -> None:
    await with_rows(bench)
    await bench.start("new")
    await bench.settled("new")
    old = bench.key("old")
    bench.index.down = True
    await bench.store.write(forget, None)
    await bench.models.look_again()
    assert not await bench.kept.gone([old], 0.1)
    bench.index.down = False
    bench.kept.wake()
    assert await bench.kept.gone([old], 20)
    assert old not in await bench.roles()
    facts = await bench.store.read(lambda db: [key for (key,) in db.execute("SELECT key FROM meta")])
    assert any(key.endswith(bench.key("new")) for key in facts)
    assert not any(key.endswith(old) for key in facts)


async def test_weights_that_changed_under_the_same_name_get_collections_of_their_own(bench: ReembedBench) -> None:
    await with_rows(bench)
    await bench.start("old")
    old = bench.key("old")
    for number in (2, 3):
        begun = await bench.store.write(bench.models.begin_anew, bench.clock.now_ms())
        assert begun is not None
        assert begun.key == f"{old}-{number}"
        assert await bench.store.write(bench.models.begin_anew, bench.clock.now_ms()) is None  # one is under way
        calls = len(bench.embedder("old").document_calls)
        await bench.models.look_again()
        bench.reembedding.begin()
        await bench.settled("old")
        assert bench.models.serving.model.key == f"{old}-{number}"
        assert sum(len(call) for call in bench.embedder("old").document_calls[calls:]) == 24
        await bench.agree()
    await bench.stop()
    await bench.start("old")
    assert bench.models.serving.model.key == f"{old}-3"
    assert bench.models.next is None


async def test_the_models_fail_apart_from_each_other(bench: ReembedBench) -> None:
    await with_rows(bench)
    old, new = bench.embedder("old"), bench.embedder("new")
    old.unavailable = "old is away"
    await bench.start("new")
    await bench.settled("new")  # whatever the old one does
    await bench.agree()
    await bench.stop()
    new.unavailable, old.unavailable = "new is away", ""
    third = bench.embedder("third")
    third.unavailable = "third is away"
    await bench.start("third")
    assert await bench.worker.wait_for("episodes", [await bench.add("into neither")], 0.1)
    await bench.until(lambda: "third is away" in bench.reembedding.progress().detail)
    await bench.until(lambda: bench.worker.embedder_breaker.last_error == "new is away")
    new.unavailable = ""
    await bench.drained()  # while the third one is away
    assert bench.models.serving.model.key == bench.key("new")
    third.unavailable = ""
    await bench.settled("third")
    await bench.agree()


async def test_a_model_that_cannot_be_made_again_is_away_until_the_next_one_serves(bench: ReembedBench) -> None:
    await with_rows(bench)
    bench.unmakable.add("old")
    bench.embedder("new").gate = gate = asyncio.Event()
    await bench.start("new")
    health = bench.models.serving.model.embedder.health()
    assert health.state == "unavailable"
    assert health.detail == "old, which served before, cannot be used any more: there is no model old"
    gate.set()
    await bench.settled("new")
    await bench.agree()


async def test_a_vector_of_a_callers_own_means_something_to_the_model_that_it_was_given_for_alone(
    bench: ReembedBench,
) -> None:
    own = struct.pack("<32f", *([0.0] * 31 + [1.0]))
    await bench.start("old")
    row = await bench.text("mine", "of my own", own)
    blank = await bench.text("blank", "", own)
    await bench.drained()
    old, new = bench.key("old"), bench.key("new")
    assert bench.index._points[f"vectors-{old}"][row].vector == own
    assert bench.embedder("old").document_calls == []
    await bench.stop()
    await bench.start("new")
    await bench.settled("new")
    assert bench.embedder("new").document_calls == [["of my own"]]
    assert bench.makers[bench.index._points[f"vectors-{new}"][row].vector] == new
    assert bench.held(new, "vectors") == {row: 1}  # nothing of a blank text can be embedded
    await bench.agree()
    assert row in await bench.store.read(select_vectors, "vectors", [row, blank], new)
    assert await bench.text("mine", "of my own", own) == row  # given again, now for this one
    await bench.drained()
    assert bench.index._points[f"vectors-{new}"][row].vector == own
    await bench.stop()
    await bench.start("old")
    await bench.settled("old")
    await bench.agree()
    assert bench.held(old, "vectors") == {row: 2, blank: 1}


async def test_what_the_new_model_refuses_is_a_dead_letter_after_the_change_and_not_before(bench: ReembedBench) -> None:
    ids = await with_rows(bench)
    bench.embedder("new").rejected.add("User: text 4\nAssistant: ok")
    await bench.start("new")
    await bench.until(lambda: bench.reembedding.progress().dead == 1)
    await bench.settled("new")
    await bench.agree()
    assert bench.worker.status().dead == 1
    assert ids[4] not in bench.held(bench.key("new"))
    assert bench.told[-1][1]["dead"] == 1


async def test_an_index_that_is_wiped_during_and_after_a_change_is_filled_again(bench: ReembedBench) -> None:
    await with_rows(bench, 100)
    bench.index.before_upsert = gate = asyncio.Event()
    await bench.start("new")
    bench.index.upsert_began.clear()
    await bench.index.upsert_began.wait()
    bench.index.wipe()
    bench.index.incarnation = "second"
    gate.set()
    await bench.settled("new")
    await bench.agree()
    calls = len(bench.embedder("new").document_calls)
    bench.index.wipe()
    bench.index.incarnation = "third"
    bench.worker.index_up()
    await bench.until(lambda: bench.worker.complete)
    await bench.drained()
    await bench.agree()
    assert len(bench.embedder("new").document_calls) == calls


async def test_names_for_other_readers_follow_the_model_that_serves(bench: ReembedBench) -> None:
    await with_rows(bench)
    assert bench.index.names["episodes"] == f"episodes-{bench.key('old')}"
    await bench.start("new")
    await bench.settled("new")
    await bench.until(lambda: "aliases" in bench.steps)
    assert set(bench.index.names.values()) == {f"{name}-{bench.key('new')}" for name in bench.index.names}
    bench.index.names.clear()
    bench.worker.index_breaker.failed("gone")  # and back: whoever reads there finds them again
    bench.index.incarnation = "second"
    bench.worker.index_up()
    await bench.until(lambda: len(bench.index.names) == 5)


async def test_fresh_rows_do_not_wait_for_a_next_model_that_is_away(bench: ReembedBench) -> None:
    """However little is left for it to do: it may be away for long."""
    await with_rows(bench, 3)
    bench.embedder("new").unavailable = "new is away"
    await bench.start("new")
    await bench.until(lambda: "compared" in bench.steps or "new is away" in bench.reembedding.progress().detail)
    await asyncio.sleep(0.3)  # time for it to try its luck
    began_s = asyncio.get_running_loop().time()
    assert (await bench.worker.wait_for("episodes", [await bench.add("fresh")], 2)).done
    assert asyncio.get_running_loop().time() - began_s < 1
    bench.embedder("new").unavailable = ""
    await bench.settled("new")
    await bench.agree()


async def test_a_row_that_is_to_be_tried_later_puts_off_the_change(bench: ReembedBench) -> None:
    (row_id, *_) = await with_rows(bench, 2)
    await bench.open("new")
    while await bench.store.write(fill_next, 100, 1):
        continue
    assert not await bench.store.read(any_postponed, 5)
    await bench.store.write(lambda db: db.execute("UPDATE outbox_next SET not_before_ms = 6") and None)
    assert await bench.store.read(any_postponed, 5)
    assert not await bench.store.read(any_postponed, 6)
    await bench.store.write(lambda db: db.execute("DELETE FROM outbox_next WHERE row_id <> ?", (row_id,)) and None)
    for collection in ("episodes", "entities", "messages", "vectors"):  # neither model has them
        await bench.store.write(requeue_collection, collection, 1)
    await bench.store.write(lambda db: db.execute("UPDATE outbox_next SET not_before_ms = 6") and None)
    assert not await bench.store.read(any_postponed, 5)
    await bench.stop_open()


async def test_a_new_pace_holds_for_the_next_model_too(bench: ReembedBench) -> None:
    await with_rows(bench, 70)
    new = bench.embedder("new")
    new.gate = asyncio.Event()
    await bench.start("new")
    await bench.until(lambda: bool(new.document_calls))
    bench.reembedding.set_pace(OutboxConfig(batch_size=3, max_backoff_s=0.2))
    new.gate.set()
    await bench.settled("new")
    assert max(len(call) for call in new.document_calls[1:]) == 3
    await bench.stop()
    await bench.open("third")
    bench.reembedding.set_pace(OutboxConfig(batch_size=2, max_backoff_s=0.2))
    bench.run()
    await bench.settled("third")
    assert max(len(call) for call in bench.embedder("third").document_calls) == 2


async def test_who_waits_for_a_delete_waits_for_a_model_too_that_was_kept_and_comes_next(bench: ReembedBench) -> None:
    ids = await with_rows(bench, 3)
    await bench.start("new")
    await bench.settled("new")
    await bench.stop()
    await bench.open("new")
    await bench.store.write(delete_episode, ids[0])
    seq = await bench.store.read(last_seq)
    await bench.stop_open()
    await bench.open("old")
    serving = asyncio.create_task(bench.worker.run())
    await bench.until(lambda: ids[0] not in bench.held(bench.key("new")))
    waited = await bench.worker.wait_for_deletes(seq, 0.1)
    assert ids[0] in bench.held(bench.key("old"))
    assert not waited.done
    serving.cancel()
    await asyncio.wait([serving])
    bench.run()
    assert (await bench.worker.wait_for_deletes(seq, 10)).done
    assert ids[0] not in bench.held(bench.key("old"))


async def test_the_embedder_of_before_is_closed_whatever_becomes_of_the_names_for_other_readers(
    bench: ReembedBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await with_rows(bench, 2)
    await bench.open("new")
    never = asyncio.Event()
    publish = bench.index.publish

    async def stalled(names: Mapping[str, str]) -> None:
        if bench.models.next is None:
            await never.wait()
        await publish(names)

    monkeypatch.setattr(bench.index, "publish", stalled)
    bench.run()
    await bench.until(lambda: bench.models.next is None)
    await bench.until(lambda: bench.embedder("old").closed)


async def test_a_kept_collection_that_is_somebody_elses_by_now_stays_where_it_is(bench: ReembedBench) -> None:
    await with_rows(bench, 2)
    old = bench.key("old")
    await bench.start("new")
    await bench.settled("new")
    await bench.index.drop(f"episodes-{old}")
    await bench.index.ensure(CollectionSpec(f"episodes-{old}", 5))  # in its place
    await bench.store.write(forget, old)
    await bench.models.look_again()
    assert await bench.kept.gone([old], 10)
    assert f"episodes-{old}" in bench.index.health().incarnations
    assert f"entities-{old}" not in bench.index.health().incarnations

"""memory.search over a real store, a brute-force index and a model of hashed words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from harness.remembering import COLLECTION, Memory, empty_memory

from nexusd.errors import Busy
from nexusd.model.episodes import UpdateEpisode
from nexusd.model.memory import COLLECTIONS, MAX_ENTRIES, MemoryFilter, SearchMemory
from nexusd.model.sessions import UpdateSession
from nexusd.retrieval.keyword import find_by_words, measure_words
from nexusd.store.connection import Connection
from nexusd.store.episodes import delete_episode, update_episode
from nexusd.store.sessions import update_session

pytestmark = pytest.mark.anyio


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[Memory]:
    async with empty_memory(tmp_path) as memory:
        yield memory


async def test_hybrid_finds_what_either_engine_finds(memory: Memory) -> None:
    by_word = await memory.remember("The heron stood in the pond", session="a", indexed=False)
    by_both = await memory.remember("We saw a heron", session="b")
    await memory.remember("The tax forms are due", session="c")
    hits = await memory.find("heron")
    assert {by_word.id, by_both.id} <= {hit.id for hit in hits.items}
    assert hits.degraded == []
    assert hits.items[0].record.user_message in {by_word.user_message, by_both.user_message}


async def test_only_exchange_with_the_word_comes_first_while_its_vector_is_pending(memory: Memory) -> None:
    for n in range(20):
        await memory.remember(f"quite another thing {n}", session=f"s{n}")
    pending = await memory.remember("the heron is back", session="late", indexed=False)
    assert (await memory.found("heron"))[0] == pending.id


async def test_common_word_over_the_budget_lifts_without_finding(memory: Memory) -> None:
    plain = await memory.remember("violin lesson", session="a")
    lifted = await memory.remember("violin school", session="b")
    for n in range(9):
        await memory.remember(f"school day {n}", session="c")
    for n in range(20):
        await memory.remember(f"filler {n}", session="d")
    answer = await memory.store.read(find_by_words, "violin school", {"episodes": 100}, MemoryFilter(), (), 5)
    assert (answer.chosen.asked, answer.chosen.dropped) == (("violin",), ("school",))
    assert answer.found == {("episodes", plain.id), ("episodes", lifted.id)}
    parts = await memory.store.read(measure_words, answer, answer.found)
    assert parts["episodes", plain.id].keys() < parts["episodes", lifted.id].keys()


async def test_keyword_mode_finds_inflected_words_and_asks_no_model(memory: Memory) -> None:
    wanted = await memory.remember("Watering the tomatoes", session="a")
    await memory.remember("Something else", session="b")
    assert await memory.found("tomato watered", mode="keyword") == [wanted.id]
    assert memory.embedder.query_calls == []


async def test_as_many_entries_of_metadata_are_asked_for_as_a_filter_may_have(memory: Memory) -> None:
    asked = {f"key{number}": number for number in range(MAX_ENTRIES)}
    await memory.remember("a heron", session="a")
    wanted = await memory.remember("a heron", session="a", metadata=asked)
    assert await memory.found("heron", filter=MemoryFilter(metadata=asked)) == [wanted.id]
    more = {"query": "heron", "filter": {"metadata": {**asked, "more": 1}}, "collections": COLLECTIONS}
    with pytest.raises(msgspec.ValidationError, match="length"):
        msgspec.convert(more, SearchMemory)


async def test_semantic_mode_ranks_by_similarity_alone(memory: Memory) -> None:
    near = await memory.remember("fetch bread and milk", session="a")
    far = await memory.remember("the train leaves at noon", session="b")
    hits = await memory.find("bread milk fetch", mode="semantic", explain=True)
    assert [hit.id for hit in hits.items] == [near.id, far.id]
    assert all(hit.explain is not None and hit.explain.keyword is None for hit in hits.items)


async def test_neighbour_in_the_session_lifts_a_hit_above_its_equal(memory: Memory) -> None:
    await memory.remember("the boiler makes noise", session="a")
    beside = await memory.remember("and the boiler is warm", session="a")
    apart = await memory.remember("and the boiler is warm", session="b")
    await memory.remember("nothing of that sort", session="c")
    order = await memory.found("boiler", mode="keyword")
    assert order.index(beside.id) < order.index(apart.id)


@pytest.mark.parametrize("mode", ["hybrid", "keyword", "semantic"])
async def test_filters_hold_in_every_mode(memory: Memory, mode: str) -> None:
    project = await memory.session("other", project="garden")
    first = await memory.remember("apples in the cellar", session="main")
    second = await memory.remember("apples in the kitchen", metadata={"room": "kitchen", "n": 1})
    kitchen = {"room": "kitchen", "n": True}
    third = await memory.remember("apples on the tree", session="other", metadata=kitchen)

    async def passing(**filters: object) -> set[int]:
        where = MemoryFilter(**filters)  # type: ignore[arg-type]
        return set(await memory.found("apples", mode=mode, filter=where))

    assert await passing() == {first.id, second.id, third.id}
    assert await passing(session_id=first.session_id) == {first.id, second.id}
    assert await passing(session_id=project) == {third.id}
    assert await passing(project_id=1) == {third.id}
    assert await passing(project_id=9) == set()
    assert await passing(since=second.created_at) == {second.id, third.id}
    assert await passing(until=second.created_at) == {first.id}
    assert await passing(metadata={"room": "kitchen"}) == {second.id, third.id}
    assert await passing(metadata={"n": 1}) == {second.id}
    assert await passing(metadata={"n": True}) == {third.id}
    assert await passing(metadata={'ro"om': "kitchen"}) == set()


async def test_filter_holds_before_the_best_are_chosen(memory: Memory) -> None:
    keep = {"keep": True}
    wanted = [await memory.remember(f"tea number {n}", metadata=keep, session=f"w{n}") for n in range(5)]
    for n in range(150):
        await memory.remember("tea tea tea tea", session=f"crowd{n % 10}")
    where = MemoryFilter(metadata={"keep": True})
    for mode in ("hybrid", "keyword", "semantic"):
        hits = await memory.find("tea", mode=mode, filter=where, limit=5, explain=True)
        assert sorted(hit.id for hit in hits.items) == [episode.id for episode in wanted], mode
        assert hits.explain is not None
        assert hits.explain.keyword_candidates in {0, 5}
        assert hits.explain.semantic_candidates in {0, 5}


async def test_hit_whose_row_is_gone_is_dropped_and_counted(memory: Memory) -> None:
    ghost = await memory.remember("the lost umbrella", session="a")
    alive = await memory.remember("the found umbrella", session="b")
    await memory.store.write(delete_episode, ghost.id)
    assert ghost.id in memory.index.versions(COLLECTION)
    hits = await memory.find("umbrella", explain=True)
    assert [hit.id for hit in hits.items] == [alive.id]
    assert hits.explain is not None
    assert hits.explain.stale_hits == 1


async def test_enough_live_hits_are_found_behind_any_number_of_gone_ones(memory: Memory) -> None:
    alive = [await memory.remember(f"umbrella stand {n}", session=f"alive{n}") for n in range(3)]
    ghosts = [await memory.remember("umbrella", session="ghosts") for _ in range(120)]
    for ghost in ghosts:
        await memory.store.write(delete_episode, ghost.id)
    found = await memory.found("umbrella", mode="semantic", limit=3)
    assert sorted(found) == [episode.id for episode in alive]


async def test_changed_row_stays_a_hit_while_its_new_vector_is_pending(memory: Memory) -> None:
    episode = await memory.remember("the key is under the mat")
    change = UpdateEpisode(id=episode.id, user_message="the key is with Anna")
    await memory.store.write(update_episode, change, memory.now_ms)
    hits = await memory.find("key", mode="semantic")
    assert [hit.id for hit in hits.items] == [episode.id]
    assert hits.items[0].record.user_message == "the key is with Anna"
    assert hits.items[0].record.vector == "pending"


async def test_row_decides_where_the_index_still_has_the_old_project(memory: Memory) -> None:
    session = await memory.session("moving", project="old")
    episode = await memory.remember("the piano is tuned", session="moving")
    change = UpdateSession(id=session, project_id=None)
    await memory.store.write(update_session, change, memory.now_ms)
    assert await memory.found("piano", filter=MemoryFilter(project_id=1)) == []
    assert await memory.found("piano") == [episode.id]


@pytest.mark.parametrize(("mode", "finds"), [("hybrid", True), ("semantic", False)])
async def test_index_that_is_down_is_named_and_the_words_serve(
    memory: Memory, mode: str, *, finds: bool
) -> None:
    episode = await memory.remember("the ladder is in the shed")
    memory.index.down = True
    hits = await memory.find("ladder", mode=mode)
    assert hits.degraded == ["index"]
    assert [hit.id for hit in hits.items] == ([episode.id] if finds else [])


@pytest.mark.parametrize(("mode", "finds"), [("hybrid", True), ("semantic", False)])
async def test_embedder_that_is_down_is_named_and_the_words_serve(
    memory: Memory, mode: str, *, finds: bool
) -> None:
    episode = await memory.remember("the ladder is in the shed")
    memory.embedder.unavailable = "no model"
    hits = await memory.find("ladder", mode=mode)
    assert hits.degraded == ["embedder"]
    assert [hit.id for hit in hits.items] == ([episode.id] if finds else [])


async def test_keyword_mode_is_never_degraded(memory: Memory) -> None:
    memory.index.down = True
    memory.embedder.unavailable = "no model"
    assert (await memory.find("ladder", mode="keyword")).degraded == []


async def test_embedder_that_hangs_holds_a_search_for_the_deadline_only(tmp_path: Path) -> None:
    async with empty_memory(tmp_path, semantic_deadline_s=0.05) as memory:
        episode = await memory.remember("the ladder is in the shed")
        memory.embedder.gate = asyncio.Event()
        hits = await asyncio.wait_for(memory.find("ladder"), 5)
        assert hits.degraded == ["embedder"]
        assert [hit.id for hit in hits.items] == [episode.id]


async def test_caller_that_goes_away_leaves_no_search_behind(memory: Memory) -> None:
    await memory.remember("the ladder is in the shed")
    memory.embedder.gate = asyncio.Event()
    before = asyncio.all_tasks()
    search = asyncio.create_task(memory.find("ladder"))
    while not memory.embedder.query_calls:
        await asyncio.sleep(0)
    search.cancel()
    with pytest.raises(asyncio.CancelledError):
        await search
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_store_that_is_too_slow_fails_the_search_and_ends_the_semantic_side(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_slow(_db: Connection, *_: object) -> None:
        raise Busy

    monkeypatch.setattr("nexusd.retrieval.search.find_by_words", too_slow)
    await memory.remember("the ladder is in the shed")
    memory.embedder.gate = asyncio.Event()
    before = asyncio.all_tasks()
    with pytest.raises(Busy):
        await memory.find("ladder")
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("query", ["?!", "\U0001f600", '"', "* -a:b ^ NEAR(", "\0"])
async def test_query_of_no_words_or_of_syntax_is_answered(memory: Memory, query: str) -> None:
    await memory.remember("a b near")
    assert (await memory.find(query, mode="keyword")).degraded == []
    assert (await memory.find(query)).degraded == []


async def test_empty_store_answers_nothing(memory: Memory) -> None:
    assert (await memory.find("anything at all")).items == []


async def test_limit_is_met_and_order_is_by_score(memory: Memory) -> None:
    for n in range(30):
        await memory.remember(f"plum {'jam ' * (n % 4)}{n}", session=f"s{n}")
    hits = (await memory.find("plum jam", limit=7)).items
    assert len(hits) == 7
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert len({hit.id for hit in hits}) == 7


async def test_equal_hits_come_newest_first_every_time(memory: Memory) -> None:
    ids = [(await memory.remember("the same words", session=f"s{n}")).id for n in range(6)]
    for mode in ("hybrid", "keyword", "semantic"):
        assert await memory.found("same words", mode=mode) == ids[::-1]


async def test_explain_shows_the_terms_and_every_part_of_a_score(memory: Memory) -> None:
    await memory.remember("the quince tree blossoms")
    await memory.remember("yes, it does")
    hits = await memory.find("Where is the quince?", explain=True)
    assert hits.explain is not None
    assert hits.explain.terms == ["quince"]
    assert hits.explain.dropped_terms == []
    assert (hits.explain.keyword_candidates, hits.explain.semantic_candidates) == (1, 2)
    assert hits.explain.total_us >= hits.explain.keyword_us > 0
    for hit in hits.items:
        assert hit.explain is not None
        parts = [part.normalised for part in (hit.explain.keyword, hit.explain.semantic) if part is not None]
        told = hit.explain
        whole = sum(parts) + told.neighbours + told.session + told.time
        assert hit.score == pytest.approx(whole * told.weight * told.recency)
    assert hits.items[0].explain is not None
    assert hits.items[0].explain.keyword is not None
    assert hits.items[0].explain.keyword.rank == 1


async def test_search_never_writes(memory: Memory) -> None:
    await memory.remember("nothing may change")

    def changes(db: Connection) -> int:
        version: int = db.execute("PRAGMA data_version").get
        return version

    before = memory.store.peek(changes)
    for mode in ("hybrid", "keyword", "semantic"):
        await memory.search.search(SearchMemory(query="change", mode=mode, explain=True))
    assert memory.store.peek(changes) == before


async def test_hits_of_very_long_exchanges_are_cut_off_and_the_answer_says_so(memory: Memory) -> None:
    for n in range(4):
        await memory.remember("heron " + "x" * 3_000_000, session=f"s{n}", indexed=False)
    hits = await memory.find("heron", mode="keyword")
    assert (len(hits.items), hits.truncated) == (2, True)
    short = await memory.find("heron", mode="keyword", limit=1)
    assert (len(short.items), short.truncated) == (1, False)

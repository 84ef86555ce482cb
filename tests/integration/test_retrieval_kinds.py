"""memory.search and messages.search over every kind of memory at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from harness.remembering import Memory, empty_memory, physical

from nexusd.errors import IndexUnavailable
from nexusd.index.filters import Filter
from nexusd.index.index import Hit, Vector
from nexusd.model.entities import Entity
from nexusd.model.memory import (
    COLLECTIONS,
    Collection,
    EntityHit,
    EpisodeHit,
    MemoryFilter,
    MemoryHits,
    MessageHit,
    SearchMemory,
    SearchMessages,
    SummaryHit,
)
from nexusd.retrieval.keyword import KeywordAnswer, find_by_words
from nexusd.store.connection import Connection
from nexusd.store.entities import delete_entity, select_entity
from nexusd.store.episodes import select_episode
from nexusd.store.messages import select_message
from nexusd.store.recall import Key, place_memories, select_memories, stocked
from nexusd.store.summaries import select_summary
from nexusd.store.text_budget import TextBudget

pytestmark = pytest.mark.anyio

MODES = ("hybrid", "keyword", "semantic")


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[Memory]:
    async with empty_memory(tmp_path) as memory:
        yield memory


def execute(db: Connection, sql: str) -> None:
    db.execute(sql)


async def one_of_each(memory: Memory) -> None:
    await memory.remember("the heron stood in the pond", "It fishes there.")
    await memory.know("Heron", "bird", "grey, at the pond")
    await memory.sum_up("We talked about the heron and its pond.")
    await memory.say("did you see the heron?")


@pytest.mark.parametrize("mode", MODES)
async def test_every_kind_of_memory_is_found_with_the_record_that_its_get_answers(memory: Memory, mode: str) -> None:
    await one_of_each(memory)
    hits = await memory.find("heron", mode=mode)
    assert hits.degraded == []
    records = {hit.collection: hit.record for hit in hits.items}
    assert records == {
        "episodes": await memory.store.read(select_episode, 1),
        "entities": await memory.store.read(select_entity, 1),
        "summaries": await memory.store.read(select_summary, 1),
        "messages": await memory.store.read(select_message, 1),
    }


async def test_answer_survives_the_wire_with_every_record_of_its_kind(memory: Memory) -> None:
    await one_of_each(memory)
    hits = await memory.find("heron", explain=True)
    wire = msgspec.json.encode(hits)
    assert msgspec.json.decode(wire, type=MemoryHits) == hits
    assert {type(hit) for hit in hits.items} == {EpisodeHit, EntityHit, SummaryHit, MessageHit}
    for item in msgspec.json.decode(wire)["items"]:
        assert list(item) == ["collection", "id", "score", "record", "explain"]
        assert item["record"]["id"] == item["id"]


@pytest.mark.parametrize("mode", MODES)
async def test_only_the_collections_asked_for_are_searched(memory: Memory, mode: str) -> None:
    await one_of_each(memory)
    for collection in COLLECTIONS:
        assert await memory.keys("heron", mode=mode, collections=[collection]) == [(collection, 1)]
    both = await memory.keys("heron", mode=mode, collections=["messages", "entities"])
    assert sorted(both) == [("entities", 1), ("messages", 1)]


@pytest.mark.parametrize("mode", MODES)
async def test_filters_by_session_and_project_hold_for_summaries_and_leave_out_what_is_in_no_session(
    memory: Memory, mode: str
) -> None:
    await memory.session("birds", project="garden")
    await one_of_each(memory)
    there = await memory.remember("the heron again", session="birds")
    summed_up = await memory.sum_up("the heron came back", session="birds")
    wanted = {("episodes", there.id), ("summaries", summed_up.id)}
    by_session = MemoryFilter(session_id=there.session_id)
    assert set(await memory.keys("heron", mode=mode, filter=by_session)) == wanted
    assert set(await memory.keys("heron", mode=mode, filter=MemoryFilter(project_id=1))) == wanted
    nowhere = await memory.keys("heron", mode=mode, collections=["entities", "messages"], filter=by_session)
    assert nowhere == []


@pytest.mark.parametrize("mode", MODES)
async def test_filters_by_time_and_metadata_hold_for_all(memory: Memory, mode: str) -> None:
    await one_of_each(memory)
    middle = (await memory.store.read(select_summary, 1)).created_at
    since, until = MemoryFilter(since=middle), MemoryFilter(until=middle)
    assert set(await memory.keys("heron", mode=mode, filter=since)) == {("summaries", 1), ("messages", 1)}
    assert set(await memory.keys("heron", mode=mode, filter=until)) == {("episodes", 1), ("entities", 1)}
    tagged = await memory.know("Heron", "boat", metadata={"afloat": True})
    where = MemoryFilter(metadata={"afloat": True})
    assert await memory.keys("heron", mode=mode, filter=where) == [("entities", tagged.id)]


async def test_only_entity_of_a_store_is_found_by_its_name_among_many_exchanges(memory: Memory) -> None:
    # In a table of one row every word is as common as can be.
    for n in range(30):
        await memory.remember(f"we spoke of quite another thing, number {n}", session=f"s{n}")
    await memory.remember("Ramona is coming, and after that comes quite another thing to speak of", session="x")
    entity = await memory.know("Ramona", "person", indexed=False)
    hits = await memory.find("Ramona", mode="keyword", explain=True)
    assert [(hit.collection, hit.id) for hit in hits.items] == [("entities", entity.id), ("episodes", 31)]
    assert hits.items[0].explain is not None
    assert hits.items[0].explain.keyword is not None
    assert hits.items[0].explain.keyword.score > 0.5


async def test_few_rows_are_compared_as_few_though_their_ids_are_high(memory: Memory) -> None:
    for n in range(100):
        await memory.remember(f"chat {n} about trains", session=f"s{n}")
    await memory.remember("I met Ada today", session="late")
    await memory.know("Ada", "person", "grows tomatoes")
    await memory.know("Bob", "person", "fixes boilers")
    assert (await memory.keys("Ada tomatoes", mode="keyword"))[0] == ("entities", 1)
    await memory.store.write(execute, "UPDATE sqlite_sequence SET seq = 1_000_000 WHERE name = 'entities'")
    await memory.know("Carl", "person", "plays the piano")
    assert (await memory.keys("Ada tomatoes", mode="keyword"))[0] == ("entities", 1)


async def test_words_of_a_table_that_drops_common_ones_still_compare_with_the_others(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexusd.retrieval.keyword.find_by_words.__defaults__", ((), 5))
    for n in range(9):
        await memory.remember(f"school day {n}", session="c")
    await memory.remember("violin school", session="a")
    await memory.know("Violin", "instrument", "from the school")
    hits = await memory.find("violin school", mode="keyword", explain=True)
    assert hits.explain is not None
    assert (hits.explain.terms, hits.explain.dropped_terms) == (["violin"], ["school"])
    scores = {hit.id: hit.explain.keyword.score for hit in hits.items if hit.explain and hit.explain.keyword}
    assert [(hit.collection, hit.id) for hit in hits.items][:2] in (
        [("episodes", 10), ("entities", 1)], [("entities", 1), ("episodes", 10)],
    )  # fmt: skip
    assert scores[1] == pytest.approx(scores[10], rel=0.5)


async def test_exchanges_lend_to_neighbours_and_rows_of_the_same_id_do_not(memory: Memory) -> None:
    await memory.remember("the boiler makes noise")
    await memory.remember("and the boiler is warm")
    await memory.say("the boiler makes noise")
    await memory.say("and the boiler is warm")
    hits = await memory.find("boiler", mode="semantic", explain=True)
    lent = {(hit.collection, hit.id): hit.explain.neighbours for hit in hits.items if hit.explain is not None}
    assert min(lent["episodes", 1], lent["episodes", 2]) >= 0
    assert max(lent["episodes", 1], lent["episodes", 2]) > 0
    assert lent["messages", 1] == lent["messages", 2] == 0


async def test_entity_that_is_gone_is_no_hit_though_the_index_holds_it(memory: Memory) -> None:
    gone = await memory.know("Heron", "bird")
    kept = await memory.know("Grey heron", "bird")
    await memory.store.write(delete_entity, gone.id)
    for mode in MODES:
        assert await memory.keys("heron", mode=mode) == [("entities", kept.id)]


async def test_collections_without_rows_are_not_asked_for(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    search = memory.index.search

    async def watched(collection: str, vector: Vector, limit: int, where: Filter | None) -> list[Hit]:
        asked.append(collection)
        return await search(collection, vector, limit, where)

    monkeypatch.setattr(memory.index, "search", watched)
    assert await memory.found("heron") == []
    assert (asked, memory.embedder.query_calls) == ([], [])
    await memory.remember("the heron")
    await memory.found("heron")
    assert asked == [physical("episodes")]
    asked.clear()
    await memory.say("the heron")
    await memory.found("heron")
    assert sorted(asked) == [physical("episodes"), physical("messages")]
    assert await memory.store.read(stocked, ["messages", "entities", "summaries"]) == ("messages",)


async def test_collection_that_has_its_hits_is_not_looked_for_any_deeper(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(110):
        await memory.know(f"heron {n}", "bird", indexed=False)
    await memory.remember("one heron")
    looks: list[object] = []

    def counted(db: Connection, *how: Any) -> KeywordAnswer:
        looks.append(how)
        return find_by_words(db, *how)

    monkeypatch.setattr("nexusd.retrieval.search.find_by_words", counted)
    params = SearchMemory(query="heron", mode="keyword", limit=5)
    assert len((await memory.search.search(params, besides={"entities": 2})).items) == 3
    assert len(looks) == 1
    assert len((await memory.search.search(params, besides={"entities": 110})).items) == 111
    assert len(looks) == 2


async def test_index_that_fails_for_one_collection_is_named_and_the_others_serve(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    await one_of_each(memory)
    search = memory.index.search

    async def broken(collection: str, vector: Vector, limit: int, where: Filter | None) -> list[Hit]:
        if collection == physical("messages"):
            raise IndexUnavailable
        return await search(collection, vector, limit, where)

    monkeypatch.setattr(memory.index, "search", broken)
    hits = await memory.find("heron", mode="semantic")
    assert hits.degraded == ["index"]
    assert {hit.collection for hit in hits.items} == {"episodes", "entities", "summaries"}


async def test_order_is_the_same_every_time_also_among_equals(memory: Memory) -> None:
    for n in range(4):
        memory.now_ms = 0
        await memory.remember("the same words", session=f"s{n}")
        memory.now_ms = 0
        await memory.say("the same words", conversation=f"c{n}")
    for mode in MODES:
        first = await memory.keys("same words", mode=mode)
        assert len(first) == 8
        assert [await memory.keys("same words", mode=mode) for _ in range(3)] == [first] * 3
        for collection in ("episodes", "messages"):
            ids = [id_ for name, id_ in first if name == collection]
            assert ids == sorted(ids, reverse=True)


async def test_long_texts_are_cut_off_in_the_order_of_the_hits_whatever_their_kind(memory: Memory) -> None:
    for n in range(2):
        await memory.remember("heron " + "x" * 3_000_000, session=f"s{n}", indexed=False)
        await memory.say("heron " + "x" * 3_000_000, conversation=f"c{n}")
    hits = await memory.find("heron", mode="keyword")
    assert (len(hits.items), hits.truncated) == (2, True)
    everything = [await memory.keys("heron", mode="keyword", collections=[c]) for c in ("episodes", "messages")]
    assert {(hit.collection, hit.id) for hit in hits.items} < {key for keys in everything for key in keys}


async def test_hits_of_a_collection_can_stand_beside_the_limit_and_take_no_place_of_others(memory: Memory) -> None:
    for n in range(130):
        await memory.know(f"heron {n}", "bird", indexed=False)
    await memory.remember("one heron among many, and a long story beside it that makes it the last of all")
    besides: dict[Collection, int] = {"entities": 2, "summaries": 7}
    found = await memory.search.search(SearchMemory(query="heron", mode="keyword", limit=1), besides=besides)
    assert sorted(hit.collection for hit in found.items) == ["entities", "entities", "episodes"]


@pytest.mark.parametrize("mode", MODES)
async def test_messages_are_found_in_one_conversation_or_in_all(memory: Memory, mode: str) -> None:
    await one_of_each(memory)
    other = await memory.say("another heron", conversation="other", role="assistant")
    await memory.say("tax forms", conversation="third")

    async def found(conversation_id: int | None = None) -> list[int]:
        params = SearchMessages(query="heron", mode=mode, conversation_id=conversation_id)
        answer = await memory.search.search_messages(params)
        assert answer.degraded == []
        scores = [item.score for item in answer.items]
        assert scores == sorted(scores, reverse=True)
        return [item.message.id for item in answer.items]

    assert await found(other.conversation_id) == [other.id]
    assert set(await found()) - {3} == {1, other.id}
    assert await found(99) == []


async def test_messages_search_says_which_part_could_not_help(memory: Memory) -> None:
    await memory.say("the heron")
    memory.index.down = True
    answer = await memory.search.search_messages(SearchMessages(query="heron"))
    assert ([item.message.id for item in answer.items], answer.degraded) == ([1], ["index"])


async def test_notes_of_none_weigh_nothing(memory: Memory) -> None:
    entity = await memory.know("Heron", "bird")
    (hit,) = (await memory.find("heron", mode="keyword")).items
    assert isinstance(hit.record, Entity)
    assert (hit.record.id, hit.record.notes) == (entity.id, None)


async def test_place_knows_the_exchange_before_in_the_same_session(memory: Memory) -> None:
    first = await memory.remember("one", session="a")
    other = await memory.remember("two", session="b")
    third = await memory.remember("three", session="a")
    said = await memory.say("four")
    keys: list[Key] = [("episodes", id_) for id_ in (third.id, other.id, first.id, 999)]
    places = await memory.store.read(place_memories, [*keys, ("messages", said.id), ("summaries", 1)])
    assert {key: place.previous for key, place in places.items()} == {
        ("episodes", first.id): None, ("episodes", other.id): None, ("episodes", third.id): ("episodes", first.id),
        ("messages", said.id): None,
    }  # fmt: skip
    assert places["episodes", third.id].created_at == third.created_at
    assert places["messages", said.id].created_at == said.created_at


async def test_exchanges_of_one_moment_stand_in_the_order_of_their_ids(memory: Memory) -> None:
    keys: list[Key] = []
    for n in range(3):
        memory.now_ms = 0
        keys.append(("episodes", (await memory.remember(f"turn {n}")).id))
    places = await memory.store.read(place_memories, keys)
    assert [places[key].previous for key in keys] == [None, *keys[:2]]


async def test_records_come_in_order_without_those_that_are_gone_or_filtered_out(memory: Memory) -> None:
    await one_of_each(memory)
    second = await memory.remember("a second one", metadata={"keep": True})
    third = await memory.remember("a third one", metadata={"keep": True})
    keys: list[Key] = [
        ("episodes", third.id), ("messages", 99), ("episodes", 1), ("messages", 1), ("episodes", second.id),
    ]  # fmt: skip
    found = await memory.store.read(select_memories, keys, MemoryFilter(), TextBudget())
    assert list(found) == [key for key in keys if key != ("messages", 99)]
    assert all(record.id == key[1] for key, record in found.items())
    kept = await memory.store.read(select_memories, keys, MemoryFilter(metadata={"keep": True}), TextBudget())
    assert kept == {("episodes", third.id): third, ("episodes", second.id): second}

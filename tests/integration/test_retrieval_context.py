"""memory.context: what gets into a package, in which order, and at what cost."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes.embedder import TellingEmbedder
from harness.remembering import Memory, empty_memory

from nexusd.model.memory import BuildContext, ContextShares, MemoryContext, MemoryFilter, MemoryId
from nexusd.retrieval.context import MAX_LINKS, ContextBuilder
from nexusd.retrieval.model_tokens import CountedWords, ModelTokens
from nexusd.retrieval.pieces import CUT, exchange_text, readable_time
from nexusd.retrieval.tokens import EstimatedTokens
from nexusd.store.episodes import count_episodes

pytestmark = pytest.mark.anyio

count = EstimatedTokens().count


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[Memory]:
    async with empty_memory(tmp_path) as memory:
        yield memory


async def build(memory: Memory, query: str, **how: Any) -> MemoryContext:
    return await ContextBuilder(memory.store, memory.search).build(BuildContext(query=query, **how))


async def test_package_holds_memories_then_the_running_conversation_both_oldest_first(memory: Memory) -> None:
    old = await memory.remember("We planted tulips", "Red ones.", session="old")
    older = await memory.remember("tulips, tulips, only tulips", session="older")
    first = await memory.remember("Good morning", "Good morning!", session="now")
    second = await memory.remember("It is sunny", session="now")
    package = await build(memory, "tulips", session_id=first.session_id)
    assert package.text == (
        "Earlier exchanges that may matter, oldest first:\n\n"
        f"[{readable_time(old.created_at)}]\nUser: We planted tulips\nAssistant: Red ones.\n\n"
        f"[{readable_time(older.created_at)}]\nUser: tulips, tulips, only tulips\n\n"
        "The current conversation, oldest first:\n\n"
        f"[{readable_time(first.created_at)}]\nUser: Good morning\nAssistant: Good morning!\n\n"
        f"[{readable_time(second.created_at)}]\nUser: It is sunny\n\n"
    )
    assert [(item.id, item.reason) for item in package.items] == [
        (old.id, "hit"),
        (older.id, "hit"),
        (first.id, "recent"),
        (second.id, "recent"),
    ]
    assert package.left_out == []
    assert package.degraded == []


async def test_exchange_that_is_recent_and_found_stands_once(memory: Memory) -> None:
    turn = await memory.remember("tulips again", session="now")
    package = await build(memory, "tulips", session_id=turn.session_id)
    assert [(item.id, item.reason, item.score) for item in package.items] == [(turn.id, "recent", None)]
    assert package.text.count("tulips again") == 1


async def test_best_hits_get_the_room_and_the_rest_is_listed(memory: Memory) -> None:
    best = await memory.remember("saffron saffron", session="a")
    await memory.remember("a word about saffron " + "and much else " * 30, session="b")
    await memory.remember("unrelated", session="c")
    package = await build(memory, "saffron", token_budget=50)
    assert best.id in [item.id for item in package.items]
    assert {item.id for item in package.items} | {item.id for item in package.left_out} == {1, 2, 3}
    assert 2 in [item.id for item in package.left_out]
    assert package.tokens <= 50


async def test_conversation_has_no_hole(memory: Memory) -> None:
    for text in ("one", "two " * 200, "three", "four"):
        last = await memory.remember(text, session="now")
    package = await build(memory, "nothing", session_id=last.session_id, token_budget=100)
    assert [item.id for item in package.items if item.reason == "recent"] == [3, 4]
    assert [item.id for item in package.left_out if item.reason == "recent"] == [2, 1]


async def test_long_conversation_leaves_half_of_the_budget_to_memories(memory: Memory) -> None:
    hit = await memory.remember("the marble run", session="old")
    for _ in range(4):
        last = await memory.remember("talk " * 30, session="now")
    package = await build(memory, "marble", session_id=last.session_id, token_budget=200)
    assert hit.id in [item.id for item in package.items]


async def test_conversation_takes_what_the_memories_leave(memory: Memory) -> None:
    await memory.remember("the marble run", session="old")
    for _ in range(4):
        last = await memory.remember("talk " * 30, session="now")
    package = await build(memory, "marble", session_id=last.session_id, token_budget=240)
    assert [item.reason for item in package.items].count("recent") == 4


async def test_only_the_asked_number_of_turns_counts_as_recent(memory: Memory) -> None:
    for text in ("one", "two", "three"):
        last = await memory.remember(text, session="now")
    package = await build(memory, "?!", session_id=last.session_id, recent_turns=2)
    assert [item.id for item in package.items if item.reason == "recent"] == [2, 3]
    none = await build(memory, "?!", session_id=last.session_id, recent_turns=0)
    assert {item.reason for item in none.items} == {"hit"}


async def test_filter_holds_for_memories_and_not_for_the_conversation(memory: Memory) -> None:
    await memory.remember("kept secret", session="other")
    turn = await memory.remember("hello", session="now")
    where = MemoryFilter(metadata={"share": True})
    package = await build(memory, "secret", session_id=turn.session_id, filter=where)
    assert [item.id for item in package.items] == [turn.id]


async def test_package_without_the_index_says_so(memory: Memory) -> None:
    await memory.remember("the quince jam")
    memory.index.down = True
    package = await build(memory, "quince")
    assert package.degraded == ["index"]
    assert "quince jam" in package.text


async def test_nothing_to_say_costs_nothing(memory: Memory) -> None:
    package = await build(memory, "anything")
    assert (package.text, package.tokens, package.items, package.left_out) == ("", 0, [], [])


async def test_budget_too_small_for_anything_answers_an_empty_text(memory: Memory) -> None:
    await memory.remember("far too long for sixteen tokens " * 10)
    package = await build(memory, "long", token_budget=16)
    assert (package.text, package.tokens) == ("", 0)
    assert [item.id for item in package.left_out] == [1]


async def test_no_package_is_past_its_budget_or_differs_the_second_time(memory: Memory) -> None:
    chance = random.Random(5)
    words = ["tulip", "garden", "rain", "Öl", "猫", "the", "of", "bread"]
    for _ in range(40):
        said = " ".join(chance.choices(words, k=chance.randint(1, 60)))
        answered = " ".join(chance.choices(words, k=chance.randint(0, 60)))
        await memory.remember(said, answered, session=f"s{chance.randint(1, 5)}")
    for budget in (16, 17, 40, 100, 333, 1000, 5000):
        session, turns = chance.randint(1, 5), chance.randint(0, 8)
        how = {"token_budget": budget, "session_id": session, "recent_turns": turns}
        package = await build(memory, "bread in the garden", **how)
        assert count(package.text) <= package.tokens <= budget
        assert sum(item.tokens for item in package.items) <= package.tokens
        ids = [item.id for item in (*package.items, *package.left_out)]
        assert len(ids) == len(set(ids))
        for item in package.items:
            assert readable_time(item.created_at) in package.text
        assert await build(memory, "bread in the garden", **how) == package


class Watched(EstimatedTokens):
    """Counts an exchange only when somebody else was answered since it was asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()
        self.answered = threading.Event()
        self.counted: list[int] = []

    def count(self, text: str) -> int:
        if "quince" in text:
            self.counted.append(len(text))
            self.asked.set()
            assert self.answered.wait(20), "nobody was answered while an exchange was counted"
        return super().count(text)


async def test_others_are_answered_while_a_long_exchange_is_counted(memory: Memory) -> None:
    long = await memory.remember("quince " * 500_000, session="now")
    watched = Watched()
    builder = ContextBuilder(memory.store, memory.search, watched)
    for how in ({"session_id": long.session_id}, {}):  # as a recent turn, and as a hit
        watched.asked.clear()
        watched.answered.clear()
        building = asyncio.create_task(builder.build(BuildContext(query="quince", token_budget=1_000_000, **how)))
        await asyncio.to_thread(watched.asked.wait, 20)
        assert await memory.store.read(count_episodes) == 1
        assert not building.done()
        watched.answered.set()
        package = await building
        assert [(item.id, item.tokens) for item in package.items] == [(long.id, count(exchange_text(long)))]


async def test_what_is_longer_than_the_budget_is_cut_to_what_is_left_and_never_counted_whole(memory: Memory) -> None:
    long = await memory.remember("quince " * 5_000, "a" * 10_000)
    short = await memory.remember("quince jam")
    watched = Watched()
    watched.answered.set()
    package = await ContextBuilder(memory.store, memory.search, watched).build(BuildContext(query="quince"))
    assert {(item.id, item.trimmed) for item in package.items} == {(short.id, False), (long.id, True)}
    assert package.tokens <= package.token_budget
    assert CUT in package.text
    assert max(watched.counted) < 45_000


async def test_memories_of_the_prompt_are_excluded(memory: Memory) -> None:
    shown = await memory.remember("a quince tree")
    other = await memory.remember("quince jam", session="b")
    entity = await memory.know("Quince", "fruit")
    exclude = [MemoryId(collection="episodes", id=shown.id), MemoryId(collection="entities", id=entity.id)]
    params = BuildContext(query="quince", session_id=shown.session_id, exclude=exclude)
    package = await ContextBuilder(memory.store, memory.search).build(params)
    assert [(item.collection, item.id) for item in package.items] == [("episodes", other.id)]
    assert package.left_out == []


async def test_shares_say_what_a_section_may_take_first(memory: Memory) -> None:
    for n in range(20):
        await memory.remember(f"quince {n} " * 10, session="now")
        await memory.remember(f"quince {n} " * 10, session=f"s{n}")
    now = await memory.session("now")

    async def recent(share: float) -> int:
        params = BuildContext(
            query="quince", session_id=now, recent_turns=20, token_budget=600, shares=ContextShares(recent=share)
        )
        package = await ContextBuilder(memory.store, memory.search).build(params)
        return sum(item.reason == "recent" for item in package.items)

    assert await recent(0.1) < await recent(0.9)


async def test_package_says_by_what_it_was_counted(memory: Memory) -> None:
    assert (await ContextBuilder(memory.store, memory.search).build(BuildContext(query="x"))).counted == "estimate"


async def test_package_is_counted_in_the_tokens_of_a_model_that_tells(memory: Memory) -> None:
    for n in range(8):
        await memory.remember(f"quince jam {n} " * 8, "with extraordinarily long words", session="now")
    entity = await memory.know("Quince", "fruit", "sour when raw")
    await memory.relate(entity, "grows in", await memory.know("Spain", "country"))
    tokens = ModelTokens(CountedWords(TellingEmbedder(unknown=["Quince"]), asyncio.get_running_loop()))
    builder = ContextBuilder(memory.store, memory.search, of_model=lambda: tokens)
    for budget in (40, 150, 400):
        params = BuildContext(query="quince", session_id=memory.sessions["now"], token_budget=budget)
        package = await builder.build(params)
        assert package.counted == "model"
        assert await asyncio.to_thread(tokens.count, package.text) <= package.tokens <= budget
        assert package == await builder.build(params)
    assert await asyncio.to_thread(tokens.count, package.text) != count(package.text)


@pytest.mark.parametrize("dies_at", [0, 1, 2])
async def test_package_is_estimated_as_a_whole_where_the_model_goes_away_in_between(
    memory: Memory, dies_at: int
) -> None:
    await memory.remember("quince jam " * 8, session="now")
    await memory.remember("a quince tree " * 8)
    estimated = await build(memory, "quince", session_id=memory.sessions["now"])

    class Dying(TellingEmbedder):
        async def count_tokens(self, words: Sequence[str]) -> list[int]:
            if len(self.asked) == dies_at:
                self.unavailable = "died"
            return await super().count_tokens(words)

    embedder = Dying()
    tokens = ModelTokens(CountedWords(embedder, asyncio.get_running_loop()))
    builder = ContextBuilder(memory.store, memory.search, of_model=lambda: tokens)
    package = await builder.build(BuildContext(query="quince", session_id=memory.sessions["now"]))
    assert embedder.unavailable
    assert package == estimated
    assert package.counted == "estimate"


async def test_model_that_did_not_embed_the_query_is_not_asked_to_count(memory: Memory) -> None:
    await memory.remember("quince jam")
    memory.embedder.unavailable = "away"
    embedder = TellingEmbedder()
    tokens = ModelTokens(CountedWords(embedder, asyncio.get_running_loop()))
    package = await ContextBuilder(memory.store, memory.search, of_model=lambda: tokens).build(
        BuildContext(query="quince")
    )
    assert (package.counted, package.degraded, embedder.asked) == ("estimate", ["embedder"], [])


def test_times_are_read_with_their_weekday_in_utc() -> None:
    assert readable_time(1_683_554_160_000) == "Mon 2023-05-08 13:56 UTC"
    assert readable_time(2**53 - 1) == "9007199254740991 ms after 1970-01-01 UTC"


async def test_every_kind_of_memory_has_its_section(memory: Memory) -> None:
    old = await memory.remember("Where does NexusAI keep things?", "In SQLite.", session="old")
    project = await memory.know("NexusAI", "project", "My AI memory project")
    database = await memory.know("SQLite", "tool")
    await memory.relate(project, "uses", database)
    other = await memory.sum_up("NexusAI was set up.", session="old")
    said = await memory.say("NexusAI is running", role="assistant")
    first = await memory.remember("Good morning", session="now")
    so_far = await memory.sum_up(
        "They greeted each other.", session="now", first_episode_id=first.id, last_episode_id=first.id
    )
    turn = await memory.remember("And how are you?", session="now")
    package = await build(memory, "NexusAI", session_id=turn.session_id, recent_turns=1)
    assert package.text == (
        "Known of what this is about:\n\n"
        "NexusAI (project): My AI memory project\n"
        "NexusAI - uses -> SQLite\n"
        "SQLite (tool)\n"
        "\n"
        "Summaries that may matter, oldest first:\n\n"
        f"[{readable_time(other.created_at)}]\nNexusAI was set up.\n\n"
        "Earlier exchanges that may matter, oldest first:\n\n"
        f"[{readable_time(old.created_at)}]\nUser: Where does NexusAI keep things?\nAssistant: In SQLite.\n\n"
        f"[{readable_time(said.created_at)}]\nAssistant: NexusAI is running\n\n"
        f"[{readable_time(first.created_at)}]\nUser: Good morning\n\n"
        "The current conversation so far, in summary, oldest first:\n\n"
        f"[{readable_time(so_far.created_at)}]\nThey greeted each other.\n\n"
        "The current conversation, oldest first:\n\n"
        f"[{readable_time(turn.created_at)}]\nUser: And how are you?\n\n"
    )
    assert [(item.collection, item.id, item.reason) for item in package.items] == [
        ("entities", project.id, "hit"),
        ("entities", database.id, "hit"),
        ("summaries", other.id, "hit"),
        ("episodes", old.id, "hit"),
        ("messages", said.id, "hit"),
        ("episodes", first.id, "hit"),
        ("summaries", so_far.id, "summary"),
        ("episodes", turn.id, "recent"),
    ]
    assert (package.left_out, package.truncated) == ([], False)


async def test_entity_that_a_text_names_is_touched_though_the_search_does_not_find_it(memory: Memory) -> None:
    await memory.remember("the marble run was built by anna LEE", session="old")
    named = await memory.know("Anna Lee", "person", "lives next door", indexed=False)
    await memory.know("Ann", "person", "somebody else", indexed=False)
    package = await build(memory, "marble")
    (item,) = [item for item in package.items if item.collection == "entities"]
    assert (item.id, item.reason, item.score) == (named.id, "entity", None)
    assert "Anna Lee (person): lives next door\n" in package.text


async def test_entity_that_the_query_names_is_told_also_where_a_filter_keeps_it_from_the_hits(memory: Memory) -> None:
    turn = await memory.remember("nothing of that")
    await memory.know("Heron", "bird", "grey")
    package = await build(memory, "heron", filter=MemoryFilter(session_id=turn.session_id))
    assert "Heron (bird): grey\n" in package.text


async def test_entity_that_the_query_means_comes_before_one_that_a_text_names_and_other_hits_last(
    memory: Memory
) -> None:
    await memory.remember("they fly over the Pond", session="old")
    await memory.know("Tax office", "place")
    await memory.know("Pond", "place", indexed=False)
    await memory.know("Heron", "bird")
    package = await build(memory, "herons")
    assert "Heron (bird)\nPond (place)\nTax office (place)\n" in package.text


async def test_summary_of_the_session_without_room_is_listed(memory: Memory) -> None:
    turn = await memory.remember("hello", session="now")
    long = await memory.sum_up("very " * 100, session="now")
    package = await build(memory, "?!", session_id=turn.session_id, token_budget=60)
    assert [(item.collection, item.id, item.reason) for item in package.left_out] == [("summaries", long.id, "summary")]


async def test_relationship_between_two_entities_is_told_once_and_in_its_direction(memory: Memory) -> None:
    cat, anna = await memory.know("Mimi", "cat"), await memory.know("Anna", "person")
    await memory.relate(cat, "belongs to", anna)
    package = await build(memory, "Anna Mimi")
    assert package.text.count("Mimi - belongs to -> Anna\n") == 1


async def test_links_from_an_entity_are_told_before_those_to_it(memory: Memory) -> None:
    cat, anna = await memory.know("Mimi", "cat"), await memory.know("Anna", "person", indexed=False)
    await memory.relate(anna, "feeds", cat)
    await memory.relate(cat, "ignores", anna)
    await memory.relate(cat, "admires", cat)
    package = await build(memory, "Mimi")
    assert "Mimi - ignores -> Anna\nMimi - admires -> Mimi\nAnna - feeds -> Mimi\n" in package.text
    assert package.text.count("admires") == 1


async def test_links_at_either_end_are_told_up_to_a_number(memory: Memory) -> None:
    hub = await memory.know("Hub", "thing", indexed=False)
    for n in range(12):
        await memory.relate(hub, "feeds", await memory.know(f"spoke{n}", "thing", indexed=False))
        await memory.relate(await memory.know(f"source{n}", "thing", indexed=False), "fills", hub)
    package = await build(memory, "Hub", token_budget=4000)
    assert "Hub - feeds -> spoke0\n" in package.text
    assert package.text.count("Hub") == 1 + MAX_LINKS


async def test_summaries_of_the_running_session_begin_before_its_recent_turns(memory: Memory) -> None:
    first = await memory.remember("one", session="now")
    second = await memory.remember("two", session="now")
    early = await memory.sum_up("early", session="now", first_episode_id=first.id, last_episode_id=first.id)
    late = await memory.sum_up("late", session="now", first_episode_id=second.id, last_episode_id=second.id)
    whole = await memory.sum_up("whole", session="now")
    elsewhere = await memory.sum_up("elsewhere", session="other")
    package = await build(memory, "?!", session_id=first.session_id, recent_turns=1)
    reasons = {item.id: item.reason for item in package.items if item.collection == "summaries"}
    assert reasons == {early.id: "summary", late.id: "hit", whole.id: "summary", elsewhere.id: "hit"}


async def test_many_entities_and_summaries_leave_room_for_exchanges(memory: Memory) -> None:
    wanted = [await memory.remember(f"the heron, seen {n} times", session=f"s{n}") for n in range(10)]
    for n in range(60):
        await memory.know(f"Heron {n}", "bird", "heron " * 20)
        await memory.sum_up("heron " * 20, session="old")
    turn = await memory.remember("hello", session="now")
    for budget in (500, 1000):
        package = await build(memory, "heron", session_id=turn.session_id, token_budget=budget)
        spent = {"episodes": 0, "entities": 0, "summaries": 0}
        for item in package.items:
            spent[item.collection] += item.tokens
        there = {(item.collection, item.id) for item in package.items}
        assert {("episodes", episode.id) for episode in wanted} <= there
        assert min(spent.values()) > budget / 20


async def test_exchanges_that_would_fill_the_budget_leave_room_for_what_is_known(memory: Memory) -> None:
    for n in range(40):
        await memory.remember(f"the heron that Anna saw on day {n}", session=f"s{n}")
    anna = await memory.know("Anna", "person", "a neighbour", indexed=False)
    package = await build(memory, "heron", token_budget=300)
    assert ("entities", anna.id) in {(item.collection, item.id) for item in package.items}
    assert [item.collection for item in package.left_out].count("episodes") > 10


async def test_conversation_leaves_room_for_what_is_known_and_for_its_summary(memory: Memory) -> None:
    first = await memory.remember("the beginning", session="now")
    so_far = await memory.sum_up("It began.", session="now", first_episode_id=first.id, last_episode_id=first.id)
    for _ in range(8):
        await memory.remember("talk of Anna " * 12, session="now")
    anna = await memory.know("Anna", "person", "a neighbour", indexed=False)
    where = MemoryFilter(metadata={"nothing": True})
    package = await build(
        memory, "?!", session_id=first.session_id, recent_turns=8, token_budget=300, filter=where
    )
    keys = {(item.collection, item.id) for item in package.items}
    assert {("entities", anna.id), ("summaries", so_far.id)} <= keys
    assert [item.collection for item in package.left_out].count("episodes") > 0


async def test_entity_without_room_for_its_links_stands_without_them(memory: Memory) -> None:
    hub = await memory.know("Hub", "thing")
    for n in range(8):
        await memory.relate(hub, "feeds " + "very " * 20, await memory.know(f"spoke {n}", "thing", indexed=False))
    package = await build(memory, "Hub", token_budget=60)
    assert "Hub (thing)\n" in package.text
    assert "feeds" not in package.text


async def test_text_of_notes_longer_than_the_budget_is_left_out(memory: Memory) -> None:
    long = await memory.know("Hub", "thing", "wheel " * 50_000)
    package = await build(memory, "Hub")
    assert package.items == []
    assert [(item.collection, item.id) for item in package.left_out] == [("entities", long.id)]


async def test_package_made_of_a_search_that_was_cut_off_says_so(memory: Memory) -> None:
    for n in range(4):
        await memory.remember("heron " + "x" * 3_000_000, session=f"s{n}", indexed=False)
    assert (await build(memory, "heron")).truncated


async def test_no_package_of_all_kinds_is_past_its_budget_or_differs_the_second_time(memory: Memory) -> None:
    chance = random.Random(7)
    words = ["tulip", "garden", "rain", "Öl", "猫", "the", "of", "bread", "Anna", "Node.js"]

    def some(least: int, most: int) -> str:
        return " ".join(chance.choices(words, k=chance.randint(least, most)))

    known = []
    for n in range(40):
        session = f"s{chance.randint(1, 5)}"
        episode = await memory.remember(some(1, 60), some(0, 60), session=session)
        known.append(await memory.know(some(1, 3), f"kind {n}", some(0, 40)))
        await memory.relate(chance.choice(known), some(1, 2), chance.choice(known))
        run = {"first_episode_id": episode.id, "last_episode_id": episode.id} if n % 2 else {}
        await memory.sum_up(some(1, 40), session=session, **run)
        await memory.say(some(1, 60), conversation=f"c{n % 3}")
    for budget in (16, 17, 30, 40, 60, 100, 200, 333, 1000, 5000, 20_000):
        for _ in range(2):
            session_id, turns = chance.choice([None, 1, 2, 3, 4, 5]), chance.randint(0, 8)
            how = {"token_budget": budget, "session_id": session_id, "recent_turns": turns}
            package = await build(memory, "Anna's bread in the garden", **how)
            assert count(package.text) <= package.tokens <= budget
            assert sum(item.tokens for item in package.items) <= package.tokens
            keys = [(item.collection, item.id) for item in (*package.items, *package.left_out)]
            assert len(keys) == len(set(keys))
            for item in package.items:
                if item.collection != "entities":
                    assert readable_time(item.created_at) in package.text
            assert await build(memory, "Anna's bread in the garden", **how) == package


async def test_memories_that_have_no_room_anyway_do_not_crowd_out_those_that_have(memory: Memory) -> None:
    for n in range(5):
        await memory.remember(f"a heron stood by the pond, day {n}")
    for _ in range(3):
        await memory.say("heron " * 690_000)
    package = await build(memory, "heron", token_budget=500)
    assert [item.collection for item in package.items] == ["episodes"] * 5
    assert package.truncated

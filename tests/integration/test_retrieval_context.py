"""memory.context: what gets into a package, in which order, and at what cost."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from harness.remembering import Memory, empty_memory

from nexusd.model.memory import BuildContext, MemoryContext, MemoryFilter
from nexusd.retrieval.context import ContextBuilder, exchange_text, readable_time
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


async def test_what_is_longer_than_the_budget_is_left_out_uncounted(memory: Memory) -> None:
    long = await memory.remember("quince " * 500_000, "a" * 1_000_000)
    short = await memory.remember("quince jam")
    watched = Watched()
    watched.answered.set()
    package = await ContextBuilder(memory.store, memory.search, watched).build(BuildContext(query="quince"))
    assert [item.id for item in package.items] == [short.id]
    assert [(item.id, item.tokens) for item in package.left_out] == [(long.id, 4_500_000 // 4)]
    assert max(watched.counted) < 100


def test_times_are_read_with_their_weekday_in_utc() -> None:
    assert readable_time(1_683_554_160_000) == "Mon 2023-05-08 13:56 UTC"
    assert readable_time(2**53 - 1) == "9007199254740991 ms after 1970-01-01 UTC"

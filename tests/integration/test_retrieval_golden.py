"""What must be found, in small dialogues of our own; and what holds for every search, whatever is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from harness.remembering import COLLECTION, Memory, empty_memory

from nexusd.index.index import Point
from nexusd.model.episodes import NewEpisode
from nexusd.model.memory import MemoryFilter
from nexusd.store.episodes import insert_episodes
from nexusd.sync.sources import load_episode_documents

pytestmark = pytest.mark.anyio

MODES = ("hybrid", "keyword", "semantic")

# session: day, then exchanges; an exchange that is asked for has a name
DIALOGUES: dict[str, tuple[str, list[tuple[str, str, str]]]] = {
    "kitchen": ("2023-05-08", [
        ("", "Morning! The baker was closed again.", "Oh no. What did you do for bread then?"),
        ("sourdough", "I began a sourdough, flour and water and patience.", "How long until you can bake with it?"),
        ("week", "About a week, if it is fed every day.", "I look forward to the first loaf."),
        ("stove", "The stove makes a strange noise by the way.", "Ask Mr Petrov, he repairs such things."),
    ]),
    "travel": ("2023-08-14", [
        ("train", "We took the night train to Vienna.", "Lovely! Did you sleep at all?"),
        ("museum", "Hardly. But Lena bought tickets for the clock museum.", "Was it worth it?"),
        ("clock", "Yes, they have one that has run since 1780.", "Amazing."),
        ("", "And the weather was fine all the time.", "Lucky you."),
    ]),
    "health": ("2024-02-03", [
        ("knee", "My knee hurts when I run.", "Since when? You should see somebody about it."),
        ("doctor", "Dr. Okafor said to swim instead of running for six weeks.", "That sounds sensible."),
        ("swam", "I swam forty lanes today!", "Great, keep it up."),
    ]),
    "german": ("2024-06-20", [
        ("schlüssel", "Der Schlüssel zum Keller liegt unter der Fußmatte.", "Gut, ich hole ihn morgen."),
        ("müll", "Der Müll wird am Dienstag abgeholt.", "Danke, ich stelle ihn raus."),
    ]),
    "chatter": ("2024-09-01", [
        ("", "What a day.", "Tell me about it."),
        ("", "Nothing special, work and then more work.", "Sounds tiring."),
        ("", "We should talk more often.", "Yes, any time."),
    ]),
}  # fmt: skip

QUESTIONS = [
    ("Who can fix the stove?", "stove"),
    ("Where did they go by train?", "train"),
    ("What did Lena buy?", "museum"),                       # bought
    ("How many lanes did I swim?", "swam"),                 # swam
    ("What did the doctor say about my knee?", "doctor"),
    ("Since when has the clock of the museum run?", "clock"),
    ("Wo liegt der Schlüssel?", "schlüssel"),
    ("wann kommt der muell? Müll am Dienstag", "müll"),
]
MEANING_TOO = [
    ("How long does the sourdough take?", "week"),  # the answer stands beside the word
    ("what happened in August 2023", "train"),
    ("anything new in February 2024?", "knee"),
]


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[Memory]:
    async with empty_memory(tmp_path) as memory:
        yield memory


async def told(memory: Memory) -> dict[str, int]:
    """Store the dialogues; the ids of the exchanges with a name."""
    ids: dict[str, int] = {}
    for session, (day, exchanges) in DIALOGUES.items():
        memory.now_ms = int(datetime.fromisoformat(f"{day}T12:00").replace(tzinfo=UTC).timestamp() * 1000)
        for name, said, answered in exchanges:
            ids[name] = (await memory.remember(said, answered, session=session)).id
    return ids


@pytest.mark.parametrize("mode", ["hybrid", "keyword"])
async def test_answers_of_the_golden_set_are_among_the_first_three(memory: Memory, mode: str) -> None:
    ids = await told(memory)
    missed = [
        (question, answer)
        for question, answer in QUESTIONS + (MEANING_TOO if mode == "hybrid" else [])
        if ids[answer] not in await memory.found(question, mode=mode, limit=3)
    ]
    assert missed == []


async def test_time_in_a_query_prefers_and_never_excludes(memory: Memory) -> None:
    old = await memory.remember("the boat is painted blue", session="a")
    memory.now_ms += 200 * 86_400_000
    new = await memory.remember("the boat is painted blue", session="b")
    day = datetime.fromtimestamp(old.created_at / 1000, UTC)
    assert await memory.found("which boat is blue?") == [new.id, old.id]
    asked = f"which boat was blue on {day:%d %B %Y}?"
    assert await memory.found(asked) == [old.id, new.id]
    assert await memory.found(asked, prefer_times=False) == [new.id, old.id]
    hits = await memory.find(asked, explain=True)
    assert [hit.explain is not None and hit.explain.time > 0.01 for hit in hits.items] == [True, False]


async def test_memory_of_the_time_is_found_behind_any_number_of_others(memory: Memory) -> None:
    then = await memory.remember("the boat and much else that was said on that very long day", session="then")
    memory.now_ms += 200 * 86_400_000
    for n in range(120):
        await memory.remember("boat boat boat", session=f"s{n}")
    day = datetime.fromtimestamp(then.created_at / 1000, UTC)
    for mode in ("hybrid", "keyword"):
        assert (await memory.found(f"boat {day:%Y-%m-%d}", mode=mode, limit=3))[0] == then.id, mode


@pytest.mark.parametrize("mode", MODES)
async def test_five_rows_that_pass_a_filter_answer_five_among_thousands_that_do_not(memory: Memory, mode: str) -> None:
    wanted = [(await memory.remember("tea", session="w", metadata={"keep": True})).id for _ in range(5)]
    session = await memory.session("crowd")
    crowd = [NewEpisode(session_id=session, user_message="tea tea", ai_response="", created_at=n) for n in range(4100)]
    made = await memory.store.write(insert_episodes, crowd, memory.now_ms)
    ids = [episode.id for episode in made if not isinstance(episode, Exception)]
    documents = await memory.store.read(load_episode_documents, ids, "an epoch")
    (vector,) = await memory.embedder.embed_documents(["tea tea"])
    points = [Point(each.id, each.version, vector, each.payload) for each in documents]
    await memory.index.upsert(COLLECTION, points)
    where = MemoryFilter(metadata={"keep": True})
    assert sorted(await memory.found("tea", mode=mode, filter=where, limit=5)) == wanted


async def test_neighbour_that_does_not_pass_the_filter_is_no_hit(memory: Memory) -> None:
    wanted = await memory.remember("the heron", metadata={"keep": True})
    await memory.remember("it stands in the pond")
    for mode in MODES:
        assert await memory.found("heron", mode=mode, filter=MemoryFilter(metadata={"keep": True})) == [wanted.id]


async def test_words_alone_answer_what_holds_one_of_them_and_nothing_else(memory: Memory) -> None:
    asked = await memory.remember("Where is the ladder?", "I put it away.")
    await memory.remember("Where to?", "Behind the shed.")
    for n in range(9):
        await memory.remember(f"something else {n}", session=f"s{n}")
    assert await memory.found("ladder", mode="keyword") == [asked.id]


async def test_stop_words_alone_and_no_words_are_answered_sensibly(memory: Memory) -> None:
    who = await memory.remember("who am I?", "You are Ann.")
    await memory.remember("the weather is fine", session="b")
    assert (await memory.found("who am I", mode="keyword"))[0] == who.id
    assert await memory.found("?!", mode="keyword") == []
    assert len(await memory.found("?!")) == 2   # the meaning still orders them


async def test_word_is_as_rare_as_it_is_among_what_passes_the_filter(memory: Memory) -> None:
    # everywhere "Ann" is rare and "boat" is not; in Ann's project it is the other way round
    for n in range(40):
        await memory.remember(f"a boat, number {n}", session=f"other{n}")
    await memory.session("anns", project="Ann")
    for n in range(20):
        await memory.remember(f"Ann, Ann! Number {n}", session="anns")
    boat = await memory.remember("it was a boat", session="anns")
    mine = MemoryFilter(project_id=1)
    assert (await memory.found("Ann boat", mode="keyword", filter=mine))[0] == boat.id


async def test_unrelated_exchange_moves_scores_by_no_more_than_rarity_does(memory: Memory) -> None:
    for n in range(30):
        await memory.remember(f"the heron {'and the pond' if n % 3 else ''} number {n}", session=f"s{n}")
    before = {hit.id: hit.score for hit in (await memory.find("heron pond", limit=30)).items}
    await memory.remember("quite another thing", session="unrelated")
    after = {hit.id: hit.score for hit in (await memory.find("heron pond", limit=30)).items}
    assert all(abs(after[id_] - score) < 0.05 for id_, score in before.items() if id_ in after)


async def test_weights_put_a_collection_first_or_last(memory: Memory) -> None:
    await memory.remember("the heron at the pond")
    await memory.know("Heron", "bird")
    for first, weights in (("entities", {"entities": 10.0}), ("episodes", {"entities": 0.01})):
        assert (await memory.keys("heron", weights=weights))[0][0] == first


async def test_half_life_lets_what_is_newer_come_first(memory: Memory) -> None:
    old = await memory.remember("the blue boat", session="a")
    memory.now_ms += 400 * 86_400_000
    new = await memory.remember("the boat", "there were many things to be said of it", session="b")
    assert await memory.found("blue boat", mode="keyword") == [old.id, new.id]
    assert await memory.found("blue boat", mode="keyword", recency_half_life_days=30) == [new.id, old.id]


async def test_diversity_brings_other_things_and_meets_the_limit(memory: Memory) -> None:
    for n in range(8):
        await memory.remember("the blue boat lies in the harbour", session=f"s{n}")
    other = await memory.remember("a boat, red as a fire engine and twice as loud", session="x")
    assert other.id not in await memory.found("blue boat", limit=3, mode="keyword")
    diverse = await memory.found("blue boat", limit=3, diversity=0.7, mode="keyword")
    assert len(diverse) == 3
    assert other.id in diverse

"""Full-text search over episodes on the real schema."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from harness.remembering import Memory, empty_memory
from hypothesis import given, settings
from hypothesis import strategies as st

from nexusd.errors import InvalidParams
from nexusd.model.episodes import SearchEpisodes
from nexusd.store.connection import Connection, open_writer
from nexusd.store.episode_search import search_episodes
from nexusd.store.full_text import (
    ENTITIES,
    EPISODES,
    MESSAGES,
    SUMMARIES,
    Condition,
    any_word,
    count_term_rows,
    match_any,
    match_counted,
    match_parts,
    match_words,
)
from nexusd.store.migrations import load_migrations, migrate

pytestmark = pytest.mark.anyio


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[Memory]:
    async with empty_memory(tmp_path) as memory:
        yield memory


async def found(memory: Memory, query: str, **how: object) -> list[int]:
    params = SearchEpisodes(query=query, **how)  # type: ignore[arg-type]
    return [match.episode.id for match in (await memory.store.read(search_episodes, params)).items]


async def test_every_word_must_be_there_on_either_side(memory: Memory) -> None:
    both = await memory.remember("The red bicycle", "It has a flat tyre.")
    await memory.remember("The red car")
    assert await found(memory, "bicycles tyres") == [both.id]
    assert await found(memory, "red submarine") == []


async def test_best_match_comes_first_with_a_positive_score(memory: Memory) -> None:
    await memory.remember("owl, and then a long story about everything else that happened on that day")
    best = await memory.remember("owl owl")
    for n in range(5):
        await memory.remember(f"filler {n}")
    matches = (await memory.store.read(search_episodes, SearchEpisodes(query="owl"))).items
    assert matches[0].episode.id == best.id
    assert matches[0].score > matches[1].score > 0


async def test_accents_and_case_do_not_matter(memory: Memory) -> None:
    episode = await memory.remember("Das Café in der HÖHLE")
    assert await found(memory, "cafe höhle") == [episode.id]


async def test_hyphenated_word_is_found_as_it_stands(memory: Memory) -> None:
    joined = await memory.remember("a well-known song")
    await memory.remember("known well in the village")
    assert await found(memory, "well-known") == [joined.id]


async def test_search_keeps_to_a_session_and_a_limit(memory: Memory) -> None:
    first = await memory.remember("lamp", session="a")
    await memory.remember("lamp", session="b")
    assert await found(memory, "lamp", session_id=first.session_id) == [first.id]
    assert len(await found(memory, "lamp", limit=1)) == 1


@pytest.mark.parametrize("query", ["?!", "\U0001f600", "- -", '""', "\0"])
async def test_query_without_a_word_finds_nothing(memory: Memory, query: str) -> None:
    await memory.remember("something")
    assert await found(memory, query) == []


async def test_fts5_syntax_is_open_on_request(memory: Memory) -> None:
    wanted = await memory.remember("green tea", "brewed hot")
    await memory.remember("green apple")
    assert await found(memory, "green NOT apple", syntax="fts5") == [wanted.id]
    assert await found(memory, "ai_response : hot", syntax="fts5") == [wanted.id]
    assert await found(memory, "gre*", syntax="fts5") == [2, 1]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ('"open', "unterminated string"),
        ("green AND", "syntax error"),
        ("colour:green", "no such column: colour"),
        ("*secret", "unknown special query"),
    ],
)
async def test_bad_expression_is_an_error_of_the_parameter_with_the_reason(
    memory: Memory, query: str, said: str
) -> None:
    with pytest.raises(InvalidParams) as caught:
        await found(memory, query, syntax="fts5")
    (field,) = caught.value.fields
    assert field.path == "query"
    assert said in field.expected


async def test_terms_are_counted_by_their_stem(memory: Memory) -> None:
    await memory.remember("dogs run")
    await memory.remember("the dog ran", "Good dog!")
    await memory.remember("Élodie's cat")
    terms = ["dog", "dogs", "running", "elodie", "élodie", "unicorn", "well-known"]
    counted = await memory.store.read(count_term_rows, EPISODES, terms)
    assert counted == {
        "dog": 2, "dogs": 2, "running": 1, "elodie": 1, "élodie": 1, "unicorn": 0, "well-known": 0,
    }  # fmt: skip
    assert list(counted) == terms


async def test_bonus_term_lifts_and_finds_nothing_by_itself(memory: Memory) -> None:
    plain = await memory.remember("violin lesson", session="a")
    await memory.remember("lesson in the school", session="b")
    lifted = await memory.remember("violin school", session="c")
    for n in range(6):
        await memory.remember(f"filler {n}", session="d")
    matches = await memory.store.read(match_any, EPISODES, ["violin"], ["school"], 10)
    assert [match.id for match in matches] == [lifted.id, plain.id]


async def test_no_terms_match_nothing(memory: Memory) -> None:
    await memory.remember("something")
    assert await memory.store.read(match_any, EPISODES, [], [], 10) == []


async def test_equal_matches_at_the_limit_are_the_newer_rows(memory: Memory) -> None:
    ids = [(await memory.remember("the very same", session=f"s{n}")).id for n in range(5)]
    matches = await memory.store.read(match_any, EPISODES, ["same"], [], 3)
    assert [match.id for match in matches] == ids[:1:-1]


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Connection:
    connection = open_writer(tmp_path_factory.mktemp("fts") / "nexus.db", "FULL")
    migrate(connection, load_migrations(), None)
    return connection


@settings(max_examples=300)
@given(st.text(max_size=40) | st.text('"*:^()-+{}ANDORNEAR \0', max_size=40))
def test_nothing_that_a_user_types_is_a_syntax_error(db: Connection, text: str) -> None:
    assert search_episodes(db, SearchEpisodes(query=text or "?")).items == []
    for table in (EPISODES, ENTITIES, SUMMARIES, MESSAGES):
        assert match_any(db, table, [text], [text], 5) == []
        assert match_words(db, table, text, 5, Condition(f"{table.alias}.id > ?", [0])) == []
        assert count_term_rows(db, table, [text]) == {text: 0}
        everything = Condition(f"{table.alias}.id > ?", [0])
        assert match_counted(db, table, {0: [text]}, 5, everything) == ([], {0: 0})
        assert match_parts(db, table, [(0, text, 1)], [(1, text)], [1]) == []


@given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=5))
def test_words_cannot_leave_their_quotes(words: list[str]) -> None:
    for expression in (any_word(words),):
        assert expression.count('"') % 2 == 0
        assert "\0" not in expression


async def test_a_word_repeated_a_thousand_times_asks_for_it_once(memory: Memory) -> None:
    episode = await memory.remember("x " * 4000)
    assert await found(memory, "x " * 4000) == [episode.id]  # as so many phrases it would take minutes


async def test_more_different_words_than_a_query_may_have_are_refused(memory: Memory) -> None:
    words = " ".join(f"word{n}" for n in range(65))
    with pytest.raises(InvalidParams) as refused:
        await found(memory, words)
    assert refused.value.fields[0].path == "query"
    assert await found(memory, words.rpartition(" ")[0]) == []


@pytest.mark.parametrize("expression", ["x " * 33, 'a\0b', '"a b" OR ' * 32 + "c"])
async def test_an_expression_that_could_not_be_stopped_or_would_be_cut_is_refused(
    memory: Memory, expression: str
) -> None:
    with pytest.raises(InvalidParams) as refused:
        await found(memory, expression, syntax="fts5")
    assert refused.value.fields[0].path == "query"


async def test_matches_that_are_too_much_text_together_are_left_out_and_the_answer_says_so(memory: Memory) -> None:
    for n in range(4):
        await memory.remember("heron " + "x" * 3_000_000, session=f"s{n}", indexed=False)
    answer = await memory.store.read(search_episodes, SearchEpisodes(query="heron"))
    assert (len(answer.items), answer.truncated) == (2, True)
    answer = await memory.store.read(search_episodes, SearchEpisodes(query="heron", limit=2))
    assert (len(answer.items), answer.truncated) == (2, False)

"""A text's cost in the model's tokens, by a model that counts letters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from fakes.embedder import FakeEmbedder, TellingEmbedder
from hypothesis import given
from hypothesis import strategies as st

from nexusd.embedding.serving import KeyedModel, Serving
from nexusd.errors import EmbedderUnavailable
from nexusd.retrieval import model_tokens
from nexusd.retrieval.model_tokens import LONGEST_WORD, CountedWords, ModelTokens, ServingTokens
from nexusd.retrieval.tokens import EstimatedTokens

pytestmark = pytest.mark.anyio

estimate = EstimatedTokens().count
texts = st.text(st.sampled_from("abcdefgö猫 \n\t"), max_size=200)


async def counted(tokens: ModelTokens, *some: str) -> list[int]:
    return await asyncio.to_thread(lambda: [tokens.count(text) for text in some])


def tokens_of(embedder: TellingEmbedder) -> ModelTokens:
    return ModelTokens(CountedWords(embedder, asyncio.get_running_loop()))


async def test_a_text_costs_what_its_words_cost() -> None:
    tokens = tokens_of(TellingEmbedder())
    assert await counted(tokens, "", "abc", "abc abcd\n\nabc ", "x" * LONGEST_WORD) == [0, 1, 4, 22]


async def test_each_word_is_asked_for_once() -> None:
    embedder = TellingEmbedder()
    tokens = tokens_of(embedder)
    assert await counted(tokens, "to be or not to be", "to be here") == [6, 4]
    assert embedder.asked == [["to", "be", "or", "not"], ["here"]]


async def test_what_is_no_word_to_the_model_is_estimated() -> None:
    embedder = TellingEmbedder(unknown=["猫猫猫猫"])
    tokens = tokens_of(embedder)
    blob = "x" * (LONGEST_WORD + 1)
    assert await counted(tokens, "abc 猫猫猫猫", f"abc {blob}") == [1 + estimate("猫猫猫猫"), 1 + estimate(blob)]
    assert [word for words in embedder.asked for word in words] == ["abc", "猫猫猫猫"]


async def test_many_words_are_asked_for_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_tokens, "ASKED_TOGETHER", 4)
    embedder = TellingEmbedder()
    assert await counted(tokens_of(embedder), "a b c d e f g h i j") == [10]
    assert [len(words) for words in embedder.asked] == [4, 4, 2]


async def test_words_are_kept_up_to_a_bound_and_counted_the_same_past_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_tokens, "KEPT_WORDS", 3)
    words = CountedWords(TellingEmbedder(), asyncio.get_running_loop())
    for _ in range(2):
        assert await counted(ModelTokens(words), "one three", "five six", "seven one", "three three") == [3, 3, 3, 4]
        assert 0 < len(words.known) <= 3


async def test_words_that_one_package_asked_for_are_known_to_the_next() -> None:
    embedder = TellingEmbedder()
    words = CountedWords(embedder, asyncio.get_running_loop())
    assert [await counted(ModelTokens(words), "to be here") for _ in range(2)] == [[4], [4]]
    assert embedder.asked == [["to", "be", "here"]]


async def test_a_package_of_too_many_new_words_is_refused_before_it_keeps_the_model_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_tokens, "ASKED_TOGETHER", 4)
    monkeypatch.setattr(model_tokens, "MOST_ASKED", 8)
    embedder = TellingEmbedder()
    tokens = tokens_of(embedder)
    assert await counted(tokens, "a b c d e f") == [6]
    with pytest.raises(EmbedderUnavailable, match="too many"):
        await counted(tokens, "a b g h i")
    assert len(embedder.asked) == 2


async def test_a_model_that_is_away_is_said() -> None:
    embedder = TellingEmbedder()
    embedder.unavailable = "away"
    with pytest.raises(EmbedderUnavailable, match="away"):
        await counted(tokens_of(embedder), "abc")


async def test_a_model_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_tokens, "ANSWER_S", 0.01)
    embedder = TellingEmbedder()
    embedder.gate = asyncio.Event()
    with pytest.raises(EmbedderUnavailable, match="in time"):
        await counted(tokens_of(embedder), "abc")


async def test_the_model_that_serves_is_asked_and_another_counts_anew() -> None:
    first, second = TellingEmbedder(), TellingEmbedder(unknown=["abcdefghi"], model="other")
    serving = Serving(KeyedModel("1", first))
    tokens = ServingTokens(serving)
    for _ in range(2):
        of_first = tokens.of_package()
        assert of_first is not None
        assert await counted(of_first, "abcdefghi") == [3]
    serving.adopt(KeyedModel("2", second))
    of_second = tokens.of_package()
    assert of_second is not None
    assert await counted(of_second, "abcdefghi") == [estimate("abcdefghi")] == [3]
    assert second.asked == first.asked == [["abcdefghi"]]
    serving.adopt(KeyedModel("3", FakeEmbedder()))
    assert tokens.of_package() is None


@pytest.fixture(scope="module")
def count() -> Iterator[Callable[[str], int]]:
    with pytest.MonkeyPatch.context() as patch:
        loop = asyncio.new_event_loop()
        patch.setattr(CountedWords, "ask", lambda _self, new: sum(-(-len(word) // 3) * n for word, n in new.items()))
        patch.setattr(model_tokens, "MOST_ASKED", 10**9)
        yield ModelTokens(CountedWords(TellingEmbedder(), loop)).count
        loop.close()


@given(first=texts, blank=st.sampled_from(" \n"), second=texts)
def test_a_text_after_one_that_ends_in_a_blank_costs_no_more_than_both_alone(
    count: Callable[[str], int], first: str, blank: str, second: str
) -> None:
    assert count(first + blank + second) <= count(first + blank) + count(second)


@given(text=texts | st.text())
def test_no_text_costs_less_than_its_length_says(count: Callable[[str], int], text: str) -> None:
    assert count(text) >= ModelTokens.at_least(len(text))

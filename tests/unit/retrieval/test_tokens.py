from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nexusd.retrieval.tokens import EstimatedTokens

count = EstimatedTokens().count


def test_estimate_is_a_quarter_of_the_bytes_and_at_least_a_token_a_word() -> None:
    assert count("") == 0
    assert count("a") == 1
    assert count("The quick brown fox jumps over it") == 9
    assert count("a b c d e f") == 6
    assert count("猫が好き") == 3


@given(st.text(), st.integers(1, 9))
def test_counting_by_stretches_counts_the_same(text: str, stretch: int) -> None:
    whole = max(-(-len(text.encode()) // 4), len(text.split()))
    assert EstimatedTokens(stretch_characters=stretch).count(text) == whole


@given(st.text())
def test_no_text_costs_less_than_its_length_says(text: str) -> None:
    assert EstimatedTokens().at_least(len(text)) <= count(text)


@given(st.text(), st.text())
def test_two_texts_together_never_cost_more_than_both_alone(first: str, second: str) -> None:
    assert count(first + second) <= count(first) + count(second)

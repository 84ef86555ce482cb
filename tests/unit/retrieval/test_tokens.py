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


@given(st.text(), st.text())
def test_two_texts_together_never_cost_more_than_both_alone(first: str, second: str) -> None:
    assert count(first + second) <= count(first) + count(second)

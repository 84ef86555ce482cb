from __future__ import annotations

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusd.retrieval.terms import MAX_TERMS, STOP_WORDS, choose_terms, query_terms

ROWS = st.dictionaries(st.text(min_size=1, max_size=4), st.integers(0, 5000), max_size=12)


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        ("When did Caroline go to the LGBTQ support group?", ["caroline", "go", "lgbtq", "support", "group"]),
        ("What's the dog's name, and don't say Rex!", ["dog", "name", "say", "rex"]),
        ("dog DOG Dog", ["dog"]),
        ("in 2023, room_12 and B-52", ["2023", "room", "12", "b", "52"]),
        ("Wo ist der Schlüssel?", ["wo", "ist", "der", "schlüssel"]),
        ("Où est la cle\u0301?", ["où", "est", "la", "clé"]),
        ("какой чай любит Маша", ["какой", "чай", "любит", "маша"]),
        ("in May", ["may"]),
    ],
)
def test_query_becomes_its_telling_words(query: str, terms: list[str]) -> None:
    assert query_terms(query) == terms


def test_query_of_stop_words_alone_keeps_them() -> None:
    assert query_terms("Who am I?") == ["who", "am", "i"]


@pytest.mark.parametrize("query", ["?!", "", "  ", "\u2014 \U0001f600 \u2026", "___"])
def test_query_without_words_has_no_terms(query: str) -> None:
    assert query_terms(query) == []


def test_pasted_page_is_capped() -> None:
    assert len(query_terms(" ".join(f"word{n}" for n in range(1000)))) == MAX_TERMS


def test_stop_words_are_single_tokens_in_the_form_that_queries_are_brought_to() -> None:
    assert all(query_terms(word) == [word] for word in STOP_WORDS)


@given(st.text())
def test_every_term_is_one_token_or_more_of_the_full_text_index(query: str) -> None:
    tokenizer = apsw.Connection(":memory:").fts5_tokenizer("unicode61", ["remove_diacritics", "2"])
    for term in query_terms(query):
        if term.isascii():
            tokens = tokenizer(
                term.encode(), apsw.FTS5_TOKENIZE_QUERY, None, include_offsets=False, include_colocated=False
            )
            assert tokens == [term]


def test_rarest_terms_are_asked_under_the_budget() -> None:
    chosen = choose_terms({"home": 900, "zebra": 3, "kitchen": 90}, row_budget=100)
    assert chosen.asked == ("zebra", "kitchen")
    assert chosen.dropped == ("home",)


def test_only_term_is_asked_however_common_it_is() -> None:
    assert choose_terms({"home": 90_000}, row_budget=100).asked == ("home",)


def test_words_that_no_row_holds_do_not_take_the_place_of_one_that_some_do() -> None:
    chosen = choose_terms({"xyzzy": 0, "home": 90_000, "time": 95_000}, row_budget=100)
    assert chosen.asked == ("xyzzy", "home")


@given(ROWS, st.integers(0, 10_000))
def test_choice_spends_the_budget_on_the_rarest_and_loses_no_term(
    rows: dict[str, int], budget: int
) -> None:
    chosen = choose_terms(rows, budget)
    assert sorted(chosen.asked + chosen.dropped) == sorted(rows)
    in_order = [rows[term] for term in chosen.asked + chosen.dropped]
    assert in_order == sorted(in_order)
    held = [rows[term] for term in chosen.asked if rows[term]]
    assert len(held) <= 1 or sum(held) <= budget
    if chosen.dropped:
        assert held
        assert sum(held) + rows[chosen.dropped[0]] > budget

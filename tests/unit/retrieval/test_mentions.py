from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusd.retrieval.mentions import MAX_NAME_WORDS, MAX_WORDS, possible_names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("I installed NexusAI yesterday", "NexusAI"),
        ("(NexusAI's memory)", "NexusAI"),
        ("on the Raspberry\n  Pi 5, I think", "Raspberry Pi 5"),
        ("ask Dr. Müller.", "Dr. Müller"),
        ("ask Dr. Müller.", "Müller"),
        ("written in C++.", "C++"),
        ("Node.js-based", "Node.js"),
        ("O'Brien said so", "O'Brien"),
        ("read The Lord of the Rings", "The Lord of the Rings"),
        ("猫 と 犬", "犬"),
    ],
)
def test_name_in_a_text_is_among_the_possible_ones(text: str, name: str) -> None:
    assert name in possible_names([text])


def test_part_of_a_word_and_a_stop_word_alone_are_no_names() -> None:
    names = possible_names(["What is SQLiteStudio?"])
    assert "SQLite" not in names
    assert "What" not in names
    assert "What is" in names


def test_longer_names_of_a_place_come_first_and_every_name_once() -> None:
    assert possible_names(["red owl", "Red OWL owl"]) == ["red owl", "red", "owl", "Red OWL owl", "OWL owl"]


def test_letters_that_nocase_does_not_fold_stay_two_names() -> None:
    assert {"ÄRA", "ära"} <= set(possible_names(["ÄRA, ära"]))


@given(st.lists(st.text(), max_size=4))
def test_names_are_runs_of_few_words_without_surrounding_space(texts: list[str]) -> None:
    for name in possible_names(texts):
        assert name == " ".join(name.split()) != ""


def test_texts_of_any_length_ask_for_so_many_names_at_most() -> None:
    long = " ".join(f"word{n}" for n in range(100_000))
    assert len(possible_names([long, long])) <= MAX_WORDS * MAX_NAME_WORDS

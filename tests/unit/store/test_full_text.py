from __future__ import annotations

import random

import pytest

from nexusd.errors import InvalidParams
from nexusd.model.entities import NewEntity
from nexusd.store.connection import Connection
from nexusd.store.entities import upsert_entity
from nexusd.store.full_text import (
    ENTITIES,
    MESSAGES,
    MOST_OF_WORTH,
    ONCE,
    Condition,
    count_rows,
    count_term_rows,
    match_any,
    match_counted,
    match_expression,
    match_parts,
    match_words,
    worth,
)

WORDS = ["owl", "hen", "crow", "swan", "duck", "coot", "tern", "rook"]


def know(db: Connection, name: str, kind: str = "bird", notes: str | None = None) -> int:
    return upsert_entity(db, NewEntity(name=name, type=kind, notes=notes), 1).id


def fill(db: Connection) -> None:
    chance = random.Random(3)
    for n in range(40):
        know(db, f"{n} {chance.choice(WORDS)}", notes=" ".join(chance.choices([*WORDS, "and", "or"], k=12)))


def test_every_column_is_searched_and_a_condition_holds(db: Connection) -> None:
    by_name, by_type, by_notes = know(db, "Heron"), know(db, "Fred", "heron"), know(db, "Ann", notes="a heron fan")
    assert {match.id for match in match_words(db, ENTITIES, "heron", 10)} == {by_name, by_type, by_notes}
    birds = Condition("n.type = ?", ("bird",))
    assert {match.id for match in match_words(db, ENTITIES, "heron", 10, birds)} == {by_name, by_notes}
    assert {match.id for match in match_any(db, ENTITIES, ["heron"], [], 10, birds)} == {by_name, by_notes}
    assert [match.id for match in match_expression(db, ENTITIES, "type : heron", 10)] == [by_type]
    assert match_words(db, MESSAGES, "heron", 10) == []


def test_bounds_of_a_query_hold_for_every_table(db: Connection) -> None:
    with pytest.raises(InvalidParams):
        match_words(db, ENTITIES, " ".join(f"word{n}" for n in range(65)), 10)
    with pytest.raises(InvalidParams):
        match_expression(db, MESSAGES, "x " * 33, 10)


def scored(db: Connection, words: list[str]) -> list[tuple[int, str, int]]:
    return [(n, word, rows) for n, (word, rows) in enumerate(count_term_rows(db, ENTITIES, words).items())]


def test_parts_times_their_worth_are_the_scores_of_bm25(db: Connection) -> None:
    fill(db)
    for words in (["owl"], ["owl", "hen", "rook"], ["swan", "unicorn"]):
        plain = match_any(db, ENTITIES, words, [], 100)
        rows, holding = count_rows(db, ENTITIES), count_term_rows(db, ENTITIES, words)
        total = dict.fromkeys((match.id for match in plain), 0.0)
        for id_, term, part in match_parts(db, ENTITIES, scored(db, words), [], total):
            assert 0 < part < 1
            total[id_] += part * MOST_OF_WORTH * worth(rows, holding[words[term]])
        assert [total[match.id] for match in plain] == pytest.approx([match.score for match in plain])


def test_parts_are_told_of_the_rows_asked_for_alone(db: Connection) -> None:
    fill(db)
    owls = [match.id for match in match_any(db, ENTITIES, ["owl"], [], 100)]
    some = [*owls[:3], 10_000]
    assert {id_ for id_, _, _ in match_parts(db, ENTITIES, scored(db, ["owl"]), [], some)} == set(owls[:3])
    assert sorted(match_parts(db, ENTITIES, [], [(7, "owl")], some)) == sorted((id_, 7, ONCE) for id_ in owls[:3])
    assert match_parts(db, ENTITIES, scored(db, ["owl"]), [(1, "hen")], []) == []


def test_word_of_the_only_row_makes_as_much_of_it_as_of_any(db: Connection) -> None:
    only = know(db, "Heron")
    assert match_any(db, ENTITIES, ["heron"], [], 1)[0].score < 0.001
    ((id_, term, part),) = match_parts(db, ENTITIES, scored(db, ["heron"]), [], [only])
    assert (id_, term, part) == (only, 0, pytest.approx(ONCE))


def test_counted_matches_are_those_of_the_condition_with_how_many_hold_each_term(db: Connection) -> None:
    fill(db)
    low = Condition("n.id <= ?", (20,))
    terms = {4: ["owl"], 9: ["hen", "rook"], 2: ["unicorn"]}
    matches, counted = match_counted(db, ENTITIES, terms, 100, low)
    expected = match_any(db, ENTITIES, ["owl", "hen", "rook", "unicorn"], [], 100, low)
    assert {match.id for match in matches} == {match.id for match in expected}
    assert counted == {n: len(match_any(db, ENTITIES, words, [], 100, low)) for n, words in terms.items()}
    assert match_counted(db, ENTITIES, terms, 3, low)[0] == matches[:3]


def test_phrase_whose_rows_are_only_estimated_scores_no_more_than_it_may(db: Connection) -> None:
    for n in range(20):
        know(db, f"well {n}", notes="known" if n == 1 else None)
    know(db, "well-known")
    ((_, _, part),) = match_parts(db, ENTITIES, scored(db, ["well-known"]), [], range(1, 30))
    assert 0 < part <= 1


def test_rows_are_counted_whatever_their_ids(db: Connection) -> None:
    assert count_rows(db, ENTITIES) == 0
    for n in range(3):
        know(db, f"e{n}")
    db.execute("DELETE FROM entities WHERE id = 2")
    assert count_rows(db, ENTITIES) == 2
    db.execute("UPDATE sqlite_sequence SET seq = 1_000_000 WHERE name = 'entities'")
    know(db, "of a high id")
    assert count_rows(db, ENTITIES) == 3

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
    Condition,
    Rarity,
    count_rows,
    count_term_rows,
    match_any,
    match_expression,
    match_weighted,
    match_words,
)

WORDS = ["owl", "hen", "crow", "swan", "duck", "coot", "tern", "rook"]


def know(db: Connection, name: str, kind: str = "bird", notes: str | None = None) -> int:
    return upsert_entity(db, NewEntity(name=name, type=kind, notes=notes), 1).id


def fill(db: Connection) -> None:
    chance = random.Random(3)
    for n in range(40):
        know(db, f"{n} {chance.choice(WORDS)}", notes=" ".join(chance.choices([*WORDS, "and", "or"], k=12)))


def rarity(db: Connection, terms: list[str]) -> Rarity:
    return Rarity(count_rows(db, ENTITIES), count_term_rows(db, ENTITIES, terms))


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


def test_terms_worth_what_they_are_in_their_own_table_score_as_bm25_does(db: Connection) -> None:
    fill(db)
    for terms in (["owl"], ["owl", "hen", "rook"], ["swan", "unicorn"], ["swans", "swan"]):
        own = rarity(db, terms)
        weighted = match_weighted(db, ENTITIES, own, own, 100)
        plain = match_any(db, ENTITIES, terms, [], 100)
        assert [match.id for match in weighted] == [match.id for match in plain]
        assert [match.score for match in weighted] == pytest.approx([match.score for match in plain])


def test_rows_with_the_term_that_is_rare_elsewhere_come_before_all_others(db: Connection) -> None:
    fill(db)
    own = rarity(db, ["owl", "hen"])
    rare_owls = Rarity(100_000, {"owl": 3, "hen": 90_000})
    weighted = match_weighted(db, ENTITIES, own, rare_owls, 100)
    owls = match_any(db, ENTITIES, ["owl"], [], 100)
    assert {match.id for match in weighted[: len(owls)]} == {match.id for match in owls}
    assert weighted[len(owls) - 1].score > 1 > weighted[len(owls)].score
    assert len(weighted) > len(owls)


def test_word_of_the_only_row_is_worth_what_it_is_everywhere(db: Connection) -> None:
    know(db, "Heron")
    own = rarity(db, ["heron"])
    assert match_any(db, ENTITIES, ["heron"], [], 1)[0].score < 0.001
    (match,) = match_weighted(db, ENTITIES, own, Rarity(1001, {"heron": 1}), 1)
    assert 5 < match.score < 10


def test_weighted_matches_keep_to_a_condition_and_a_limit(db: Connection) -> None:
    fill(db)
    own = rarity(db, WORDS)
    ids = [match.id for match in match_weighted(db, ENTITIES, own, own, 100)]
    assert [match.id for match in match_weighted(db, ENTITIES, own, own, 3)] == ids[:3]
    low = Condition("n.id <= ?", (20,))
    assert [match.id for match in match_weighted(db, ENTITIES, own, own, 100, low)] == [i for i in ids if i <= 20]


def test_phrase_whose_rows_are_only_estimated_scores_no_more_than_it_may(db: Connection) -> None:
    for n in range(20):
        know(db, f"well {n}", notes="known" if n == 1 else None)
    know(db, "well-known")
    own = rarity(db, ["well-known"])
    (match,) = match_weighted(db, ENTITIES, own, own, 5)
    assert match.score <= 2.2 * own.worth("well-known")


def test_rows_are_counted_whatever_their_ids(db: Connection) -> None:
    assert count_rows(db, ENTITIES) == 0
    for n in range(3):
        know(db, f"e{n}")
    db.execute("DELETE FROM entities WHERE id = 2")
    assert count_rows(db, ENTITIES) == 2
    db.execute("UPDATE sqlite_sequence SET seq = 1_000_000 WHERE name = 'entities'")
    know(db, "of a high id")
    assert count_rows(db, ENTITIES) == 3

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusd.retrieval.fusion import (
    MEANING,
    MEANING_OF_NEIGHBOURS,
    PRESENCE,
    SESSION_SHARE,
    TIME,
    WORDS_OF_FOLLOWING,
    WORDS_OF_PREVIOUS,
    Meaning,
    Ranked,
    Weighing,
    Words,
    rank,
)
from nexusd.retrieval.times import Span
from nexusd.store.recall import Key, Place

DAY_MS = 86_400_000
IDS = st.integers(1, 40)
WORTHS = (4.0, 2.0, 0.5)
PARTS = st.dictionaries(IDS, st.dictionaries(st.integers(0, 2), st.floats(0.01, 1), max_size=3), max_size=25)
NEAR = st.dictionaries(IDS, st.floats(-0.2, 1), max_size=25)
NO_WORDS, NO_MEANING = Words(), Meaning()


def key(id_: int) -> Key:
    return ("episodes", id_)


def words(parts: dict[int, dict[int, float]], worths: tuple[float, ...] = WORTHS) -> Words:
    """What exchanges make of the terms."""
    return Words(worths, {key(id_): of_row for id_, of_row in parts.items()})


def near(scores: dict[int, float], *, complete: bool = False) -> Meaning:
    """Exchanges and their similarities."""
    return Meaning({key(id_): score for id_, score in scores.items()}, complete)


def alone(*ids: int) -> dict[Key, Place]:
    """Places in sessions of their own: nobody lends."""
    return {key(id_): Place(created_at=id_, session=id_) for id_ in ids}


def conversation(*ids: int, session: int = 1) -> dict[Key, Place]:
    """Places one after another in one session."""
    keys = [None, *(key(id_) for id_ in ids), None]
    return {
        key(id_): Place(n, session, previous=keys[n], following=keys[n + 2]) for n, id_ in enumerate(ids)
    }


def ordered(hits: list[Ranked]) -> list[int]:
    return [hit.key[1] for hit in hits]


def by_id(hits: list[Ranked]) -> dict[int, Ranked]:
    return {hit.key[1]: hit for hit in hits}


def test_nothing_found_ranks_nothing() -> None:
    assert rank(set(), NO_WORDS, NO_MEANING, {}) == []


def test_hit_of_both_engines_comes_before_equally_good_hits_of_one() -> None:
    places = alone(1, 2, 3, 4, 5)
    hits = rank(places, words({1: {0: 0.5}, 2: {0: 0.5}, 3: {2: 0.1}}), near({1: 0.8, 4: 0.8, 5: 0.1}), places)
    assert ordered(hits)[0] == 1


def test_only_row_with_every_word_comes_first_though_no_vector_is_near() -> None:
    places = alone(500, *range(1, 101))
    meaning = near({id_: 0.2 + id_ / 500 for id_ in range(1, 101)})
    hits = rank(places, words({500: {0: 0.45, 1: 0.45, 2: 0.45}}), meaning, places)
    assert hits[0].key == key(500)
    assert hits[0].semantic is None


def test_row_that_only_words_found_is_never_lost() -> None:
    places = alone(500, *range(1, 101))
    hits = rank(places, words({500: {2: 0.1}}), near(dict.fromkeys(range(1, 101), 0.99)), places)
    assert 500 in ordered(hits)


def test_words_count_for_the_share_of_the_querys_worth_that_they_cover() -> None:
    places = alone(1, 2)
    hits = by_id(rank(places, words({1: {0: 1.0, 1: 1.0, 2: 1.0}, 2: {1: 0.25}}), NO_MEANING, places))
    assert hits[1].score == pytest.approx(1 * (1 + SESSION_SHARE))
    assert hits[2].score == pytest.approx(0.25**PRESENCE * 2.0 / 6.5 * (1 + SESSION_SHARE))


def test_meaning_counts_from_the_worst_that_was_found_where_there_may_be_more() -> None:
    places = alone(1, 2, 3)
    hits = by_id(rank(places, words({}), near({1: 0.6, 2: 0.2, 3: 0.4}), places))
    shares = {id_: hit.semantic.normalised for id_, hit in hits.items() if hit.semantic is not None}
    assert shares == pytest.approx({1: MEANING * 0.5, 2: 0.0, 3: MEANING * 0.25})


def test_single_row_near_the_query_has_a_score_above_zero() -> None:
    (hit,) = rank(alone(7), NO_WORDS, near({7: 0.5}, complete=True), alone(7))
    assert hit.score == pytest.approx(0.5 * (1 + SESSION_SHARE))


def test_ties_fall_to_the_newer_exchange_then_to_the_higher_id() -> None:
    places = {key(1): Place(50), key(2): Place(50), key(3): Place(10)}
    assert ordered(rank(places, words({1: {0: 0.5}, 2: {0: 0.5}, 3: {0: 0.5}}), NO_MEANING, places)) == [2, 1, 3]


def test_rows_of_one_id_in_two_collections_are_two_memories_in_an_order_that_lasts() -> None:
    same: list[Key] = [("episodes", 1), ("entities", 1), ("messages", 1)]
    places = {memory: Place(50) for memory in same}
    parts = {memory: {0: 0.5} for memory in same} | {("messages", 1): {0: 0.9}}
    ranked = [hit.key for hit in rank(same, Words(WORTHS, parts), NO_MEANING, places)]
    assert ranked[0] == ("messages", 1)
    assert sorted(ranked) == sorted(same)
    turned = Words(WORTHS, dict(reversed(parts.items())))
    assert [hit.key for hit in rank(same[::-1], turned, NO_MEANING, dict(reversed(places.items())))] == ranked


def test_candidate_whose_row_is_gone_neither_ranks_nor_counts() -> None:
    places = alone(1, 2)
    found = {1: {0: 0.5}, 2: {1: 0.2}}
    plain = rank(places, words(found), near({1: 0.5, 2: 0.3}), places)
    with_ghost = rank([*places, key(99)], words(found | {99: {0: 1.0}}), near({1: 0.5, 2: 0.3, 99: -0.9}), places)
    assert with_ghost == plain


def test_neighbours_lend_the_words_that_an_exchange_lacks() -> None:
    places = conversation(1, 2, 3) | alone(4)
    hits = by_id(rank(places, words({2: {0: 1.0}, 4: {1: 1.0}}), NO_MEANING, places))
    worth = 4.0 / 6.5
    lent = {id_: hit.lent for id_, hit in hits.items()}
    assert lent == pytest.approx({1: WORDS_OF_FOLLOWING * worth, 2: 0, 3: WORDS_OF_PREVIOUS * worth, 4: 0})


def test_neighbours_lend_nothing_of_a_word_that_the_exchange_has_in_full() -> None:
    places = conversation(1, 2)
    hits = by_id(rank(places, words({1: {0: 1.0}, 2: {0: 1.0}}), NO_MEANING, places))
    assert (hits[1].lent, hits[2].lent) == (0, 0)


def test_neighbour_that_is_no_candidate_lends_and_does_not_rank() -> None:
    places = conversation(1, 2, 3)
    hits = rank([key(2)], words({1: {0: 1.0}, 2: {1: 0.5}}), NO_MEANING, places)
    assert ordered(hits) == [2]
    assert hits[0].lent > 0


def test_neighbours_lend_of_their_meaning() -> None:
    places = conversation(1, 2)
    hits = by_id(rank(places, NO_WORDS, near({1: 0.8, 2: 0.0}, complete=True), places))
    assert hits[2].lent == pytest.approx(MEANING_OF_NEIGHBOURS * 0.8)
    assert hits[1].lent == 0


def test_session_gives_a_share_of_its_best_on_each_word_to_all_of_it() -> None:
    places = conversation(1, 2, 3, 4, 5) | alone(9)
    hits = by_id(rank(places, words({1: {0: 1.0}, 5: {1: 1.0}, 9: {2: 1.0}}), NO_MEANING, places))
    assert hits[3].session == pytest.approx(SESSION_SHARE * 6.0 / 6.5)
    assert hits[9].session == pytest.approx(SESSION_SHARE * 0.5 / 6.5)


def test_time_that_the_query_names_lifts_what_is_of_then_and_excludes_nothing() -> None:
    may = Span(100 * DAY_MS, 131 * DAY_MS)
    places = {key(1): Place(10 * DAY_MS), key(2): Place(120 * DAY_MS), key(3): Place(900 * DAY_MS)}
    found = words({1: {0: 0.5}, 2: {0: 0.5}, 3: {0: 0.5}})
    hits = by_id(rank(places, found, NO_MEANING, places, Weighing(spans=[may])))
    assert hits[2].time == TIME
    assert hits[1].time < TIME / 10
    assert ordered(list(hits.values()))[0] == 2
    assert len(hits) == 3


def test_weights_of_collections_and_age_multiply_the_score() -> None:
    places: dict[Key, Place] = {("episodes", 1): Place(0), ("entities", 1): Place(10 * DAY_MS)}
    parts = Words(WORTHS, {memory: {0: 1.0} for memory in places})
    weighing = Weighing(weights={"entities": 0.5}, half_life_ms=10 * DAY_MS, now_ms=20 * DAY_MS)
    hits = {hit.key[0]: hit for hit in rank(places, parts, NO_MEANING, places, weighing)}
    assert hits["episodes"].recency == pytest.approx(0.25)
    assert (hits["entities"].weight, hits["entities"].recency) == (0.5, pytest.approx(0.5))
    assert hits["entities"].score == pytest.approx(4.0 / 6.5 * 0.25 * (1 + SESSION_SHARE))


def test_memory_of_the_future_is_as_recent_as_one_of_now() -> None:
    places = {key(1): Place(9 * DAY_MS)}
    (hit,) = rank(places, words({1: {0: 1.0}}), NO_MEANING, places, Weighing(half_life_ms=1.0, now_ms=0))
    assert hit.recency == 1.0


@given(PARTS, NEAR, st.booleans(), st.randoms(use_true_random=False))
def test_order_of_candidates_changes_nothing(
    parts: dict[int, dict[int, float]], meaning: dict[int, float], complete: bool, shuffler: random.Random
) -> None:
    def shuffled(given: dict[int, float]) -> dict[int, float]:
        items = list(given.items())
        shuffler.shuffle(items)
        return dict(items)

    places = conversation(*range(1, 21)) | conversation(*range(21, 41), session=2)
    keys = [key(id_) for id_ in parts.keys() | meaning.keys()]
    straight = rank(keys, words(parts), near(meaning, complete=complete), places)
    shuffler.shuffle(keys)
    assert straight == rank(keys, words(parts), near(shuffled(meaning), complete=complete), places)


@given(PARTS, NEAR)
def test_every_live_candidate_is_ranked_once_with_parts_that_make_its_score(
    parts: dict[int, dict[int, float]], meaning: dict[int, float]
) -> None:
    keys = [key(id_) for id_ in parts.keys() | meaning.keys()]
    weighing = Weighing(spans=[Span(3, 9)], weights={"episodes": 0.7}, half_life_ms=50, now_ms=40)
    hits = rank(keys, words(parts), near(meaning), conversation(*range(1, 31)), weighing)
    assert sorted(ordered(hits)) == sorted(id_ for id_ in parts.keys() | meaning.keys() if id_ <= 30)
    for hit in hits:
        engines = [part for part in (hit.keyword, hit.semantic) if part is not None]
        whole = sum(part.normalised for part in engines) + hit.lent + hit.session + hit.time
        assert math.isclose(hit.score, whole * hit.weight * hit.recency, abs_tol=1e-9)
        assert all(part.normalised >= 0 for part in engines)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    for ranks in ([hit.keyword for hit in hits], [hit.semantic for hit in hits]):
        by_rank = sorted((part for part in ranks if part is not None), key=lambda part: part.rank)
        assert [part.rank for part in by_rank] == list(range(1, len(by_rank) + 1))
        assert [part.score for part in by_rank] == sorted((part.score for part in by_rank), reverse=True)


@given(PARTS, NEAR)
def test_unrelated_exchange_moves_no_other_score(
    parts: dict[int, dict[int, float]], meaning: dict[int, float]
) -> None:
    # what it does to the rarity of words is the caller's; here nothing is relative to who else is there
    places = alone(*range(1, 42))
    keys = [key(id_) for id_ in parts.keys() | meaning.keys()]
    before = by_id(rank(keys, words(parts), near(meaning), places))
    after = by_id(rank([*keys, key(41)], words(parts), near(meaning), places))
    assert {id_: after[id_].score for id_ in before} == {id_: hit.score for id_, hit in before.items()}


@given(NEAR, st.floats(-0.2, 1))
def test_worse_vector_moves_a_score_by_no_more_than_it_is_worse(meaning: dict[int, float], worse: float) -> None:
    meaning[40] = max(meaning.values(), default=0.5)
    floor = min(meaning.values())
    places = alone(*range(1, 42))
    before = by_id(rank(places, NO_WORDS, near(meaning), places))
    after = by_id(rank(places, NO_WORDS, near(meaning | {41: min(worse, floor)}), places))
    moved = max(abs(after[id_].score - before[id_].score) for id_ in meaning)
    reach = 1 - min(worse, floor)
    assert moved <= (floor - min(worse, floor)) / (reach or 1) * (1 + SESSION_SHARE) + 1e-9

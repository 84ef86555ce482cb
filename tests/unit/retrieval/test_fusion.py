from __future__ import annotations

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from nexusd.retrieval.fusion import NEIGHBOUR_SHARE, Candidates, Ranked, rank
from nexusd.store.recall import Key, Place

IDS = st.integers(1, 40)
SCORES = st.dictionaries(IDS, st.floats(0, 50), max_size=25)
NOTHING = Candidates({})


def key(id_: int) -> Key:
    return ("episodes", id_)


def found(scores: dict[int, float], absent: float | None = None) -> Candidates:
    """Exchanges and their scores."""
    return Candidates({key(id_): score for id_, score in scores.items()}, absent)


def alone(*ids: int) -> dict[Key, Place]:
    """Places in sessions of their own: nobody lends."""
    return {key(id_): Place(created_at=id_, previous=None) for id_ in ids}


def conversation(*ids: int) -> dict[Key, Place]:
    """Places one after another in one session."""
    return {
        key(id_): Place(created_at=place, previous=key(ids[place - 1]) if place else None)
        for place, id_ in enumerate(ids)
    }


def order(hits: list[Ranked]) -> list[int]:
    return [hit.key[1] for hit in hits]


def test_nothing_found_ranks_nothing() -> None:
    assert rank(NOTHING, NOTHING, {}) == []


def test_hit_of_both_engines_comes_before_equally_good_hits_of_one() -> None:
    keyword = found({1: 9.0, 2: 9.0, 3: 1.0})
    semantic = found({1: 0.8, 4: 0.8, 5: 0.1})
    assert order(rank(keyword, semantic, alone(1, 2, 3, 4, 5)))[0] == 1


def test_only_row_with_a_rare_word_comes_first_though_no_vector_is_near() -> None:
    semantic = found({id_: 0.2 + id_ / 1000 for id_ in range(1, 101)})
    hits = rank(found({500: 7.5}, absent=0.0), semantic, alone(500, *range(1, 101)))
    assert hits[0].key == key(500)
    assert hits[0].semantic is None


def test_single_candidate_is_ranked_with_a_finite_score() -> None:
    (hit,) = rank(found({7: 3.0}, absent=0.0), NOTHING, alone(7))
    assert hit.key == key(7)
    assert math.isfinite(hit.score)
    assert hit.keyword is not None
    assert (hit.keyword.rank, hit.keyword.score) == (1, 3.0)


def test_engine_that_scores_all_the_same_leaves_the_order_to_the_other() -> None:
    keyword = found({1: 0.1 + 0.2, 2: 0.3, 3: 0.3})
    assert order(rank(keyword, found({1: 0.1, 2: 0.5, 3: 0.9}), alone(1, 2, 3))) == [3, 2, 1]


def test_ties_fall_to_the_newer_exchange_then_to_the_higher_id() -> None:
    places = {key(1): Place(50, None), key(2): Place(50, None), key(3): Place(10, None)}
    assert order(rank(found({1: 2.0, 2: 2.0, 3: 2.0}), NOTHING, places)) == [2, 1, 3]


def test_rows_of_one_id_in_two_collections_are_two_memories_in_an_order_that_lasts() -> None:
    same: dict[Key, float] = {("episodes", 1): 2.0, ("entities", 1): 2.0, ("messages", 1): 3.0}
    places = {memory: Place(50, None) for memory in same}
    ranked = [hit.key for hit in rank(Candidates(same), NOTHING, places)]
    assert ranked[0] == ("messages", 1)
    assert sorted(ranked) == sorted(same)
    turned = rank(Candidates(dict(reversed(same.items()))), NOTHING, dict(reversed(places.items())))
    assert [hit.key for hit in turned] == ranked


def test_candidate_whose_row_is_gone_neither_ranks_nor_counts() -> None:
    keyword = found({1: 5.0, 2: 1.0}, absent=0.0)
    with_ghost = found({1: 5.0, 2: 1.0, 99: 500.0}, absent=0.0)
    assert rank(with_ghost, NOTHING, alone(1, 2)) == rank(keyword, NOTHING, alone(1, 2))


def test_neighbours_lend_a_share_within_the_session_only() -> None:
    keyword = found({1: 0.0, 2: 8.0, 3: 0.0, 4: 0.0})
    hits = {hit.key[1]: hit for hit in rank(keyword, NOTHING, conversation(1, 2, 3) | alone(4))}
    assert hits[2].keyword is not None
    share = NEIGHBOUR_SHARE * hits[2].keyword.normalised
    assert [hits[id_].lent for id_ in (1, 2, 3, 4)] == [share, 0.0, share, 0.0]


def test_neighbour_that_no_engine_found_is_not_brought_in() -> None:
    assert order(rank(found({2: 8.0, 9: 1.0}), NOTHING, conversation(1, 2, 3) | alone(9))) == [2, 9]


@given(SCORES, SCORES, st.sampled_from([None, 0.0]), st.randoms(use_true_random=False))
def test_order_of_candidates_changes_nothing(
    words: dict[int, float], meaning: dict[int, float], absent: float | None, shuffler: random.Random
) -> None:
    def shuffled(scores: dict[int, float]) -> dict[int, float]:
        items = list(scores.items())
        shuffler.shuffle(items)
        return dict(items)

    places = conversation(*range(1, 41))
    straight = rank(found(words, absent), found(meaning), places)
    assert straight == rank(found(shuffled(words), absent), found(shuffled(meaning)), places)


@given(SCORES, SCORES, st.sampled_from([None, 0.0]))
def test_every_live_candidate_is_ranked_once_with_parts_that_make_its_score(
    words: dict[int, float], meaning: dict[int, float], absent: float | None
) -> None:
    hits = rank(found(words, absent), found(meaning), conversation(*range(1, 31)))
    assert sorted(order(hits)) == sorted(id_ for id_ in words.keys() | meaning.keys() if id_ <= 30)
    for hit in hits:
        parts = [part for part in (hit.keyword, hit.semantic) if part is not None]
        assert math.isclose(hit.score, sum(part.normalised for part in parts) + hit.lent, abs_tol=1e-9)
        assert math.isfinite(hit.score)
        assert all(part.normalised >= 0 for part in parts)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


@given(SCORES, SCORES, st.sampled_from([None, 0.0]))
def test_better_score_of_an_engine_never_normalises_to_less(
    words: dict[int, float], meaning: dict[int, float], absent: float | None
) -> None:
    hits = rank(found(words, absent), found(meaning), alone(*range(1, 41)))
    for parts in ([hit.keyword for hit in hits], [hit.semantic for hit in hits]):
        by_rank = sorted((part for part in parts if part is not None), key=lambda part: part.rank)
        assert [part.rank for part in by_rank] == list(range(1, len(by_rank) + 1))
        assert [part.score for part in by_rank] == sorted((p.score for p in by_rank), reverse=True)
        assert [part.normalised for part in by_rank] == sorted((p.normalised for p in by_rank), reverse=True)


@given(SCORES, SCORES, st.floats(0.01, 1000))
def test_scale_of_an_engine_does_not_matter(
    words: dict[int, float], meaning: dict[int, float], by: float
) -> None:
    places = alone(*range(1, 41))
    words = {id_: round(score, 3) for id_, score in words.items()}
    hits = rank(found(words, 0.0), found(meaning), places)
    scaled_words = {id_: by * score for id_, score in words.items()}
    scaled = rank(found(scaled_words, 0.0), found(meaning), places)
    scores = {hit.key: hit.score for hit in scaled}
    assert all(math.isclose(hit.score, scores[hit.key], rel_tol=1e-6, abs_tol=1e-6) for hit in hits)

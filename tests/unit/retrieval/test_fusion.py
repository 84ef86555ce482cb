from __future__ import annotations

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from nexusd.retrieval.fusion import NEIGHBOUR_SHARE, Candidates, Ranked, rank
from nexusd.store.episode_search import EpisodePlace

IDS = st.integers(1, 40)
SCORES = st.dictionaries(IDS, st.floats(0, 50), max_size=25)
NOTHING = Candidates({})


def alone(*ids: int) -> dict[int, EpisodePlace]:
    """Places in sessions of their own: nobody lends."""
    return {id_: EpisodePlace(created_at=id_, previous=None) for id_ in ids}


def conversation(*ids: int) -> dict[int, EpisodePlace]:
    """Places one after another in one session."""
    return {
        id_: EpisodePlace(created_at=place, previous=ids[place - 1] if place else None)
        for place, id_ in enumerate(ids)
    }


def order(hits: list[Ranked]) -> list[int]:
    return [hit.id for hit in hits]


def test_nothing_found_ranks_nothing() -> None:
    assert rank(NOTHING, NOTHING, {}) == []


def test_hit_of_both_engines_comes_before_equally_good_hits_of_one() -> None:
    keyword = Candidates({1: 9.0, 2: 9.0, 3: 1.0})
    semantic = Candidates({1: 0.8, 4: 0.8, 5: 0.1})
    assert order(rank(keyword, semantic, alone(1, 2, 3, 4, 5)))[0] == 1


def test_only_row_with_a_rare_word_comes_first_though_no_vector_is_near() -> None:
    semantic = Candidates({id_: 0.2 + id_ / 1000 for id_ in range(1, 101)})
    hits = rank(Candidates({500: 7.5}, absent=0.0), semantic, alone(500, *range(1, 101)))
    assert hits[0].id == 500
    assert hits[0].semantic is None


def test_single_candidate_is_ranked_with_a_finite_score() -> None:
    (hit,) = rank(Candidates({7: 3.0}, absent=0.0), NOTHING, alone(7))
    assert hit.id == 7
    assert math.isfinite(hit.score)
    assert hit.keyword is not None
    assert (hit.keyword.rank, hit.keyword.score) == (1, 3.0)


def test_engine_that_scores_all_the_same_leaves_the_order_to_the_other() -> None:
    keyword = Candidates({1: 0.1 + 0.2, 2: 0.3, 3: 0.3})
    assert order(rank(keyword, Candidates({1: 0.1, 2: 0.5, 3: 0.9}), alone(1, 2, 3))) == [3, 2, 1]


def test_ties_fall_to_the_newer_exchange_then_to_the_higher_id() -> None:
    places = {1: EpisodePlace(50, None), 2: EpisodePlace(50, None), 3: EpisodePlace(10, None)}
    assert order(rank(Candidates({1: 2.0, 2: 2.0, 3: 2.0}), NOTHING, places)) == [2, 1, 3]


def test_candidate_whose_row_is_gone_neither_ranks_nor_counts() -> None:
    keyword = Candidates({1: 5.0, 2: 1.0}, absent=0.0)
    with_ghost = Candidates({**keyword.scores, 99: 500.0}, absent=0.0)
    assert rank(with_ghost, NOTHING, alone(1, 2)) == rank(keyword, NOTHING, alone(1, 2))


def test_neighbours_lend_a_share_within_the_session_only() -> None:
    keyword = Candidates({1: 0.0, 2: 8.0, 3: 0.0, 4: 0.0})
    hits = {hit.id: hit for hit in rank(keyword, NOTHING, conversation(1, 2, 3) | alone(4))}
    assert hits[2].keyword is not None
    share = NEIGHBOUR_SHARE * hits[2].keyword.normalised
    assert [hits[id_].lent for id_ in (1, 2, 3, 4)] == [share, 0.0, share, 0.0]


def test_neighbour_that_no_engine_found_is_not_brought_in() -> None:
    assert order(rank(Candidates({2: 8.0, 9: 1.0}), NOTHING, conversation(1, 2, 3) | alone(9))) == [2, 9]


@given(SCORES, SCORES, st.sampled_from([None, 0.0]), st.randoms(use_true_random=False))
def test_order_of_candidates_changes_nothing(
    words: dict[int, float], meaning: dict[int, float], absent: float | None, shuffler: random.Random
) -> None:
    def shuffled(scores: dict[int, float]) -> dict[int, float]:
        items = list(scores.items())
        shuffler.shuffle(items)
        return dict(items)

    places = conversation(*range(1, 41))
    straight = rank(Candidates(words, absent), Candidates(meaning), places)
    assert straight == rank(Candidates(shuffled(words), absent), Candidates(shuffled(meaning)), places)


@given(SCORES, SCORES, st.sampled_from([None, 0.0]))
def test_every_live_candidate_is_ranked_once_with_parts_that_make_its_score(
    words: dict[int, float], meaning: dict[int, float], absent: float | None
) -> None:
    hits = rank(Candidates(words, absent), Candidates(meaning), conversation(*range(1, 31)))
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
    hits = rank(Candidates(words, absent), Candidates(meaning), alone(*range(1, 41)))
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
    hits = rank(Candidates(words, 0.0), Candidates(meaning), places)
    scaled_words = {id_: by * score for id_, score in words.items()}
    scaled = rank(Candidates(scaled_words, 0.0), Candidates(meaning), places)
    scores = {hit.id: hit.score for hit in scaled}
    assert all(math.isclose(hit.score, scores[hit.id], rel_tol=1e-6, abs_tol=1e-6) for hit in hits)

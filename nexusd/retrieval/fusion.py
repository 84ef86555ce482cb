"""One order out of two engines' candidates.

Owns how scores of different kinds are made comparable, how neighbours in a session lend to each other, and
how ties fall. Pure: knows neither engine, no SQL, no clock. Every result is independent of the order of its
input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass

from nexusd.model.memory import EngineScore
from nexusd.store.episode_search import EpisodePlace

# How much of its score an exchange lends to the one before and the one after it in the session, when those
# are candidates too: talk about a thing runs over several exchanges, and few of them name it. Measured on
# recorded conversations it lifts the first ten by 3 to 4 points where exchanges are short and costs none
# where they are six times as long; from 0.3 on the long ones lose.
NEIGHBOUR_SHARE = 0.2

ROUNDING = 1e-9  # differences below this share of the highest score come from arithmetic, not from the rows


@dataclass(frozen=True, slots=True)
class Candidates:
    """What one engine found: scores by id, higher is better.

    `absent` is the score of a row that is not among them, where the engine knows it: full-text search that
    was not cut off knows that every other row scores nothing. None: unknown, at most the lowest found.
    """

    scores: Mapping[int, float]
    absent: float | None = None


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate in its final place, and the parts of its score: both engines' and what neighbours lent."""

    id: int
    score: float
    keyword: EngineScore | None
    semantic: EngineScore | None
    lent: float


def rank(keyword: Candidates, semantic: Candidates, places: Mapping[int, EpisodePlace]) -> list[Ranked]:
    """Unite both engines' candidates, best first; those without a place (the row is gone) are left out.

    The score is the sum of both engines' normalised scores, each weighing the same, and of what the
    neighbours lend. Ties: the newer exchange first, then the higher id.
    """
    ids = places.keys() & (keyword.scores.keys() | semantic.scores.keys())
    by_words = _normalised(keyword, ids)
    by_meaning = _normalised(semantic, ids)
    own = {
        id_: sum(part[id_].normalised for part in (by_words, by_meaning) if id_ in part) for id_ in ids
    }
    lent = _lent(own, places)
    ranked = [
        Ranked(id_, score + lent[id_], by_words.get(id_), by_meaning.get(id_), lent[id_])
        for id_, score in own.items()
    ]
    ranked.sort(key=lambda hit: (hit.score, places[hit.id].created_at, hit.id), reverse=True)
    return ranked


def _normalised(engine: Candidates, ids: Set[int]) -> dict[int, EngineScore]:
    """How many standard deviations each found row stands above one that the engine did not find.

    This is the z-score over the united candidates, moved so that "not found" is 0. An engine that says the
    same of every candidate tells nothing, and gives 0 to all.
    """
    found = {id_: engine.scores[id_] for id_ in ids if id_ in engine.scores}
    if not found:
        return {}
    lowest = min(found.values())
    floor = lowest if engine.absent is None else min(engine.absent, lowest)
    heights = [found.get(id_, floor) - floor for id_ in ids]
    # fsum, because a plain sum depends on the order of the candidates in its last digits
    mean = math.fsum(heights) / len(heights)
    deviation = math.sqrt(math.fsum((height - mean) ** 2 for height in heights) / len(heights))
    tells = deviation > ROUNDING * max(map(abs, found.values()))
    best_first = sorted(found.items(), key=lambda item: (-item[1], -item[0]))
    return {
        id_: EngineScore(rank=place, score=score, normalised=(score - floor) / deviation if tells else 0.0)
        for place, (id_, score) in enumerate(best_first, start=1)
    }


def _lent(own: Mapping[int, float], places: Mapping[int, EpisodePlace]) -> dict[int, float]:
    """What each candidate is lent by the candidates just before and just after it in its session."""
    lent = dict.fromkeys(own, 0.0)
    for id_, score in own.items():
        previous = places[id_].previous
        if previous is not None and previous in own:
            lent[id_] += NEIGHBOUR_SHARE * own[previous]
            lent[previous] += NEIGHBOUR_SHARE * score
    return lent

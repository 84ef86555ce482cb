"""One order out of two engines' candidates, of every kind of memory.

Owns how scores of different kinds are made comparable, how neighbours in a session lend to each other, and
how ties fall. Pure: knows neither engine, no SQL, no clock. Every result is independent of the order of its
input. A memory is known by its key: the collection and the id of its row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import NamedTuple

from nexusd.model.memory import EngineScore
from nexusd.store.recall import Key, Place

# How much of its score an exchange lends to the one before and the one after it in the session, when those
# are candidates too: talk about a thing runs over several exchanges, and few of them name it. Measured on
# recorded conversations it lifts the first ten by 3 to 4 points where exchanges are short and costs none
# where they are six times as long; from 0.3 on the long ones lose.
NEIGHBOUR_SHARE = 0.2

ROUNDING = 1e-9  # differences below this share of the highest score come from arithmetic, not from the rows


@dataclass(frozen=True, slots=True)
class Candidates:
    """What one engine found: scores by key, higher is better.

    `absent` is the score of a row that is not among them, where the engine knows it: full-text search that
    was not cut off knows that every other row scores nothing. None: unknown, at most the lowest found.
    """

    scores: Mapping[Key, float]
    absent: float | None = None


class Ranked(NamedTuple):   # not a frozen dataclass, which takes three times as long to make; a search makes hundreds
    """A candidate in its final place, and the parts of its score: both engines' and what neighbours lent."""

    key: Key
    score: float
    keyword: EngineScore | None
    semantic: EngineScore | None
    lent: float


def rank(keyword: Candidates, semantic: Candidates, places: Mapping[Key, Place]) -> list[Ranked]:
    """Unite both engines' candidates, best first; those without a place (the row is gone) are left out.

    The score is the sum of both engines' normalised scores, each weighing the same, and of what the
    neighbours lend. Ties: the newer memory first, then the higher id, then by collection.
    """
    keys = places.keys() & (keyword.scores.keys() | semantic.scores.keys())
    by_words = _normalised(keyword, keys)
    by_meaning = _normalised(semantic, keys)
    own = dict.fromkeys(keys, 0.0)
    for part in (by_words, by_meaning):
        for key, score in part.items():
            own[key] += score.normalised
    lent = _lent(own, places)
    ranked = [
        Ranked(key, score + lent[key], by_words.get(key), by_meaning.get(key), lent[key])
        for key, score in own.items()
    ]
    ranked.sort(key=lambda hit: (hit.score, places[hit.key].created_at, hit.key[1], hit.key[0]), reverse=True)
    return ranked


def _normalised(engine: Candidates, keys: Set[Key]) -> dict[Key, EngineScore]:
    """How many standard deviations each found row stands above one that the engine did not find.

    This is the z-score over the united candidates, moved so that "not found" is 0. An engine that says the
    same of every candidate tells nothing, and gives 0 to all.
    """
    found = {key: engine.scores[key] for key in keys if key in engine.scores}
    if not found:
        return {}
    lowest = min(found.values())
    floor = lowest if engine.absent is None else min(engine.absent, lowest)
    heights = [found.get(key, floor) - floor for key in keys]
    # fsum, because a plain sum depends on the order of the candidates in its last digits
    mean = math.fsum(heights) / len(heights)
    deviation = math.sqrt(math.fsum([(height - mean) ** 2 for height in heights]) / len(heights))
    tells = deviation > ROUNDING * max(map(abs, found.values()))
    best_first = sorted(found.items(), key=lambda item: (item[1], item[0][1], item[0][0]), reverse=True)
    return {
        key: EngineScore(rank=place, score=score, normalised=(score - floor) / deviation if tells else 0.0)
        for place, (key, score) in enumerate(best_first, start=1)
    }


def _lent(own: Mapping[Key, float], places: Mapping[Key, Place]) -> dict[Key, float]:
    """What each candidate is lent by the candidates just before and just after it in its session."""
    lent = dict.fromkeys(own, 0.0)
    for key, score in own.items():
        previous = places[key].previous
        if previous is not None and previous in own:
            lent[key] += NEIGHBOUR_SHARE * own[previous]
            lent[previous] += NEIGHBOUR_SHARE * score
    return lent

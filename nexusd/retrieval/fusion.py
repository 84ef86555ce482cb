"""One order out of what both engines found, of every kind of memory.

Owns how scores of different kinds are made comparable, what neighbours and sessions lend, what times and weights do to
a score, and how ties fall. Pure: knows neither engine, no SQL, no clock. Every result is independent of the order of
its input. A memory is known by its key: the collection and the id of its row.

Both scores mean the same in every store: the share of the query's worth that a row's words cover, and the share of the
way from the worst vector found to the query's own that a row's vector has gone. So another memory moves a score only
as far as it makes a word less rare or that worst vector better. The figures beside the constants are from recorded
conversations, asked for each one alone; where nothing else is said, half or twice the value costs less than a point.
"""

from __future__ import annotations

from collections.abc import Collection as AnyCollection
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from nexusd.model.memory import Collection, EngineScore
from nexusd.retrieval.keyword import Parts
from nexusd.retrieval.times import Span, time_fit
from nexusd.store.recall import Key, Place

# A word that stands in a row at all tells most of what it tells; bm25 alone makes too much of the second time and of
# short rows. Worth 1.5 points of reciprocal rank against 1, and all between 0.3 and 0.8 is within half a point.
PRESENCE = 0.6

# How much meaning tells beside words, which cover 1 at most. From 0.3 to 0.7 the first ten change by half a point; at 1
# they lose 1.5.
MEANING = 0.35

# What an exchange is lent of the words that it lacks by the one before and the one after it in its session: talk about
# a thing runs over several exchanges, and few of them name it. Worth 3 to 6 points among the first ten where
# exchanges are short, none where they are five times as long. Columns with the neighbours' text in the full-text index
# are worth the same, and every write would have to keep them up to date.
WORDS_OF_PREVIOUS = 0.5
WORDS_OF_FOLLOWING = 0.4
# The same of their meaning, which vectors of short texts blur anyway: worth half a point.
MEANING_OF_NEIGHBOURS = 0.2
# What every exchange gets of the best that its session has on each word, and in meaning. Worth half a point, and a
# whole one where all conversations are asked at once.
SESSION_SHARE = 0.15

# What it is worth that a memory is of a time that the query names: a third of all its words. Worth 1.5 points among the
# first ten, 10 for the questions that name one; from 0.15 to 0.6 no difference.
TIME = 0.3


@dataclass(frozen=True, slots=True)
class Weighing:
    """What may be set about an order, beside what was found.

    `weights` by collection; `half_life_ms` after which a memory counts half, if age is to matter at all.
    """

    spans: Sequence[Span] = ()
    weights: Mapping[Collection, float] = field(default_factory=dict)
    half_life_ms: float | None = None
    now_ms: int = 0


@dataclass(frozen=True, slots=True)
class Words:
    """What the words make of rows: the worth of each term, and by row how much it makes of it, from 0 to 1."""

    worths: Sequence[float] = ()
    parts: Parts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Meaning:
    """Similarities of the rows that the index found. `complete`: there are no others."""

    scores: Mapping[Key, float] = field(default_factory=dict)
    complete: bool = True


class Ranked(NamedTuple):   # not a frozen dataclass, which takes three times as long to make; a search makes hundreds
    """A candidate in its final place, and the parts of its score.

    The sum of both engines' shares, of what neighbours and session lent and of the fitting time, times `weight` (of the
    collection) and `recency`.
    """

    key: Key
    score: float
    keyword: EngineScore | None
    semantic: EngineScore | None
    lent: float
    session: float
    time: float
    weight: float
    recency: float


class _Row(NamedTuple):
    """What one memory has of its own, and is lent."""

    own_words: float
    own_meaning: float
    lent: float


def rank(
    candidates: AnyCollection[Key],
    words: Words,
    meaning: Meaning,
    places: Mapping[Key, Place],
    weighing: Weighing = Weighing(),
) -> list[Ranked]:
    """The candidates in order, best first; those without a place (the row is gone) are left out.

    `words` and `meaning` may also tell of rows that are no candidates, which lend. Ties: the newer memory first, then
    the higher id, then by collection.
    """
    keys = [key for key in candidates if key in places]
    total = sum(words.worths)
    part_of = {
        key: {term: part**PRESENCE * words.worths[term] / total for term, part in parts.items()}
        for key, parts in words.parts.items()
    } if total else {}
    most = [worth / total for worth in words.worths] if total else []
    # alone it need not be weighed against words
    nearness = _nearness(meaning, keys, MEANING if words.worths else 1.0)
    rows = {key: _row(key, places[key], part_of, most, nearness) for key in keys}
    by_session = _session_shares(keys, places, part_of, nearness)
    words_rank = _ranks({key: row.own_words for key, row in rows.items() if row.own_words > 0})
    meaning_rank = _ranks({key: meaning.scores[key] for key in keys if key in meaning.scores})
    ranked = []
    for key, row in rows.items():
        place = places[key]
        # what is in no session is one by itself, or exchanges would come before everything else for being in one
        session = SESSION_SHARE * (row.own_words + row.own_meaning)
        if place.session is not None:
            session = by_session[place.session]
        time = TIME * time_fit(weighing.spans, place.created_at)
        weight = weighing.weights.get(key[0], 1.0)
        recency = _recency(place.created_at, weighing)
        score = (row.own_words + row.own_meaning + row.lent + session + time) * weight * recency
        keyword = semantic = None
        if key in words_rank:
            keyword = EngineScore(rank=words_rank[key], score=row.own_words, normalised=row.own_words)
        if key in meaning_rank:
            semantic = EngineScore(rank=meaning_rank[key], score=meaning.scores[key], normalised=row.own_meaning)
        ranked.append(Ranked(key, score, keyword, semantic, row.lent, session, time, weight, recency))
    ranked.sort(key=lambda hit: (hit.score, places[hit.key].created_at, hit.key[1], hit.key[0]), reverse=True)
    return ranked


def _nearness(meaning: Meaning, keys: Sequence[Key], weight: float) -> dict[Key, float]:
    """How near each found row is, from 0 for the worst of them to `weight` for the query's own vector.

    Where more may be found, the worst that was found is where the others begin; where all were, 0 similarity
    is.
    """
    alive = set(keys)
    scores = {key: score for key, score in meaning.scores.items() if key in alive}
    if not scores:
        return {}
    floor = min(scores.values())
    if meaning.complete:
        floor = min(floor, 0.0)
    reach = 1.0 - floor
    if reach <= 0:      # every one of them is the query itself
        return dict.fromkeys(scores, 0.0)
    return {key: weight * (score - floor) / reach for key, score in scores.items()}


def _row(
    key: Key,
    place: Place,
    part_of: Mapping[Key, Mapping[int, float]],
    most: Sequence[float],
    nearness: Mapping[Key, float],
) -> _Row:
    own = part_of.get(key, {})
    lent = 0.0
    for neighbour, share in ((place.previous, WORDS_OF_PREVIOUS), (place.following, WORDS_OF_FOLLOWING)):
        if neighbour is None:
            continue
        for term, part in part_of.get(neighbour, {}).items():
            lent += share * part * (1 - own.get(term, 0.0) / most[term])    # the less, the more it has of its own
        lent += MEANING_OF_NEIGHBOURS * nearness.get(neighbour, 0.0)
    return _Row(sum(own.values()), nearness.get(key, 0.0), lent)


def _session_shares(
    keys: Sequence[Key],
    places: Mapping[Key, Place],
    part_of: Mapping[Key, Mapping[int, float]],
    nearness: Mapping[Key, float],
) -> dict[int, float]:
    """What each session gives to all of its exchanges: a share of its best on each word, and of its nearest."""
    best_words: dict[int, dict[int, float]] = {}
    nearest: dict[int, float] = {}
    for key in keys:
        session = places[key].session
        if session is None:
            continue
        best = best_words.setdefault(session, {})
        for term, part in part_of.get(key, {}).items():
            if part > best.get(term, 0.0):
                best[term] = part
        nearest[session] = max(nearest.get(session, 0.0), nearness.get(key, 0.0))
    # sorted: a sum depends on its order in the last digits
    return {
        session: SESSION_SHARE * (sum(best[term] for term in sorted(best)) + nearest[session])
        for session, best in best_words.items()
    }


def _ranks(scores: Mapping[Key, float]) -> dict[Key, int]:
    best_first = sorted(scores, key=lambda key: (scores[key], key[1], key[0]), reverse=True)
    return {key: place for place, key in enumerate(best_first, start=1)}


def _recency(created_at: int, weighing: Weighing) -> float:
    if weighing.half_life_ms is None:
        return 1.0
    age_ms = max(weighing.now_ms - created_at, 0)   # a clock that was set back: what is of tomorrow is of now
    return float(0.5 ** (age_ms / weighing.half_life_ms))

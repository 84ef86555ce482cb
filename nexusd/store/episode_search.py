"""Words to exchanges: the full-text index over episodes.

Owns the queries that FTS5 is asked and how words are quoted for it. Which terms are worth asking for is the
caller's choice. The larger answers come as one row of JSON: between two rows SQLite gives the interpreter's
lock away, and a busy loop takes its time to give it back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import apsw
import msgspec

from nexusd.errors import FieldError, InvalidParams
from nexusd.model.episodes import EpisodeMatch, EpisodeMatches, SearchEpisodes
from nexusd.model.memory import MemoryFilter
from nexusd.store.connection import Connection
from nexusd.store.episode_filter import filter_conditions
from nexusd.store.episodes import select_episodes
from nexusd.store.text_budget import TextBudget

# How `episodes_fts` cuts and stems, so that a term finds its place in the vocabulary.
TOKENIZER = ("porter", ["unicode61", "remove_diacritics", "2"])

# how many exchanges hold each of the stems, 0 for those that are in none
COUNT_STEM_ROWS = """
SELECT json_group_object(stem.value, coalesce((SELECT doc FROM episodes_terms WHERE term = stem.value), 0))
FROM json_each(?) AS stem"""

# the best matches of an expression, and which of equals is the newer row
MATCH_EPISODES = """
SELECT json_group_array(json_array(id, score)) FROM (
    SELECT f.rowid AS id, -bm25(episodes_fts) AS score FROM episodes_fts f
    WHERE episodes_fts MATCH ? ORDER BY score DESC, id DESC LIMIT ?)"""

# the same among the exchanges that pass a filter; CROSS JOIN keeps the full-text index the outer loop, which
# visits the matched rows only
MATCH_FILTERED_EPISODES = """
SELECT json_group_array(json_array(id, score)) FROM (
    SELECT f.rowid AS id, -bm25(episodes_fts) AS score
    FROM episodes_fts f CROSS JOIN episodes e ON e.id = f.rowid
    WHERE episodes_fts MATCH ? AND {conditions} ORDER BY score DESC, id DESC LIMIT ?)"""

# of exchanges that are there: when each was made, and the one before it in its session
SELECT_PLACES = """
SELECT json_group_array(json_array(e.id, e.created_at, (
    SELECT p.id FROM episodes p
    WHERE p.session_id = e.session_id AND (p.created_at, p.id) < (e.created_at, e.id)
    ORDER BY p.created_at DESC, p.id DESC LIMIT 1)))
FROM episodes e WHERE e.id IN (SELECT value FROM json_each(?))"""


# bm25 costs phrases x places x phrases inside one step of SQLite, where no deadline reaches: 1,000 times the same
# word on a text of 4,000 of them held a reader for 25 s.
MAX_WORDS = 64
MAX_PHRASES = 32  # of an expression, where the same word may stand again and again
_FTS5_PHRASE = re.compile(r'"(?:[^"]|"")*"|\w+')


@dataclass(frozen=True, slots=True)
class TextMatch:
    """A row that the full-text index found, and its bm25 score (higher is better)."""

    id: int
    score: float


@dataclass(frozen=True, slots=True)
class EpisodePlace:
    """When an exchange was made, and the id of the one before it in its session."""

    created_at: int
    previous: int | None


def search_episodes(db: Connection, params: SearchEpisodes) -> EpisodeMatches:
    """The exchanges that hold every word of the query, or match its FTS5 expression, best first.

    Raises:
        InvalidParams: the FTS5 expression is none; SQLite's message says why.
    """
    where = MemoryFilter(session_id=params.session_id)
    if params.syntax == "plain":
        words = _different_words(db, params.query)
        matches = _match(db, " ".join(_quoted(words)), where, params.limit) if words else []
    else:
        _hold_expression(params.query)
        try:
            matches = _match(db, params.query, where, params.limit)
        except apsw.SQLError as error:
            raise InvalidParams(fields=(FieldError("query", f"an FTS5 expression: {error}"),)) from error
    budget = TextBudget()
    episodes = select_episodes(db, [match.id for match in matches], where, budget)
    return EpisodeMatches(
        truncated=budget.exhausted,
        items=[
            EpisodeMatch(episode=episodes[match.id], score=match.score)
            for match in matches
            if match.id in episodes  # else the budget ended, or the full-text index has drifted from the rows
        ]
    )


def count_term_rows(db: Connection, terms: Sequence[str]) -> dict[str, int]:
    """How many exchanges hold each of the terms, in the terms' order. Equal stems count the same rows."""
    tokenizer = db.fts5_tokenizer(*TOKENIZER)
    stems = {term: _stems(tokenizer, term) for term in terms}
    every_stem = list({stem for parts in stems.values() for stem in parts})
    rows: dict[str, int] = msgspec.json.decode(db.execute(COUNT_STEM_ROWS, (_json(every_stem),)).get)
    # a term of several tokens is asked for as a phrase, which no more rows can hold than its rarest token
    return {term: min((rows[stem] for stem in parts), default=0) for term, parts in stems.items()}


def match_episodes(
    db: Connection, terms: Sequence[str], bonus_terms: Sequence[str], where: MemoryFilter, limit: int
) -> list[TextMatch]:
    """The `limit` best among the exchanges that hold any of the terms and pass the filter, best first.

    A bonus term adds to the score of an exchange that holds one of the terms, and finds none by itself: that
    costs a fraction of what finding by it would.
    """
    if not terms:
        return []
    expression = any_word(terms)
    if bonus_terms:
        # FTS5 has no optional words. The second part holds wherever the first does; it is there for its
        # score, in which the terms of the first count twice.
        expression = f"({expression}) AND ({any_word((*terms, *bonus_terms))})"
    return _match(db, expression, where, limit)


def place_episodes(db: Connection, ids: Iterable[int]) -> dict[int, EpisodePlace]:
    """Where each of the exchanges stands, by id; one that is gone has no place."""
    places: list[tuple[int, int, int | None]] = msgspec.json.decode(
        db.execute(SELECT_PLACES, (_json(list(ids)),)).get
    )
    return {id_: EpisodePlace(created_at, previous) for id_, created_at, previous in places}


def any_word(words: Iterable[str]) -> str:
    """An FTS5 expression that asks for any of the words; nothing in them is syntax."""
    return " OR ".join(_quoted(words))


def _different_words(db: Connection, query: str) -> list[str]:
    """The words that all must be found: each stem once, since its repetition asks for nothing more.

    A word of several tokens ("well-known") must be found as it stands; one of none ("-", an emoji) is nothing.

    Raises:
        InvalidParams: more of them than a query may have.
    """
    tokenizer = db.fts5_tokenizer(*TOKENIZER)
    by_stems: dict[tuple[str, ...], str] = {}
    for word in query.replace("\0", " ").split():
        if stems := tuple(_stems(tokenizer, word)):
            by_stems.setdefault(stems, word)
    if len(by_stems) > MAX_WORDS:
        raise InvalidParams(fields=(FieldError("query", f"at most {MAX_WORDS} different words"),))
    return list(by_stems.values())


def _hold_expression(expression: str) -> None:
    """Refuse an FTS5 expression that SQLite would read only in part, or could not stop evaluating.

    Raises:
        InvalidParams: it is one of these.
    """
    if "\0" in expression:
        raise InvalidParams(fields=(FieldError("query", "an FTS5 expression without NUL"),))
    if len(_FTS5_PHRASE.findall(expression)) > MAX_PHRASES:
        raise InvalidParams(fields=(FieldError("query", f"an FTS5 expression of at most {MAX_PHRASES} words"),))


def _stems(tokenizer: apsw.FTS5Tokenizer, term: str) -> list[str]:
    tokens = tokenizer(
        term.encode(), apsw.FTS5_TOKENIZE_QUERY, None, include_offsets=False, include_colocated=False
    )
    return cast("list[str]", tokens)  # without offsets and synonyms a token is its text


def _quoted(words: Iterable[str]) -> Iterable[str]:
    # FTS5 reads its expression only up to a NUL
    return ('"' + word.replace("\0", " ").replace('"', '""') + '"' for word in words)


def _match(db: Connection, expression: str, where: MemoryFilter, limit: int) -> list[TextMatch]:
    conditions, values = filter_conditions(where)
    sql = MATCH_FILTERED_EPISODES.format(conditions=conditions) if values else MATCH_EPISODES
    found: list[tuple[int, float]] = msgspec.json.decode(db.execute(sql, (expression, *values, limit)).get)
    matches = [TextMatch(id_, float(score)) for id_, score in found]
    matches.sort(key=lambda match: (-match.score, -match.id))
    return matches


def _json(values: Sequence[str] | Sequence[int]) -> str:
    return msgspec.json.encode(values).decode()

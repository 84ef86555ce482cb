"""Words to rows: the full-text indexes over every kind of memory.

Owns the queries that FTS5 is asked and how words are quoted for it; each table is told by a small description.
Which terms are worth asking for is the caller's choice, and so is a condition on the rows. The larger answers come
as one row of JSON: between two rows SQLite gives the interpreter's lock away, and a busy loop takes its time to
give it back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import apsw
import msgspec

from nexusd.errors import FieldError, InvalidParams
from nexusd.store.connection import Connection

# How the full-text indexes cut and stem, so that a term finds its place in the vocabulary.
TOKENIZER = ("porter", ["unicode61", "remove_diacritics", "2"])

# how many rows hold each of the stems, 0 for those that are in none
COUNT_STEM_ROWS = """
SELECT json_group_object(stem.value, coalesce((SELECT doc FROM {name}_terms WHERE term = stem.value), 0))
FROM json_each(?) AS stem"""

# the best matches of an expression, and which of equals is the newer row
MATCH = """
SELECT json_group_array(json_array(id, score)) FROM (
    SELECT f.rowid AS id, -bm25({name}_fts) AS score FROM {name}_fts f
    WHERE {name}_fts MATCH ? ORDER BY score DESC, id DESC LIMIT ?)"""

# the same among the rows that meet a condition; CROSS JOIN keeps the full-text index the outer loop, which visits
# the matched rows only
MATCH_CONDITIONED = """
SELECT json_group_array(json_array(id, score)) FROM (
    SELECT f.rowid AS id, -bm25({name}_fts) AS score
    FROM {name}_fts f CROSS JOIN {name} {alias} ON {alias}.id = f.rowid
    WHERE {name}_fts MATCH ? AND {condition} ORDER BY score DESC, id DESC LIMIT ?)"""

# the best by a weight of the caller's for each term: [expression, factor, most] of every one. Materialised, since
# FTS5 scores a row only while it stands on it.
MATCH_WEIGHTED = """
WITH found AS MATERIALIZED (
    SELECT f.rowid AS id, min(-bm25({name}_fts) * (term.value ->> 1), term.value ->> 2) AS score
    FROM json_each(?) term CROSS JOIN {name}_fts f CROSS JOIN {name} {alias} ON {alias}.id = f.rowid
    WHERE {name}_fts MATCH (term.value ->> 0) AND {condition})
SELECT json_group_array(json_array(id, score)) FROM (
    SELECT id, sum(score) AS score FROM found GROUP BY id ORDER BY score DESC, id DESC LIMIT ?)"""

# how many rows there are: out of the lengths that bm25 keeps, a few pages even of a large table. The last id would be
# cheaper still, and far too high where rows were deleted or came with ids of their own.
COUNT_ROWS = "SELECT count(*) FROM {name}_fts_docsize"

# bm25 costs phrases x places x phrases inside one step of SQLite, where no deadline reaches: 1,000 times the same
# word on a text of 4,000 of them held a reader for 25 s.
MAX_WORDS = 64
MAX_PHRASES = 32  # of an expression, where the same word may stand again and again
_FTS5_PHRASE = re.compile(r'"(?:[^"]|"")*"|\w+')

# FTS5's own constants of bm25: what a term that more than half of the rows hold is worth, and the most that a row
# can make of a term's worth.
LEAST_WORTH = 1e-6
MOST_OF_WORTH = 2.2


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table with a full-text index: `NAME_fts`, and its vocabulary `NAME_terms`.

    `alias` is what a condition calls the row.
    """

    name: str
    alias: str


EPISODES = TextTable("episodes", "e")
ENTITIES = TextTable("entities", "n")
SUMMARIES = TextTable("summaries", "s")
MESSAGES = TextTable("messages", "m")


@dataclass(frozen=True, slots=True)
class Condition:
    """What a row must be, as SQL over the table's alias, and the values of its question marks."""

    sql: str
    values: Sequence[str | int]


class TextMatch(NamedTuple):    # not a frozen dataclass, which takes three times as long; a search makes hundreds
    """A row that the full-text index found, and its bm25 score (higher is better)."""

    id: int
    score: float


def match_words(
    db: Connection, table: TextTable, query: str, limit: int, condition: Condition | None = None
) -> list[TextMatch]:
    """The `limit` best of the rows that hold every word of a query in plain text, best first; none for no words.

    Raises:
        InvalidParams: more different words than a query may have.
    """
    words = _different_words(db, query)
    return _match(db, table, " ".join(_quoted(words)), limit, condition) if words else []


def match_expression(
    db: Connection, table: TextTable, expression: str, limit: int, condition: Condition | None = None
) -> list[TextMatch]:
    """The `limit` best of the rows that match an expression in FTS5's own language, best first.

    Raises:
        InvalidParams: the expression is none (SQLite's message says why), or one that SQLite could not stop.
    """
    _hold_expression(expression)
    try:
        return _match(db, table, expression, limit, condition)
    except apsw.SQLError as error:
        raise InvalidParams(fields=(FieldError("query", f"an FTS5 expression: {error}"),)) from error


def match_any(
    db: Connection,
    table: TextTable,
    terms: Sequence[str],
    bonus_terms: Sequence[str],
    limit: int,
    condition: Condition | None = None,
) -> list[TextMatch]:
    """The `limit` best among the rows that hold any of the terms, best first.

    A bonus term adds to the score of a row that holds one of the terms, and finds none by itself: that
    costs a fraction of what finding by it would.
    """
    if not terms:
        return []
    expression = any_word(terms)
    if bonus_terms:
        # FTS5 has no optional words. The second part holds wherever the first does; it is there for its
        # score, in which the terms of the first count twice.
        expression = f"({expression}) AND ({any_word((*terms, *bonus_terms))})"
    return _match(db, table, expression, limit, condition)


@dataclass(frozen=True, slots=True)
class Rarity:
    """How many rows there are, and how many of them hold each of some terms."""

    rows: int
    holding: Mapping[str, int]

    def worth(self, term: str) -> float:
        """What bm25 makes of a term for being rare: FTS5's own formula."""
        holding = min(self.holding[term], self.rows)
        worth = math.log((self.rows - holding + 0.5) / (holding + 0.5))
        return worth if worth > 0 else LEAST_WORTH


def match_weighted(
    db: Connection,
    table: TextTable,
    own: Rarity,
    everywhere: Rarity,
    limit: int,
    condition: Condition | None = None,
) -> list[TextMatch]:
    """The best among the rows that hold any term, each term worth what it is `everywhere`, not in this table alone.

    In a table of a few rows every word is common, and bm25 makes nothing of it; so its scores could not be compared
    with those of a large one. `own` is how rare the terms are in this table, exactly: that is taken out of its scores.
    """
    weighted = [
        (*_quoted([term]), everywhere.worth(term) / own.worth(term), MOST_OF_WORTH * everywhere.worth(term))
        for term, rows in own.holding.items()
        if rows
    ]
    sql = MATCH_WEIGHTED.format(name=table.name, alias=table.alias, condition=condition.sql if condition else "TRUE")
    values = condition.values if condition else ()
    return _matches(db, sql, (msgspec.json.encode(weighted).decode(), *values, limit))


def count_term_rows(db: Connection, table: TextTable, terms: Sequence[str]) -> dict[str, int]:
    """How many rows hold each of the terms, in the terms' order. Equal stems count the same rows."""
    tokenizer = db.fts5_tokenizer(*TOKENIZER)
    stems = {term: _stems(tokenizer, term) for term in terms}
    every_stem = list({stem for parts in stems.values() for stem in parts})
    sql = COUNT_STEM_ROWS.format(name=table.name)
    rows: dict[str, int] = msgspec.json.decode(db.execute(sql, (msgspec.json.encode(every_stem).decode(),)).get)
    # a term of several tokens is asked for as a phrase, which no more rows can hold than its rarest token
    return {term: min((rows[stem] for stem in parts), default=0) for term, parts in stems.items()}


def count_rows(db: Connection, table: TextTable) -> int:
    """How many rows there are."""
    rows: int = db.execute(COUNT_ROWS.format(name=table.name)).get
    return rows


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


def _match(
    db: Connection, table: TextTable, expression: str, limit: int, condition: Condition | None
) -> list[TextMatch]:
    if condition is None:
        return _matches(db, MATCH.format(name=table.name), (expression, limit))
    sql = MATCH_CONDITIONED.format(name=table.name, alias=table.alias, condition=condition.sql)
    return _matches(db, sql, (expression, *condition.values, limit))


def _matches(db: Connection, sql: str, values: tuple[str | int, ...]) -> list[TextMatch]:
    found: list[tuple[int, float]] = msgspec.json.decode(db.execute(sql, values).get)
    matches = [TextMatch(id_, float(score)) for id_, score in found]
    matches.sort(key=lambda match: (-match.score, -match.id))
    return matches

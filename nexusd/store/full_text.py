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

from nexusd.errors import InvalidParams
from nexusd.field_errors import FieldError
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

# how much of what it could a row makes of each term, from 0 to 1: [number of the term, word, factor] of every one.
# Materialised, since FTS5 scores a row only while it stands on it; the plus, since FTS5 would otherwise look each row
# up in each term by itself, which takes thirty times as long.
MATCH_PARTS = """
WITH
    asked AS MATERIALIZED (
        SELECT value ->> 0 AS term, value ->> 1 AS word, value ->> 2 AS factor FROM json_each(?)),
    part AS MATERIALIZED (
        SELECT f.rowid AS id, asked.term AS term, min(-bm25({name}_fts) * asked.factor, 1.0) AS part
        FROM asked CROSS JOIN {name}_fts f
        WHERE {name}_fts MATCH asked.word AND +f.rowid IN (SELECT value FROM json_each(?)))
SELECT json_group_array(json_array(id, term, part)) FROM part"""

# which of some rows hold each word, without a score: a third of the time, for words that many rows hold
MATCH_PRESENT = """
SELECT json_group_array(json_array(f.rowid, asked.value ->> 0))
FROM json_each(?) asked CROSS JOIN {name}_fts f
WHERE {name}_fts MATCH (asked.value ->> 1) AND +f.rowid IN (SELECT value FROM json_each(?))"""

# of the rows that meet a condition: how many hold each term, and the best of them; [number of the term, expression] of
# every one. One pass for both: to look a matched row up costs more than to score it.
MATCH_COUNTED = """
WITH
    asked AS MATERIALIZED (SELECT value ->> 0 AS term, value ->> 1 AS expression FROM json_each(?)),
    found AS MATERIALIZED (
        SELECT f.rowid AS id, asked.term AS term, -bm25({name}_fts) AS score
        FROM asked CROSS JOIN {name}_fts f CROSS JOIN {name} {alias} ON {alias}.id = f.rowid
        WHERE {name}_fts MATCH asked.expression AND {condition}),
    best AS (SELECT id, sum(score) AS score FROM found GROUP BY id ORDER BY score DESC, id DESC LIMIT ?),
    counted AS (SELECT term, count(*) AS rows FROM found GROUP BY term)
SELECT json_array(
    json((SELECT json_group_array(json_array(id, score)) FROM best)),
    json((SELECT json_group_array(json_array(term, rows)) FROM counted)))"""

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
ONCE = 1 / MOST_OF_WORTH    # of the most that a row can make of a word: standing once in a row of ordinary length


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
    words: Sequence[str],
    bonus_words: Sequence[str],
    limit: int,
    condition: Condition | None = None,
) -> list[TextMatch]:
    """The `limit` best among the rows that hold any of the words, best first.

    A bonus word adds to the score of a row that holds one of the words, and finds none by itself: that
    costs a fraction of what finding by it would.
    """
    if not words:
        return []
    expression = any_word(words)
    if bonus_words:
        # FTS5 has no optional words. The second part holds wherever the first does; it is there for its
        # score, in which the words of the first count twice.
        expression = f"({expression}) AND ({any_word((*words, *bonus_words))})"
    return _match(db, table, expression, limit, condition)


def worth(rows: float, holding: float) -> float:
    """What bm25 makes of a word for being rare: FTS5's own formula."""
    holding = min(holding, rows)
    rare = math.log((rows - holding + 0.5) / (holding + 0.5))
    return rare if rare > 0 else LEAST_WORTH


def match_parts(
    db: Connection,
    table: TextTable,
    scored: Sequence[tuple[int, str, int]],
    present: Sequence[tuple[int, str]],
    ids: Iterable[int],
) -> list[tuple[int, int, float]]:
    """(id, number of the term, how much of what it could the row makes of it) for rows of these ids.

    Each of `scored` is the number of a term, a word of it and how many rows hold that: out of bm25 is taken what the
    word is worth in this table, and left is how often it stands in the row, for the row's length. A word of
    `present` is only looked for, and counts as one that stands once in a row of ordinary length.
    """
    among = _json(list(ids))
    found: list[tuple[int, int, float]] = []
    rows = count_rows(db, table)
    asked = [
        (term, *_quoted([word]), 1 / (MOST_OF_WORTH * worth(rows, holding)))
        for term, word, holding in scored
        if holding
    ]
    if asked:
        found += msgspec.json.decode(db.execute(MATCH_PARTS.format(name=table.name), (_json(asked), among)).get)
    if present:
        words = [(term, *_quoted([word])) for term, word in present]
        there = msgspec.json.decode(db.execute(MATCH_PRESENT.format(name=table.name), (_json(words), among)).get)
        found += [(id_, term, ONCE) for id_, term in there]
    return found


def match_counted(
    db: Connection, table: TextTable, terms: Mapping[int, Sequence[str]], limit: int, condition: Condition
) -> tuple[list[TextMatch], dict[int, int]]:
    """As `match_any` among the rows that meet the condition, and how many of these hold any word of each term."""
    asked = [(term, any_word(words)) for term, words in terms.items()]
    sql = MATCH_COUNTED.format(name=table.name, alias=table.alias, condition=condition.sql)
    found, rows = msgspec.json.decode(db.execute(sql, (_json(asked), *condition.values, limit)).get)
    return _in_order(found), dict.fromkeys(terms, 0) | dict(rows)


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


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


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
    return _in_order(msgspec.json.decode(db.execute(sql, values).get))


def _in_order(found: Iterable[tuple[int, float]]) -> list[TextMatch]:
    matches = [TextMatch(id_, float(score)) for id_, score in found]
    matches.sort(key=lambda match: (-match.score, -match.id))
    return matches

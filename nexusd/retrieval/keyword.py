"""The keyword engine: from a query to candidates of every kind of memory, and what the words make of any row.

Owns which terms are asked for and what each is worth; a search asks twice: once for the rows that the words find, and
once, when both engines have answered, for what each candidate and its neighbours hold of the query.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from nexusd.model.memory import Collection, MemoryFilter
from nexusd.retrieval.terms import ROW_BUDGET, ChosenTerms, choose_terms, query_terms
from nexusd.retrieval.times import Span
from nexusd.retrieval.word_forms import forms_of
from nexusd.store.connection import Connection
from nexusd.store.full_text import count_rows, count_term_rows, match_any, match_counted, match_parts
from nexusd.store.memory_filter import TEXT_TABLES, filter_condition, within_spans
from nexusd.store.recall import Key, by_collection

# Common words beside the budget of rows are looked for among the candidates alone, which costs a third as much; those
# that a tenth of a hundred thousand rows hold tell little.
PRESENT_BUDGET = 2 * ROW_BUDGET
MAX_WORDS_IN_FORMS = 20     # a longer query is a text, and finds what it is about without them


@dataclass(frozen=True, slots=True)
class Term:
    """A word of the query in its forms. `holding` says how many rows of each collection hold each of them."""

    forms: tuple[str, ...]
    holding: Mapping[Collection, Mapping[str, int]]

    def rows(self, collection: Collection) -> int:
        """How many rows hold it, at most."""
        return sum(self.holding[collection].values())


@dataclass(frozen=True, slots=True)
class KeywordAnswer:
    """What the words found. `cut_off` are the collections that may hold more than was asked for.

    `terms` are all of the query's, `worths` what each is worth; a place in one is a place in the other.
    """

    found: frozenset[Key] = frozenset()
    chosen: ChosenTerms = field(default_factory=lambda: ChosenTerms((), ()))
    cut_off: frozenset[Collection] = frozenset()
    terms: tuple[Term, ...] = ()
    worths: tuple[float, ...] = ()
    chosen_in: Mapping[Collection, frozenset[int]] = field(default_factory=dict)


# What a row makes of each term, from 0 to 1; terms that it does not hold are left out.
Parts = Mapping[Key, Mapping[int, float]]


def find_by_words(
    db: Connection,
    query: str,
    depths: Mapping[Collection, int],
    where: MemoryFilter,
    spans: Sequence[Span] = (),
    row_budget: int = ROW_BUDGET,
) -> KeywordAnswer:
    """Ask for any of the query's terms, the rarest first under the budget of rows; so many best of each table.

    And so many again of the times that the query speaks of, which else might be behind many others.
    """
    words = query_terms(query)
    terms = _counted(db, words, depths)
    found: set[Key] = set()
    cut_off: set[Collection] = set()
    chosen_in: dict[Collection, frozenset[int]] = {}
    passing: dict[Collection, dict[int, int]] = {}
    for collection, depth in depths.items():
        chosen = choose_terms({word: term.rows(collection) for word, term in terms.items()}, row_budget)
        chosen_in[collection] = frozenset(words.index(word) for word in chosen.asked)
        table, condition = TEXT_TABLES[collection], filter_condition(where, TEXT_TABLES[collection])
        asked = [form for word in chosen.asked for form in terms[word].forms]
        dropped = [form for word in chosen.dropped for form in terms[word].forms]
        if condition is None:
            matches = match_any(db, table, asked, dropped, depth)
        else:
            forms = {words.index(word): terms[word].forms for word in chosen.asked}
            matches, passing[collection] = match_counted(db, table, forms, depth, condition)
        if len(matches) == depth:
            cut_off.add(collection)
            if spans:
                matches += match_any(db, table, asked, dropped, depth, within_spans(condition, table, spans))
        found.update((collection, match.id) for match in matches)
    return KeywordAnswer(
        found=frozenset(found),
        chosen=_chosen_anywhere(words, terms, chosen_in, depths),
        cut_off=frozenset(cut_off),
        terms=tuple(terms.values()),
        worths=_worths(db, list(terms.values()), chosen_in, passing),
        chosen_in=chosen_in,
    )


def measure_words(db: Connection, answer: KeywordAnswer, keys: Iterable[Key]) -> Parts:
    """What each of the rows makes of the query's terms.

    A term that the budget had no room for counts as there or not; the most common ones do not count at all.
    """
    parts: dict[Key, dict[int, float]] = {}
    for collection, ids in by_collection(keys).items():
        scored: list[tuple[int, str, int]] = []
        common: list[tuple[int, str, int]] = []
        for number, term in enumerate(answer.terms):
            forms = [(number, form, rows) for form, rows in term.holding.get(collection, {}).items() if rows]
            (scored if number in answer.chosen_in[collection] else common).extend(forms)
        present, left = [], PRESENT_BUDGET
        for number, form, rows in sorted(common, key=lambda each: each[2]):
            left -= rows
            if left >= 0:
                present.append((number, form))
        for id_, number, part in match_parts(db, TEXT_TABLES[collection], scored, present, ids):
            of_row = parts.setdefault((collection, id_), {})
            of_row[number] = max(part, of_row.get(number, 0.0))     # two forms of a word are one word
    return parts


def _counted(db: Connection, words: Sequence[str], collections: Iterable[Collection]) -> dict[str, Term]:
    forms = {word: forms_of(word) if len(words) <= MAX_WORDS_IN_FORMS else (word,) for word in words}
    every = list(dict.fromkeys(form for of_word in forms.values() for form in of_word))
    rows = {collection: count_term_rows(db, TEXT_TABLES[collection], every) for collection in collections}
    return {
        word: Term(of_word, {name: {form: counted[form] for form in of_word} for name, counted in rows.items()})
        for word, of_word in forms.items()
    }


def _worths(
    db: Connection,
    terms: Sequence[Term],
    chosen_in: Mapping[Collection, frozenset[int]],
    passing: Mapping[Collection, Mapping[int, int]],
) -> tuple[float, ...]:
    """What each term is worth for being rare among the rows that pass the filter, of all collections together.

    Among those and not among all: in one person's talks that person's name tells nothing. Worth 2 points among the
    first ten where a question is asked of one project. `passing` says how many of the rows that pass hold each chosen
    term. How many pass at all is reckoned from that: to count them could take longer than the search.
    """
    total, holding = 0.0, [0.0] * len(terms)
    for collection, chosen in chosen_in.items():
        rows = count_rows(db, TEXT_TABLES[collection])
        everywhere = [min(term.rows(collection), rows) for term in terms]
        counted = passing.get(collection)
        share = 1.0
        if counted is not None:
            share = min((sum(counted.values()) + 0.5) / (sum(everywhere[number] for number in chosen) + 0.5), 1.0)
        here = [(counted or {}).get(number, share * count) for number, count in enumerate(everywhere)]
        total += max(share * rows, *here, 0.0)
        holding = [sum(pair) for pair in zip(holding, here, strict=True)]
    # BM25 as Lucene has it, which unlike FTS5's own is above 0 for a word that most rows hold
    return tuple(math.log(1 + (total - count + 0.5) / (count + 0.5)) for count in holding)


def _chosen_anywhere(
    words: Sequence[str],
    terms: Mapping[str, Term],
    chosen_in: Mapping[Collection, frozenset[int]],
    collections: Iterable[Collection],
) -> ChosenTerms:
    """Rarest first over all tables; dropped are those that any table had no room for."""
    names = list(collections)
    rarest_first = sorted(words, key=lambda word: sum(terms[word].rows(name) for name in names))
    dropped = {word for number, word in enumerate(words) if any(number not in chosen_in[name] for name in names)}
    return ChosenTerms(
        tuple(word for word in rarest_first if word not in dropped),
        tuple(word for word in rarest_first if word in dropped),
    )

"""The keyword engine: from a query to candidates of every kind of memory, as one read of the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nexusd.model.memory import Collection, MemoryFilter
from nexusd.retrieval.fusion import Candidates
from nexusd.retrieval.terms import ROW_BUDGET, ChosenTerms, choose_terms, query_terms
from nexusd.store.connection import Connection
from nexusd.store.full_text import (
    Rarity,
    TextMatch,
    count_rows,
    count_term_rows,
    match_any,
    match_weighted,
)
from nexusd.store.memory_filter import TEXT_TABLES, filter_condition
from nexusd.store.recall import Key

FEW_ROWS = 10_000  # past this a table is large enough to tell by itself how rare a word is


@dataclass(frozen=True, slots=True)
class KeywordAnswer:
    """What the words found. `cut_off` are the collections that may hold more than was asked for."""

    candidates: Candidates
    terms: ChosenTerms
    cut_off: frozenset[Collection]


def find_by_words(
    db: Connection,
    query: str,
    depths: Mapping[Collection, int],
    where: MemoryFilter,
    row_budget: int = ROW_BUDGET,
) -> KeywordAnswer:
    """Ask for any of the query's terms, the rarest first under the budget of rows; so many best of each table."""
    asked = query_terms(query)
    holding = {collection: count_term_rows(db, TEXT_TABLES[collection], asked) for collection in depths}
    chosen = {collection: choose_terms(rows, row_budget) for collection, rows in holding.items()}
    if len(depths) == 1:
        ((only, depth),) = depths.items()
        found = {only: _match(db, only, chosen[only], where, depth)}
    else:
        found = _match_together(db, holding, chosen, where, depths)
    cut_off = frozenset(collection for collection, matches in found.items() if len(matches) == depths[collection])
    scores: dict[Key, float] = {
        (collection, match.id): match.score for collection, matches in found.items() for match in matches
    }
    # Not cut off: every other row holds none of the terms. That is knowledge, and makes the only row that
    # holds a rare word stand out. (One may hold a dropped term; that is a common one, and worth little.)
    absent = None if cut_off else 0.0
    return KeywordAnswer(Candidates(scores, absent), _terms_of_all(holding, chosen), cut_off)


def _match(
    db: Connection, collection: Collection, terms: ChosenTerms, where: MemoryFilter, depth: int
) -> list[TextMatch]:
    table = TEXT_TABLES[collection]
    return match_any(db, table, terms.asked, terms.dropped, depth, filter_condition(where, table))


def _match_together(
    db: Connection,
    holding: Mapping[Collection, Mapping[str, int]],
    chosen: Mapping[Collection, ChosenTerms],
    where: MemoryFilter,
    depths: Mapping[Collection, int],
) -> dict[Collection, list[TextMatch]]:
    """The best of each table, with scores that can be compared between them.

    A large table knows by itself how rare a word is; in a small one the words count as rare as they are in all
    tables together.
    """
    own = {c: Rarity(count_rows(db, TEXT_TABLES[c]), rows) for c, rows in holding.items()}
    everywhere = Rarity(sum(rarity.rows for rarity in own.values()), _summed(holding))
    found = {}
    for collection, terms in chosen.items():
        if own[collection].rows <= FEW_ROWS and not terms.dropped:
            table = TEXT_TABLES[collection]
            condition = filter_condition(where, table)
            found[collection] = match_weighted(db, table, own[collection], everywhere, depths[collection], condition)
            continue
        found[collection] = _match(db, collection, terms, where, depths[collection])
        if terms.dropped:   # there the asked terms count twice
            found[collection] = [TextMatch(match.id, match.score / 2) for match in found[collection]]
    return found


def _terms_of_all(
    holding: Mapping[Collection, Mapping[str, int]], chosen: Mapping[Collection, ChosenTerms]
) -> ChosenTerms:
    """Rarest first over all tables; dropped are those that any table had no room for."""
    rows = _summed(holding)
    rarest_first = sorted(rows, key=lambda term: rows[term])
    dropped = {term for terms in chosen.values() for term in terms.dropped}
    return ChosenTerms(
        tuple(term for term in rarest_first if term not in dropped),
        tuple(term for term in rarest_first if term in dropped),
    )


def _summed(holding: Mapping[Collection, Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for rows in holding.values():
        for term, count in rows.items():
            total[term] = total.get(term, 0) + count
    return total

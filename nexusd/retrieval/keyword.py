"""The keyword engine: from a query to candidates, as one read of the store."""

from __future__ import annotations

from dataclasses import dataclass

from nexusd.model.memory import MemoryFilter
from nexusd.retrieval.fusion import Candidates
from nexusd.retrieval.terms import ROW_BUDGET, ChosenTerms, choose_terms, query_terms
from nexusd.store.connection import Connection
from nexusd.store.episode_search import count_term_rows, match_episodes


@dataclass(frozen=True, slots=True)
class KeywordAnswer:
    """What the words found. `cut_off` when there may be more than the depth asked for."""

    candidates: Candidates
    terms: ChosenTerms
    cut_off: bool


def find_by_words(
    db: Connection, query: str, where: MemoryFilter, depth: int, row_budget: int = ROW_BUDGET
) -> KeywordAnswer:
    """Ask for any of the query's terms, the rarest first under the budget of rows; the `depth` best."""
    terms = choose_terms(count_term_rows(db, query_terms(query)), row_budget)
    matches = match_episodes(db, terms.asked, terms.dropped, where, depth)
    cut_off = len(matches) == depth
    # Not cut off: every other row holds none of the terms. That is knowledge, and makes the only row that
    # holds a rare word stand out. (One may hold a dropped term; that is a common one, and worth little.)
    absent = None if cut_off else 0.0
    return KeywordAnswer(Candidates({match.id: match.score for match in matches}, absent), terms, cut_off)

"""episodes.search: exchanges by words, in the order of full-text search alone."""

from __future__ import annotations

from nexusd.model.episodes import EpisodeMatch, EpisodeMatches, SearchEpisodes
from nexusd.model.memory import MemoryFilter
from nexusd.store.connection import Connection
from nexusd.store.episodes import select_episodes
from nexusd.store.full_text import EPISODES, match_expression, match_words
from nexusd.store.memory_filter import filter_condition
from nexusd.store.text_budget import TextBudget


def search_episodes(db: Connection, params: SearchEpisodes) -> EpisodeMatches:
    """The exchanges that hold every word of the query, or match its FTS5 expression, best first.

    Raises:
        InvalidParams: the FTS5 expression is none, or the query asks for too many words.
    """
    where = MemoryFilter(session_id=params.session_id)
    match = match_words if params.syntax == "plain" else match_expression
    matches = match(db, EPISODES, params.query, params.limit, filter_condition(where, EPISODES))
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

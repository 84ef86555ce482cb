"""memory.context: what is worth knowing for a prompt, as one text within a budget of tokens.

Owns the choice of exchanges, their order and their wording. Deterministic, without a language model: the same
store and parameters give the same text. Knows neither engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from nexusd.model.episodes import Episode
from nexusd.model.memory import BuildContext, ContextItem, MemoryContext, Part, SearchMemory
from nexusd.retrieval.search import MemorySearch
from nexusd.retrieval.tokens import EstimatedTokens, TokenCounter
from nexusd.store.database import Database
from nexusd.store.episodes import recent_episodes

# The running session takes half of the budget at first; what the memories leave of the other half is its own
# again.
RECENT_SHARE = 0.5

# How many hits to ask for: as many as there is room for if every exchange is a short one, and never just a
# few.
SHORT_EXCHANGE_TOKENS = 40
MIN_HITS = 10
MAX_HITS = 100

REMEMBERED_HEADING = "Earlier exchanges that may matter, oldest first:\n\n"
RECENT_HEADING = "The current conversation, oldest first:\n\n"

Reason = Literal["recent", "hit"]

_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")  # strftime's would follow the locale


@dataclass(frozen=True, slots=True)
class Piece:
    """An exchange as it would stand in the text, and what it costs there.

    One that is longer than the whole budget can only be left out: its text is empty, its cost the least it can be.
    """

    episode: Episode
    reason: Reason
    score: float | None
    text: str
    tokens: int

    def item(self) -> ContextItem:
        """What the answer says of it."""
        return ContextItem(
            collection="episodes",
            id=self.episode.id,
            reason=self.reason,
            tokens=self.tokens,
            score=self.score,
            created_at=self.episode.created_at,
        )


class _Room:
    """What is left of a budget, and the pieces that found room. A section's first piece pays its heading."""

    def __init__(self, budget: int, heading_tokens: dict[str, int]) -> None:
        self.left = budget
        self.taken: list[Piece] = []
        self._unpaid = dict(heading_tokens)

    def take(self, piece: Piece, *, keep_free: int = 0) -> bool:
        """Take the piece in if it fits and `keep_free` tokens are left; whether it did."""
        cost = piece.tokens + self._unpaid.get(piece.reason, 0)
        if cost + keep_free > self.left:
            return False
        self._unpaid.pop(piece.reason, None)
        self.left -= cost
        self.taken.append(piece)
        return True

    def of(self, reason: str) -> list[Piece]:
        """The taken pieces of a section, oldest first."""
        pieces = [piece for piece in self.taken if piece.reason == reason]
        return sorted(pieces, key=lambda piece: (piece.episode.created_at, piece.episode.id))


class ContextBuilder:
    """Builds context packages out of the store and the search."""

    def __init__(self, store: Database, search: MemorySearch, tokens: TokenCounter | None = None) -> None:
        self._store = store
        self._search = search
        self._tokens = tokens if tokens is not None else EstimatedTokens()

    async def build(self, params: BuildContext) -> MemoryContext:
        """The running session's latest exchanges and the memories that the query finds, within the budget.

        Exchanges are whole or left out. Which of the memories get in is decided by their score, best first;
        in the text they stand in the order of time, since a reader settles "yesterday" and "not any more" by
        what came later.

        Raises:
            Busy: the store is too slow.
        """
        recent = await self._recent_turns(params)
        shown = {piece.episode.id for piece in recent}
        hits, degraded = await self._memories(params, shown)
        room = _Room(
            params.token_budget,
            {"recent": self._tokens.count(RECENT_HEADING), "hit": self._tokens.count(REMEMBERED_HEADING)},
        )
        # Newest first, and none before one that has no room: a conversation with a hole misleads.
        newest_first = recent[::-1]
        others_share = params.token_budget - int(params.token_budget * RECENT_SHARE)
        placed = _take_while_room(room, newest_first, keep_free=others_share if hits else 0)
        left_out = [piece for piece in hits if not room.take(piece)]
        placed += _take_while_room(room, newest_first[placed:])
        left_out += newest_first[placed:]
        remembered, conversation = room.of("hit"), room.of("recent")
        return MemoryContext(
            text=_section(REMEMBERED_HEADING, remembered) + _section(RECENT_HEADING, conversation),
            tokens=params.token_budget - room.left,
            token_budget=params.token_budget,
            items=[piece.item() for piece in (*remembered, *conversation)],
            left_out=[piece.item() for piece in left_out],
            degraded=degraded,
        )

    async def _recent_turns(self, params: BuildContext) -> list[Piece]:
        """Oldest first."""
        if params.session_id is None or params.recent_turns == 0:
            return []
        episodes = await self._store.read(recent_episodes, params.session_id, params.recent_turns)
        return await self._pieces([(episode, None) for episode in episodes], "recent", params.token_budget)

    async def _memories(self, params: BuildContext, shown: set[int]) -> tuple[list[Piece], list[Part]]:
        """Best first, without what is shown already; and the parts that could not help to find them."""
        room_for = params.token_budget // SHORT_EXCHANGE_TOKENS + len(shown)
        answer = await self._search.search(
            SearchMemory(
                query=params.query,
                limit=min(max(room_for, MIN_HITS), MAX_HITS),
                filter=params.filter,
            )
        )
        found: list[tuple[Episode, float | None]] = [
            (hit.record, hit.score) for hit in answer.items if hit.id not in shown
        ]
        return await self._pieces(found, "hit", params.token_budget), answer.degraded

    async def _pieces(self, scored: Sequence[tuple[Episode, float | None]], reason: Reason, budget: int) -> list[Piece]:
        """On another thread: exchanges may hold megabytes, and counting them would hold up everybody."""
        if not scored:
            return []
        return await asyncio.to_thread(
            lambda: [self._piece(episode, reason, score, budget) for episode, score in scored]
        )

    def _piece(self, episode: Episode, reason: Reason, score: float | None, budget: int) -> Piece:
        least = self._tokens.at_least(len(episode.user_message) + len(episode.ai_response))
        if least > budget:
            return Piece(episode, reason, score, "", least)
        text = exchange_text(episode)
        return Piece(episode, reason, score, text, self._tokens.count(text))


def exchange_text(episode: Episode) -> str:
    """An exchange for people and models to read, under its date; ends in an empty line."""
    lines = [f"[{readable_time(episode.created_at)}]", f"User: {episode.user_message}"]
    if episode.ai_response:
        lines.append(f"Assistant: {episode.ai_response}")
    return "\n".join(lines) + "\n\n"


def readable_time(time_ms: int) -> str:
    """A time to the minute with its weekday, in UTC: `Mon 2023-05-08 13:56 UTC`."""
    try:
        time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms)
    except OverflowError:  # past the year 9999, which a caller may have given
        return f"{time_ms} ms after 1970-01-01 UTC"
    return f"{_WEEKDAYS[time.weekday()]} {time:%Y-%m-%d %H:%M} UTC"


def _take_while_room(room: _Room, pieces: Iterable[Piece], keep_free: int = 0) -> int:
    """Take pieces in up to the first that has no room; how many."""
    taken = 0
    for piece in pieces:
        if not room.take(piece, keep_free=keep_free):
            break
        taken += 1
    return taken


def _section(heading: str, pieces: Sequence[Piece]) -> str:
    return heading + "".join(piece.text for piece in pieces) if pieces else ""

"""memory.context: what is worth knowing for a prompt, as one text within a budget of tokens.

Owns the choice of memories: which are asked for, in which order they find room, and which share of the budget each
kind may take. Deterministic, without a language model: the same store and parameters give the same text. Knows
neither engine, and no wording.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from nexusd.errors import EmbedderUnavailable
from nexusd.model.entities import Entity
from nexusd.model.episodes import Episode
from nexusd.model.memory import (
    BuildContext,
    Collection,
    ContextShares,
    EntityHit,
    MemoryContext,
    MemoryHits,
    SearchMemory,
)
from nexusd.model.summaries import Summary
from nexusd.retrieval.mentions import possible_names
from nexusd.retrieval.pieces import HEADINGS, Line, Piece, Section, Wording, section_text
from nexusd.retrieval.search import MemorySearch
from nexusd.retrieval.tokens import EstimatedTokens, TokenCounter
from nexusd.store.context import entities_named, select_links, summaries_before
from nexusd.store.database import Database
from nexusd.store.episodes import recent_episodes
from nexusd.store.recall import Key, stocked

T = TypeVar("T")
R = TypeVar("R")

MAX_TRIMMED = 3     # of what the budget has no room for: the end of a budget is soon used up, and cut texts tell less

# A memory up to this long is read, and listed among what was left out, also when the budget has no room for it.
ALWAYS_READ_CHARACTERS = 64 * 1024

# How many hits to ask for: as many as there is room for if every exchange is a short one, and never just a
# few. Entities and summaries come beside them, so many at most.
SHORT_EXCHANGE_TOKENS = 40
MIN_HITS = 10
MAX_HITS = 100
BESIDES: dict[Collection, int] = {"entities": 20, "summaries": 10}

ENTITIES: tuple[Collection, ...] = ("entities",)
MAX_SUMMARIES_SO_FAR = 10
MAX_NAMED = 20          # entities that the texts name
MAX_LINKS = 8           # relationships of one entity
# A hit of at least this share of the best one's score was meant by the query; below it a name in the texts tells more.
MEANT = 0.5


class _Room:
    """What is left of a budget, and the pieces that found room. A section's first piece pays for its heading."""

    def __init__(self, budget: int, wording: Wording, shares: ContextShares) -> None:
        self.left = budget
        self.taken: list[Piece] = []
        self._unpaid = {section: wording.frame(section) for section in HEADINGS}
        first: dict[Section, float] = {
            "known": shares.known, "so_far": shares.so_far, "summaries": shares.summaries,
        }
        self._share_left = {section: int(share * budget) for section, share in first.items()}

    def take(self, piece: Piece, *, keep_free: int = 0, within_share: bool = False) -> bool:
        """Take the piece in if it fits and `keep_free` tokens are left; whether it did.

        `within_share` holds its section to the share that it may take at first.
        """
        cost = piece.tokens + self._unpaid.get(piece.section, 0)
        share_left = self._share_left.get(piece.section, cost)
        if cost + keep_free > self.left or (within_share and cost > share_left):
            return False
        self._unpaid.pop(piece.section, None)
        if piece.section in self._share_left:
            self._share_left[piece.section] = share_left - cost
        self.left -= cost
        self.taken.append(piece)
        return True

    def left_for(self, section: Section) -> int:
        """Tokens that a further piece of the section may cost."""
        return self.left - self._unpaid.get(section, 0)

    def of(self, section: Section) -> list[Piece]:
        """The taken pieces of a section: entities as they were taken, all else oldest first."""
        pieces = [piece for piece in self.taken if piece.section == section]
        if section == "known":
            return pieces
        return sorted(pieces, key=lambda piece: (piece.created_at, piece.id, piece.collection))


@dataclass(frozen=True, slots=True)
class _Known:
    """An entity that may get in, and its relationships."""

    piece: Piece
    lines: Sequence[Line]


@dataclass(frozen=True, slots=True)
class _Found:
    """What a package may be made of: the running session's turns, oldest first, its summaries, and the hits."""

    recent: Sequence[Episode]
    so_far: Sequence[Summary]
    answer: MemoryHits


class ContextBuilder:
    """Builds context packages out of the store and the search."""

    def __init__(
        self,
        store: Database,
        search: MemorySearch,
        estimate: TokenCounter | None = None,
        *,
        of_model: Callable[[], TokenCounter | None] = lambda: None,
    ) -> None:
        """`of_model` counts a package by the model that serves, where that can; `estimate` counts where it cannot."""
        self._store = store
        self._search = search
        self._estimate = estimate if estimate is not None else EstimatedTokens()
        self._of_model = of_model

    async def build(self, params: BuildContext) -> MemoryContext:
        """The running session, the memories that the query finds, and the entities that they touch, within the budget.

        Exchanges are whole as long as there is room for any; then come beginnings of the best that had none. Which of
        the memories get in is decided by their score, best first; in the text they stand in the order of time, since
        a reader settles "yesterday" and "not any more" by what came later.

        Raises:
            Busy: the store is too slow.
        """
        recent = await self._recent_turns(params)
        so_far = await self._so_far(params, recent)
        of_model = self._of_model()
        answer = await self._hits(params, len(recent), of_model or self._estimate)
        found = _Found(recent, so_far, answer)
        if of_model is not None and "embedder" not in answer.degraded:
            # one that did not embed the query will not count either; one that goes away in between counts nothing
            with contextlib.suppress(EmbedderUnavailable):
                return await self._package(params, found, of_model)
        return await self._package(params, found, self._estimate)

    async def _package(self, params: BuildContext, found: _Found, tokens: TokenCounter) -> MemoryContext:
        """What was found as a package, every piece of it counted by the same counter."""
        answer, wording = found.answer, Wording(tokens, params.token_budget)
        recent = await _elsewhere(
            found.recent, lambda episode: wording.piece("episodes", episode, "recent", "recent", None)
        )
        so_far = await _elsewhere(
            found.so_far, lambda summary: wording.piece("summaries", summary, "so_far", "summary", None)
        )
        shown = {(piece.collection, piece.id) for piece in (*recent, *so_far)}
        shown |= {(memory.collection, memory.id) for memory in params.exclude}
        hits = await self._pieces_of_hits(answer, shown, wording)
        entity_hits = [
            hit for hit in answer.items if isinstance(hit, EntityHit) and (hit.collection, hit.id) not in shown
        ]
        anything_known = bool(self._store.peek(stocked, ENTITIES))

        room = await asyncio.to_thread(_Room, params.token_budget, wording, params.shares)
        # Newest first, and none before one that has no room: a conversation with a hole misleads.
        newest_first = recent[::-1]
        others_share = params.token_budget - int(params.token_budget * params.shares.recent)
        others = bool(hits or so_far or anything_known)
        placed = _take_while_room(newest_first, lambda piece: room.take(piece, keep_free=others_share if others else 0))
        summed_up = _take_while_room(so_far, lambda piece: room.take(piece, within_share=True))
        known_share = int(params.token_budget * params.shares.known) if anything_known else 0
        waiting = [piece for piece in hits if not room.take(piece, keep_free=known_share, within_share=True)]
        known = await self._known(params, entity_hits, room.taken, wording) if anything_known else []
        described = _Described(room)
        known = [entity for entity in known if not described.take(entity, within_share=True)]

        # What one did not need is the others'.
        left_out = [piece for piece in waiting if not room.take(piece)]
        placed += _take_while_room(newest_first[placed:], room.take)
        summed_up += _take_while_room(so_far[summed_up:], room.take)
        left_out += newest_first[placed:]
        left_out += so_far[summed_up:]
        left_out += [entity.piece for entity in known if not described.take(entity)]
        left_out = await self._trimmed(answer, left_out, room, wording)

        sections = {section: room.of(section) for section in HEADINGS}
        return MemoryContext(
            text="".join(section_text(section, pieces) for section, pieces in sections.items()),
            tokens=params.token_budget - room.left,
            token_budget=params.token_budget,
            counted=tokens.name,
            items=[piece.item() for pieces in sections.values() for piece in pieces],
            left_out=[piece.item() for piece in left_out],
            degraded=answer.degraded,
            truncated=answer.truncated,
        )

    async def _trimmed(
        self, answer: MemoryHits, left_out: Sequence[Piece], room: _Room, wording: Wording
    ) -> list[Piece]:
        """Beginnings of the best memories that had no room as a whole; what is left out then."""
        records = {(hit.collection, hit.id): hit.record for hit in answer.items if not isinstance(hit, EntityHit)}
        still_out, tried = [], 0
        for piece in left_out:
            record = records.get((piece.collection, piece.id)) if piece.reason == "hit" else None
            if record is not None and tried < MAX_TRIMMED:
                tried += 1
                cut = await asyncio.to_thread(wording.trimmed, piece, record, room.left_for(piece.section))
                if cut is not None and room.take(cut):
                    continue
            still_out.append(piece)
        return still_out

    async def _recent_turns(self, params: BuildContext) -> list[Episode]:
        """Oldest first."""
        if params.session_id is None or params.recent_turns == 0:
            return []
        episodes = await self._store.read(recent_episodes, params.session_id, params.recent_turns)
        excluded = {(memory.collection, memory.id) for memory in params.exclude}
        return [episode for episode in episodes if ("episodes", episode.id) not in excluded]

    async def _so_far(self, params: BuildContext, recent: Sequence[Episode]) -> list[Summary]:
        """Summaries of what the running session was about before its recent turns, newest first."""
        if params.session_id is None:
            return []
        before = (recent[0].created_at, recent[0].id) if recent else None
        summaries = await self._store.read(summaries_before, params.session_id, before, MAX_SUMMARIES_SO_FAR)
        excluded = {(memory.collection, memory.id) for memory in params.exclude}
        return [summary for summary in summaries if ("summaries", summary.id) not in excluded]

    async def _hits(self, params: BuildContext, recent: int, tokens: TokenCounter) -> MemoryHits:
        room_for = params.token_budget // SHORT_EXCHANGE_TOKENS + recent
        limit = min(max(room_for, MIN_HITS), MAX_HITS)
        return await self._search.search(
            SearchMemory(query=params.query, limit=limit, filter=params.filter), besides=BESIDES,
            longest_text=_longest_text(params.token_budget, tokens),
        )

    async def _pieces_of_hits(self, answer: MemoryHits, shown: set[Key], wording: Wording) -> list[Piece]:
        """Best first, without what is shown already; entities have a section of their own."""
        found = [
            hit for hit in answer.items if not isinstance(hit, EntityHit) and (hit.collection, hit.id) not in shown
        ]
        return await _elsewhere(
            found,
            lambda hit: wording.piece(
                hit.collection, hit.record, "summaries" if hit.collection == "summaries" else "remembered", "hit",
                hit.score,
            ),
        )

    async def _known(
        self, params: BuildContext, hits: Sequence[EntityHit], taken: Sequence[Piece], wording: Wording
    ) -> list[_Known]:
        """The entities that matter most first: those that the query means, those named in the texts, other hits."""
        texts = (params.query, *(piece.text for piece in taken))
        names = await asyncio.to_thread(possible_names, texts)
        named = await self._store.read(entities_named, names, MAX_NAMED)
        best = max((hit.score for hit in hits), default=0.0)
        entities: dict[int, tuple[Entity, float | None]] = {}
        for hit in hits:
            if hit.score >= MEANT * best:
                entities[hit.id] = (hit.record, hit.score)
        scores = {hit.id: hit.score for hit in hits}
        excluded = {memory.id for memory in params.exclude if memory.collection == "entities"}
        for entity in (entity for entity in named if entity.id not in excluded):
            entities.setdefault(entity.id, (entity, scores.get(entity.id)))
        for hit in hits:
            entities.setdefault(hit.id, (hit.record, hit.score))
        links = await self._store.read(select_links, list(entities), MAX_LINKS)

        def described(found: tuple[Entity, float | None]) -> _Known:
            entity, score = found
            piece = wording.piece("entities", entity, "known", "entity" if score is None else "hit", score)
            return _Known(piece, [wording.line(link) for link in links[entity.id]])

        return await _elsewhere(list(entities.values()), described)


class _Described:
    """The entities that found room, each with those of its relationships that stand nowhere yet."""

    def __init__(self, room: _Room) -> None:
        self._room = room
        self._told: set[int] = set()

    def take(self, known: _Known, *, within_share: bool = False) -> bool:
        """Take the entity in with its relationships, or else without; whether it found room."""
        lines = [line for line in known.lines if line.link_id not in self._told]
        full = replace(
            known.piece,
            text=known.piece.text + "".join(line.text for line in lines),
            tokens=known.piece.tokens + sum(line.tokens for line in lines),
        )
        if self._room.take(full, within_share=within_share):
            self._told.update(line.link_id for line in lines)
            return True
        return self._room.take(known.piece, within_share=within_share)


def _longest_text(token_budget: int, tokens: TokenCounter) -> int:
    """Characters of a memory that is worth reading: a longer one has no room, and would use up all that is read."""
    characters = ALWAYS_READ_CHARACTERS
    while tokens.at_least(characters) <= token_budget:
        characters *= 2
    return characters


async def _elsewhere(records: Sequence[T], make: Callable[[T], R]) -> list[R]:
    """On another thread: memories may hold megabytes, and counting them would hold up everybody."""
    return await asyncio.to_thread(lambda: [make(record) for record in records]) if records else []


def _take_while_room(pieces: Iterable[Piece], take: Callable[[Piece], bool]) -> int:
    """Take pieces in up to the first that has no room; how many."""
    taken = 0
    for piece in pieces:
        if not take(piece):
            break
        taken += 1
    return taken

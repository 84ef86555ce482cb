"""The pieces of a context package: how each kind of memory reads, and what it costs there.

Owns the sections, their headings and the wording. Knows neither search nor store, and no budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from nexusd.model.entities import Entity
from nexusd.model.episodes import Episode
from nexusd.model.memory import Collection, ContextItem, MemoryRecord
from nexusd.model.messages import Message
from nexusd.model.summaries import Summary
from nexusd.retrieval.tokens import TokenCounter
from nexusd.store.context import NamedLink

Section = Literal["known", "summaries", "remembered", "so_far", "recent"]
Reason = Literal["recent", "summary", "hit", "entity"]

# In the order of the text: what is general first, what was said last at the end.
HEADINGS: dict[Section, str] = {
    "known": "Known of what this is about:\n\n",
    "summaries": "Summaries that may matter, oldest first:\n\n",
    "remembered": "Earlier exchanges that may matter, oldest first:\n\n",
    "so_far": "The current conversation so far, in summary, oldest first:\n\n",
    "recent": "The current conversation, oldest first:\n\n",
}
# Entities stand line by line; an empty line ends them. All other pieces bring their own.
ENDINGS: dict[Section, str] = {"known": "\n"}

# What ends a memory that is not whole.
CUT = " [...]\n\n"
LEAST_TRIMMED_CHARACTERS = 80       # of what a memory says: less tells a reader nothing
MOST_CHARACTERS_OF_TOKEN = 64       # far above what any tokenizer makes of a text

_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")  # strftime's would follow the locale


@dataclass(frozen=True, slots=True)
class Piece:
    """A memory as it would stand in the text, and what it costs there.

    One that is longer than the whole budget can only be left out: its text is empty, its cost the least it can be.
    """

    collection: Collection
    id: int
    created_at: int
    section: Section
    reason: Reason
    score: float | None
    text: str
    tokens: int
    trimmed: bool = False

    def item(self) -> ContextItem:
        """What the answer says of it."""
        return ContextItem(
            collection=self.collection,
            id=self.id,
            reason=self.reason,
            tokens=self.tokens,
            score=self.score,
            created_at=self.created_at,
            trimmed=self.trimmed,
        )


@dataclass(frozen=True, slots=True)
class Line:
    """A relationship in words, and what it costs."""

    link_id: int
    text: str
    tokens: int


class Wording:
    """Makes pieces of memories, as far as they are not longer than the budget."""

    def __init__(self, tokens: TokenCounter, budget: int) -> None:
        self._tokens = tokens
        self._budget = budget

    def piece(
        self, collection: Collection, record: MemoryRecord, section: Section, reason: Reason, score: float | None
    ) -> Piece:
        """The memory as a piece. May take long: it may hold megabytes."""
        least = self._tokens.at_least(_characters(record))
        text = "" if least > self._budget else _text(record)
        tokens = self._tokens.count(text) if text else least
        return Piece(collection, record.id, record.created_at, section, reason, score, text, tokens)

    def trimmed(self, piece: Piece, record: MemoryRecord, room: int) -> Piece | None:
        """As much of the memory's beginning as fits into so many tokens, and CUT; None if that is next to nothing."""
        text = _text(record)[: room * MOST_CHARACTERS_OF_TOKEN]
        fits, too_many = 0, len(text) + 1
        while too_many - fits > 1:  # a longer beginning never costs less
            middle = (fits + too_many) // 2
            if self._tokens.count(text[:middle] + CUT) <= room:
                fits = middle
            else:
                too_many = middle
        beginning = text[:fits].rsplit(" ", 1)[0].rstrip()
        if len(beginning) < LEAST_TRIMMED_CHARACTERS:
            return None
        beginning += CUT
        return replace(piece, text=beginning, tokens=self._tokens.count(beginning), trimmed=True)

    def line(self, link: NamedLink) -> Line:
        """The relationship as a line."""
        text = f"{_one_line(link.source)} - {_one_line(link.label)} -> {_one_line(link.target)}\n"
        return Line(link.id, text, self._tokens.count(text))

    def frame(self, section: Section) -> int:
        """What a section costs beside its pieces."""
        return self._tokens.count(HEADINGS[section]) + self._tokens.count(ENDINGS.get(section, ""))


def section_text(section: Section, pieces: Sequence[Piece]) -> str:
    """A section with its heading; nothing if it has no pieces."""
    if not pieces:
        return ""
    return HEADINGS[section] + "".join(piece.text for piece in pieces) + ENDINGS.get(section, "")


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


def _text(record: MemoryRecord) -> str:
    if isinstance(record, Episode):
        return exchange_text(record)
    if isinstance(record, Entity):
        notes = f": {record.notes.strip()}" if record.notes and record.notes.strip() else ""
        return f"{_one_line(record.name)} ({_one_line(record.type)}){notes}\n"
    time = readable_time(record.created_at)
    if isinstance(record, Summary):
        return f"[{time}]\n{record.content}\n\n"
    return f"[{time}]\n{_one_line(record.role).capitalize()}: {record.content}\n\n"


def _characters(record: MemoryRecord) -> int:
    """No more than stand in its text."""
    if isinstance(record, Episode):
        return len(record.user_message) + len(record.ai_response)
    if isinstance(record, Summary | Message):
        return len(record.content)
    return len((record.notes or "").strip())


def _one_line(text: str) -> str:
    return " ".join(text.split())

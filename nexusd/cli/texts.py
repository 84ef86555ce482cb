"""Small pieces of what a person reads: ages, sizes, counts, and memories made safe for a terminal.

Pure text in, text out. Knows no method and no terminal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# A stored text may hold anything, also sequences that would move the cursor or retitle the window.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_WORD = re.compile(r"\w+")

# Words of a question that point at nothing; shown everywhere they would hide those that do.
_UNTELLING = frozenset(
    {
        "the", "and", "but", "not", "are", "was", "were", "been", "has", "have", "had", "did", "does",
        "can", "could", "will", "would", "should", "may", "might", "must", "what", "when", "where",
        "which", "who", "whom", "whose", "why", "how", "this", "that", "these", "those", "there",
        "here", "with", "from", "for", "into", "about", "our", "your", "his", "her", "its", "their",
        "you", "she", "they", "them", "him", "any",
    }
)  # fmt: skip

_AGES = ((60, 1, "s"), (3600, 60, "min"), (86_400, 3600, "h"), (30 * 86_400, 86_400, "day"))


def safe(text: str) -> str:
    """The text with control and direction characters made visible; line ends and tabs stay."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def age(then_ms: int, now_ms: int) -> str:
    """How long ago, in one unit: `just now`, `5 min ago`, `3 days ago`, `14 months ago`."""
    seconds = (now_ms - then_ms) // 1000
    if seconds < -5:  # clocks of two machines may differ by a little
        return f"in {duration(-seconds * 1000)}"
    return "just now" if seconds < 5 else f"{duration(seconds * 1000)} ago"


def duration(milliseconds: float) -> str:
    """A span of time in the one unit that suits it."""
    seconds = milliseconds / 1000
    for below, unit_s, name in _AGES:
        if seconds < below:
            return _counted(int(seconds // unit_s), name)
    days = int(seconds // 86_400)
    return _counted(days // 30, "month") if days < 730 else _counted(days // 365, "year")


def _counted(number: int, unit: str) -> str:
    return f"{number} {unit}s" if unit in {"day", "month", "year"} and number != 1 else f"{number} {unit}"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """`1 episode`, `98,120 episodes`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def size(bytes_: float) -> str:
    """Bytes as people read them: `812 B`, `48.1 MB`."""
    if bytes_ < 1000:
        return f"{bytes_:.0f} B"
    for unit in ("kB", "MB", "GB"):
        bytes_ /= 1000
        if bytes_ < 1000:
            return f"{bytes_:.1f} {unit}"
    return f"{bytes_ / 1000:.1f} TB"


def words(query: str) -> list[str]:
    """The words of a query that are worth looking out for in a text; all of them where none is."""
    found = list(dict.fromkeys(_WORD.findall(query.lower())))
    return [word for word in found if len(word) > 2 and word not in _UNTELLING] or found


def highlights(query_words: Iterable[str]) -> re.Pattern[str] | None:
    """A pattern for words that begin as one of these do, or None without any.

    Search finds `planted` for `planting`; the longest beginning they surely share is a guess, so only
    the ending that English most often bends is left open.
    """
    stems = sorted({_stem(word) for word in query_words}, key=len, reverse=True)
    if not stems:
        return None
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, stems))})\w*", re.IGNORECASE)


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word.removesuffix(ending)
    return word


def excerpt(text: str, pattern: re.Pattern[str] | None, length: int) -> str:
    """At most about `length` characters on one line, around the first match; `…` where text was left out."""
    flat = " ".join(safe(text).split())
    if len(flat) <= length:
        return flat
    match = pattern.search(flat) if pattern else None
    start = 0
    if match is not None and match.end() > length:
        start = flat.rfind(" ", 0, max(0, match.start() - length // 3)) + 1
    end = start + length
    if end < len(flat):
        end = max(flat.rfind(" ", start, end), start + length // 2)
    return ("… " if start else "") + flat[start:end].rstrip() + (" …" if end < len(flat) else "")

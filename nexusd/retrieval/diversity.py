"""Hits that say different things: maximal marginal relevance over the words of the texts.

Owns how alike two texts are and in which order hits are taken then. Pure. By words and not by vectors: it serves every
mode and kind of memory alike, and needs nothing that a hit does not carry.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from nexusd.retrieval.terms import STOP_WORDS

T = TypeVar("T")

POOL = 3                    # times the hits wanted, to choose among: what is alike stands close together in the order
MAX_CHARACTERS = 4_000      # of one text: what two long ones are about shows in their beginnings
_WORD = re.compile(r"[^\W_]+")


def diverse(
    items: Sequence[T], limit: int, share: float, score: Callable[[T], float], text: Callable[[T], str]
) -> list[T]:
    """`limit` of the items, which come best first: each time the one that is good, and new beside those taken.

    `share` of what counts is that an item is unlike the taken ones, from 0 (the order as it is) to 1. Equal ones keep
    their order.
    """
    words = [frozenset(_WORD.findall(text(item)[:MAX_CHARACTERS].casefold())) - STOP_WORDS for item in items]
    scores = [score(item) for item in items]
    highest, lowest = max(scores, default=0.0), min(scores, default=0.0)
    span = (highest - lowest) or 1.0
    likeness = [0.0] * len(items)
    left = list(range(len(items)))
    taken: list[int] = []
    while left and len(taken) < limit:
        best = max(left, key=lambda n: ((1 - share) * (scores[n] - lowest) / span - share * likeness[n], -n))
        left.remove(best)
        taken.append(best)
        for n in left:
            likeness[n] = max(likeness[n], _alike(words[best], words[n]))
    return [items[n] for n in taken]


def _alike(one: frozenset[str], other: frozenset[str]) -> float:
    """The words in both as a share of the words in either."""
    either = len(one | other)
    return len(one & other) / either if either else 0.0

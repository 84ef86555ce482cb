"""Hits whose row is gone: dropped when they are read, and told, since the index should not hold them any more.

Owns how that is told; a search itself writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nexusd.model.fields import IndexedCollection

OnDropped = Callable[[IndexedCollection, Sequence[int]], None]


def nobody_minds(_collection: IndexedCollection, _ids: Sequence[int]) -> None:
    """An `OnDropped` for where nobody wants to know."""

"""Writes that the server may still carry out though nobody waits for them any more.

Owns which points were sent and never answered, and which removals must therefore be said again: a late upsert
replaces no newer point (see `nexusd.index.server_claim`), but it can bring back one that was removed meanwhile.
Pure: time is a parameter. What a restart of the daemon forgets here, the comparison of rows and points finds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

LASTS_S = 600.0  # a request that lay in a stalled server or a proxy for longer is not carried out any more


class Doubts:
    """Points in doubt, and their removals."""

    def __init__(self) -> None:
        self._sent: dict[tuple[str, int], float] = {}  # point -> until when its upsert may come
        self._removed: dict[tuple[str, int], tuple[int, float]] = {}  # point -> stamp of its removal, until when

    def sent(self, collection: str, ids: Iterable[int], now_s: float) -> None:
        """An upsert of these points was sent and not answered."""
        self._sent.update(dict.fromkeys(((collection, id_) for id_ in ids), now_s + LASTS_S))

    def removed(self, collection: str, ids: Iterable[int], stamp: int) -> None:
        """These points are removed, with this stamp."""
        for id_ in ids:
            until_s = self._sent.get((collection, id_))
            if until_s is not None:
                self._removed[collection, id_] = (stamp, until_s)

    def any_of(self, collection: str, ids: Iterable[int]) -> bool:
        """Whether one of these points may still come late."""
        return any((collection, id_) in self._sent for id_ in ids)

    def again(self, now_s: float) -> list[tuple[str, int, list[int]]]:
        """The removals to say again now: collection, stamp, ids."""
        self._sent = {point: until_s for point, until_s in self._sent.items() if until_s > now_s}
        self._removed = {point: each for point, each in self._removed.items() if each[1] > now_s}
        together: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
        for (collection, id_), (stamp, _) in self._removed.items():
            together[collection, stamp].append(id_)
        return [(collection, stamp, ids) for (collection, stamp), ids in together.items()]

    def forget(self, collection: str) -> None:
        """The collection goes."""
        self._sent = {point: each for point, each in self._sent.items() if point[0] != collection}
        self._removed = {point: each for point, each in self._removed.items() if point[0] != collection}

"""How many connections there may be: in all, of one peer, and of those who have not shown who they are.

Owns the counts. Knows neither sockets nor what is said to whom there is no place for.
"""

from __future__ import annotations

from nexusd.config_sections import LimitsConfig
from nexusd.errors import Busy
from nexusd.wire.peers import Peer

RETRY_BUSY_MS = 1000
# One in so many connections may be nobody's: those who have a token find room beside those who have none.
STRANGERS_SHARE = 4


class Places:
    """The connections that are in. A peer with the role `none` is a stranger until it is `known`."""

    def __init__(self, limits: LimitsConfig) -> None:
        self.limits = limits
        self.taken = 0
        self._per_peer: dict[str, int] = {}
        self._strangers: dict[str, int] = {}
        self._all_strangers = 0

    @property
    def peers(self) -> int:
        """Users and addresses that connections are of."""
        return len(self._per_peer)

    def take(self, peer: Peer) -> None:
        """One more.

        Raises:
            Busy: there are too many.
        """
        key, limits = peer.key, self.limits
        of_peer = self._per_peer.get(key, 0)
        if self.taken >= limits.max_connections:
            raise _busy(f"There are {self.taken} connections, the most that are taken.")
        if of_peer >= limits.max_connections_per_peer:
            raise _busy(f"{key} has {of_peer} connections, the most that one peer may have.")
        if is_stranger(peer):
            strangers = self._strangers.get(key, 0)
            share = max(1, limits.max_connections // STRANGERS_SHARE)
            if strangers >= limits.max_unauthenticated_per_peer or self._all_strangers >= share:
                raise _busy(f"{key} has {strangers} connections that have not logged in yet; no more are taken.")
            self._strangers[key] = strangers + 1
            self._all_strangers += 1
        self.taken += 1
        self._per_peer[key] = of_peer + 1

    def known(self, key: str) -> None:
        """A stranger of this peer has shown who it is."""
        self._all_strangers -= 1
        _less(self._strangers, key)

    def give(self, key: str, *, as_stranger: bool) -> None:
        """One less."""
        if as_stranger:
            self.known(key)
        self.taken -= 1
        _less(self._per_peer, key)


def is_stranger(peer: Peer) -> bool:
    """Whether it has yet to show who it is."""
    return peer.principal.role == "none"


def _busy(message: str) -> Busy:
    return Busy(message, retry_after_ms=RETRY_BUSY_MS)


def _less(counts: dict[str, int], key: str) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]     # or every peer there ever was would stay

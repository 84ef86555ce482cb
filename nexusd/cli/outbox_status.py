"""How far the index is behind the rows, as the daemon told it: what of it a person watches, and one plain line of it.

Knows no terminal.
"""

from __future__ import annotations

from msgspec import Struct

from nexusd.model.outbox import BreakerState


class Backlog(Struct, frozen=True, kw_only=True, rename="camel"):
    """Rows that wait for the index: all, of one collection, or for the next model's collections."""

    pending: int = 0
    inflight: int = 0
    dead: int = 0
    oldest_age_ms: int | None = None
    collection: str = ""

    @property
    def depth(self) -> int:
        """The rows that the index is owed."""
        return self.pending + self.inflight


class Breaker(Struct, frozen=True, kw_only=True, rename="camel"):
    """Why a part is left alone for a while, and for how long."""

    last_error: str | None = None
    retry_in_ms: int | None = None


class WaitingRows(Backlog, frozen=True, kw_only=True, rename="camel"):
    """What outbox.status answers; a daemon of another version may tell less."""

    rows_per_second: float = 0.0
    drain_estimate_ms: int | None = None
    embedder: BreakerState = "closed"
    index: BreakerState = "closed"
    embedder_breaker: Breaker = Breaker()
    index_breaker: Breaker = Breaker()
    collections: list[Backlog] = []
    next: Backlog | None = None

    @property
    def by_name(self) -> dict[str, Backlog]:
        """The collections, and what the next model's still lack."""
        each = {one.collection: one for one in self.collections}
        return each if self.next is None else {**each, "next model": self.next}

    @property
    def changing(self) -> object:
        """What is worth a line when it is another than before: ages and rates alone are not."""
        return self.depth, self.dead, self.embedder, self.index, {name: one.depth for name, one in self.by_name.items()}


def plain(rows: WaitingRows) -> str:
    """All of it on a line that other programs cut at blanks."""
    left = "unknown" if rows.drain_estimate_ms is None else f"{rows.drain_estimate_ms / 1000:.0f}s"
    oldest = "-" if rows.oldest_age_ms is None else f"{rows.oldest_age_ms / 1000:.0f}s"
    each = "".join(f" {name.replace(' ', '-')}={one.depth}" for name, one in rows.by_name.items() if one.depth)
    return (
        f"waiting={rows.depth} dead={rows.dead} oldest={oldest} rate={rows.rows_per_second:.0f}/s left={left}"
        f" embedder={rows.embedder} index={rows.index}{each}"
    )

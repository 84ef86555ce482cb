"""Whose a collection on a server is, and which writes to it are the newer ones.

Owns the mark that a collection carries and what becomes of it each time that the collection is looked at:

    incarnation   given when the collection is made; another one means that it was lost and begun anew
    generation    one more with each daemon that comes and takes the collection over
    writer        who took it over last: a word that each run of the daemon invents for itself

A collection that was put back to an earlier state has an earlier mark, or lacks what it acknowledged
(`nexusd.index.server_witness`): it is given a new incarnation, and counts as lost.

Every write carries a stamp made of the generation and a counter, and replaces or removes only what has a lower
one. So a write that was given up after a timeout, and that the server applies later all the same, undoes
nothing that was sent after it: the order of stamps is the order of sending, across restarts too, and no
clock is asked. Knows no client library.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Protocol

from nexusd.errors import DimensionMismatch
from nexusd.index.index import CollectionSpec
from nexusd.index.server_errors import CollectionLost, CollectionTaken, ForeignCollection
from nexusd.index.server_witness import Witness

# A filter compares stamps as doubles, which are exact up to 2**53: two million generations of eight thousand
# million writes each.
WRITES_IN_A_GENERATION = 2**33


@dataclass(frozen=True, slots=True)
class Mark:
    """What a collection says of itself."""

    incarnation: str
    generation: int
    writer: str


@dataclass(frozen=True, slots=True)
class Found:
    """A collection as it is on the server, under the name that it has there."""

    name: str
    dimension: int
    distance: str
    mark: Mark | None
    whole: bool  # whether all that belongs to it is there, such as its payload indexes
    busy: bool = False  # whether search graphs are being made
    trouble: str = ""


@dataclass(slots=True)
class Claim:
    """A collection that this run may write to."""

    spec: CollectionSpec
    mark: Mark
    busy: bool = False
    trouble: str = ""
    witness: Witness = field(default_factory=Witness)
    _writes: count[int] = field(default_factory=lambda: count(1))

    def stamp(self) -> int:
        """The stamp of the next write."""
        return self.mark.generation * WRITES_IN_A_GENERATION + next(self._writes)


class Shelf(Protocol):
    """The collections of a server, as far as a claim needs them."""

    async def look(self, name: str) -> Found | None:
        """The collection as it is; None: there is none."""

    async def create(self, spec: CollectionSpec, mark: Mark) -> None:
        """Make the collection; one that somebody else made meanwhile stays."""

    async def complete(self, name: str) -> None:
        """Make what belongs to the collection and is missing."""

    async def set_mark(self, name: str, mark: Mark) -> None:
        """Write the mark of the collection."""

    async def stamps_of(self, name: str, points: Sequence[int]) -> dict[int, int]:
        """The stamps of the writes that stored these points, of those that there are."""


async def claim(shelf: Shelf, spec: CollectionSpec, writer: str, known: Claim | None) -> Claim:
    """The collection as this run may write to it: found as it was, or taken over, or made.

    `known` is the claim of before; it is answered as it is while the collection is what it was.

    Raises:
        DimensionMismatch: it exists with another dimension or distance.
        ForeignCollection, CollectionTaken, CollectionLost: it is not ours, not ours any more, or gone again.
    """
    found = await shelf.look(spec.name)
    if found is None:
        generation = 1 if known is None else known.mark.generation + 1
        await shelf.create(spec, Mark(uuid.uuid4().hex, generation, writer))
        found = await shelf.look(spec.name)
        if found is None:
            raise CollectionLost(f"{spec.name} was made and is gone again")
    mark = _mark_of(found, spec)
    if not found.whole:
        await shelf.complete(spec.name)
    unchanged = known is not None and known.mark == mark
    if known is not None and unchanged and not await known.witness.betrayed(partial(shelf.stamps_of, spec.name)):
        known.busy, known.trouble = found.busy, found.trouble
        return known
    if known is None or known.mark.incarnation != mark.incarnation:
        incarnation = mark.incarnation
    elif mark.generation >= known.mark.generation and not unchanged:
        raise CollectionTaken(
            f"another nexusd has taken {found.name} over; if both are wanted, give one another index.collectionPrefix"
        )
    else:  # an older state of it was put back: what was written since is not in it
        incarnation = uuid.uuid4().hex
    newest = max(mark.generation, 0 if known is None else known.mark.generation)
    made_or_taken_already = mark.writer == writer and (known is None or mark.generation > known.mark.generation)
    ours = mark if made_or_taken_already else Mark(incarnation, newest + 1, writer)
    if ours != mark:
        await shelf.set_mark(spec.name, ours)
    return Claim(spec, ours, found.busy, found.trouble)


def _mark_of(found: Found, spec: CollectionSpec) -> Mark:
    if (found.dimension, found.distance) != (spec.dimension, spec.distance):
        raise DimensionMismatch(
            f"{found.name} on the server has {found.dimension} dimensions under {found.distance}, not {spec.dimension}"
            f" under {spec.distance}; remove it there, and it is made again from the rows, or set another"
            " index.collectionPrefix"
        )
    if found.mark is None:
        raise ForeignCollection(
            f"{found.name} on the server was not made by nexusd; rename or remove it there, or set another"
            " index.collectionPrefix"
        )
    return found.mark

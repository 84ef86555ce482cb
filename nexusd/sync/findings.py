"""What a walk over rows and index has found so far, and what was done about it.

Owns the counting, and the form in which it is reported. Knows neither the store nor the index.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import msgspec

from nexusd.model.fields import IndexedCollection
from nexusd.model.index import CollectionReport, FullTextReport, Mended, StoredVectorsReport

Kind = Literal[
    "missing", "stale", "orphaned", "foreign", "duplicated",
    "vectorsMissing", "vectorsOutdated", "vectorsWrongModel", "vectorsOrphaned",
    "fullTextMissing", "fullTextOrphaned",
]  # fmt: skip
Difference = Mapping[Kind, Collection[int]]  # ids by what is wrong with them

EXAMPLES = 10  # ids shown of each kind


class Findings:
    """One collection. What agrees is counted by attributes, what differs by `add`. `sound`: of the words."""

    def __init__(self, collection: IndexedCollection, *, has_words: bool) -> None:
        self.collection = collection
        self.rows = 0
        self.points = 0
        self.unindexed = 0
        self.queued = 0
        self.dead = 0
        self.stored_vectors = 0
        self.sound: bool | None = None
        self._has_words = has_words
        self._counts: dict[Kind, int] = {}
        self._examples: dict[Kind, list[int]] = {}

    def add(self, difference: Difference) -> None:
        """Note what differs."""
        for kind, ids in difference.items():
            if not ids:
                continue
            self._counts[kind] = self._counts.get(kind, 0) + len(ids)
            examples = self._examples.setdefault(kind, [])
            examples += sorted(ids)[: EXAMPLES - len(examples)]

    def count(self, kind: Kind) -> int:
        """How many differ in this way."""
        return self._counts.get(kind, 0)

    @property
    def agrees(self) -> bool:
        """Whether nothing differs."""
        return not self._counts and self.sound is not False

    def report(self) -> CollectionReport:
        """As callers see it."""
        count = self.count
        words = FullTextReport(missing=count("fullTextMissing"), orphaned=count("fullTextOrphaned"), sound=self.sound)
        return CollectionReport(
            collection=self.collection,
            rows=self.rows,
            points=self.points,
            unindexed=self.unindexed,
            queued=self.queued,
            dead=self.dead,
            missing=count("missing"),
            stale=count("stale"),
            orphaned=count("orphaned"),
            foreign=count("foreign"),
            duplicated=count("duplicated"),
            vectors=StoredVectorsReport(
                stored=self.stored_vectors,
                missing=count("vectorsMissing"),
                outdated=count("vectorsOutdated"),
                wrong_model=count("vectorsWrongModel"),
                orphaned=count("vectorsOrphaned"),
            ),
            full_text=words if self._has_words else None,
            examples={kind: list(ids) for kind, ids in self._examples.items()},
        )


class Tally:
    """What was mended, in all collections."""

    def __init__(self) -> None:
        self.mended = Mended()

    def add(
        self,
        *,
        upserts: int = 0,
        deletes: int = 0,
        full_text_rows: int = 0,
        rebuilt: str | None = None,
        vectors: int = 0,
    ) -> None:
        """Note what was done."""
        before = self.mended
        self.mended = msgspec.structs.replace(
            before,
            upserts_queued=before.upserts_queued + upserts,
            deletes_queued=before.deletes_queued + deletes,
            full_text_rows=before.full_text_rows + full_text_rows,
            full_text_rebuilt=before.full_text_rebuilt + ([] if rebuilt is None else [rebuilt]),
            vectors_forgotten=before.vectors_forgotten + vectors,
        )

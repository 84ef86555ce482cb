"""Claimed rows become what the index is sent: read, embedded where no stored vector fits, kept.

Owns the order of these steps, what each failure of the embedder means for the rows, and when so much is prepared that
the rest had better wait. Knows no index.

Rows are prepared in groups, each read at once and embedded in one call: whoever waits for a fresh row waits for one
group, however large the claim is. A text that the model refuses is buried, the rest of its group gets through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import apsw
import structlog

from nexusd.clock import Clock
from nexusd.embedding.embedder import EmbedderDied, RejectedText
from nexusd.embedding.serving import KeyedModel
from nexusd.errors import Busy, DiskFull, EmbedderUnavailable, ReadOnly
from nexusd.index.index import Point, Vector
from nexusd.store.database import Database
from nexusd.store.embeddings import save_vectors, select_vectors
from nexusd.store.meta import get_epoch
from nexusd.store.outbox import OutboxEntry
from nexusd.sync.breaker import Breaker
from nexusd.sync.setbacks import Setbacks
from nexusd.sync.sources import LOADERS, Document

PATIENCE_S = 1.0  # past the first group; who comes meanwhile is not claimed before this claim is prepared
MAX_CHARACTERS = 4 * 1024 * 1024  # of texts prepared together: their points wait in memory to be sent

Row = tuple[str, int]  # collection and id
StoredVectors = dict[int, tuple[bytes, bytes]]  # content hash and vector, by row id
FreshVector = tuple[int, int, bytes, Vector]  # row id, version, content hash and vector


@dataclass(slots=True)
class Load:
    """Rows of one collection that go to the index together; a suspect goes alone."""

    collection: str
    gone: list[OutboxEntry] = field(default_factory=list)
    changed: list[tuple[OutboxEntry, Point]] = field(default_factory=list)
    blank: list[OutboxEntry] = field(default_factory=list)  # without a text: the index is to hold nothing of them

    @property
    def entries(self) -> list[OutboxEntry]:
        """All of them."""
        return [*self.gone, *(entry for entry, _ in self.changed), *self.blank]


class Preparing:
    """From claimed rows to loads, with one model's vectors."""

    def __init__(
        self,
        store: Database,
        model: KeyedModel,
        setbacks: Setbacks,
        breaker: Breaker,
        clock: Clock,
        group_size: int,
        reached: Callable[[str], None],
    ) -> None:
        """`breaker` is the embedder's."""
        self._store = store
        self._model = model
        self._setbacks = setbacks
        self._breaker = breaker
        self._clock = clock
        self._group_size = group_size
        self._reached = reached
        self._epoch = ""
        self._log = structlog.get_logger("nexusd.outbox")

    async def prepare(self, entries: Sequence[OutboxEntry]) -> list[Load]:
        """Loads of these rows; those that are in none were given back, postponed or buried, or have changed."""
        if not self._epoch:
            self._epoch = await self._store.read(get_epoch)
        began_s, characters, served = self._clock.monotonic_s(), 0, 0
        loads: dict[str | int, Load] = {}
        ordered = sorted(entries, key=self._setbacks.suspected)
        while served < len(ordered):
            late = characters > MAX_CHARACTERS or self._clock.monotonic_s() - began_s > PATIENCE_S
            if late and served >= self._group_size:
                await self._setbacks.release(ordered[served:])
                break
            group = self._group(ordered, served)
            served += len(group)
            try:
                characters += await self._prepare_group(group, loads)
            except (Busy, DiskFull, ReadOnly):  # of the store
                raise
            except Exception as error:  # noqa: BLE001 - the top of a supervised task: logged, and the rows survive it
                self._log.exception("delivery failed")
                await self._setbacks.suspect(group, type(error).__name__)
        return list(loads.values())

    def _group(self, ordered: Sequence[OutboxEntry], start: int) -> list[OutboxEntry]:
        """The next rows that are embedded together: one, from the first suspect on."""
        group = list(ordered[start : start + self._group_size])
        for at, entry in enumerate(group):
            if self._setbacks.suspected(entry):
                return group[: max(1, at)]
        return group

    async def _prepare_group(self, group: list[OutboxEntry], loads: dict[str | int, Load]) -> int:
        """Add the group to the loads; answers how many characters its texts have."""
        entries = {(entry.collection, entry.row_id): entry for entry in group if entry.op == "upsert"}
        found = await self._store.read(_load, list(entries), self._epoch, self._model.key)
        self._reached("read")
        vectors: dict[Row, Vector] = {}
        missing: list[tuple[OutboxEntry, Document]] = []
        documents = [(entries[collection, d.id], d) for collection, (each, _) in found.items() for d in each]
        for entry, document in documents:
            content_hash, vector = found[entry.collection][1].get(document.id, (b"", b""))
            if document.vector is not None and document.vector_model == self._model.key:  # the caller's own
                vectors[entry.collection, document.id] = document.vector
            elif content_hash == document.content_hash:
                vectors[entry.collection, document.id] = vector
            elif not document.blank:
                missing.append((entry, document))
        vectors |= await self._embed(missing)
        for entry in group:
            if entry.op == "delete":
                self._load_of(entry, loads).gone.append(entry)
        # A row without a document was deleted meanwhile: its outbox row is a delete by now and stays.
        for entry, d in documents:
            if (entry.collection, d.id) in vectors:
                vector = vectors[entry.collection, d.id]
                point = Point(d.id, d.version, vector, {**d.payload, "version": d.version})
                self._load_of(entry, loads).changed.append((entry, point))
            elif d.blank:
                self._load_of(entry, loads).blank.append(entry)
        return sum(len(d.text) for _, d in documents)

    def _load_of(self, entry: OutboxEntry, loads: dict[str | int, Load]) -> Load:
        key = entry.seq if self._setbacks.suspected(entry) else entry.collection
        return loads.setdefault(key, Load(entry.collection))

    async def _embed(self, missing: list[tuple[OutboxEntry, Document]]) -> dict[Row, Vector]:
        """New vectors, kept beside their rows; what gets none now is given back or buried."""
        while missing:
            rows = [entry for entry, _ in missing]
            if (pause_s := self._breaker.pause_left_s) > 0:
                await self._setbacks.give_back(rows, pause_s)
                break
            try:
                embedded = await self._model.embedder.embed_documents([d.text for _, d in missing])
            except EmbedderUnavailable as error:
                asked_for_s = (error.retry_after_ms or 0) / 1000
                pause_s = self._breaker.failed(error.message, at_least_s=asked_for_s)
                self._log.warning("embedder unavailable", reason=error.message, retry_in_s=round(pause_s, 1))
                if isinstance(error, EmbedderDied):  # one of the texts may have killed it
                    await self._setbacks.suspect(rows, error.message)
                else:
                    await self._setbacks.give_back(rows, pause_s)
                break
            except RejectedText as error:
                entry, _ = missing.pop(error.position)
                await self._setbacks.bury(entry, error.kind, error.message)
                continue
            self._reached("embedded")
            if self._breaker.succeeded():
                self._log.info("embedder answers again")
            fresh: dict[str, list[FreshVector]] = {}
            for (entry, d), vector in zip(missing, embedded, strict=True):
                fresh.setdefault(entry.collection, []).append((d.id, d.version, d.content_hash, vector))
            dimension = self._model.embedder.fingerprint.dimension
            await self._store.write(_save, self._model.key, dimension, fresh)
            self._reached("vectors_saved")
            return {(collection, each[0]): each[3] for collection, some in fresh.items() for each in some}
        return {}


def _load(
    db: apsw.Connection, rows: Sequence[Row], epoch: str, model: str
) -> dict[str, tuple[list[Document], StoredVectors]]:
    """The rows as the index will hold them, and the vectors that are kept of them, by collection."""
    ids: dict[str, list[int]] = {}
    for collection, row_id in rows:
        ids.setdefault(collection, []).append(row_id)
    return {
        collection: (LOADERS[collection](db, some, epoch), select_vectors(db, collection, some, model))
        for collection, some in ids.items()
    }


def _save(db: apsw.Connection, model: str, dimension: int, fresh: Mapping[str, Sequence[FreshVector]]) -> None:
    for collection, some in fresh.items():
        save_vectors(db, collection, model, dimension, some)

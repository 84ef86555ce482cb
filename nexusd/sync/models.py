"""Which embedding model serves, which one comes next, which ones are kept; and their embedders.

Owns what the configuration means for the table `models`: it says which model is wanted, the table which one serves.
Where they differ, the one that serves is made again from its settings of then, and the wanted one comes next.
How the next one gets all rows is `reembed`'s; how a kept one goes is `kept`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Literal

import apsw
import msgspec
import structlog

from nexusd.clock import Clock
from nexusd.config_sections import EmbeddingConfig
from nexusd.embedding.absent import AbsentEmbedder
from nexusd.embedding.embedder import Embedder, Fingerprint
from nexusd.embedding.remade import kept_settings, settings_to_keep
from nexusd.embedding.serving import KeyedModel, Serving
from nexusd.errors import ConfigError
from nexusd.index.index import CollectionSpec
from nexusd.model.index import ModelInfo
from nexusd.store.database import Database
from nexusd.store.models import (
    StoredModel,
    abandon_next,
    begin_next,
    select_models,
    set_settings,
    take_over_pointers,
)

# Longer than a search may take: one that began before the change ends with the model that it began with.
RETIRE_AFTER_S = 15.0

Role = Literal["serving", "next"]
MakeEmbedder = Callable[[EmbeddingConfig, Callable[[bool], None]], Embedder]


class Models:
    """The models and their roles. `serving` is what searches ask; it never changes but by `adopt`."""

    def __init__(
        self,
        store: Database,
        config: EmbeddingConfig,
        clock: Clock,
        make: MakeEmbedder,
        *,
        on_answering: Callable[[Role, bool], None] = lambda _role, _up: None,
        retire_after_s: float = RETIRE_AFTER_S,
    ) -> None:
        """Makes the configured embedder; until `open` it is taken for the one that serves.

        Raises:
            ConfigError: there is no such model, or the configured dimension is not the model's.
        """
        self._store = store
        self._config = config
        self._clock = clock
        self._make = make
        self._on_answering = on_answering
        self._retire_after_s = retire_after_s
        self._configured = self._made(config)
        self._rows: list[StoredModel] = []
        self._next: KeyedModel | None = None
        self._retired: list[tuple[float, KeyedModel]] = []  # when each was, on the monotonic clock
        self._started = False
        self._changes = 0
        self.leaving: set[str] = set()  # kept ones whose collections are being removed: nothing is sent there
        self._log = structlog.get_logger("nexusd.models")
        self.serving = Serving(KeyedModel(self._configured.fingerprint.short, self._configured))

    @property
    def next(self) -> KeyedModel | None:
        """The model that is being filled."""
        return self._next

    def keep_until_ms(self) -> int:
        """Until when a model is kept that ceases to serve now."""
        return self._clock.now_ms() + int(self._config.keep_old_s * 1000)

    async def open(self) -> None:
        """Bring the table and the configuration together; after the store was opened."""
        wanted = self._wanted()
        self._rows = await self._store.write(_settle, wanted, self._clock.now_ms(), self.keep_until_ms())
        (row,) = (row for row in self._rows if row.state == "serving")
        if row.family == wanted.family:
            self.serving.adopt(KeyedModel(row.key, self._configured))
        else:
            self.serving.adopt(KeyedModel(row.key, self._made_again(row)))
            self._log.warning(
                "another embedding model is configured; the one before serves until all rows are embedded anew",
                serving=row.model, next=wanted.model,
            )
        self._take_next()

    async def start(self) -> None:
        """Start the embedders of what serves and of what comes next; does not wait for them."""
        self._started = True
        for embedder in _each_once(self._present()):
            await embedder.start()

    async def close(self) -> None:
        """Stop all of them."""
        embedders = [*self._present(), *(model.embedder for _, model in self._retired), self._configured]
        await asyncio.gather(*(embedder.close() for embedder in _each_once(embedders)))

    def _present(self) -> list[Embedder]:
        return [model.embedder for model in (self.serving.model, self._next) if model is not None]

    # --- roles ---

    def begin_anew(self, db: apsw.Connection, now_ms: int) -> ModelInfo | None:
        """Let the configured model come next under a key of its own, though its name serves; in a transaction.

        None where a model comes next already.
        """
        if any(row.state == "next" for row in select_models(db)):
            return None
        return _told(begin_next(db, self._wanted(), now_ms, anew=True))

    async def look_again(self) -> None:
        """What the table says now: a next model was begun there, or a kept one is gone."""
        seen = -1
        while seen != self._changes:  # what was read before a change says nothing any more
            seen = self._changes
            rows = await self._store.read(select_models)
        self._rows = rows
        if self._next is None and (begun := self._take_next()) is not None and self._started:
            await begun.embedder.start()

    def adopt(self, rows: list[StoredModel]) -> None:
        """The next model serves from now on; what served is closed when no search asks it any more."""
        assert self._next is not None  # noqa: S101  whoever calls has filled it; for the type checker
        self._retired.append((self._clock.monotonic_s(), self.serving.model))
        self.serving.adopt(self._next)
        self._configured, self._next, self._rows = self._next.embedder, None, rows
        self._changes += 1

    async def close_retired(self) -> float | None:
        """Close those that nobody asks any more; answers in how many seconds the next one may be, if there is one."""
        now_s = self._clock.monotonic_s()
        over = [model for since_s, model in self._retired if now_s >= since_s + self._retire_after_s]
        self._retired = [(since_s, model) for since_s, model in self._retired if model not in over]
        for embedder in _each_once(model.embedder for model in over):
            if embedder is not self.serving.model.embedder:
                await embedder.close()
        left = [since_s + self._retire_after_s - now_s for since_s, _ in self._retired]
        return min(left) if left else None

    # --- kept ones ---

    def kept_collections(self, collection: str) -> list[CollectionSpec]:
        """The collections of kept models: deletes go to them too."""
        return [
            CollectionSpec(f"{collection}-{row.key}", row.dimension)
            for row in self._rows
            if row.state == "kept" and row.dimension and row.key not in self.leaving
        ]

    def due(self) -> list[StoredModel]:
        """Kept models whose time is over, and that no search asks any more."""
        asked = {model.key for _, model in self._retired}
        now_ms = self._clock.now_ms()
        return [row for row in self._kept_rows() if (row.keep_until_ms or 0) <= now_ms and row.key not in asked]

    def next_due_ms(self) -> int | None:
        """When the next kept model's time is over."""
        return min((row.keep_until_ms or 0 for row in self._kept_rows()), default=None)

    def _kept_rows(self) -> list[StoredModel]:
        return [row for row in self._rows if row.state == "kept"]

    # --- what is told ---

    def kept(self) -> list[ModelInfo]:
        """The models that are kept."""
        return [_told(row) for row in self._kept_rows()]

    def info(self, model: KeyedModel) -> ModelInfo:
        """A model that serves or comes next."""
        row = next((row for row in self._rows if row.key == model.key), None)
        answers = {"ready": True, "unavailable": False}.get(model.embedder.health().state)
        return _told(row or self._row(model), answers=answers)

    # --- embedders ---

    def _wanted(self) -> StoredModel:
        return self._row(KeyedModel(self._configured.fingerprint.short, self._configured))

    def _row(self, model: KeyedModel) -> StoredModel:
        fingerprint = model.embedder.fingerprint
        return StoredModel(
            key=model.key, state="serving", provider=fingerprint.provider, model=fingerprint.model,
            dimension=fingerprint.dimension, prefix=fingerprint.prefix,
            settings=settings_to_keep(self._config, fingerprint.dimension), filled={}, since_ms=self._clock.now_ms(),
        )  # fmt: skip

    def _take_next(self) -> KeyedModel | None:
        row = next((row for row in self._rows if row.state == "next"), None)
        if row is not None:
            # its own, where the same name serves: other weights, and other vectors of the same questions
            shared = self.serving.model.embedder is self._configured
            self._next = KeyedModel(row.key, self._made(self._config) if shared else self._configured)
        return self._next

    def _made(self, config: EmbeddingConfig) -> Embedder:
        made: list[Embedder] = []
        made.append(self._make(config, lambda answering: self._tell(made, answering=answering)))
        return made[0]

    def _made_again(self, row: StoredModel) -> Embedder:
        """The embedder of a model that is configured no more; one that never answers, if it cannot be made."""
        fingerprint = Fingerprint(row.provider, row.model, row.dimension, row.prefix)
        try:
            embedder = self._made(kept_settings(row.settings, self._config))
        except (ConfigError, msgspec.DecodeError) as error:
            reason = str(error)
        else:
            if embedder.fingerprint == fingerprint:
                return embedder
            reason = "its settings or its files mean another model now"
        return AbsentEmbedder(fingerprint, f"{row.model}, which served before, cannot be used any more: {reason}")

    def _tell(self, made: list[Embedder], *, answering: bool) -> None:
        for role, model in (("serving", self.serving.model), ("next", self._next)):
            if model is not None and made and model.embedder is made[0]:
                self._on_answering("serving" if role == "serving" else "next", answering)


def _settle(db: apsw.Connection, wanted: StoredModel, now_ms: int, keep_until_ms: int) -> list[StoredModel]:
    """One model serves, and the wanted one does or comes next."""
    rows = select_models(db)
    if not rows:
        take_over_pointers(db, wanted, now_ms, keep_until_ms)
        return select_models(db)
    for row in rows:
        if row.state == "next" and row.family != wanted.family:
            abandon_next(db, now_ms, keep_until_ms)
        elif row.state != "kept" and row.family == wanted.family:
            set_settings(db, row.key, wanted.settings)
    if not any(row.state != "kept" and row.family == wanted.family for row in rows):
        begin_next(db, wanted, now_ms)
    return select_models(db)


def _told(row: StoredModel, *, answers: bool | None = None) -> ModelInfo:
    return ModelInfo(
        key=row.key, provider=row.provider, model=row.model, dimension=row.dimension, since=row.since_ms,
        answers=answers, keep_until=row.keep_until_ms,
    )  # fmt: skip


def _each_once(embedders: Iterable[Embedder]) -> list[Embedder]:
    return list({id(embedder): embedder for embedder in embedders}.values())

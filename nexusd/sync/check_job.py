"""One verification or repair, from its begin to its end.

Owns its course over the collections, the thread in which words are compared, and its report, which can be had while it
runs. What fails it is told in the report. Knows neither who asked nor when.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import structlog

from nexusd.clock import Clock
from nexusd.embedding.serving import Serving
from nexusd.errors import RpcError
from nexusd.index.index import Index
from nexusd.model.fields import IndexedCollection
from nexusd.model.index import IndexReport, JobState
from nexusd.store.database import Database
from nexusd.store.mending import has_words
from nexusd.store.meta import get_epoch
from nexusd.store.verifying import count_tables
from nexusd.store.word_check import WordCheck
from nexusd.sync.findings import Findings, Tally
from nexusd.sync.mending import Mender
from nexusd.sync.model_watch import ModelWatch
from nexusd.sync.walk import ModelChangedError, Seen, Walk

JobKind = Literal["verify", "repair"]
WORDS_GRACE_S = 5.0  # for a comparison of words that was told to stop


class CheckJob:
    """What was asked for, and how far it is. `ask_model`: whether the embedding model is compared too."""

    def __init__(
        self, kind: JobKind, collections: Sequence[IndexedCollection], now_ms: int, *, ask_model: bool
    ) -> None:
        self.kind = kind
        self.collections = tuple(collections)
        self.ask_model = ask_model
        self.ended = asyncio.Event()
        self.state: JobState = "running"
        self.started_ms = now_ms
        self.finished_ms: int | None = None
        self.total = 0
        self.similarity: float | None = None
        self.error: str | None = None
        self.findings: dict[IndexedCollection, Findings] = {}
        self.tally = Tally()

    def does(self, kind: JobKind, collections: Sequence[IndexedCollection]) -> bool:
        """Whether who asks for this may as well wait for this job: a repair verifies too."""
        return kind in (self.kind, "verify") and set(collections) <= set(self.collections)

    @property
    def agrees(self) -> bool | None:
        """Whether nothing differed; None before the end."""
        if self.state != "done":
            return None
        return not self.differing

    @property
    def differing(self) -> list[IndexedCollection]:
        """The collections in which something differed so far."""
        return [name for name, findings in self.findings.items() if not findings.agrees]

    @property
    def checked(self) -> int:
        """Rows that were looked at so far."""
        return sum(findings.rows for findings in self.findings.values())

    def report(self) -> IndexReport:
        """As callers see it, now."""
        return IndexReport(
            job=self.kind,
            state=self.state,
            started_at=self.started_ms,
            finished_at=self.finished_ms,
            checked=self.checked,
            total=self.total,
            agrees=self.agrees,
            collections=[findings.report() for findings in self.findings.values()],
            model_similarity=self.similarity,
            mended=self.tally.mended if self.kind == "repair" else None,
            error=self.error,
        )

    def end(self, state: JobState, now_ms: int, error: str | None = None) -> None:
        """It is over."""
        self.state, self.finished_ms, self.error = state, now_ms, error
        self.ended.set()


class CheckRunner:
    """Runs jobs, one at a time."""

    def __init__(self, store: Database, index: Index, serving: Serving, watch: ModelWatch, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._watch = watch
        self._walk = Walk(store, index, serving)
        self._mender = Mender(store, index, clock)
        self._log = structlog.get_logger("nexusd.verify")

    def sweep(self) -> None:
        """Remove what a run that crashed has left behind: a copy of texts."""
        WordCheck(self._store.path).sweep()

    async def run(self, job: CheckJob) -> None:
        """Do the job to its end, or until it fails; cancelled, it has failed."""
        job.started_ms = self._clock.now_ms()
        try:
            await self._do(job)
        except asyncio.CancelledError:
            job.end("failed", self._clock.now_ms(), "the daemon stops")
            raise
        except RpcError as error:
            job.end("failed", self._clock.now_ms(), error.message)
            self._log.warning("the index could not be compared with the rows", job=job.kind, reason=error.message)
        except Exception as error:  # noqa: BLE001 - whoever waits for the job must be told, and the next one be done
            job.end("failed", self._clock.now_ms(), type(error).__name__)
            self._log.exception("comparing index and rows failed", job=job.kind)
        else:
            job.end("done", self._clock.now_ms())
            self._tell(job)

    async def _do(self, job: CheckJob) -> None:
        epoch = await self._store.read(get_epoch)
        job.total = sum((await self._store.read(count_tables, job.collections)).values())
        if job.ask_model:
            job.similarity = await self._watch.look()
        words = WordCheck(self._store.path)
        thread = ThreadPoolExecutor(1, thread_name_prefix="words")
        try:
            for collection in job.collections:
                await self._walk_over(job, collection, epoch)
                if has_words(collection):
                    await self._compare_words(job, collection, words, thread)
        finally:
            words.stop()
            thread.shutdown(wait=False)

    async def _walk_over(self, job: CheckJob, collection: IndexedCollection, epoch: str) -> None:
        async def on_slice(seen: Seen) -> None:
            if job.kind == "repair":
                await self._mender.mend(collection, seen, job.tally)

        while True:
            job.findings[collection] = Findings(collection, has_words=has_words(collection))
            try:
                await self._walk.over(collection, epoch, job.findings[collection], on_slice)
            except ModelChangedError:
                continue
            return

    async def _compare_words(
        self, job: CheckJob, collection: IndexedCollection, words: WordCheck, thread: ThreadPoolExecutor
    ) -> None:
        findings = job.findings[collection]
        comparing = asyncio.get_running_loop().run_in_executor(thread, words.sound, collection)
        try:
            findings.sound = await asyncio.shield(comparing)
        except asyncio.CancelledError:
            words.stop()
            await asyncio.wait({comparing}, timeout=WORDS_GRACE_S)
            raise
        if findings.sound is None:
            self._log.warning("words were not compared with the rows: no room for a copy", collection=collection)
        if job.kind == "repair" and (findings.sound is False or findings.count("fullTextOrphaned")):
            # words of a row that is gone can be taken out of the index by nobody who does not know them
            await self._mender.rebuild_words(collection, job.tally)

    def _tell(self, job: CheckJob) -> None:
        told = {
            "job": job.kind, "rows": job.checked,
            "took_ms": (job.finished_ms or job.started_ms) - job.started_ms,
        }
        if job.agrees:
            self._log.info("index and rows agree", **told)
            return
        for collection in job.differing:
            examples = job.findings[collection].report().examples
            self._log.warning("index differs from the rows", collection=collection, **told, **examples)

"""A cross-encoder in a child process, as the daemon sees it.

Owns the child, started with the daemon and restarted when it dies. Knows no runtime: numpy, onnxruntime and tokenizers
stay in the child. A search that gives up at its deadline leaves the child at its work, which ends by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from nexusd.child import ChildProcess, ChildRefused, ChildUnavailable
from nexusd.clock import Clock
from nexusd.config_sections import RerankConfig
from nexusd.embedding.reranker import RerankerHealth, RerankerUnavailable

ANSWER_S = 20.0     # after which the child counts as stuck and is killed; a search's own deadline is far shorter
LOAD_S = 60.0
MAX_WAITING = 4     # calls at the child, which takes one after another: a later one could not be in time


class LocalReranker:
    """A `Reranker` over the model in `search.rerank.model`."""

    def __init__(self, config: RerankConfig, clock: Clock) -> None:
        self._clock = clock
        self._log = structlog.get_logger("nexusd.reranker")
        self._under_way: set[asyncio.Task[list[float]]] = set()
        self._trouble = ""
        self._closed = False
        self._child = ChildProcess(
            "reranker", "nexusd.embedding.rerank_process", [config.model or "", str(config.threads)],
            on_started=self._load,
        )

    async def start(self) -> None:
        """Begin to load, so that the first search need not wait for it."""
        self._child.start()

    async def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """How well each text fits the query, in order.

        Raises:
            RerankerUnavailable: the model cannot be loaded, died, or has too much to do already.
        """
        if not self._child.running:     # a load takes seconds: longer than a search has
            raise RerankerUnavailable(self._child.last_error or "the reranker is being loaded")
        if len(self._under_way) >= MAX_WAITING:
            raise RerankerUnavailable("the reranker has too much to do")
        # a task of its own: a call that is cancelled with its search would look stuck to nobody, and one that is late
        # must not have the child killed
        task = asyncio.create_task(self._ask(query, list(texts)), name="reranker:score")
        self._under_way.add(task)
        task.add_done_callback(self._finished)
        await asyncio.wait([task])
        return task.result()

    def health(self) -> RerankerHealth:
        """The state as last seen; never waits."""
        restarts, process_ids = self._child.restarts, () if self._child.pid is None else (self._child.pid,)
        if self._trouble:
            return RerankerHealth("unavailable", self._trouble, restarts, process_ids)
        if self._child.running:
            return RerankerHealth("ready", "", restarts, process_ids)
        if self._closed:
            return RerankerHealth("unavailable", "stopped", restarts, process_ids)
        if self._child.has_ended:
            detail = f"its process is being restarted: {self._child.last_error or 'it has just ended'}"
            return RerankerHealth("unavailable", detail, restarts, process_ids)
        return RerankerHealth("loading", "", restarts, process_ids)

    async def close(self) -> None:
        """End the child; what is under way fails."""
        self._closed = True
        await self._child.close()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _ask(self, query: str, texts: list[str]) -> list[float]:
        try:
            scores: list[float] = await self._child.call("score", [query, texts], timeout_s=ANSWER_S)
        except ChildRefused as refused:
            self._trouble = refused.message
            raise RerankerUnavailable(refused.message) from None
        except ChildUnavailable as error:
            raise RerankerUnavailable(error.message) from None
        self._trouble = ""
        return scores

    def _finished(self, task: asyncio.Task[list[float]]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()    # seen: where the search went on without it, nobody else looks at it

    async def _load(self, child: ChildProcess) -> None:
        """One that cannot load lives on and says so to every call: restarting it would not help."""
        began_s = self._clock.monotonic_s()
        try:
            await child.call_starting("load", None, timeout_s=LOAD_S)
        except ChildRefused as refused:
            self._trouble = refused.message
            self._log.error("reranker cannot be loaded", detail=refused.message)
        else:
            self._trouble = ""
            self._log.info("reranker loaded", seconds=round(self._clock.monotonic_s() - began_s, 2))

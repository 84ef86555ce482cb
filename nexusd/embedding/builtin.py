"""The built-in embedding model, as the daemon sees it.

Owns the child process that computes (`model_process`), started by the first text and restarted when it
dies, how a batch is cut into calls, and the state as last seen. Knows no runtime: numpy, onnxruntime and
tokenizers stay in the child.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal

import structlog

from nexusd.child import ChildDied, ChildProcess, ChildRefused, ChildUnavailable
from nexusd.clock import Clock
from nexusd.config_sections import EmbeddingConfig
from nexusd.embedding.embedder import EmbedderDied, EmbedderHealth, Fingerprint, RejectedText, Vector, cut_text
from nexusd.embedding.model_files import MAX_WINDOW, identify
from nexusd.embedding.query_cache import QueryCache
from nexusd.errors import EmbedderUnavailable

# No model reads further, and the largest batch of texts this long still fits a frame of the pipe.
MAX_CHARS = MAX_WINDOW * 16

# How long a search waits, at most. Shorter than the time after which the child counts as stuck, so that
# impatience does not kill a child that is merely loading; the vector that comes late is kept.
MAX_QUERY_WAIT_S = 10.0

# After a crash. A restart takes under a second; where it takes more, a search is better off without.
MAX_RESTART_WAIT_S = 3.0

# Words are counted in a millisecond where the model is loaded; where they take longer, an estimate will do.
MAX_COUNT_WAIT_S = 2.0


class BuiltinEmbedder:
    """An `Embedder` over a model in a child process."""

    def __init__(
        self, config: EmbeddingConfig, clock: Clock, *, on_answering: Callable[[bool], None] | None = None
    ) -> None:
        """Nothing is started or loaded. `on_answering` is told when texts can be embedded, and when they cannot.

        Raises:
            ConfigError: no such model, or the configured dimension is not the model's.
        """
        self._fingerprint = identify(config)
        self._batch_size = config.batch_size
        self._threads = config.threads
        self._timeout_s = config.timeout_s
        self._clock = clock
        self._child = ChildProcess(
            "embedder",
            "nexusd.embedding.model_process",
            [config.model_name, str(self._fingerprint.dimension), str(config.threads)],
            on_started=self._load,
            on_running=lambda running: self._tell(answering=running and not self._trouble),
        )
        self._on_answering = on_answering
        self._told_answering: bool | None = None
        # As many calls as the child has threads: a call's time limit then measures work, not waiting.
        self._document_turns = asyncio.Semaphore(config.threads)
        self.queries = QueryCache(config.query_cache_entries, self._compute_query)
        self._trouble = ""
        self._asked = False
        self._loaded = False
        self._closed = False
        self._log = structlog.get_logger("nexusd.embedding").bind(model=self._fingerprint.model)

    @property
    def fingerprint(self) -> Fingerprint:
        """Known before the model is loaded."""
        return self._fingerprint

    async def start(self) -> None:
        """Nothing to do: the first text starts the model."""

    async def close(self) -> None:
        """End the child; what is under way fails with EmbedderUnavailable."""
        self._closed = True
        await self._child.close()
        await self.queries.close()

    async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        """One vector a text, in order. Background work: it yields to queries.

        Raises:
            EmbedderUnavailable: the model cannot be loaded, died, or took too long.
            RejectedText: one text can never be embedded; the others were not embedded either.
        """
        cut = [cut_text(text, MAX_CHARS, position) for position, text in enumerate(texts)]
        pieces = max(-(-len(cut) // self._batch_size), min(self._threads, len(cut)))
        # Dealt out like cards, longest first: every piece gets its share of long texts, so that no thread
        # waits for another at the end. The child sorts a piece, where neighbours of a length save padding.
        longest_first = sorted(range(len(cut)), key=lambda position: -len(cut[position]))
        places = [longest_first[piece::pieces] for piece in range(pieces)]
        calls = [asyncio.create_task(self._embed_piece(cut, piece)) for piece in places]
        try:
            answers = await asyncio.gather(*calls)
        finally:
            for call in calls:
                call.cancel()
        vectors = [b""] * len(cut)
        for piece, answer in zip(places, answers, strict=True):
            for position, vector in zip(piece, answer, strict=True):
                vectors[position] = vector
        return vectors

    async def embed_query(self, text: str) -> Vector:
        """The vector of a search query; overtakes documents, and repeated queries cost nothing.

        Raises:
            EmbedderUnavailable: the model cannot be loaded, died, or took too long.
            RejectedText: the text can never be embedded.
        """
        recovering = self._child.restarts > 0 and not self._child.running
        patience_s = MAX_RESTART_WAIT_S if recovering else MAX_QUERY_WAIT_S
        try:
            async with asyncio.timeout(patience_s):
                return await self.queries.get(cut_text(text, MAX_CHARS))
        except TimeoutError:
            raise EmbedderUnavailable(
                f"no vector within {patience_s:.0f} s: {self._state()[1] or 'the model is busy'}"
            ) from None

    async def count_tokens(self, words: Sequence[str]) -> list[int]:
        """What each word costs in the model's own tokens; 0 for one that its tokenizer does not know.

        Does not have the model loaded.

        Raises:
            EmbedderUnavailable: it is not loaded, died, or took too long.
        """
        if not self._child.running:
            raise EmbedderUnavailable(self._state()[1])
        try:
            async with asyncio.timeout(MAX_COUNT_WAIT_S):
                counts: list[int] = await self._child.call("tokens", list(words), timeout_s=self._timeout_s)
        except TimeoutError:
            raise EmbedderUnavailable("the model is busy") from None
        except (ChildUnavailable, ChildRefused) as error:
            raise EmbedderUnavailable(error.message) from None
        return counts

    def health(self) -> EmbedderHealth:
        """The state as last seen; never waits."""
        state, detail = self._state()
        process_ids = () if self._child.pid is None else (self._child.pid,)
        return EmbedderHealth(state, detail, self._child.restarts, process_ids)

    def _state(self) -> tuple[Literal["idle", "ready", "unavailable"], str]:
        if self._closed:
            return "unavailable", "stopped"
        if self._trouble:
            return "unavailable", self._trouble
        if self._child.running:
            return "ready", ""
        if self._loaded or self._child.restarts:
            return "unavailable", f"the model's process is being restarted: {self._child.last_error}"
        return "idle", "loading" if self._asked else "not asked yet"

    async def _load(self, child: ChildProcess) -> None:
        """Have a new child load the model before it is given work.

        One that cannot load lives on and says so to every call: restarting it would not help.
        """
        began_s = self._clock.monotonic_s()
        try:
            await child.call_starting("load", None, timeout_s=self._timeout_s)
        except ChildRefused as refused:
            self._fail(str(refused))
        else:
            self._trouble = ""
            self._loaded = True
            self._log.info("embedding model loaded", seconds=round(self._clock.monotonic_s() - began_s, 2))

    async def _embed_piece(self, texts: Sequence[str], piece: Sequence[int]) -> list[Vector]:
        mine = [texts[position] for position in piece]
        async with self._document_turns:
            return await self._ask("documents", mine, piece)

    async def _compute_query(self, text: str) -> Vector:
        (vector,) = await self._ask("query", [text], [0])
        return vector

    async def _ask(self, op: str, texts: list[str], places: Sequence[int]) -> list[Vector]:
        """`places` says where in the caller's batch each text was."""
        if self._closed:
            raise EmbedderUnavailable("the embedding model is stopping")
        self._asked = True
        try:
            vectors: list[Vector] = await self._child.call(op, texts, timeout_s=self._timeout_s)
        except ChildRefused as refused:
            if refused.kind == "rejected":
                raise RejectedText(refused.message, places[refused.details["position"]]) from None
            raise self._fail(refused.message) from None
        except ChildDied as error:
            raise EmbedderDied(error.message) from None
        except ChildUnavailable as error:
            raise EmbedderUnavailable(error.message) from None
        self._trouble = ""
        self._tell(answering=True)
        return vectors

    def _tell(self, *, answering: bool) -> None:
        if self._on_answering is not None and answering != self._told_answering:
            self._told_answering = answering
            self._on_answering(answering)

    def _fail(self, detail: str) -> EmbedderUnavailable:
        if detail != self._trouble:
            self._log.error("embedding model unavailable", detail=detail)
        self._trouble = detail
        self._tell(answering=False)
        return EmbedderUnavailable(detail)

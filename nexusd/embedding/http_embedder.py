"""An embedding service over HTTP, as the daemon sees it.

Owns how a batch is cut into requests, which text of a failed request is to blame, the agreement on form and
dimension that comes before any text of a memory is sent, and the state as last seen. What a vector must be
is checked here, once: nothing else of an answer gets into the store.

Who is to blame? A service that fails over some texts and embeds a harmless one right afterwards failed over those
texts: they are halved until one is left. One that does not embed the harmless one either is away, and no
text is blamed for that, whatever status it answers with.

    refused (400, 413, 422), NaN, zeros            -> halved -> alone: shortened if too long, else RejectedText
    failed (500, too late, broken off, misshapen)  -> halved -> alone: EmbedderDied, which costs that row an attempt
    everything else, another dimension             -> EmbedderUnavailable: the rows wait, and that costs nothing
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from typing import Literal

import msgspec
import structlog

from nexusd.clock import Clock
from nexusd.config_sections import EmbeddingConfig
from nexusd.embedding.embedder import EmbedderDied, EmbedderHealth, Fingerprint, RejectedText, Vector, cut_text
from nexusd.embedding.http_dialects import Form, Misshapen, dialect_of
from nexusd.embedding.http_exchange import Exchange, Faltered, Refused
from nexusd.embedding.http_settings import describe_service
from nexusd.embedding.http_vectors import Flaw, OtherDimension, read_vectors
from nexusd.embedding.query_cache import QueryCache
from nexusd.errors import EmbedderUnavailable, NexusError

MAX_QUERY_WAIT_S = 10.0  # a search is better off without, after this
PROBE_TIMEOUT_S = 10.0  # for a harmless text, where the service embedded others just now
WATCH_INTERVAL_S = 10.0  # between two looks at a service that is away
PROBE_TEXTS = ("The kettle is on.", "A train to the coast leaves at noon.")
SHORTEST_CUT = 500  # characters: a text that is too long even so is not refused for its length
LEAST_BATCH_BYTES = 16 * 1024
MAX_KEPT = 256  # vectors of texts that shared a call with one that failed
STOPPING = "the embedding client is stopping"
NUMBER_BYTES = 32  # of a number in an answer, generously
MAX_DIMENSION = 8192  # so that an answer of another dimension is read, and can be told


class Unembeddable(NexusError):
    """The service takes other texts, but never this one."""

    def __init__(self, message: str, text: str) -> None:
        super().__init__(message)
        self.text = text


class HttpEmbedder:
    """An `Embedder` over a service."""

    def __init__(
        self,
        config: EmbeddingConfig,
        clock: Clock,
        *,
        on_answering: Callable[[bool], None] | None = None,
        watch_interval_s: float = WATCH_INTERVAL_S,
    ) -> None:
        """Nothing is sent. `on_answering` is told when texts can be embedded, and when they cannot."""
        self._service = describe_service(config)
        self._dialect = dialect_of(config)
        self._exchange = Exchange(
            self._service.endpoint, label=self._dialect.label, origin=self._service.origin,
            api_key=config.api_key, advice=self._dialect.advice, clock=clock,
        )
        self._clock = clock
        self._timeout_s = config.timeout_s
        self._max_text_chars = config.max_text_chars
        self._max_count = config.batch_size
        self._max_bytes = config.max_batch_bytes
        self._on_answering = on_answering
        self._told_answering: bool | None = None
        self._watch_interval_s = watch_interval_s
        self._watching: asyncio.Task[None] | None = None
        self._doubt = asyncio.Event()
        self._settling = asyncio.Lock()
        self._form: Form | None = None  # None until form and dimension were agreed on
        self._kept: dict[str, Vector] = {}
        self.queries = QueryCache(config.query_cache_entries, self._compute_query)
        self._trouble = ""
        self._not_before_s = 0.0  # until then a search need not try
        self._closed = False
        self._log = structlog.get_logger("nexusd.embedding").bind(model=self.fingerprint.model)

    @property
    def fingerprint(self) -> Fingerprint:
        """As configured; a service that gives another dimension is not used."""
        return self._service.fingerprint

    async def start(self) -> None:
        """Begin to look whether the service is there; it need not be."""
        self._watching = asyncio.create_task(self._watch(), name="embedding:watch")
        self._watching.add_done_callback(self._watch_ended)

    async def close(self) -> None:
        """Close the connections; what is under way fails with EmbedderUnavailable."""
        self._closed = True
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        await self._exchange.close()
        await self.queries.close()

    async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        """One vector a text, in order. Background work, one request at a time: searches go beside it.

        Raises:
            EmbedderUnavailable: the service does not answer, or not with vectors of the configured dimension.
            EmbedderDied: it fails over one of these texts, and embeds others.
            RejectedText: one text can never be embedded.
        """
        prefix = self._service.document_prefix
        cut = [prefix + cut_text(text, self._max_text_chars, place) for place, text in enumerate(texts)]
        found = {text: vector for text in cut if (vector := self._kept.pop(text, None)) is not None}
        missing = [text for text in dict.fromkeys(cut) if text not in found]
        try:
            while missing:  # cut anew each time: what a request may hold is learnt on the way
                piece = next(pieces(missing, self._max_count, self._max_bytes))
                await self._embed_piece(piece, found)
                missing = missing[len(piece) :]
        except NexusError as error:
            self._keep(found)  # the others come again, and were paid for
            if isinstance(error, Unembeddable):
                raise RejectedText(error.message, cut.index(error.text)) from None
            raise
        return [found[text] for text in cut]

    async def embed_query(self, text: str) -> Vector:
        """The vector of a search query; repeated queries cost nothing.

        Raises:
            EmbedderUnavailable: the service does not answer, or not in time.
            RejectedText: the text can never be embedded.
        """
        cut = self._service.query_prefix + cut_text(text, self._max_text_chars)
        if (wait_s := self._not_before_s - self._clock.monotonic_s()) > 0:
            raise EmbedderUnavailable(self._trouble, retry_after_ms=int(wait_s * 1000) + 1)
        try:
            async with asyncio.timeout(MAX_QUERY_WAIT_S):
                return await self.queries.get(cut)
        except TimeoutError:
            raise EmbedderUnavailable(f"no vector within {MAX_QUERY_WAIT_S:.0f} s: the service is busy") from None
        except Unembeddable as error:
            raise RejectedText(error.message, 0) from None

    def health(self) -> EmbedderHealth:
        """The state as last seen; never waits."""
        state, detail = self._state()
        return EmbedderHealth(state, detail)

    def _state(self) -> tuple[Literal["idle", "ready", "unavailable"], str]:
        if self._closed:
            return "unavailable", "stopped"
        if self._trouble:
            return "unavailable", self._trouble
        return ("idle", "not asked yet") if self._form is None else ("ready", "")

    # --- texts ---

    async def _embed_piece(self, texts: list[str], found: dict[str, Vector]) -> None:
        """Vectors of the texts, into `found`; what fails together is tried in halves."""
        late = False
        try:
            if len(texts) == 1:
                found[texts[0]] = await self._embed_one(texts[0], self._timeout_s)
            else:
                await self._embed_together(texts, found)
        except Refused as refused:
            if refused.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                self._max_bytes = max(LEAST_BATCH_BYTES, min(self._max_bytes, _size(texts) // 2))
        except Faltered as faltered:
            await self._probe(min(self._timeout_s, PROBE_TIMEOUT_S))  # raises where it is the service
            if len(texts) == 1:
                raise EmbedderDied(f"{faltered.message}; other texts it embeds") from None
            self._log.warning("embedding failed for some texts", reason=faltered.message, texts=len(texts))
            late = faltered.late
        else:
            return
        middle = len(texts) // 2
        await self._embed_piece(texts[:middle], found)
        await self._embed_piece(texts[middle:], found)
        if late:  # and both halves were not: there were too many
            self._max_count = max(1, min(self._max_count, middle))

    async def _embed_together(self, texts: list[str], found: dict[str, Vector]) -> None:
        answers = dict(zip(texts, await self._ask(texts, self._timeout_s), strict=True))
        found.update((text, answer) for text, answer in answers.items() if isinstance(answer, bytes))
        for text, answer in answers.items():
            if isinstance(answer, Flaw):
                found[text] = await self._embed_one(text, self._timeout_s)

    async def _embed_one(self, text: str, timeout_s: float) -> Vector:
        """The vector of a text by itself; of its beginning, where it is too long.

        Raises:
            Faltered: perhaps because of this text.
            Unembeddable: because of this text.
            EmbedderUnavailable: not now, whatever the text.
        """
        beginning, probed = text, False
        while True:
            try:
                (answer,) = await self._ask([beginning], timeout_s)
            except Refused as refused:
                if refused.too_long and len(beginning) > SHORTEST_CUT:
                    beginning = beginning[: max(SHORTEST_CUT, len(beginning) // 2)]
                    continue
                complaint = refused.message
            else:
                if not isinstance(answer, Flaw):
                    return answer
                complaint = f"the vector of the text {answer.value}"
            # The text is to blame if the service embeds another, and then still not this one: before, it may have
            # been unwell and have recovered meanwhile.
            if probed:
                raise Unembeddable(complaint, text)
            await self._probe(min(self._timeout_s, PROBE_TIMEOUT_S))
            probed = True

    async def _compute_query(self, text: str) -> Vector:
        try:
            return await self._embed_one(text, min(self._timeout_s, MAX_QUERY_WAIT_S))
        except Faltered as faltered:
            # it may be away, or be busy with documents: whoever watches shall look
            self._doubt.set()
            raise EmbedderUnavailable(faltered.message) from None

    def _keep(self, found: dict[str, Vector]) -> None:
        if len(self._kept) + len(found) > MAX_KEPT:
            self._kept.clear()
        self._kept.update(found)

    # --- the service ---

    async def _ask(self, texts: Sequence[str], timeout_s: float) -> list[Vector | Flaw]:
        """What the service answers to these texts.

        Raises:
            EmbedderUnavailable: not now, and not because of these texts.
            Refused, Faltered: perhaps because of these texts.
        """
        form = self._form or await self._probe(timeout_s)
        try:
            answers = await self._ask_as(form, texts, texts, timeout_s)
        except EmbedderUnavailable as error:
            raise self._fail(error) from None
        except Misshapen as error:  # the probe was answered as it should be
            raise Faltered(f"{self._name} gives {error.message}") from None
        self._succeed()
        return answers

    async def _ask_as(
        self, form: Form, texts: Sequence[str], private: Sequence[str], timeout_s: float
    ) -> list[Vector | Flaw]:
        if self._closed:
            raise EmbedderUnavailable(STOPPING)
        if not form.many and len(texts) > 1:
            return [answer for text in texts for answer in await self._ask_as(form, [text], private, timeout_s)]
        dimension = self.fingerprint.dimension
        most = len(texts) * max(dimension, MAX_DIMENSION) * NUMBER_BYTES
        answer = await self._exchange.ask(form.body(texts), private, timeout_s=timeout_s, max_bytes=most)
        try:
            return read_vectors(form.vectors(answer), len(texts), dimension)
        except OtherDimension as other:
            raise EmbedderUnavailable(
                f"{self._name} gives vectors of {other.found} dimensions with {self.fingerprint.model}, expected "
                f"are {dimension}: set embedding.dimension to {other.found} (all rows are then embedded anew) "
                "or embedding.model to the model that was meant"
            ) from None

    async def _probe(self, timeout_s: float) -> Form:
        """Agree on a form and see that harmless texts get vectors of the right dimension.

        Raises:
            EmbedderUnavailable: they do not.
        """
        texts = [self._service.document_prefix + text for text in PROBE_TEXTS]
        told: list[str] = []  # by each form: which of them the service means is for people to see
        async with self._settling:
            for form in sorted(self._dialect.forms, key=lambda form: form is not self._form):  # the agreed one first
                try:
                    answers = await self._ask_as(form, texts if form.many else texts[:1], (), timeout_s)
                except EmbedderUnavailable as error:
                    raise self._fail(error) from None
                except (Refused, Faltered) as error:
                    told.append(error.message)
                    if isinstance(error, Faltered) and (error.late or self._form is not None):
                        # a form that was agreed on is not given up because the service is unwell
                        raise self._fail(EmbedderUnavailable(error.message), late=error.late) from None
                except Misshapen as error:
                    told.append(f"{self._name} gives {error.message}")
                else:
                    if flaw := next((answer for answer in answers if isinstance(answer, Flaw)), None):
                        raise self._fail(EmbedderUnavailable(f"{self._name}: the vector of any text {flaw.value}"))
                    if self._form is None or self._trouble:
                        self._log.info("embedding service answers", at=self._service.origin, batches=form.many)
                    self._form = form
                    self._succeed()
                    return form
        raise self._fail(EmbedderUnavailable("; ".join(dict.fromkeys(told))))

    async def _watch(self) -> None:
        """Look at the start, while it is away, and whenever there is doubt."""
        while True:
            self._doubt.clear()
            try:
                await self._probe(self._timeout_s)
            except EmbedderUnavailable:
                await asyncio.sleep(self._watch_interval_s)
            else:
                await self._doubt.wait()
                if self._trouble:
                    await asyncio.sleep(self._watch_interval_s)
            while (wait_s := self._not_before_s - self._clock.monotonic_s()) > 0:  # noqa: ASYNC110 - it may move meanwhile
                await asyncio.sleep(wait_s)

    def _watch_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():  # texts still find out by themselves
            self._log.error("nobody watches the embedding service any more", exc_info=task.exception())

    @property
    def _name(self) -> str:
        return f"{self._dialect.label} at {self._service.origin}"

    def _succeed(self) -> None:
        self._trouble, self._not_before_s = "", 0.0
        self._tell(answering=True)

    def _fail(self, error: EmbedderUnavailable, *, late: bool = False) -> EmbedderUnavailable:
        """The service is away: say so once, and let searches not wait for it. Answers the error, to be raised."""
        if self._closed:
            return EmbedderUnavailable(STOPPING)
        if error.message != self._trouble:
            self._log.error("embedding service unavailable", detail=error.message)
        self._trouble = error.message
        rest_s = (error.retry_after_ms or 0) / 1000
        self._not_before_s = self._clock.monotonic_s() + max(rest_s, self._watch_interval_s if late else 0.0)
        self._doubt.set()
        self._tell(answering=False)
        return error

    def _tell(self, *, answering: bool) -> None:
        if self._on_answering is not None and answering != self._told_answering:
            self._told_answering = answering
            self._on_answering(answering)


def pieces(texts: Sequence[str], max_count: int, max_bytes: int) -> Iterator[list[str]]:
    """The texts in order, cut into requests; a text longer than a request may be goes alone."""
    piece: list[str] = []
    size = 0
    for text in texts:
        more = _size([text])
        if piece and (len(piece) == max_count or size + more > max_bytes):
            yield piece
            piece, size = [], 0
        piece.append(text)
        size += more
    if piece:
        yield piece


def _size(texts: Sequence[str]) -> int:
    return sum(len(msgspec.json.encode(text)) for text in texts)

"""A rerank endpoint over HTTP, in the form that most services share.

    POST {"query", "documents": [text], "model"?}  ->  {"results": [{"index", "relevance_score"}]}

Owns that exchange. What a service says is never repeated: it might hold a piece of a memory.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Sequence

import httpx
import msgspec

from nexusd import __version__
from nexusd.config_sections import RerankConfig
from nexusd.embedding.reranker import RerankerHealth, RerankerUnavailable

MAX_ANSWER_BYTES = 1024 * 1024      # of a hundred numbers; some services repeat the texts
MAX_CHARACTERS = 8_192              # of each text: more than such models read


class _Result(msgspec.Struct):
    index: int
    relevance_score: float


class _Answer(msgspec.Struct):
    results: list[_Result]


class HttpReranker:
    """A `Reranker` over the service at `search.rerank.url`."""

    def __init__(self, config: RerankConfig) -> None:
        url = config.url or ""
        self._url = url
        self._model = config.model
        self._health = RerankerHealth("idle", "not asked yet")
        headers = {"content-type": "application/json", "user-agent": f"nexusd/{__version__}"}
        if config.api_key is not None:
            headers["authorization"] = f"Bearer {config.api_key}"
        self._client = httpx.AsyncClient(
            headers=headers,
            verify=ssl.create_default_context() if url.startswith("https:") else False,
            trust_env=False,        # a proxy of the environment would read every memory
            follow_redirects=False,     # and so would whoever a redirect names
            timeout=None,  # noqa: S113  the search has a deadline
        )

    async def start(self) -> None:
        """Nothing to do: the service is there or not."""

    async def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """How well each text fits the query, in order.

        Raises:
            RerankerUnavailable: the service is away, or answers something else.
        """
        try:
            scores = await self._ask(query, texts)
        except RerankerUnavailable as error:
            self._health = RerankerHealth("unavailable", error.message)
            raise
        self._health = RerankerHealth("ready", "")
        return scores

    def health(self) -> RerankerHealth:
        """As the last answer was; one that a search did not wait for tells nothing."""
        return self._health

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _ask(self, query: str, texts: Sequence[str]) -> list[float]:
        body: dict[str, object] = {"query": query, "documents": [text[:MAX_CHARACTERS] for text in texts]}
        if self._model is not None:
            body["model"] = self._model
        try:
            async with self._client.stream("POST", self._url, content=msgspec.json.encode(body)) as response:
                if response.status_code != httpx.codes.OK:
                    raise RerankerUnavailable(f"the rerank service answers {response.status_code}")
                data = bytearray()
                async for piece in response.aiter_bytes():
                    data += piece
                    if len(data) > MAX_ANSWER_BYTES:
                        raise RerankerUnavailable("the rerank service answers too much")
            results = msgspec.json.decode(bytes(data), type=_Answer).results
        except (httpx.HTTPError, RuntimeError, UnicodeEncodeError) as error:    # RuntimeError: the client was closed
            raise RerankerUnavailable(f"the rerank service cannot be asked ({type(error).__name__})") from None
        except msgspec.DecodeError:
            raise RerankerUnavailable("the rerank service does not answer as one") from None
        scores = {result.index: result.relevance_score for result in results}
        if scores.keys() != set(range(len(texts))) or not all(map(math.isfinite, scores.values())):
            raise RerankerUnavailable("the rerank service does not answer for every text")
        return [scores[number] for number in range(len(texts))]

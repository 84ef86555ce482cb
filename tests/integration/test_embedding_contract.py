"""What every embedder promises: the fake that other tests build on, the real model, and every kind of service."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from fakes.embedder import FakeEmbedder
from fakes.embedding_server import EmbeddingServer
from harness.builtin_model import cosine, needs_model, numbers

from nexusd.clock import SystemClock
from nexusd.config_sections import EmbeddingConfig
from nexusd.embedding.builtin import BuiltinEmbedder
from nexusd.embedding.embedder import Embedder, RejectedText
from nexusd.embedding.http_embedder import HttpEmbedder
from nexusd.errors import EmbedderUnavailable

pytestmark = pytest.mark.anyio

TEXTS = [
    "The meeting with the landlord about the broken heating is on Thursday at nine.",
    "tea",
    "",
    " \n\t ",
    "Grüße aus Köln: 東京の天気は晴れ, и в Москве тоже.",
    "🏠🔥🧯 the kitchen 👩‍👩‍👧‍👦",
    "before\x00after",
    "tea",
    "word " * 2000,
]


KINDS = ["fake", pytest.param("builtin", marks=needs_model), "service", "single", "ollama", "openai"]


@contextlib.asynccontextmanager
async def made(kind: str) -> AsyncIterator[Embedder]:
    """An embedder that is not started; a service has a server to talk to."""
    if kind == "fake":
        yield FakeEmbedder()
    elif kind == "builtin":
        yield BuiltinEmbedder(EmbeddingConfig(), SystemClock())
    else:
        async with EmbeddingServer(kind) as server:
            provider = "service" if kind == "single" else kind
            config = EmbeddingConfig(provider=provider, url=server.url, model="fake", dimension=server.dimension)
            yield HttpEmbedder(config, SystemClock())


@pytest.fixture(scope="module", params=KINDS)
async def embedder(request: pytest.FixtureRequest, anyio_backend: object) -> AsyncIterator[Embedder]:
    del anyio_backend  # one loop for the module: the model is loaded once
    async with made(request.param) as embedder:
        await embedder.start()
        yield embedder
        await embedder.close()


async def test_every_text_gets_a_unit_vector_of_the_fingerprints_dimension(embedder: Embedder) -> None:
    vectors = await embedder.embed_documents(TEXTS)
    assert len(vectors) == len(TEXTS)
    for vector in vectors:
        assert len(numbers(vector)) == embedder.fingerprint.dimension
        assert cosine(vector, vector) == pytest.approx(1.0, abs=1e-5)


async def test_a_batch_gives_in_order_what_each_text_gets_alone(embedder: Embedder) -> None:
    together = await embedder.embed_documents(TEXTS * 5)
    alone = [(await embedder.embed_documents([text]))[0] for text in TEXTS] * 5
    for one, other in zip(together, alone, strict=True):
        assert cosine(one, other) > 0.999
    assert cosine(together[0], together[1]) < 0.9


async def test_a_query_and_a_document_of_the_same_text_are_the_same(embedder: Embedder) -> None:
    (document,) = await embedder.embed_documents(["where is the spare key"])
    assert cosine(await embedder.embed_query("where is the spare key"), document) > 0.999


async def test_texts_that_share_words_are_nearer_than_texts_that_do_not(embedder: Embedder) -> None:
    query = await embedder.embed_query("the landlord repairs the heating")
    near, far = await embedder.embed_documents(
        ["the landlord came because of the heating", "seven violins played until midnight"]
    )
    assert cosine(query, near) > cosine(query, far) + 0.2


async def test_no_texts_are_no_vectors(embedder: Embedder) -> None:
    assert await embedder.embed_documents([]) == []


async def test_a_text_that_is_not_unicode_is_rejected_at_its_place(embedder: Embedder) -> None:
    with pytest.raises(RejectedText) as rejected:
        await embedder.embed_documents(["good", "fine", "half a pair: \ud83d", "good"])
    assert rejected.value.position == 2
    with pytest.raises(RejectedText):
        await embedder.embed_query("\udc00")


async def test_equal_queries_at_once_all_get_their_answer(embedder: Embedder) -> None:
    vectors = await asyncio.gather(*(embedder.embed_query("at the same time") for _ in range(8)))
    assert len(set(vectors)) == 1


async def test_an_embedder_that_answers_says_that_it_is_ready(embedder: Embedder) -> None:
    await embedder.embed_query("are you there")
    assert embedder.health().state == "ready"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stopped_embedder_is_unavailable_and_says_so(kind: str) -> None:
    async with made(kind) as embedder:
        await embedder.start()
        assert embedder.health().state == "idle"
        await embedder.close()
        with pytest.raises(EmbedderUnavailable):
            await embedder.embed_documents(["a"])
        with pytest.raises(EmbedderUnavailable):
            await embedder.embed_query("a")
        assert embedder.health().state == "unavailable"

"""Embedding services that misbehave: nothing wrong is taken, nothing is lost, and people are told what to do."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fakes.embedding_server import PATHS, EmbeddingServer, Kind
from harness.builtin_model import cosine
from structlog.testing import capture_logs

from nexusd.clock import SystemClock
from nexusd.config_sections import EmbeddingConfig
from nexusd.embedding.embedder import EmbedderDied, RejectedText
from nexusd.embedding.http_embedder import SHORTEST_CUT, HttpEmbedder
from nexusd.errors import EmbedderUnavailable

pytestmark = pytest.mark.anyio

KINDS: list[Kind] = ["service", "single", "ollama", "openai"]
NEVER_S = 600.0


@pytest.fixture(params=KINDS)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[EmbeddingServer]:
    async with EmbeddingServer(request.param) as server:
        yield server


@pytest.fixture
async def batches() -> AsyncIterator[EmbeddingServer]:
    """One kind, for what is the same for all."""
    async with EmbeddingServer("ollama") as server:
        yield server


def settings(server: EmbeddingServer, **more: Any) -> EmbeddingConfig:
    provider: Any = "service" if server.kind == "single" else server.kind
    return EmbeddingConfig(**{"provider": provider, "url": server.url, "model": "fake", "dimension": 32, **more})


@contextlib.asynccontextmanager
async def embedding(
    server: EmbeddingServer, *, start: bool = False, watch_interval_s: float = NEVER_S, told: list[bool] | None = None,
    **more: Any,
) -> AsyncIterator[HttpEmbedder]:
    """An embedder of this server; nobody watches the server unless it is started."""
    embedder = HttpEmbedder(
        settings(server, **more), SystemClock(), watch_interval_s=watch_interval_s,
        on_answering=None if told is None else told.append,
    )
    if start:
        await embedder.start()
    try:
        yield embedder
    finally:
        await embedder.close()


async def refusal(embedder: HttpEmbedder, *texts: str) -> EmbedderUnavailable:
    with pytest.raises(EmbedderUnavailable) as caught:
        await embedder.embed_documents(list(texts) or ["a text"])
    assert not isinstance(caught.value, EmbedderDied)
    return caught.value


# --- the service as a whole ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("500", "failed (HTTP 500: as it was told to)"),
        ("503", "answers HTTP 503: as it was told to"),
        ("429", "answers HTTP 429: as it was told to"),
        ("401", "answers HTTP 401: as it was told to; see embedding.apiKey"),
        ("404", "answers HTTP 404: as it was told to; "),
        ("400", "refused it (HTTP 400: as it was told to)"),
        ("422", "refused it (HTTP 422: as it was told to)"),
        ("html", "answered something that is not JSON (text/html): is embedding.url the address"),
        ("truncated", "answered something that is not JSON (application/json)"),
        ("cut", "broke off before its answer was complete"),
        ("reset", "broke off before its answer was complete"),
        ("redirect", "answers HTTP 302; it redirects elsewhere, which is not followed"),
        ("gzip", "compresses its answers, which it was asked not to do"),
        ("endless", "answered with more than 524288 bytes: those are no vectors"),
        ("hang", "did not answer within 0.1 s"),
        ("count", "vectors where"),
        ("dimension", "gives vectors of 33 dimensions with fake, expected are 32: set embedding.dimension to 33"),
    ],
)
async def test_a_service_that_fails_for_every_text_is_away_and_no_text_is_blamed(
    server: EmbeddingServer, fault: str, said: str
) -> None:
    server.fault = fault
    told: list[bool] = []
    async with embedding(server, timeout_s=0.1 if fault == "hang" else 60.0, told=told) as embedder:
        error = await refusal(embedder, "one", "two", "three")
        assert said in error.message
        assert embedder.health().state == "unavailable"
        assert embedder.health().detail == error.message
        with pytest.raises(EmbedderUnavailable):
            await embedder.embed_query("one")
        server.fault = ""
        assert len(await embedder.embed_documents(["one", "two", "three"])) == 3
        assert (embedder.health().state, embedder.health().detail) == ("ready", "")
        assert told == [False, True]


@pytest.mark.parametrize("fault", ["500", "hang", "html", "cut", "400", "count", "dimension"])
async def test_a_service_that_begins_to_fail_is_away_too(server: EmbeddingServer, fault: str) -> None:
    async with embedding(server, timeout_s=0.5) as embedder:
        await embedder.embed_documents(["one"])
        server.fault = fault
        await refusal(embedder, "two", "three")
        server.fault = ""
        assert len(await embedder.embed_documents(["two", "three"])) == 2


async def test_a_service_that_is_not_there_is_told_with_its_address_and_the_systems_words() -> None:
    server = EmbeddingServer("service")
    await server.start()
    await server.stop()
    async with embedding(server) as embedder:
        error = await refusal(embedder)
        assert error.message == f"the embedding service at {server.url} cannot be reached (Connection refused)"


async def test_a_model_that_is_not_there_is_told_with_what_to_do(batches: EmbeddingServer) -> None:
    async with embedding(batches, model="nomic-embed-text") as embedder:
        error = await refusal(embedder)
        assert 'model "nomic-embed-text" not found, try pulling it first' in error.message
        assert "run `ollama pull nomic-embed-text`" in error.message


@pytest.mark.parametrize("fault", ["429", "503"])
async def test_what_the_service_asks_to_wait_is_passed_on_and_searches_leave_it_alone_meanwhile(
    batches: EmbeddingServer, fault: str
) -> None:
    batches.fault, batches.retry_after = fault, "120"
    async with embedding(batches) as embedder:
        assert (await refusal(embedder)).retry_after_ms == 120_000
        batches.fault = ""
        with pytest.raises(EmbedderUnavailable) as caught:
            await embedder.embed_query("tea")
        assert 100_000 < (caught.value.retry_after_ms or 0) <= 120_001
        assert batches.requests == []
        await embedder.embed_documents(["the worker decides for itself"])
        assert len(await embedder.embed_query("tea")) == 128


async def test_a_service_that_comes_back_is_noticed_without_anybody_asking_for_a_text(server: EmbeddingServer) -> None:
    server.fault = "503"
    answers = asyncio.Event()
    embedder = HttpEmbedder(
        settings(server), SystemClock(), watch_interval_s=0.01, on_answering=lambda up: answers.set() if up else None
    )
    await embedder.start()
    async with asyncio.timeout(10):
        while embedder.health().state != "unavailable":
            await asyncio.sleep(0)
        server.fault = ""
        await answers.wait()
    assert embedder.health().state == "ready"
    for fault in ("500", "429"):
        answers.clear()
        server.fault = fault
        await refusal(embedder)
        server.fault = ""
        async with asyncio.timeout(10):
            await answers.wait()
    await embedder.close()


async def test_connections_are_kept_and_closed_at_the_end(server: EmbeddingServer) -> None:
    async with embedding(server) as embedder:
        for n in range(10):
            await embedder.embed_documents([f"text {n}"])
            await embedder.embed_query(f"query {n}")
        assert server.connections == 1
        await asyncio.gather(*(embedder.embed_query(f"at once {n}") for n in range(30)))
        assert server.connections <= 9
    async with asyncio.timeout(10):
        while server.open:
            await asyncio.sleep(0)


async def test_a_kept_connection_that_the_service_closed_is_replaced_without_a_word(batches: EmbeddingServer) -> None:
    async with embedding(batches) as embedder:
        await embedder.embed_documents(["one"])
        with capture_logs() as entries:
            batches.faults = ["reset"]  # it closes it over the next request, as one does that has just timed out
            assert len(await embedder.embed_documents(["two"])) == 1
        assert entries == []
        assert batches.connections == 2


async def test_proxies_of_the_environment_are_not_used(
    batches: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with embedding(batches) as embedder:
        assert len(await embedder.embed_documents(["one"])) == 1


async def test_what_is_under_way_when_it_is_closed_is_answered(server: EmbeddingServer) -> None:
    async with embedding(server) as embedder:
        await embedder.embed_documents(["one"])
        server.gate = asyncio.Event()
        calls = [asyncio.create_task(embedder.embed_documents(["two"])), asyncio.create_task(embedder.embed_query("q"))]
        while server.waiting < 2:
            await asyncio.sleep(0)
        await embedder.close()
        for answer in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(answer, EmbedderUnavailable)
            assert answer.message == "the embedding client is stopping"
        assert embedder.health().detail == "stopped"


# --- secrets --------------------------------------------------------------------------------------------------


async def test_the_key_goes_into_the_header_and_into_no_message_and_no_log(server: EmbeddingServer) -> None:
    server.key = "sk-right"
    with capture_logs() as entries:
        async with embedding(server, api_key="sk-right") as embedder:
            assert len(await embedder.embed_documents(["one"])) == 1
        async with embedding(server, api_key="sk-wrong-one") as embedder:
            error = await refusal(embedder)  # and the service repeats it
            assert "Incorrect API key provided: Bearer ***" in error.message
            assert "sk-" not in embedder.health().detail
    assert "sk-" not in str(entries)


@pytest.mark.parametrize(
    "text", ["poison: my diary of the third of May", "poison", "x" * 300 + " poison \n and\tmore " * 20]
)
async def test_a_service_that_repeats_a_text_in_its_errors_is_not_quoted(server: EmbeddingServer, text: str) -> None:
    server.poison.add("poison")
    with capture_logs() as entries:
        async with embedding(server) as embedder:
            with pytest.raises(RejectedText) as caught:
                await embedder.embed_documents([text])
    assert caught.value.message.endswith("refused it (HTTP 400)")
    assert "poison" not in str(entries)


# --- single texts -----------------------------------------------------------------------------------------------


async def embed_around(embedder: HttpEmbedder, texts: list[str]) -> tuple[dict[str, bytes], list[str]]:
    """As the worker does it: who is rejected goes, and the others come again."""
    rejected = []
    waiting = list(texts)
    while True:
        try:
            return dict(zip(waiting, await embedder.embed_documents(waiting), strict=True)), rejected
        except RejectedText as error:
            rejected.append(waiting.pop(error.position))


@pytest.mark.parametrize("place", [0, 1, 31, 62, 63])
async def test_one_text_in_64_that_the_service_refuses_is_found_and_the_others_are_sent_once(
    server: EmbeddingServer, place: int
) -> None:
    texts = [f"text {n} of them" for n in range(64)]
    texts[place] = "the poison"
    server.poison.add("poison")
    async with embedding(server) as embedder:
        vectors, rejected = await embed_around(embedder, texts)
        assert rejected == ["the poison"]
        assert len(vectors) == 63
        alone = (await embedder.embed_documents([texts[5]]))[0]
        assert cosine(vectors[texts[5]], alone) > 0.999
        assert embedder.health().state == "ready"
    if server.kind != "single":
        answered = [request for request in server.requests if not any("poison" in text for text in request)]
        others = [text for text in texts if text not in {"the poison", texts[5]}]
        # what was embedded beside the one refused is not paid for twice
        assert {sum(request.count(text) for request in answered) for text in others} == {1}


async def test_several_texts_that_are_refused_go_one_after_the_other(server: EmbeddingServer) -> None:
    texts = [f"poison {n}" if n % 7 == 0 else f"text {n}" for n in range(40)]
    server.poison.add("poison")
    async with embedding(server) as embedder:
        vectors, rejected = await embed_around(embedder, texts)
        assert sorted(rejected) == sorted(text for text in texts if text.startswith("poison"))
        assert len(vectors) == 34


@pytest.mark.parametrize("flaw", ["nan", "inf", "null", "zero", "empty"])
async def test_a_vector_that_is_none_rejects_its_text_and_is_not_answered(server: EmbeddingServer, flaw: str) -> None:
    server.flawed, server.flaw = {"odd"}, flaw
    async with embedding(server) as embedder:
        vectors, rejected = await embed_around(embedder, ["one", "an odd one", "two"])
        assert rejected == ["an odd one"]
        assert list(vectors) == ["one", "two"]
        with pytest.raises(RejectedText):
            await embedder.embed_query("an odd one")


@pytest.mark.parametrize("flaws", [1, 2])
async def test_a_text_is_not_blamed_for_a_service_that_was_unwell_and_recovered(
    server: EmbeddingServer, flaws: int
) -> None:
    server.flawed, server.flaws_left = {"odd"}, flaws
    async with embedding(server) as embedder:
        vectors, rejected = await embed_around(embedder, ["one", "an odd one", "two"])
        assert (list(vectors), rejected) == (["one", "an odd one", "two"], [])
        server.flaws_left = 1
        assert await embedder.embed_query("another odd one")


@pytest.mark.parametrize("flaw", ["nan", "null", "zero", "empty"])
async def test_a_model_that_gives_no_vector_for_any_text_is_broken_and_no_text_is_blamed(
    server: EmbeddingServer, flaw: str
) -> None:
    server.flawed, server.flaw = {""}, flaw
    async with embedding(server) as embedder:
        assert "the vector of any text" in (await refusal(embedder)).message


@pytest.mark.parametrize("how", ["crashing", "hanging"])
async def test_a_text_over_which_the_service_fails_is_found_and_blamed_alone(server: EmbeddingServer, how: str) -> None:
    getattr(server, how).add("deadly")
    texts = [f"text {n}" for n in range(7)] + ["deadly"]
    async with embedding(server, timeout_s=0.5) as embedder:
        with pytest.raises(EmbedderDied) as caught:
            await embedder.embed_documents(texts)
        assert caught.value.message.endswith("; other texts it embeds")
        assert embedder.health().state == "ready"  # it answers others
        sent = len(server.texts)
        assert len(await embedder.embed_documents(texts[:-1])) == 7
        assert len(server.texts) == sent  # they were embedded on the way to the one to blame


async def test_a_batch_that_takes_too_long_is_made_smaller_for_good(batches: EmbeddingServer) -> None:
    async with embedding(batches, timeout_s=0.5) as embedder:
        await embedder.embed_documents(["begin"])
        batches.faults = ["hang"]
        texts = [f"text {n}" for n in range(32)]
        assert len(await embedder.embed_documents(texts)) == 32
        assert {len(request) for request in batches.requests[-4:]} <= {8}
        batches.requests.clear()
        await embedder.embed_documents([f"more {n}" for n in range(32)])
        assert [len(request) for request in batches.requests] == [8, 8, 8, 8]


async def test_one_text_that_takes_for_ever_makes_no_batch_smaller(batches: EmbeddingServer) -> None:
    batches.hanging.add("deadly")
    async with embedding(batches, timeout_s=0.2) as embedder:
        with pytest.raises(EmbedderDied):
            await embedder.embed_documents([f"text {n}" for n in range(15)] + ["deadly"])
        batches.requests.clear()
        await embedder.embed_documents([f"more {n}" for n in range(16)])
        assert [len(request) for request in batches.requests] == [16]


async def test_a_body_that_is_too_large_is_cut_and_the_size_remembered(batches: EmbeddingServer) -> None:
    batches.max_bytes = 100_000  # what Express takes unless it is told otherwise
    async with embedding(batches) as embedder:
        texts = [f"{n} " + "word " * 4000 for n in range(16)]
        assert len(await embedder.embed_documents(texts)) == 16
        refused_before = batches.connections
        batches.requests.clear()
        assert len(await embedder.embed_documents([text + "again" for text in texts])) == 16
        assert all(len(request) <= 4 for request in batches.requests)
        assert sum(len(request) for request in batches.requests) == 16
        assert batches.connections == refused_before


async def test_no_request_is_larger_than_configured(batches: EmbeddingServer) -> None:
    async with embedding(batches, max_batch_bytes=10_000, batch_size=5) as embedder:
        await embedder.embed_documents([f"{n}" * 3000 for n in range(8)] + [f"short {n}" for n in range(12)])
    assert max(len(request) for request in batches.requests) == 5
    assert all(sum(len(text) + 2 for text in request) <= 10_000 or len(request) == 1 for request in batches.requests)


async def test_of_a_very_long_text_the_beginning_is_embedded(server: EmbeddingServer) -> None:
    async with embedding(server, max_text_chars=1000) as embedder:
        long, cut = await embedder.embed_documents(["a" * 999 + "b" + "c" * 4_000_000, "a" * 999 + "b"])
        assert long == cut
    assert max(len(text) for text in server.texts) == 1000


@pytest.mark.parametrize("how", ["max_chars", "max_bytes"])
async def test_a_text_that_is_too_long_for_the_model_is_shortened(server: EmbeddingServer, how: str) -> None:
    setattr(server, how, 1100)
    async with embedding(server) as embedder:
        vectors, rejected = await embed_around(embedder, ["short", "word " * 800, "shorter"])
        assert (len(vectors), rejected) == (3, [])
        (beginning,) = await embedder.embed_documents(["word " * 200])
        assert cosine(vectors["word " * 800], beginning) > 0.999
        assert len(await embedder.embed_query("word " * 800)) == 128


async def test_a_long_text_whose_beginning_the_service_fails_over_is_blamed_alone(batches: EmbeddingServer) -> None:
    batches.max_chars = 1000
    batches.crashing.add("deadly")
    async with embedding(batches) as embedder:
        with pytest.raises(EmbedderDied):
            await embedder.embed_documents(["short", "deadly " + "word " * 250])
        with pytest.raises(EmbedderUnavailable):
            await embedder.embed_query("deadly " + "word " * 250)
        assert embedder.health().state == "ready"


async def test_a_text_that_is_too_long_whatever_is_cut_off_is_refused_in_the_end(batches: EmbeddingServer) -> None:
    async with embedding(batches) as embedder:
        await embedder.embed_documents(["begin"])
        batches.max_chars = SHORTEST_CUT - 1
        _, rejected = await embed_around(embedder, ["short", "word " * 800])
        assert rejected == ["word " * 800]


async def test_equal_texts_are_embedded_once(batches: EmbeddingServer) -> None:
    async with embedding(batches) as embedder:
        one, _, other = await embedder.embed_documents(["tea", "coffee", "tea"])
        assert one == other
        assert batches.texts.count("tea") == 1


# --- dialects ---------------------------------------------------------------------------------------------------


async def test_the_form_of_the_service_is_found_once_and_remembered() -> None:
    for kind, sizes in (("service", [2, 5]), ("single", [1, 1, 1, 1, 1, 1])):
        async with EmbeddingServer(kind) as server, embedding(server) as embedder:
            await embedder.embed_documents([f"text {n}" for n in range(5)])
            assert [len(request) for request in server.requests] == sizes
            server.requests.clear()
            await embedder.embed_documents([f"more {n}" for n in range(5)])
            assert [len(request) for request in server.requests] == sizes[1:]


async def test_a_service_that_fails_over_the_form_it_does_not_know_is_asked_in_the_other() -> None:
    async with EmbeddingServer("single") as server, embedding(server) as embedder:
        server.unknown_form = 500  # as JavaScript does that calls a method of what is not there
        assert len(await embedder.embed_documents(["one", "two"])) == 2
        server.poison.add("poison")
        with pytest.raises(RejectedText):  # and it is asked again who is to blame
            await embedder.embed_documents(["poison"])
        assert embedder.health().state == "ready"


async def test_a_service_that_is_unwell_keeps_the_form_that_was_found() -> None:
    async with EmbeddingServer("service") as server, embedding(server) as embedder:
        await embedder.embed_documents(["one", "two"])
        server.faults = ["500", "500"]
        await refusal(embedder, "three", "four")
        server.requests.clear()
        await embedder.embed_documents(["three", "four"])
        assert [len(request) for request in server.requests] == [2]


async def test_an_answer_in_another_order_is_put_right() -> None:
    async with EmbeddingServer("openai") as server, embedding(server) as embedder:
        straight = await embedder.embed_documents(["tea", "coffee", "cocoa"])
        server.fault = "reversed"
        assert await embedder.embed_documents(["tea", "coffee", "cocoa"]) == straight


async def test_prefixes_are_put_before_what_is_stored_and_what_is_searched(batches: EmbeddingServer) -> None:
    async with embedding(batches, document_prefix="doc: ", query_prefix="ask: ") as embedder:
        await embedder.embed_documents(["tea"])
        await embedder.embed_query("tea")
    assert batches.texts[-2:] == ["doc: tea", "ask: tea"]
    batches.model = "nomic-embed-text"
    async with embedding(batches, model=None) as embedder:
        await embedder.embed_documents(["tea"])
        await embedder.embed_query("tea")
    assert batches.texts[-2:] == ["search_document: tea", "search_query: tea"]


async def test_ollama_is_asked_to_keep_the_model(batches: EmbeddingServer) -> None:
    async with embedding(batches, keep_warm=True) as embedder:
        await embedder.embed_documents(["tea"])
    assert {body["keep_alive"] for body in batches.bodies} == {-1}


async def test_an_address_with_more_than_a_host_is_taken() -> None:
    async with EmbeddingServer("openai") as server:
        assert PATHS["openai"] == "/v1/embeddings"
        async with embedding(server, url=f"{server.url}/v1/") as embedder:
            assert len(await embedder.embed_documents(["tea"])) == 1


# --- searches ---------------------------------------------------------------------------------------------------


async def test_a_search_does_not_wait_for_documents(batches: EmbeddingServer) -> None:
    async with embedding(batches) as embedder:
        await embedder.embed_query("warm up")
        batches.gate = asyncio.Event()
        documents = asyncio.create_task(embedder.embed_documents(["slow"]))
        while not batches.waiting:
            await asyncio.sleep(0)
        held, batches.gate = batches.gate, None
        assert len(await embedder.embed_query("quick")) == 128
        assert not documents.done()
        held.set()
        await documents


async def test_repeated_queries_are_asked_once(batches: EmbeddingServer) -> None:
    async with embedding(batches) as embedder:
        first = await embedder.embed_query("tea")
        assert {await embedder.embed_query("tea") for _ in range(5)} == {first}
        assert batches.texts.count("tea") == 1
        assert embedder.queries.hits == 5


async def test_a_query_that_takes_too_long_says_nothing_of_the_service_until_somebody_looked(
    batches: EmbeddingServer,
) -> None:
    async with embedding(batches, start=True, timeout_s=0.3) as embedder:
        batches.hanging.add("slow")
        await embedder.embed_query("warm up")
        with pytest.raises(EmbedderUnavailable, match="did not answer within"):
            await embedder.embed_query("slow")
        assert embedder.health().state == "ready"
        batches.fault = "hang"
        with pytest.raises(EmbedderUnavailable, match="did not answer within"):
            await embedder.embed_query("another")
        async with asyncio.timeout(10):
            while embedder.health().state == "ready":
                await asyncio.sleep(0)
        with pytest.raises(EmbedderUnavailable) as caught:  # and from now on no search waits for it
            await embedder.embed_query("a third")
        assert (caught.value.retry_after_ms or 0) > 0


async def test_vectors_are_float32_as_they_came(server: EmbeddingServer) -> None:
    async with embedding(server) as embedder:
        (vector,) = await embedder.embed_documents(["tea"])
        numbers = struct.unpack("<32f", vector)
        assert sum(number * number for number in numbers) == pytest.approx(1.0, abs=1e-5)

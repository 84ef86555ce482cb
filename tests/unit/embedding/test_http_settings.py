"""What the settings of an embedding service mean, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusd.config_sections import Config, EmbeddingConfig
from nexusd.embedding.http_settings import PATHS, describe_service, http_complaints


def complaints(**embedding: Any) -> list[str]:
    found = http_complaints(Config(embedding=EmbeddingConfig(**embedding)))
    return [f"{name}: {sentence}" for name, sentence in found]


@pytest.mark.parametrize(
    ("provider", "url", "endpoint"),
    [
        ("service", None, "http://localhost:3003/embed"),
        ("ollama", None, "http://localhost:11434/api/embed"),
        ("service", "http://10.0.0.2:3003/", "http://10.0.0.2:3003/embed"),
        ("service", "http://10.0.0.2:3003/embed", "http://10.0.0.2:3003/embed"),
        ("service", "http://mini/nexus", "http://mini/nexus/embed"),
        ("ollama", "http://mini:11434/api", "http://mini:11434/api/embed"),
        ("openai", "https://api.openai.com", "https://api.openai.com/v1/embeddings"),
        ("openai", "https://api.openai.com/v1/", "https://api.openai.com/v1/embeddings"),
        ("openai", "http://[::1]:8080/proxy/v1/embeddings", "http://[::1]:8080/proxy/v1/embeddings"),
    ],
)
def test_an_address_is_completed_by_what_it_does_not_say(provider: Any, url: str | None, endpoint: str) -> None:
    assert complaints(provider=provider, url=url) == []
    assert describe_service(EmbeddingConfig(provider=provider, url=url)).endpoint == endpoint


def test_a_model_that_is_known_by_name_brings_its_dimension_and_its_prefixes() -> None:
    nomic = describe_service(EmbeddingConfig(provider="ollama"))
    assert (nomic.fingerprint.model, nomic.fingerprint.dimension) == ("nomic-embed-text", 768)
    assert (nomic.document_prefix, nomic.query_prefix) == ("search_document: ", "search_query: ")
    tagged = describe_service(EmbeddingConfig(provider="ollama", model="library/nomic-embed-text:v1.5"))
    assert tagged.query_prefix == "search_query: "
    assert describe_service(EmbeddingConfig(provider="ollama", model="mxbai-embed-large")).fingerprint.dimension == 1024
    assert describe_service(EmbeddingConfig(provider="openai", url="http://a")).fingerprint.dimension == 1536


def test_a_model_that_is_not_known_has_the_dimension_of_the_specification_and_no_prefix() -> None:
    described = describe_service(EmbeddingConfig(provider="ollama", model="of-my-own"))
    assert described.fingerprint.dimension == 768
    assert (described.document_prefix, described.query_prefix, described.fingerprint.prefix) == ("", "", "")


def test_the_memory_systems_own_service_puts_prefixes_itself() -> None:
    described = describe_service(EmbeddingConfig(provider="service"))
    assert (described.document_prefix, described.query_prefix) == ("", "")
    assert described.fingerprint.dimension == 768


def test_settings_go_before_what_is_known_of_a_model() -> None:
    config = EmbeddingConfig(provider="ollama", dimension=256, document_prefix="", query_prefix="q: ")
    described = describe_service(config)
    assert (described.fingerprint.dimension, described.document_prefix, described.query_prefix) == (256, "", "q: ")


def test_what_changes_vectors_changes_the_fingerprint_and_the_address_does_not() -> None:
    one = EmbeddingConfig(provider="ollama", url="http://a")
    same = [{"url": "http://b:1"}, {"model": "nomic-embed-text:latest"}, {"api_key": "k"}, {"keep_warm": True}]
    other = [{"model": "bge-m3"}, {"dimension": 512}, {"document_prefix": ""}, {"query_prefix": ""},
             {"provider": "service"}]  # fmt: skip

    def name(change: dict[str, Any]) -> str:
        settings = {"provider": one.provider, "url": one.url} | change
        return describe_service(EmbeddingConfig(**settings)).fingerprint.short

    assert {name(change) for change in same} == {name({})}
    assert len({name(change) for change in [{}, *other]}) == 1 + len(other)


@pytest.mark.parametrize(
    "url",
    ["localhost:3003", "10.0.0.2", "ftp://a", "http://", "http://:3003", "http://a:99999", "http://a:0", "http://[::1",
     "http://a b", "http://a\r\nhost: b", "", "/embed", "http://a\\b"],
)  # fmt: skip
def test_what_is_no_address_is_refused(url: str) -> None:
    [complaint] = complaints(provider="service", url=url)
    assert complaint == "embedding.url: expected http://HOST, http://HOST:PORT or the same with https"


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    [complaint] = complaints(provider="openai", url="https://me:hunter2@api.example.org")
    assert "embedding.apiKey" in complaint
    assert "hunter2" not in complaint


@pytest.mark.parametrize("host", ["10.0.0.2", "[fd00::1]:8443"])
def test_https_with_a_plain_address_is_refused_for_what_certificates_are_made_out_to(host: str) -> None:
    [complaint] = complaints(provider="openai", url=f"https://{host}")
    assert "expected a name, as certificates are made out to" in complaint
    assert complaints(provider="openai", url=f"http://{host}") == []


def test_a_service_far_away_is_nobodys_default() -> None:
    [complaint] = complaints(provider="openai")
    assert complaint.startswith("embedding.url: the provider openai has no usual address")


def test_settings_of_a_service_beside_the_built_in_model_are_refused_by_name() -> None:
    found = complaints(url="http://a", api_key="k", document_prefix="", query_prefix="", keep_warm=True)
    names = [complaint.partition(":")[0] for complaint in found]
    assert names == [f"embedding.{name}" for name in ("url", "apiKey", "documentPrefix", "queryPrefix", "keepWarm")]
    assert complaints() == []


def test_only_ollama_can_be_asked_to_keep_a_model_in_memory() -> None:
    assert complaints(provider="ollama", keep_warm=True) == []
    [complaint] = complaints(provider="service", keep_warm=True)
    assert complaint == "embedding.keepWarm: only ollama can be asked to; leave it out"


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "schlüssel"])
def test_a_key_that_no_header_carries_is_refused_and_not_repeated(key: str) -> None:
    [complaint] = complaints(provider="ollama", api_key=key)
    assert complaint == "embedding.apiKey: expected visible ASCII characters only, as a header carries them"


@given(st.sampled_from(list(PATHS)), st.text(max_size=30) | st.from_regex(r"https?://[a-z0-9.:\[\]@/?#-]{0,20}"))
def test_any_address_is_refused_or_completed(provider: Any, url: str) -> None:
    config = EmbeddingConfig(provider=provider, url=url)
    if not http_complaints(Config(embedding=config)):
        described = describe_service(config)
        assert described.endpoint.startswith(described.origin)
        assert described.endpoint.endswith(PATHS[provider])

"""What the settings of an embedding service mean: where it is, which model, and what is put before a text.

Owns the table of models that are known by name, the usual addresses, and what is wrong with a setting. Sends
nothing and does not import the client.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from nexusd.config_sections import Config, EmbeddingConfig
from nexusd.embedding.embedder import Fingerprint
from nexusd.embedding.model_files import PROVIDER as BUILTIN

DEFAULT_DIMENSION = 768  # of nomic-embed-text, which the services before this one were built around
USUAL_URLS = {"service": "http://localhost:3003", "ollama": "http://localhost:11434"}
PATHS = {"service": "/embed", "ollama": "/api/embed", "openai": "/v1/embeddings"}
KEPT_WARM_BY = "ollama"


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What its makers say of a model: its dimension, and the words that it was trained to find before a text."""

    dimension: int
    document_prefix: str = ""
    query_prefix: str = ""


_SEARCHING_PASSAGES = "Represent this sentence for searching relevant passages: "
# By name without tag. A prefix that changes here changes fingerprints, and has every row embedded again.
KNOWN_MODELS = {
    "nomic-embed-text": KnownModel(768, "search_document: ", "search_query: "),
    "nomic-embed-text-v1.5": KnownModel(768, "search_document: ", "search_query: "),
    "nomic-embed-text-v2-moe": KnownModel(768, "search_document: ", "search_query: "),
    "embeddinggemma": KnownModel(768, "title: none | text: ", "task: search result | query: "),
    "mxbai-embed-large": KnownModel(1024, "", _SEARCHING_PASSAGES),
    "snowflake-arctic-embed": KnownModel(1024, "", _SEARCHING_PASSAGES),
    "snowflake-arctic-embed2": KnownModel(1024, "", "query: "),
    "bge-m3": KnownModel(1024),
    "all-minilm": KnownModel(384),
    "text-embedding-3-small": KnownModel(1536),
    "text-embedding-3-large": KnownModel(3072),
    "text-embedding-ada-002": KnownModel(1536),
}


@dataclass(frozen=True, slots=True)
class HttpService:
    """A configured service: the address that is asked, and what is asked for. `origin` is the address as shown."""

    endpoint: str
    origin: str
    fingerprint: Fingerprint
    document_prefix: str
    query_prefix: str


def describe_service(config: EmbeddingConfig) -> HttpService:
    """The service that the settings name; they have passed `http_complaints`."""
    url = urlsplit(config.url or USUAL_URLS[config.provider])
    name = config.model_name.removesuffix(":latest")
    known = KNOWN_MODELS.get(name.rpartition("/")[2].partition(":")[0].lower(), KnownModel(DEFAULT_DIMENSION))
    # The memory system's own service knows its model and puts there what it needs; a prefix of ours would be a second.
    own = KnownModel(known.dimension) if config.provider == "service" else known
    document = own.document_prefix if config.document_prefix is None else config.document_prefix
    query = own.query_prefix if config.query_prefix is None else config.query_prefix
    # Not the address: a service that moves to another machine gives the same vectors.
    fingerprint = Fingerprint(
        config.provider, name, config.dimension or known.dimension, f"{document}\n{query}" if document or query else ""
    )
    return HttpService(
        endpoint=f"{url.scheme}://{url.netloc}{_joined(url.path, PATHS[config.provider])}",
        origin=f"{url.scheme}://{url.netloc}",
        fingerprint=fingerprint,
        document_prefix=document,
        query_prefix=query,
    )


def http_complaints(config: Config) -> list[tuple[str, str]]:
    """What is wrong with the settings of a service over HTTP, as a rule for `load_settings`."""
    embedding = config.embedding
    if embedding.provider == BUILTIN:
        return list(_out_of_place(embedding))
    complaints = list(_wrong_url(embedding))
    if embedding.keep_warm and embedding.provider != KEPT_WARM_BY:
        complaints.append(("embedding.keepWarm", f"only {KEPT_WARM_BY} can be asked to; leave it out"))
    if embedding.api_key is not None and not re.fullmatch(r"[!-~]+", embedding.api_key):
        complaints.append(("embedding.apiKey", "expected visible ASCII characters only, as a header carries them"))
    if embedding.model is not None and not embedding.model.strip():
        complaints.append(("embedding.model", "expected the name of a model, or null for the provider's usual"))
    return complaints


def _out_of_place(embedding: EmbeddingConfig) -> Iterator[tuple[str, str]]:
    given = {
        "url": embedding.url,
        "apiKey": embedding.api_key,
        "documentPrefix": embedding.document_prefix,
        "queryPrefix": embedding.query_prefix,
        "keepWarm": embedding.keep_warm or None,
    }
    for name, value in given.items():
        if value is not None:
            yield (
                f"embedding.{name}",
                f"the model is built in, which has no use for it; set embedding.provider to {', '.join(PATHS)}",
            )


def _wrong_url(embedding: EmbeddingConfig) -> Iterator[tuple[str, str]]:
    name = "embedding.url"
    if embedding.url is None:
        if embedding.provider not in USUAL_URLS:  # one that would send memories far away is nobody's default
            yield name, f"the provider {embedding.provider} has no usual address: set it, as https://HOST"
        return
    url = _split(embedding.url)
    if url is None:
        yield name, "expected http://HOST, http://HOST:PORT or the same with https"
    elif url.username is not None or url.password is not None:
        yield name, "expected no user and password in it; set embedding.apiKey where the service wants a key"
    elif url.query or url.fragment:
        yield name, f"found {embedding.url!r}, expected an address without ? and #"
    elif url.scheme == "https" and _is_address(url.hostname or ""):
        expected = "a name, as certificates are made out to, or http:// on a network that you trust"
        yield name, f"found {embedding.url!r}, expected {expected}"


def _split(text: str) -> SplitResult | None:
    if re.search(r"[\s\x00-\x1f\x7f\\]", text):
        return None
    try:
        url = urlsplit(text)
        whole = url.scheme in {"http", "https"} and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:  # a port that is none, or half an IPv6 address
        return None
    return url if whole else None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _joined(base: str, path: str) -> str:
    """The path below what the address names already; http://host/v1 is given as often as http://host."""
    base = base.rstrip("/")
    parts = path.strip("/").split("/")
    for known in range(len(parts), 0, -1):
        if base.endswith("/" + "/".join(parts[:known])):
            return "/".join([base, *parts[known:]])
    return base + path

"""How each kind of embedding service is asked, and how it answers.

Owns the bodies of requests and the places of vectors in answers. Sends nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nexusd.config_sections import EmbeddingConfig
from nexusd.errors import NexusError

FOREVER = -1  # Ollama's keep_alive


class Misshapen(NexusError):
    """The answer is JSON, but no vectors stand where this kind of service puts them."""


@dataclass(frozen=True, slots=True)
class Form:
    """One way to ask. `many`: several texts in a request; otherwise each text is a request of its own."""

    many: bool
    body: Callable[[Sequence[str]], dict[str, object]]
    vectors: Callable[[object], list[object]]


@dataclass(frozen=True, slots=True)
class Dialect:
    """A kind of service: its name in messages, its forms, the best first, and what helps against a status."""

    label: str
    forms: tuple[Form, ...]
    advice: Mapping[int, str]


def dialect_of(config: EmbeddingConfig) -> Dialect:
    """The dialect of the configured provider."""
    return _DIALECTS[config.provider](config)


def _service(_: EmbeddingConfig) -> Dialect:
    return Dialect(
        "the embedding service",
        (
            Form(many=True, body=lambda texts: {"texts": list(texts)}, vectors=_service_vectors),
            Form(many=False, body=lambda texts: {"text": texts[0]}, vectors=_service_vectors),
        ),
        {404: "it has no POST /embed there; see embedding.url"},
    )


def _ollama(config: EmbeddingConfig) -> Dialect:
    model = config.model_name
    fixed: dict[str, object] = {"model": model}
    if config.keep_warm:
        fixed["keep_alive"] = FOREVER
    return Dialect(
        "ollama",
        (Form(many=True, body=lambda texts: {**fixed, "input": list(texts)}, vectors=_ollama_vectors),),
        {404: f"run `ollama pull {model}` on its machine, or see embedding.model and embedding.url"},
    )


def _openai(config: EmbeddingConfig) -> Dialect:
    model = config.model_name
    return Dialect(
        "the embedding service",
        (Form(many=True, body=lambda texts: {"model": model, "input": list(texts)}, vectors=_openai_vectors),),
        {404: f"see embedding.model ({model}) and embedding.url"},
    )


_DIALECTS: dict[str, Callable[[EmbeddingConfig], Dialect]] = {
    "service": _service,
    "ollama": _ollama,
    "openai": _openai,
}


def _service_vectors(answer: object) -> list[object]:
    """A list of vectors, or one vector, under any of the names that are in use."""
    if isinstance(answer, dict):
        for name in ("embeddings", "vectors", "embedding", "vector"):
            found = answer.get(name)
            if isinstance(found, list):
                nested = bool(found) and isinstance(found[0], list)
                return found if nested or name.endswith("s") else [found]
    raise Misshapen("an answer without `embedding`, `embeddings` or `vector`")


def _ollama_vectors(answer: object) -> list[object]:
    if isinstance(answer, dict) and isinstance(found := answer.get("embeddings"), list):
        return found
    raise Misshapen("an answer without `embeddings`")


def _openai_vectors(answer: object) -> list[object]:
    """In the order of the texts: each entry says which text it is for, and need not come in that order."""
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list) or not all(isinstance(entry, dict) and "embedding" in entry for entry in data):
        raise Misshapen("an answer without `data` and an `embedding` in each entry")
    if not any("index" in entry for entry in data):
        return [entry["embedding"] for entry in data]
    by_index = {entry.get("index"): entry["embedding"] for entry in data if isinstance(entry.get("index"), int)}
    if sorted(by_index) != list(range(len(data))):
        raise Misshapen("an answer whose `index` values are not those of the texts")
    return [by_index[index] for index in range(len(data))]

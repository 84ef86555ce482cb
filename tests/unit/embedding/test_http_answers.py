"""Answers of embedding services: where the vectors are, what they must be, and how requests are cut."""

from __future__ import annotations

import itertools
import struct
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusd.config_sections import EmbeddingConfig
from nexusd.embedding.http_dialects import Form, Misshapen, dialect_of
from nexusd.embedding.http_embedder import pieces
from nexusd.embedding.http_exchange import MAX_RETRY_AFTER_S, retry_after_ms
from nexusd.embedding.http_vectors import Flaw, OtherDimension, read_vectors

NOW_MS = 1_700_000_000_000


def forms(provider: Any, **settings: Any) -> tuple[Form, ...]:
    return dialect_of(EmbeddingConfig(provider=provider, **settings)).forms


@pytest.mark.parametrize(
    ("answer", "vectors"),
    [
        ({"embedding": [1.0, 2.0]}, [[1.0, 2.0]]),
        ({"vector": [1.0, 2.0]}, [[1.0, 2.0]]),
        ({"embeddings": [[1.0], [2.0]]}, [[1.0], [2.0]]),
        ({"embedding": [[1.0], [2.0]]}, [[1.0], [2.0]]),
        ({"vectors": [[1.0]], "model": "x", "dimensions": 1}, [[1.0]]),
        ({"embeddings": []}, []),
        ({"embedding": []}, [[]]),
    ],
)
def test_the_memory_systems_service_may_answer_in_any_of_the_usual_ways(answer: Any, vectors: Any) -> None:
    for form in forms("service"):
        assert form.vectors(answer) == vectors


@pytest.mark.parametrize("provider", ["service", "ollama", "openai"])
@pytest.mark.parametrize(
    "answer",
    [None, 1, "vector", [], {}, {"embedding": "x"}, {"data": {}}, {"data": [1]}, {"data": [{"index": 0}]},
     {"embeddings": {}}],
)  # fmt: skip
def test_an_answer_without_vectors_is_told_from_one_with_wrong_ones(provider: Any, answer: Any) -> None:
    for form in forms(provider):
        with pytest.raises(Misshapen):
            form.vectors(answer)


@given(st.permutations(range(6)))
def test_an_openai_answer_is_put_in_the_order_of_its_indexes(order: list[int]) -> None:
    (form,) = forms("openai")
    assert form.vectors({"data": [{"index": n, "embedding": [n]} for n in order]}) == [[n] for n in range(6)]


@pytest.mark.parametrize("indexes", [[0, 0], [1, 2], [0, None], ["0", "1"], [0, -1]])
def test_an_openai_answer_whose_indexes_are_no_order_is_misshapen(indexes: list[Any]) -> None:
    (form,) = forms("openai")
    with pytest.raises(Misshapen):
        form.vectors({"data": [{"index": n, "embedding": [0.5]} for n in indexes]})


def test_an_openai_answer_without_indexes_is_taken_as_it_comes() -> None:
    (form,) = forms("openai")
    assert form.vectors({"data": [{"embedding": [1]}, {"embedding": [2]}]}) == [[1], [2]]


def test_ollama_is_asked_for_the_model_and_to_keep_it_only_where_that_is_wanted() -> None:
    (form,) = forms("ollama", model="bge-m3")
    assert form.body(["a", "b"]) == {"model": "bge-m3", "input": ["a", "b"]}
    (form,) = forms("ollama", keep_warm=True)
    assert form.body(["a"]) == {"model": "nomic-embed-text", "input": ["a"], "keep_alive": -1}


def test_a_vector_is_kept_as_it_came_in_float32() -> None:
    assert read_vectors([[3.0, -4], [0.1, 1e-30]], 2, 2) == [struct.pack("<2f", 3, -4), struct.pack("<2f", 0.1, 1e-30)]


@pytest.mark.parametrize(
    ("numbers", "flaw"),
    [
        ([], Flaw.EMPTY), ([0.0, 0], Flaw.ZERO), ([1.0, float("nan")], Flaw.NOT_FINITE), ([1e39, 0.0], Flaw.NOT_FINITE),
        ([float("-inf"), 0.0], Flaw.NOT_FINITE), ([None, 1.0], Flaw.NOT_FINITE), ([10**400, 1], Flaw.NOT_FINITE),
        ([1e-60, 0.0], Flaw.ZERO),
    ],
)  # fmt: skip
def test_what_is_the_matter_with_one_vector_is_told_beside_the_others(numbers: list[Any], flaw: Flaw) -> None:
    good = struct.pack("<2f", 1, 2)
    assert read_vectors([[1, 2], numbers, [1, 2]], 3, 2) == [good, flaw, good]


@pytest.mark.parametrize("found", [[], [[1.0, 2.0]] * 3, [[1.0, 2.0], 7], [[1.0, 2.0], None], [[1.0, 2.0], [1.0, "2"]]])
def test_an_answer_that_does_not_fit_the_texts_is_useless_as_a_whole(found: list[Any]) -> None:
    with pytest.raises(Misshapen):
        read_vectors(found, 2, 2)


def test_another_dimension_is_told_by_its_number() -> None:
    with pytest.raises(OtherDimension) as caught:
        read_vectors([[1.0, 2.0], [1.0, 2.0, 3.0]], 2, 2)
    assert caught.value.found == 3


@given(
    st.lists(st.text(max_size=40), max_size=40),
    st.integers(1, 12),
    st.integers(1, 200),
)
def test_requests_hold_all_texts_in_order_within_their_bounds_or_one(
    texts: list[str], max_count: int, max_bytes: int
) -> None:
    cut = list(pieces(texts, max_count, max_bytes))
    assert [text for piece in cut for text in piece] == texts
    for piece in cut:
        size = sum(len(msgspec.json.encode(text)) for text in piece)
        assert 1 <= len(piece) <= max_count
        assert len(piece) == 1 or size <= max_bytes
    for piece, following in itertools.pairwise(cut):  # none is smaller than it need be
        size = sum(len(msgspec.json.encode(text)) for text in [*piece, following[0]])
        assert len(piece) == max_count or size > max_bytes


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after_ms("7", NOW_MS) == 7000
    assert retry_after_ms(" 0 ", NOW_MS) == 0
    later = datetime.fromtimestamp(NOW_MS / 1000 + 90, UTC)
    assert retry_after_ms(format_datetime(later, usegmt=True), NOW_MS) == 90_000
    assert retry_after_ms("Sun, 06 Nov 1994 08:49:37 GMT", NOW_MS) == 0
    for nothing in ("", "soon", "-5", "1.5", "Sun, 99 Nov 1994", "²"):
        assert retry_after_ms(nothing, NOW_MS) is None


dates = st.datetimes().map(lambda at: format_datetime(at.replace(tzinfo=UTC)))


@given(st.text(max_size=60) | st.integers().map(str) | dates)
def test_whatever_a_retry_after_says_the_wait_is_bounded(value: str) -> None:
    wait_ms = retry_after_ms(value, NOW_MS)
    assert wait_ms is None or 0 <= wait_ms <= MAX_RETRY_AFTER_S * 1000

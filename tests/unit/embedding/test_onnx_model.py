from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fakes.onnx_files import INT32, write_model_directory
from harness.builtin_model import needs_runtime, numbers
from hypothesis import given
from hypothesis import strategies as st

from nexusd.embedding.model import ModelUnavailable, TextRefused
from nexusd.embedding.model_files import locate

pytestmark = needs_runtime

NOT_A_NUMBER = float("nan")
WORDS = {
    "east": [1.0, 0.0],
    "north": [0.0, 1.0],
    "x": [3.0, 4.0],
    "nowhere": [0.0, 0.0],
    "broken": [NOT_A_NUMBER, 1.0],
}
SOUND = st.sampled_from(["east", "north", "x"])


def load(directory: Path) -> Any:
    from nexusd.embedding.onnx_model import OnnxModel  # noqa: PLC0415  not where the extra is missing

    return OnnxModel(locate(str(directory)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp("model")
    return load(write_model_directory(directory, WORDS, unknown_to_the_model=["alien"]))


def test_a_vector_is_the_mean_of_the_words_at_unit_length(model: Any) -> None:
    assert model.dimension == 2
    (vector,) = model.embed(["east east east north"])
    assert numbers(vector) == pytest.approx((3 / 10**0.5, 1 / 10**0.5))
    (vector,) = model.embed(["x"])
    assert numbers(vector) == pytest.approx((0.6, 0.8))


@given(texts=st.lists(st.lists(SOUND, min_size=1, max_size=90), max_size=20))
def test_a_batch_gives_each_text_what_it_gets_alone(model: Any, texts: list[list[str]]) -> None:
    """Padding must not leak into a mean, and runs must not mix up places."""
    joined = [" ".join(words) for words in texts]
    together = model.embed(joined)
    alone = [model.embed([text])[0] for text in joined]
    assert [numbers(vector) for vector in together] == [pytest.approx(numbers(vector)) for vector in alone]


@pytest.mark.parametrize(
    "export",
    [
        {"inputs": ["input_ids"]},
        {"inputs": ["input_ids", "attention_mask", "token_type_ids"]},
        {"inputs": ["input_ids", "attention_mask"], "integers": INT32},
        {"pooled": True},
    ],
    ids=str,
)
def test_every_kind_of_export_gives_the_same_vector(tmp_path: Path, export: dict[str, Any]) -> None:
    (vector,) = load(write_model_directory(tmp_path, WORDS, **export)).embed(["east north"])
    assert numbers(vector) == pytest.approx((0.5**0.5, 0.5**0.5))


@pytest.mark.parametrize("word", ["broken", "nowhere"])
def test_what_is_not_a_vector_is_refused_at_its_place(model: Any, word: str) -> None:
    with pytest.raises(TextRefused, match="not a vector") as refused:
        model.embed(["east", "north", word, "x"])
    assert refused.value.position == 2


def test_a_text_that_the_model_fails_on_is_refused_and_not_its_neighbours(model: Any) -> None:
    with pytest.raises(TextRefused, match="fails on this text") as refused:
        model.embed(["east", "north", "x", "alien", "east"])
    assert refused.value.position == 3
    assert len(model.embed(["east", "north"])) == 2


def test_a_text_past_the_window_is_cut_and_not_refused(model: Any) -> None:
    (vector,) = model.embed(["east " * 512 + "north " * 512])
    assert numbers(vector) == pytest.approx((1.0, 0.0))


def test_a_model_that_takes_other_inputs_is_refused_by_name(tmp_path: Path) -> None:
    directory = write_model_directory(tmp_path, WORDS, inputs=["input_ids", "pixel_values"])
    with pytest.raises(ModelUnavailable, match="pixel_values"):
        load(directory)


@pytest.mark.parametrize("file", ["model.onnx", "tokenizer.json"])
def test_a_broken_file_is_an_unavailable_model(tmp_path: Path, file: str) -> None:
    directory = write_model_directory(tmp_path, WORDS)
    (directory / file).write_bytes(b"{}")
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        load(directory)


def test_a_model_that_fails_on_everything_is_unavailable_and_blames_no_text(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr(model, "_run", run)
    with pytest.raises(ModelUnavailable, match="no more"):
        model.embed(["east", "north"])

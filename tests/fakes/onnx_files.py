"""Real model directories of a few hundred bytes: a table of word vectors as ONNX, a tokenizer of whole words.

The graph is written in protobuf by hand, so that no test needs the onnx package. What can be chosen is what
exports differ in: the inputs they take, whether they pool by themselves, what the table holds.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path

INT64, INT32, FLOAT = 7, 6, 1


def write_model_directory(
    directory: Path,
    words: dict[str, Sequence[float]],
    *,
    inputs: Sequence[str] = ("input_ids", "attention_mask"),
    integers: int = INT64,
    pooled: bool = False,
    declares_dimension: bool = True,
    unknown_to_the_model: Sequence[str] = (),
) -> Path:
    """A model that gives each word its vector; `unknown_to_the_model` are in the tokenizer alone."""
    directory.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[UNK]", *words, *unknown_to_the_model]
    dimension = len(next(iter(words.values())))
    table = [[0.5] * dimension, *words.values()]
    model = onnx_model(
        table, inputs=inputs, integers=integers, pooled=pooled, declares_dimension=declares_dimension
    )
    (directory / "model.onnx").write_bytes(model)
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
        "model": {
            "type": "WordLevel", "unk_token": "[UNK]",
            "vocab": {word: number for number, word in enumerate(vocabulary)},
        },
    }
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    return directory


def onnx_model(
    table: Sequence[Sequence[float]],
    *,
    inputs: Sequence[str] = ("input_ids",),
    integers: int = INT64,
    pooled: bool = False,
    declares_dimension: bool = True,
) -> bytes:
    """`last_hidden_state = table[input_ids]`; with `pooled`, its mean as `sentence_embedding` instead."""
    dimension = len(table[0])
    weights = b"".join(struct.pack(f"<{dimension}f", *row) for row in table)
    initializer = (
        _number(1, len(table)) + _number(1, dimension) + _number(2, FLOAT)
        + _text(8, "table") + _bytes(9, weights)
    )
    gathered = "gathered" if pooled else "last_hidden_state"
    nodes = [_text(1, "table") + _text(1, "input_ids") + _text(2, gathered) + _text(4, "Gather")]
    if pooled:
        axes = _text(1, "axes") + _number(8, 1) + _number(20, 7)
        keepdims = _text(1, "keepdims") + _number(3, 0) + _number(20, 2)
        nodes.append(
            _text(1, gathered) + _text(2, "sentence_embedding") + _text(4, "ReduceMean")
            + _bytes(5, axes) + _bytes(5, keepdims)
        )
    last = dimension if declares_dimension else "hidden"
    output = (
        _value("sentence_embedding", FLOAT, ["batch", last]) if pooled
        else _value("last_hidden_state", FLOAT, ["batch", "sequence", last])
    )
    graph = (
        b"".join(_bytes(1, node) for node in nodes)
        + _text(2, "words")
        + _bytes(5, initializer)
        + b"".join(_bytes(11, _value(name, integers, ["batch", "sequence"])) for name in inputs)
        + _bytes(12, output)
    )
    return _number(1, 8) + _bytes(7, graph) + _bytes(8, _text(1, "") + _number(2, 13))


def _value(name: str, kind: int, shape: Sequence[int | str]) -> bytes:
    axes = (_number(1, axis) if isinstance(axis, int) else _text(2, axis) for axis in shape)
    dims = b"".join(_bytes(1, axis) for axis in axes)
    return _text(1, name) + _bytes(2, _bytes(1, _number(1, kind) + _bytes(2, dims)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)

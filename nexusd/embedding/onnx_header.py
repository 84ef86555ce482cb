"""The dimension of an ONNX model, read from its file without loading it.

Owns as much of the protobuf wire format as it takes to step over the weights and read the declared
outputs: some thousand seeks in a mapped file, whatever its size. Knows no runtime; the daemon's main
process uses it, where onnxruntime must not be imported.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Field numbers from onnx.proto: ModelProto.graph, GraphProto.output, ValueInfoProto.type,
# TypeProto.tensor_type, TypeProto.Tensor.shape, TensorShapeProto.dim, Dimension.dim_value
_GRAPH, _OUTPUT, _TYPE, _TENSOR_TYPE, _SHAPE, _DIM, _DIM_VALUE = 7, 12, 2, 1, 2, 1, 1

_Span = tuple[int, int]


def declared_dimension(model: Path) -> int | None:
    """The last axis of the model's first output; None where the file leaves it open.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not an ONNX model.
    """
    if model.stat().st_size == 0:  # which cannot be mapped
        raise ValueError(f"{model} is not an ONNX model: it is empty")
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            graph = _first(data, (0, len(data)), _GRAPH)
            output = _first(data, graph, _OUTPUT)
            shape = _first(data, _first(data, _first(data, output, _TYPE), _TENSOR_TYPE), _SHAPE)
            *_, last = [span for number, span in _messages(data, shape) if number == _DIM]
        except (IndexError, ValueError):
            raise ValueError(f"{model} is not an ONNX model") from None
        values = [value for number, value in _numbers(data, last) if number == _DIM_VALUE]
        return values[0] if values and values[0] > 0 else None


def _first(data: mmap.mmap, span: _Span, wanted: int) -> _Span:
    for number, inner in _messages(data, span):
        if number == wanted:
            return inner
    raise ValueError(f"no field {wanted}")


def _messages(data: mmap.mmap, span: _Span) -> Iterator[tuple[int, _Span]]:
    """Every length-delimited field: its number and where its bytes lie."""
    for number, kind, start, end in _fields(data, span):
        if kind == _BYTES:
            yield number, (start, end)


def _numbers(data: mmap.mmap, span: _Span) -> Iterator[tuple[int, int]]:
    """Every varint field: its number and value."""
    for number, kind, start, _ in _fields(data, span):
        if kind == _VARINT:
            yield number, _varint(data, start)[0]


def _fields(data: mmap.mmap, span: _Span) -> Iterator[tuple[int, int, int, int]]:
    position, end = span
    while position < end:
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        start = position
        if kind == _VARINT:
            _, position = _varint(data, position)
        elif kind == _BYTES:
            length, start = _varint(data, position)
            position = start + length
        elif kind in {_FIXED32, _FIXED64}:
            position += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind}")
        if position > end:
            raise ValueError("a field runs past its message")
        yield number, kind, start, position


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.onnx_files import onnx_model
from hypothesis import given
from hypothesis import strategies as st

from nexusd.embedding.onnx_header import declared_dimension

MODEL = onnx_model([[0.25] * 7] * 3, inputs=("input_ids", "attention_mask"))


def dimension_or_refusal(file: Path) -> int | str | None:
    """Any other exception than the documented one fails the test."""
    try:
        return declared_dimension(file)
    except ValueError as error:
        return "refused" if f"{file} is not an ONNX model" in str(error) else repr(error)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx") / "model.onnx"


@given(dimension=st.integers(1, 5000), pooled=st.booleans())
def test_the_dimension_is_the_last_axis_of_the_output(file: Path, dimension: int, pooled: bool) -> None:
    file.write_bytes(onnx_model([[0.0] * dimension], pooled=pooled))
    assert declared_dimension(file) == dimension


def test_an_open_last_axis_is_no_dimension(file: Path) -> None:
    file.write_bytes(onnx_model([[0.0] * 7], declares_dimension=False))
    assert declared_dimension(file) is None


@given(cut=st.integers(0, len(MODEL) - 1))
def test_a_truncated_file_is_refused_or_still_says_the_truth(file: Path, cut: int) -> None:
    file.write_bytes(MODEL[:cut])
    assert dimension_or_refusal(file) in {7, "refused"}


@given(content=st.binary(max_size=300))
def test_any_bytes_are_a_dimension_or_a_value_error(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    dimension = dimension_or_refusal(file)
    assert dimension is None or dimension == "refused" or isinstance(dimension, int)


@given(position=st.integers(0, len(MODEL) - 1), byte=st.integers(0, 255))
def test_a_flipped_byte_ends_in_a_dimension_or_a_value_error(file: Path, position: int, byte: int) -> None:
    broken = bytearray(MODEL)
    broken[position] = byte
    file.write_bytes(broken)
    dimension = dimension_or_refusal(file)
    assert dimension is None or dimension == "refused" or isinstance(dimension, int)

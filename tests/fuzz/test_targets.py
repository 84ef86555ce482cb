"""Whatever bytes come: no crash, no hang, nothing unbounded, nothing told that is nobody's business.

In every run hypothesis changes the inputs of the corpus and makes new ones, and the corpus itself is gone through.
`scripts/fuzz` runs the same targets guided by coverage; what it finds is added to the corpus.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from harness.fuzz_targets import METHODS, TARGETS, check_parameters, corpus, fuzz_envelope, fuzz_http, fuzz_import
from harness.json_values import near, parameters_of
from hypothesis import given, settings
from hypothesis import strategies as st

SLOW = {"config-file", "backup", "import", "config-variables"}  # they go through files
TOKENS = {
    "http": [b"\r\n", b"\r\n\r\n", b"Content-Length: ",
             b"Transfer-Encoding: chunked", b"HTTP/1.1", b"\0", b" ", b"%00"],
    "config-file": [b"&a ", b"*a", b"!!", b"<<: ", b": ", b"- ", b"\n  ", b"---\n", b"null", b"[", b"{", b"\t"],
}
JSON_TOKENS = [b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u0000", b"\\ud800", b"1e999", b"-0", b"null",
               b"9999999999999999999", b'"id":', b"\n", b"\xff", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"]
SEEDS = {target: [path.read_bytes() for path in corpus(target)] for target in TARGETS}


@st.composite
def changed(draw: st.DrawFn, target: str) -> bytes:
    """An input of the corpus with a few bytes cut out, put in, repeated or replaced."""
    data = bytearray(draw(st.sampled_from(SEEDS[target])))
    token = st.sampled_from(TOKENS.get(target, JSON_TOKENS)) | st.binary(min_size=1, max_size=8)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, min(64, len(data) - place)))
        new = draw(st.one_of(token, st.just(b""), st.just(bytes(data[place : place + length]) * 3)))
        data[place : place + length] = new
    return bytes(data)


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_harms_nothing(target: str) -> None:
    assert SEEDS[target], "a target without a corpus"
    for data in SEEDS[target]:
        TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
def test_any_bytes_and_what_is_nearly_right_harm_nothing(target: str) -> None:
    examples = settings().max_examples

    @settings(max_examples=examples if target in SLOW else 3 * examples)
    @given(st.binary(max_size=300) | changed(target) | changed(target))
    def attempt(data: bytes) -> None:
        TARGETS[target](data)

    attempt()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_parameters_made_from_the_struct_are_taken_or_named(method: Any) -> None:
    @settings(max_examples=max(6, settings().max_examples // 10))
    @given(parameters_of(method.name))
    def attempt(params: Any) -> None:
        check_parameters(method, params)

    attempt()


@given(st.lists(near({"type": "object", "properties": {
    "jsonrpc": {"enum": ["2.0"]}, "id": {"type": "integer"}, "method": {"type": "string"}, "params": {"type": "object"},
}}), max_size=4))
def test_envelopes_with_a_part_that_is_wrong_are_refused_under_their_id(batch: list[Any]) -> None:
    fuzz_envelope(json.dumps(batch).encode())
    if batch:
        fuzz_envelope(json.dumps(batch[0]).encode())


@given(st.sampled_from(["GET", "POST", "get", "P\tST", ""]), st.text("/%?&=#ab\0 \u00e9", max_size=20),
       st.dictionaries(st.sampled_from(["Host", "Content-Length", "Transfer-Encoding", "Connection", "Expect", "X"]),
                       st.text("0123456789abcdef,; \t-chunked", max_size=20), max_size=5),
       st.binary(max_size=50), st.integers(0, 96))
def test_heads_with_a_part_that_is_wrong_are_refused(
    verb: str, path: str, headers: dict[str, str], body: bytes, cut: int
) -> None:
    lines = [f"{verb} /{path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    fuzz_http(bytes([cut]) + "\r\n".join(lines).encode() + body)
    fuzz_http("\r\n".join(lines).encode() + body)


@given(changed("import"), st.sampled_from([gzip.compress, zstandard.compress]), st.integers(0, 40))
def test_a_packed_export_that_is_cut_or_changed_is_refused(data: bytes, pack: Any, cut: int) -> None:
    packed = pack(data)
    fuzz_import(packed[: len(packed) - cut])


def test_the_corpus_is_small_enough_to_be_read_with_every_run() -> None:
    files = [path for target in TARGETS for path in corpus(target)]
    assert sum(path.stat().st_size for path in files) < 1_000_000
    assert {path.parent.name for path in files} == {one.name for one in Path(__file__).parents[1].glob("corpus/*")}

"""Framing: any chunking gives the same frames, and nothing is kept of what is too long."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusd.wire.frames import FrameReader, is_http, is_ndjson


def frames_of(chunks: list[bytes], max_bytes: int = 1000) -> tuple[list[bytes], FrameReader]:
    reader = FrameReader(max_bytes)
    frames = []
    for chunk in chunks:
        reader.feed(chunk)
        while (frame := reader.next_frame()) is not None:
            frames.append(frame)
    return frames, reader


def chunked(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(stream) + 1) for cut in cuts} | {0, len(stream)})
    return [stream[a:b] for a, b in itertools.pairwise(places)]


@pytest.mark.parametrize(("chunks", "expected"), [
    ([b"{}\n"], [b"{}"]),
    ([b"{", b"}", b"\n"], [b"{}"]),
    ([b"{}\n[]\n"], [b"{}", b"[]"]),
    ([b"{}\n[", b"]\n"], [b"{}", b"[]"]),
    ([b"\n\n{}\n\n"], [b"{}"]),
    ([b" \t \n{}\n"], [b"{}"]),
    ([b"\r\n", b"\r", b"\n{}\n"], [b"{}"]),
    ([b"{}"], []),
])
def test_lines_become_frames(chunks: list[bytes], expected: list[bytes]) -> None:
    assert frames_of(chunks)[0] == expected


def test_carriage_return_before_the_line_end_is_whitespace_to_json_and_left_there() -> None:
    assert [frame.strip() for frame in frames_of([b'{"a":1}\r\n[2]\r\n'])[0]] == [b'{"a":1}', b"[2]"]


@given(st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"")), max_size=8),
       st.lists(st.integers(min_value=0), max_size=12))
def test_any_chunking_gives_the_same_frames(lines: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(line + b"\n" for line in lines)

    frames, reader = frames_of(chunked(stream, cuts))

    assert frames == [line for line in lines if line.strip(b" \t\r")]
    assert not reader.overflowed
    assert not reader.has_partial


@given(st.integers(1, 60), st.lists(st.integers(1, 80), min_size=1, max_size=6),
       st.lists(st.integers(min_value=0), max_size=12))
def test_the_first_line_past_the_limit_ends_the_stream_however_it_is_cut(
    limit: int, sizes: list[int], cuts: list[int]
) -> None:
    stream = b"".join(b"x" * size + b"\n" for size in sizes)

    frames, reader = frames_of(chunked(stream, cuts), limit)

    fitting = next((place for place, size in enumerate(sizes) if size > limit), len(sizes))
    assert frames == [b"x" * size for size in sizes[:fitting]]
    assert reader.overflowed == (fitting < len(sizes))


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_a_frame_of_exactly_the_limit_fits_with_either_line_end(ending: bytes) -> None:
    for chunks in ([b"x" * 10 + ending], [b"x" * 10, ending], [bytes([byte]) for byte in b"x" * 10 + ending]):
        frames, reader = frames_of(chunks, 10)
        assert [frame.strip(b"\r") for frame in frames] == [b"x" * 10]
        assert not reader.overflowed


def test_nothing_is_taken_after_a_line_that_was_too_long() -> None:
    frames, reader = frames_of([b"{}\n" + b"x" * 20 + b"\n{}\n", b"{}\n"], 10)

    assert frames == [b"{}"]
    assert reader.overflowed


def test_memory_stays_flat_however_long_the_line_is() -> None:
    reader = FrameReader(64 * 1024)
    chunk = b"x" * 16 * 1024
    tracemalloc.start()
    try:
        for _ in range(4096):    # 64 MiB in one line
            reader.feed(chunk)
            assert reader.next_frame() is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 512 * 1024


def test_a_chunk_of_many_tiny_frames_is_cut_only_as_they_are_taken() -> None:
    reader = FrameReader(1024)
    tracemalloc.start()
    try:
        reader.feed(b"1\n" * 500_000)
        assert reader.next_frame() == b"1"
        current, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert current < 1_100_000


def test_a_chunk_that_comes_before_all_frames_were_taken_is_appended() -> None:
    reader = FrameReader(100)
    reader.feed(b"1\n2\n3")
    assert reader.next_frame() == b"1"
    reader.feed(b"3\n4\n")
    assert [reader.next_frame() for _ in range(4)] == [b"2", b"33", b"4", None]


def test_the_unfinished_line_at_the_end_of_the_stream_is_the_last_frame() -> None:
    _, reader = frames_of([b"{}\n", b"[1", b"] "])
    assert reader.has_partial
    assert reader.last_frame() == b"[1]"
    assert reader.last_frame() is None


@pytest.mark.parametrize(("first", "expected"), [
    *((byte, True) for byte in b"{[ \t\r\n"), *((byte, False) for byte in b'GPO"1\x00\x16\xef'),
])
def test_the_first_byte_chooses_the_protocol(first: int, *, expected: bool) -> None:
    assert is_ndjson(first) is expected


def test_what_no_frame_was_taken_from_yet_is_known() -> None:
    frames = FrameReader(100)
    assert not frames.has_unread
    frames.feed(b"1\n2\nhalf")
    taken = []
    while frames.has_unread:
        taken.append(frames.next_frame())
    assert (taken, frames.has_partial) == ([b"1", b"2", None], True)


@pytest.mark.parametrize(("first", "speaks"), [
    (b"G", "http"), (b"P", "http"), (b"Z", "http"), (b"{", "json"), (b"[", "json"), (b" ", "json"), (b"\n", "json"),
    (b"g", "neither"), (b"\x16", "neither"), (b"1", "neither"), (b'"', "neither"), (b"\x00", "neither"),
])
def test_the_first_byte_tells_the_language(first: bytes, speaks: str) -> None:
    assert (is_http(first[0]), is_ndjson(first[0])) == (speaks == "http", speaks == "json")

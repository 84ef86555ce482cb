"""HTTP requests from literals: what is taken, what is refused, and that nothing in between is."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusd.wire.http_errors import HttpRefusal, not_taken
from nexusd.wire.http_heads import KNOWN_HEADERS, Head
from nexusd.wire.http_requests import SMALL_CHUNKS, HttpRequest, RequestReader

HOST = b"Host: localhost\r\n"
POST = b"POST /rpc HTTP/1.1\r\n" + HOST


def reader(*, headers: int = 1024, body: int = 4096, accept: Any = None) -> RequestReader:
    return RequestReader(headers, body, accept if accept is not None else lambda head: None)


def requests_of(data: bytes, **limits: int) -> list[HttpRequest]:
    return taken(reader(**limits), data)


def taken(from_reader: RequestReader, data: bytes) -> list[HttpRequest]:
    from_reader.feed(data)
    requests = []
    while (request := from_reader.next_request()) is not None:
        requests.append(request)
    return requests


def refusal_of(data: bytes, **limits: int) -> HttpRefusal:
    with pytest.raises(HttpRefusal) as raised:
        requests_of(data, **limits)
    return raised.value


def get(path: str = "/a", *headers: str, version: str = "1.1") -> bytes:
    return "\r\n".join([f"GET {path} HTTP/{version}", "Host: x", *headers, "\r\n"]).encode()


def chunked(*chunks: bytes) -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return POST + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


def with_length(body: bytes) -> bytes:
    return POST + b"Content-Length: %d\r\n\r\n" % len(body) + body


def test_a_request_without_a_body() -> None:
    (request,) = requests_of(get("/episodes/search?q=a%20b&limit=3"))
    head = request.head
    assert (head.verb, head.path, head.query, request.body) == ("GET", "/episodes/search", "q=a%20b&limit=3", b"")
    assert (head.header(b"host"), head.header(b"accept"), head.length, head.has_body) == ("x", None, None, False)


@pytest.mark.parametrize("data", [with_length(b"hello"), chunked(b"hel", b"lo"), chunked(b"hello")])
def test_a_body_comes_by_its_length_or_in_chunks(data: bytes) -> None:
    (request,) = requests_of(data)
    assert request.body == b"hello"


def test_an_empty_body_is_one() -> None:
    assert [r.body for r in requests_of(with_length(b"") + chunked())] == [b"", b""]


def test_pipelined_requests_come_in_their_order() -> None:
    data = with_length(b"1") + get("/two") + chunked(b"3") + get("/four") + with_length(b"5")
    assert [r.body or r.head.path for r in requests_of(data)] == [b"1", "/two", b"3", "/four", b"5"]


def test_empty_lines_before_a_request_are_passed_over() -> None:
    assert [r.head.path for r in requests_of(b"\r\n\n\r\n" + get("/1") + b"\r\n" + get("/2"))] == ["/1", "/2"]


def test_lines_may_end_without_a_carriage_return() -> None:
    (request,) = requests_of(b"GET /a HTTP/1.1\nHost: x\n\n")
    assert request.head.path == "/a"


@pytest.mark.parametrize(("version", "headers", "keeps"), [
    ("1.1", (), True), ("1.1", ("Connection: keep-alive",), True), ("1.1", ("Connection: close",), False),
    ("1.1", ("Connection: Upgrade, CLOSE", "Upgrade: h2c"), False), ("1.1", ("Connection: closed",), True),
    ("1.1", ("Connection: a", "Connection: close"), False), ("1.0", (), False),
    ("1.0", ("Connection: keep-alive",), False),
])
def test_a_connection_is_kept_unless_the_client_closes_it_or_speaks_1_0(
    version: str, headers: tuple[str, ...], *, keeps: bool
) -> None:
    (request,) = requests_of(get("/a", *headers, version=version))
    assert request.head.keeps_alive == keeps


def test_http_1_0_needs_no_host() -> None:
    assert requests_of(b"GET / HTTP/1.0\r\n\r\n")[0].head.path == "/"


UNTRUSTED = {
    "both a length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths that differ": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "two lengths that agree": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "two lengths in other cases": POST + b"Content-Length: 5\r\ncontent-length: 5\r\n\r\nhello",
    "two lengths in one line": POST + b"Content-Length: 5, 5\r\n\r\nhello",
    "a negative length": POST + b"Content-Length: -5\r\n\r\n",
    "a length with a sign": POST + b"Content-Length: +5\r\n\r\nhello",
    "a length in hexadecimal": POST + b"Content-Length: 0x5\r\n\r\nhello",
    "a length that is no number": POST + b"Content-Length: five\r\n\r\n",
    "a length with a tail": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3abc\r\n\r\nabc",
    "an empty length": POST + b"Content-Length: \r\n\r\n",
    "a length of a hundred digits": POST + b"Content-Length: " + b"9" * 100 + b"\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
    "a folded header by a tab": b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n\tc\r\n\r\n",
    "a fold before the first header": b"GET / HTTP/1.1\r\n Host: x\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    "a header without a colon": b"GET / HTTP/1.1\r\nHost: x\r\nnothing\r\n\r\n",
    "a header without a name": b"GET / HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n",
    "a NUL in a header": b"GET / HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n",
    "a lone carriage return in a header": b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\nAccept: */*\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "a target that is a whole address": b"GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a target without a slash": b"GET health HTTP/1.1\r\nHost: x\r\n\r\n",
    "a target with a byte past ASCII": b"GET /\xc3\xbc HTTP/1.1\r\nHost: x\r\n\r\n",
    "no target": b"GET HTTP/1.1\r\nHost: x\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
    "no version": b"GET /\r\nHost: x\r\n\r\n",
    "something else": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    "a chunk that is longer than it says": POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n",
    "a chunk size that is none": POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\nhello\r\n0\r\n\r\n",
    "a negative chunk size": POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nhello\r\n0\r\n\r\n",
    "a chunk size with 0x": POST + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
    "a chunk size of a hundred digits": POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 100 + b"\r\n",
}


@pytest.mark.parametrize("name", UNTRUSTED)
def test_what_two_readers_could_understand_in_two_ways_ends_the_stream(name: str) -> None:
    refusal = refusal_of(UNTRUSTED[name])
    assert (refusal.status, refusal.ends, refusal.error.kind) == (400, True, "invalid_request")
    assert len(refusal.error.message) < 200


@pytest.mark.parametrize("name", UNTRUSTED)
def test_it_ends_the_stream_after_good_requests_too(name: str) -> None:
    from_reader = reader()
    for good in (get(), with_length(b"hello"), get()):
        assert len(taken(from_reader, good)) == 1
    with pytest.raises(HttpRefusal) as raised:
        taken(from_reader, UNTRUSTED[name])
    assert (raised.value.status, raised.value.ends) == (400, True)


REFUSED = {
    "a first line past the limit": (414, b"GET /" + b"x" * 2000),
    "headers past the limit": (431, b"GET / HTTP/1.1\r\nA: " + b"x" * 2000),
    "many headers past the limit": (431, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 400),
    "headers whose end comes after the limit": (431, get("/", "A: " + "x" * 2000)),
    "trailers past the limit": (400, chunked(b"x")[:-2] + b"A: " + b"x" * 2000),
    "a length past the limit": (413, POST + b"Content-Length: 4097\r\n\r\n"),
    "chunks past the limit": (413, chunked(b"x" * 4000, b"x" * 97)),
    "one chunk past the limit": (413, chunked(b"x" * 4097)),
    "a transfer coding other than chunked": (501, POST + b"Transfer-Encoding: gzip\r\n\r\n"),
    "a transfer coding beside chunked": (501, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n"),
    "chunked twice": (501, POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "a method that there is not": (501, b"BREW /pot HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a tunnel": (501, b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n"),
    "HTTP/2": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_past_a_limit_or_not_done_here_is_refused_with_its_own_status(name: str) -> None:
    status, data = REFUSED[name]
    refusal = refusal_of(data)
    assert (refusal.status, refusal.ends) == (status, True)


def test_what_just_fits_is_taken() -> None:
    assert len(requests_of(with_length(b"x" * 4096))[0].body) == 4096
    assert len(requests_of(chunked(b"x" * 4000, b"x" * 96))[0].body) == 4096
    padding = 1024 - len(get("/", "A: "))
    assert len(requests_of(get("/", "A: " + "x" * padding))) == 1
    assert refusal_of(get("/", "A: " + "x" * (padding + 1))).status == 431


def test_many_tiny_chunks_are_refused_since_each_costs_what_a_large_one_does() -> None:
    assert refusal_of(chunked(*[b"x"] * (SMALL_CHUNKS + 100))).status == 413
    assert len(requests_of(chunked(*[b"x"] * SMALL_CHUNKS))[0].body) == SMALL_CHUNKS
    assert len(requests_of(chunked(*[b"x" * 256] * 3000), body=2**20)[0].body) == 3000 * 256


@pytest.mark.parametrize(("head", "end"), [
    (b"Content-Length: 30000\r\n\r\n", b""), (b"Transfer-Encoding: chunked\r\n\r\n7530\r\n", b"\r\n0\r\n\r\n"),
])
def test_a_body_that_comes_in_tiny_pieces_takes_no_more_room_than_its_bytes(head: bytes, end: bytes) -> None:
    from_reader = reader(body=2**20)
    assert taken(from_reader, POST + head) == []
    tracemalloc.start()
    try:
        for n in range(9999):
            assert taken(from_reader, b"%03d" % (n % 1000)) == []
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 60_000
    (request,) = taken(from_reader, b"abc" + end)
    assert (len(request.body), request.body[-6:]) == (30_000, b"998abc")


def test_a_long_header_is_not_repeated_in_the_refusal() -> None:
    assert len(refusal_of(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"y" * 900 + b"\r\n\r\n").error.message) < 200


def test_a_head_is_looked_at_before_its_body_is_there() -> None:
    seen: list[Head] = []
    from_reader = reader(accept=seen.append)
    assert taken(from_reader, with_length(b"hello")[:-5]) == []
    assert [head.length for head in seen] == [5]
    assert [r.body for r in taken(from_reader, b"hello")] == [b"hello"]
    assert len(seen) == 1


def refusing(head: Head) -> str:
    if head.path == "/no":
        raise not_taken(405, "no")
    return head.path


def test_what_the_check_answers_comes_with_the_request() -> None:
    (request,) = taken(reader(accept=refusing), get("/yes"))
    assert request.accepted == "/yes"


def test_a_refusal_of_a_head_without_a_body_leaves_the_stream_usable() -> None:
    from_reader = reader(accept=refusing)
    from_reader.feed(get("/1") + get("/no") + get("/2"))
    first = from_reader.next_request()
    with pytest.raises(HttpRefusal) as raised:
        from_reader.next_request()
    second = from_reader.next_request()
    assert first is not None
    assert second is not None
    assert (first.head.path, raised.value.ends, second.head.path) == ("/1", False, "/2")


@pytest.mark.parametrize("tail", [b"Content-Length: 1\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
def test_a_refusal_of_a_head_with_a_body_ends_the_stream(tail: bytes) -> None:
    from_reader = reader(accept=refusing)
    from_reader.feed(b"POST /no HTTP/1.1\r\n" + HOST + tail)
    with pytest.raises(HttpRefusal) as raised:
        from_reader.next_request()
    assert raised.value.ends


@pytest.mark.parametrize(("headers", "body", "waits"), [
    (b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n", b"", True),
    (b"Transfer-Encoding: chunked\r\nExpect: 100-Continue\r\n\r\n", b"", True),
    (b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n", b"he", False),
    (b"Content-Length: 0\r\nExpect: 100-continue\r\n\r\n", b"", False),
    (b"Content-Length: 5\r\n\r\n", b"", False),
])
def test_a_client_that_waits_for_100_continue_is_known_once(headers: bytes, body: bytes, *, waits: bool) -> None:
    from_reader = reader()
    from_reader.feed(POST + headers + body)
    from_reader.next_request()
    assert [from_reader.wants_continue(), from_reader.wants_continue()] == [waits, False]


def test_a_client_of_http_1_0_is_never_told_to_go_on() -> None:
    from_reader = reader()
    from_reader.feed(b"POST / HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert from_reader.next_request() is None
    assert not from_reader.wants_continue()


@pytest.mark.parametrize("data", [get(), with_length(b"hello"), chunked(b"hello", b"world")])
def test_what_is_half_there_is_known_at_every_byte(data: bytes) -> None:
    from_reader = reader()
    assert not from_reader.has_partial
    for byte in data[:-1]:
        assert taken(from_reader, bytes([byte])) == []
        assert from_reader.has_partial
    assert len(taken(from_reader, data[-1:])) == 1
    assert not from_reader.has_partial


def test_what_was_not_looked_at_yet_is_known() -> None:
    from_reader = reader()
    from_reader.feed(get() + get())
    assert from_reader.has_unread
    from_reader.next_request()
    assert from_reader.has_unread
    from_reader.next_request()
    assert not from_reader.has_unread
    from_reader.feed(with_length(b"hello")[:-1])
    from_reader.next_request()
    assert not from_reader.has_unread   # a body that is read is looked at


# --- headers that were seen before are not parsed again: whatever came before, the meaning is the same ---

SAME_HEADERS = [
    get("/a"), get("/b?c"), get("/a", "Accept: */*"), with_length(b"12345"), with_length(b""), chunked(b"x"),
    POST.replace(b"POST", b"DELETE") + b"\r\n", POST + b"content-length: 3\r\n\r\nabc",
    POST + b"Content-Length:3\r\n\r\nabc", POST + b"Content-Length:  3\r\n\r\nabc",
    POST.replace(b"\r\n", b"\n") + b"Content-Length: 3\n\nabc",
    b"POST / HTTP/1.1\r\nContent-Length: 2\r\nHost: x\r\n\r\nab", b"POST / HTTP/1.1\r\nHost: x\r\n\r\n",
    get("/a", "Connection: close"), b"GET /a HTTP/1.0\r\nHost: x\r\n\r\n", get("/a", "Expect: 100-continue"),
    b"GET /a HTTP/1.1\r\nHost: xabc\r\n\r\n",    # what is left of "a length with a tail" without its number
    POST + b"Content-Length: 007\r\n\r\n1234567",
]


def test_a_request_means_the_same_after_any_other() -> None:
    for before in SAME_HEADERS:
        for message in (*SAME_HEADERS, *UNTRUSTED.values()):
            from_reader = reader()
            taken(from_reader, before)
            assert outcome(from_reader, message) == outcome(reader(), message), (before, message)


@given(st.lists(st.sampled_from(SAME_HEADERS + list(UNTRUSTED.values())), min_size=1, max_size=2 * KNOWN_HEADERS))
def test_a_request_means_the_same_whatever_came_before_it(messages: list[bytes]) -> None:
    from_reader = reader()
    for message in messages:
        alone = outcome(reader(), message)
        assert outcome(from_reader, message) == alone
        if isinstance(alone, str):
            return


def outcome(from_reader: RequestReader, data: bytes) -> Any:
    try:
        return taken(from_reader, data)
    except HttpRefusal as refusal:
        return refusal.error.message


@given(st.lists(st.sampled_from(SAME_HEADERS), max_size=6), st.integers(0, 2**32))
def test_a_stream_means_the_same_however_it_is_cut(messages: list[bytes], seed: int) -> None:
    stream, chance = b"".join(messages), random.Random(seed)
    from_reader, requests = reader(), []
    while stream:
        size = chance.choice([1, 2, 7, 50, 500])
        requests += taken(from_reader, stream[:size])
        stream = stream[size:]
    assert requests == requests_of(b"".join(messages))


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([
    b"\r\n", b"GET ", b"/ HTTP/1.1", b"Host: x\r\n", b"Content-Length: 3\r\n", b"\r\n\r\n", b"chunked",
    b"Transfer-Encoding: ", b"5\r\nhello\r\n", b"0\r\n\r\n", b"POST / HTTP/1.1\r\n",
])), max_size=12))
def test_whatever_comes_is_taken_refused_or_waits(pieces: list[bytes]) -> None:
    from_reader = reader()
    for piece in pieces:
        if isinstance(outcome(from_reader, piece), str):
            return

"""The envelope: what is a request, what is refused, and under which id."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusd.errors import InvalidRequest, ParseError, RpcError, TooLarge
from nexusd.wire.envelope import NO_ID, Refused, Request, parse_json, read_message


def read(frame: bytes, *, max_depth: int = 10, max_batch: int = 5) -> Any:
    return read_message(frame, max_depth=max_depth, max_batch=max_batch)


@pytest.mark.parametrize(("frame", "expected"), [
    (b'{"jsonrpc":"2.0","method":"m","id":1}', Request("m", {}, 1)),
    (b'{"jsonrpc":"2.0","method":"m","id":"x","params":{"a":1}}', Request("m", {"a": 1}, "x")),
    (b'{"jsonrpc":"2.0","method":"m","id":1.5,"params":[1]}', Request("m", [1], 1.5)),
    (b'{"jsonrpc":"2.0","method":"m","id":null}', Request("m", {}, None)),
    (b'{"jsonrpc":"2.0","method":"m"}', Request("m", {}, NO_ID)),
    (b'{"jsonrpc":"2.0","method":"m","id":0,"extra":true}', Request("m", {}, 0)),
    (b' {"jsonrpc":"2.0","method":"m","id":1}\r', Request("m", {}, 1)),
])
def test_requests_are_read(frame: bytes, expected: Request) -> None:
    assert read(frame) == expected


@pytest.mark.parametrize(("frame", "kept_id"), [
    (b'{"jsonrpc":"1.0","method":"m","id":1}', 1),
    (b'{"jsonrpc":2.0,"method":"m","id":1}', 1),
    (b'{"method":"m","id":"x"}', "x"),
    (b'{"jsonrpc":"2.0","method":1,"id":3}', 3),
    (b'{"jsonrpc":"2.0","id":3}', 3),
    (b'{"jsonrpc":"2.0","method":"m","params":"p","id":4}', 4),
    (b'{"jsonrpc":"2.0","method":"m","params":null,"id":5}', 5),
    (b'{"jsonrpc":"2.0","method":"m","id":true}', None),
    (b'{"jsonrpc":"2.0","method":"m","id":{}}', None),
    (b'{"jsonrpc":"2.0","method":"m","id":[1]}', None),
    (b"{}", None),
    (b"1", None),
    (b'"text"', None),
    (b"null", None),
])
def test_what_is_no_request_is_refused_under_its_id_if_that_is_valid(frame: bytes, kept_id: object) -> None:
    refused = read(frame)
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, InvalidRequest)
    assert refused.id == kept_id


BAD_JSON = [
    b"", b"{", b"{]", b"nonsense", b'{"a":1}x', b"[1,]", b"{'a':1}", b"\xef\xbb\xbf{}",
    b'{"a":1,"a":2}', b'{"a":{"b":1,"b":1}}',
    b"NaN", b"[Infinity]", b"[-Infinity]",
    b"[1e999]", b"[-1e999]", b"[1.0e+0400]", b"[" + b"9" * 400 + b"]", b"[" + b"9" * 299 + b"e10]",
    b"[9223372036854775808]", b"[-9223372036854775809]", b"[" + b"1" * 5000 + b"]",
    b'"\xff"', b'"\xc3"', b'"\xed\xa0\x80"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\x01"', b'"\\x41"',
]


@pytest.mark.parametrize("frame", BAD_JSON)
def test_what_is_not_strict_json_is_a_parse_error(frame: bytes) -> None:
    with pytest.raises(ParseError):
        read(frame)


@pytest.mark.parametrize(
    "number", [b"9223372036854775807", b"-9223372036854775808", b"1e308", b"1e-400", b"0.1e100"]
)
def test_numbers_within_64_bits_pass(number: bytes) -> None:
    request = read(b'{"jsonrpc":"2.0","method":"m","id":' + number + b"}")
    assert request.id == json.loads(number)


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
@pytest.mark.parametrize("levels", [11, 12, 199, 250, 100_000])
def test_too_deep_is_too_large(opening: bytes, closing: bytes, levels: int) -> None:
    with pytest.raises(TooLarge):
        read(opening * levels + b"1" + closing * levels)


def test_as_deep_as_allowed_passes() -> None:
    assert isinstance(read(b"[" * 9 + b"{}" + b"]" * 9), list)


def test_brackets_in_strings_and_beside_each_other_are_not_depth() -> None:
    frame = b'{"jsonrpc":"2.0","method":"m","id":1,"params":["' + b"[" * 500 + b'"' + b",[]" * 100 + b"]}"
    assert isinstance(read(frame), Request)


def test_a_batch_keeps_order_and_refuses_element_by_element() -> None:
    batch = read(b'[{"jsonrpc":"2.0","method":"a","id":1},7,{"jsonrpc":"2.0","method":"b"},{"id":"x"}]')
    assert batch[0] == Request("a", {}, 1)
    assert (batch[1].id, batch[3].id) == (None, "x")
    assert batch[2] == Request("b", {}, NO_ID)


def test_an_empty_batch_is_invalid() -> None:
    with pytest.raises(InvalidRequest):
        read(b"[]")


def test_a_batch_past_the_limit_is_too_large_as_a_whole() -> None:
    assert len(read(b"[1,2,3,4,5]")) == 5
    with pytest.raises(TooLarge):
        read(b"[1,2,3,4,5,6]")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2**70, 2**70) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(), inner, max_size=6),
    max_leaves=20,
)
MEMBERS = st.fixed_dictionaries({}, optional={
    "jsonrpc": st.just("2.0") | JSON, "method": st.text() | JSON, "params": JSON, "id": JSON, "other": JSON,
})


def check(frame: bytes) -> None:
    """It is read, refused as a whole, or refused piece by piece; nothing else happens."""
    try:
        message = read(frame)
    except RpcError:
        return
    for element in message if isinstance(message, list) else [message]:
        assert isinstance(element, Request | Refused)
        assert not isinstance(element.id, bool | dict | list)
        if isinstance(element, Request):
            assert isinstance(element.method, str)
            assert isinstance(element.params, dict | list)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(frame: bytes) -> None:
    check(frame)


@given(MEMBERS | st.lists(MEMBERS | JSON, max_size=7) | JSON)
def test_any_json_is_read_or_refused(value: object) -> None:
    check(json.dumps(value).encode())
    check(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))


@given(MEMBERS, st.integers(0, 200), st.binary(max_size=3))
def test_any_damage_is_read_or_refused(value: object, place: int, damage: bytes) -> None:
    frame = json.dumps(value).encode()
    check(frame[:place] + damage + frame[place + len(damage):])
    check(frame[:place])


def values(data: bytes, most: int) -> bool:
    """Whether a message of so many values is taken."""
    try:
        parse_json(data, max_depth=10, max_values=most)
    except TooLarge:
        return False
    return True


def test_a_message_of_too_many_values_is_refused_before_any_of_them_is_made() -> None:
    assert values(json.dumps([1] * 1000).encode(), 1009)
    assert not values(json.dumps([1] * 1001).encode(), 1009)
    assert values(json.dumps([{}] * 100).encode(), 1109)
    assert not values(json.dumps([{}] * 101).encode(), 1109)
    assert not values(b"[" * 200 + b"]" * 200 + b" " * 2000, 1000), "told by its size, before its depth is"


@given(st.lists(st.text('a,[{"\\\n\u00e9', min_size=1, max_size=8), min_size=1, max_size=20), st.booleans())
def test_what_stands_within_a_text_is_no_value(texts: list[str], ascii_only: bool) -> None:
    data = json.dumps(texts, ensure_ascii=ascii_only).encode() + b" " * 1000
    exact = len(texts) - 1 + 10
    assert values(data, exact)
    assert exact == 10 or not values(data, exact - 1)

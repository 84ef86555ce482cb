from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusd.client.core import Inbox, Notification, Reply, encode_request
from nexusd.client.errors import ProtocolViolated

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def reply(request_id: Any, result: Any = None) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result}).encode() + b"\n"


def error(request_id: Any, code: int = -32603) -> bytes:
    failure = {"code": code, "message": "No."}
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "error": failure}).encode() + b"\n"


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_request_is_one_line_of_json_that_reads_back(params: dict[str, Any]) -> None:
    line = encode_request(7, "echo", params)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"jsonrpc": "2.0", "id": 7, "method": "echo", "params": params}


@pytest.mark.parametrize(
    ("value", "said"), [("\ud800", "a parameter is not valid UTF-8"), (object(), "cannot be written as JSON")]
)
def test_value_that_json_cannot_hold_is_refused(value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        encode_request(1, "echo", {"a": value})


@given(st.lists(json_values, min_size=1, max_size=6), st.data())
def test_replies_are_the_same_however_the_bytes_are_cut(results: list[Any], data: st.DataObject) -> None:
    ids = list(range(1, len(results) + 1))
    order = data.draw(st.permutations(ids))
    stream = b"".join(reply(id_, results[id_ - 1]) for id_ in order)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    inbox = Inbox()
    for id_ in ids:
        inbox.expect(id_, 10)
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += inbox.feed(stream[start:end])
    replies = [message for message in found if isinstance(message, Reply)]
    read = [(message.id, json.loads(bytes(message.result or b""))) for message in replies]
    assert len(replies) == len(found)
    assert read == [(id_, results[id_ - 1]) for id_ in order]


@given(st.binary())
def test_any_bytes_are_messages_or_a_violation_and_nothing_else(data: bytes) -> None:
    inbox = Inbox()
    inbox.expect(1, 10)
    try:
        messages = inbox.feed(data + b"\n")
    except ProtocolViolated:
        return
    assert all(isinstance(message, Reply | Notification) for message in messages)


@pytest.mark.parametrize(
    "line",
    [
        b"<html>", b"[]", b"1", b"{}", b'{"id":1}', b'{"id":1,"error":"no"}',
        b'{"id":1,"error":{"code":"x"}}',
        b'{"id":1,"result":\xff}', reply(1).rstrip() + reply(2).rstrip(),
    ],
)  # fmt: skip
def test_what_is_no_reply_is_a_violation(line: bytes) -> None:
    inbox = Inbox()
    inbox.expect(1, 10)
    with pytest.raises(ProtocolViolated):
        inbox.feed(line + b"\n")


def test_result_null_is_a_result() -> None:
    inbox = Inbox()
    inbox.expect(1, 10)
    (message,) = inbox.feed(reply(1, None))
    assert isinstance(message, Reply)
    assert bytes(message.result or b"") == b"null"
    assert message.error is None


@pytest.mark.parametrize("request_id", [2, "1", None, True, 1.5])
def test_reply_that_nobody_waits_for_is_dropped(request_id: Any) -> None:
    inbox = Inbox()
    inbox.expect(1, 10)
    assert inbox.feed(reply(request_id)) == []
    assert len(inbox.feed(reply(1))) == 1


def test_second_reply_to_one_request_is_dropped() -> None:
    inbox = Inbox()
    inbox.expect(1, 10)
    assert len(inbox.feed(reply(1) + reply(1))) == 1


def test_forgotten_reply_is_dropped() -> None:
    inbox = Inbox()
    inbox.expect(1, 10)
    inbox.forget(1)
    assert inbox.feed(reply(1)) == []


def test_notification_stands_apart_from_replies() -> None:
    inbox = Inbox()
    line = b'{"jsonrpc":"2.0","method":"event","params":{"seq":1}}\n'
    assert inbox.feed(line) == [Notification("event", msgspec.Raw(b'{"seq":1}'))]


def test_nameless_error_belongs_to_the_only_request() -> None:
    inbox = Inbox()
    inbox.expect(4, 10)
    (message,) = inbox.feed(error(None))
    assert isinstance(message, Reply)
    assert message.id == 4


def test_nameless_error_among_several_belongs_to_nobody_but_explains_the_close() -> None:
    inbox = Inbox()
    inbox.expect(4, 10)
    inbox.expect(5, 10)
    assert inbox.feed(error(None)) == []
    assert inbox.complaint is not None
    assert inbox.complaint.message == "No."


def test_nameless_oversize_belongs_to_the_largest() -> None:
    inbox = Inbox()
    for request_id, size in ((4, 10), (5, 1000), (6, 20)):
        inbox.expect(request_id, size)
    (message,) = inbox.feed(error(None, -32005))
    assert isinstance(message, Reply)
    assert message.id == 5


def test_line_that_never_ends_is_a_violation_and_not_memory() -> None:
    inbox = Inbox(max_line_bytes=100)
    for _ in range(10):
        inbox.feed(b"x" * 10)
    with pytest.raises(ProtocolViolated, match="more than 100 bytes"):
        inbox.feed(b"x")

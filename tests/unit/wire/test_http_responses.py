"""Responses as bytes, read back by h11 as a client; and the status of every error."""

from __future__ import annotations

import inspect
import json
from email.utils import parsedate_to_datetime

import h11
import pytest

from nexusd import errors
from nexusd.errors import Busy, InvalidRequest, RpcError
from nexusd.wire.http_errors import STATUS_OF_KIND, malformed, wrong_verb
from nexusd.wire.http_responses import CONTINUE, Response, ResponseWriter, kind_response, refusal_response

NOW_MS = 1_700_000_000_123


class Clock:
    def __init__(self) -> None:
        self.ms = NOW_MS

    def now_ms(self) -> int:
        return self.ms

    def monotonic_s(self) -> float:
        return 0.0


def read(data: bytes, verb: str = "GET") -> tuple[h11.Response, bytes]:
    """What a client makes of it."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=verb, target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    client.receive_data(b"")
    response = client.next_event()
    assert isinstance(response, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert client.trailing_data[0] == b""
    return response, body


def test_a_response_is_read_by_a_client_as_it_was_meant() -> None:
    response, body = read(ResponseWriter(Clock()).write(Response(201, b'{"a":1}', b"X-Next-Cursor: c\r\n")))
    headers = dict(response.headers)
    assert (response.status_code, response.reason, body) == (201, b"Created", b'{"a":1}')
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"content-length"] == b"7"
    assert headers[b"x-next-cursor"] == b"c"
    assert headers[b"cache-control"] == b"no-store"
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert b"connection" not in headers
    assert not [name for name in headers if name.startswith(b"access-control")]


def test_head_is_answered_with_the_length_and_no_body() -> None:
    response, body = read(ResponseWriter(Clock()).write(Response(200, b"12345"), only_head=True), "HEAD")
    assert (dict(response.headers)[b"content-length"], body) == (b"5", b"")


def test_204_has_no_body_and_no_length() -> None:
    response, body = read(ResponseWriter(Clock()).write(Response(204)))
    assert (response.status_code, body) == (204, b"")
    assert not {b"content-length", b"content-type"} & dict(response.headers).keys()


@pytest.mark.parametrize("response", [Response(200, b"x"), Response(204)])
def test_the_last_response_says_so(response: Response) -> None:
    head, _ = read(ResponseWriter(Clock()).write(response, closes=True))
    assert dict(head.headers)[b"connection"] == b"close"


def test_the_date_is_that_of_the_clock() -> None:
    clock = Clock()
    writer = ResponseWriter(clock)
    for ms in (NOW_MS, NOW_MS + 100, NOW_MS + 1000, NOW_MS - 5000):
        clock.ms = ms
        head, _ = read(writer.write(Response(200)))
        assert parsedate_to_datetime(dict(head.headers)[b"date"].decode()).timestamp() == ms // 1000


def test_100_continue_is_no_response_of_its_own() -> None:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="POST", target="/", headers=[("Host", "x"), ("Content-Length", "1")]))
    client.receive_data(CONTINUE)
    assert isinstance(client.next_event(), h11.InformationalResponse)


ERRORS = [
    error for _, error in inspect.getmembers(errors, inspect.isclass)
    if issubclass(error, RpcError) and error is not RpcError
]


def test_every_kind_of_error_has_a_status_and_no_status_is_left_over() -> None:
    assert STATUS_OF_KIND.keys() == {error.kind for error in ERRORS}


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_is_told_in_the_form_of_every_error(error: type[RpcError]) -> None:
    response = kind_response(error(), "r-1")
    told = json.loads(response.body)["error"]
    assert 400 <= response.status <= 599
    assert (told["code"], told["data"]["kind"], told["data"]["requestId"]) == (error.code, error.kind, "r-1")
    assert told["data"]["retryable"] == error.retryable
    assert not error.retryable or response.status in {429, 500, 503, 507}


@pytest.mark.parametrize(("ms", "seconds"), [(1, 1), (999, 1), (1000, 1), (1001, 2), (60_000, 60)])
def test_when_to_come_again_is_told_in_whole_seconds_rounded_up(ms: int, seconds: int) -> None:
    assert kind_response(Busy(retry_after_ms=ms), "r").headers == b"Retry-After: %d\r\n" % seconds
    assert kind_response(Busy(), "r").headers == b""


def test_a_refusal_has_its_own_status_and_says_what_is_allowed() -> None:
    refusal = wrong_verb("PUT", "GET, HEAD")
    response = refusal_response(refusal, refusal.error, "r")
    assert (response.status, response.headers) == (405, b"Allow: GET, HEAD\r\n")
    assert refusal_response(malformed("x"), InvalidRequest("no"), "r").status == 400

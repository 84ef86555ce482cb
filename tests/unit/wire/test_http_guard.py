"""No page that a browser shows gets in, and nothing but JSON."""

from __future__ import annotations

import pytest

from nexusd.wire.http_errors import HttpRefusal
from nexusd.wire.http_guard import Guard
from nexusd.wire.http_heads import Head

LAN = "192.168.0.81"


def head(verb: str = "GET", *, length: int | None = None, is_chunked: bool = False, **headers: str) -> Head:
    by_name = {name.replace("_", "-").encode(): value.encode("latin-1") for name, value in headers.items()}
    return Head(verb, "/", "", by_name, length, is_chunked, keeps_alive=True)


def sender_status(given: Head, local_address: str | None = LAN, *, names: tuple[str, ...] = ()) -> int | None:
    """The status with which it is refused, or None."""
    try:
        Guard(names).check_sender(given, lambda: local_address)
    except HttpRefusal as refusal:
        return refusal.status
    return None


def body_status(given: Head) -> int | None:
    try:
        Guard(()).check_body(given)
    except HttpRefusal as refusal:
        return refusal.status
    return None


@pytest.mark.parametrize("origin", ["http://evil.example", "http://localhost:3002", "null", ""])
@pytest.mark.parametrize("local_address", [LAN, None])
def test_a_request_with_an_origin_is_refused_wherever_it_comes_in(origin: str, local_address: str | None) -> None:
    assert sender_status(head(host="localhost", origin=origin), local_address) == 403


@pytest.mark.parametrize(("site", "status"), [
    ("none", None), ("same-origin", None), ("Same-Origin", None), ("cross-site", 403), ("same-site", 403), ("", 403),
])
def test_a_request_that_a_page_of_another_site_makes_is_refused(site: str, status: int | None) -> None:
    assert sender_status(head(host="localhost", sec_fetch_site=site)) == status


@pytest.mark.parametrize(("host", "status"), [
    ("localhost", None), ("LOCALHOST:3002", None), ("127.0.0.1:3002", None), ("127.8.9.1", None), ("[::1]", None),
    ("[::1]:3002", None), (LAN, None), (f"{LAN}:3002", None), ("mini.home", None), ("Mini.Home:80", None),
    ("192.168.0.82", 403), ("evil.example", 403), ("localhost.evil.example", 403), ("127.0.0.1.nip.io", 403),
    ("[::2]", 403), ("", 403), ("localhost:3002:1", 400), ("localhost evil", 400), ("user@localhost", 400),
    ("localhost/", 400), ("localhost:port", 400), ("[::1", 400), ("localhost, localhost", 400), ("lo\u00e9", 400),
])
def test_on_the_network_it_must_call_us_by_a_name_of_ours(host: str, status: int | None) -> None:
    assert sender_status(head(host=host), names=("mini.home",)) == status


def test_an_address_of_ours_is_ours_in_version_6_too() -> None:
    assert sender_status(head(host="[fd00::81]:3002"), "fd00::81") is None
    assert sender_status(head(host="[fd00::82]:3002"), "fd00::81") == 403


@pytest.mark.parametrize("host", ["nexusd", "evil.example", "anything"])
def test_on_the_unix_socket_any_name_will_do(host: str) -> None:
    assert sender_status(head(host=host), None) is None


def test_without_a_host_it_is_http_1_0_and_no_browser() -> None:
    assert sender_status(head()) is None


@pytest.mark.parametrize("content_type", [
    "application/json", "Application/JSON", "application/json;charset=utf-8", "application/json; charset=UTF-8",
    'application/json; charset="utf-8"', "application/json ; charset = utf8",
])
@pytest.mark.parametrize("verb", ["POST", "PATCH", "DELETE"])
def test_a_body_is_json(verb: str, content_type: str) -> None:
    assert body_status(head(verb, length=2, content_type=content_type)) is None


@pytest.mark.parametrize("content_type", [
    "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "application/jsonp",
    "application/json; charset=latin-1", "text/plain; application/json", "application/json, text/plain", "text/json",
])
@pytest.mark.parametrize("verb", ["POST", "PATCH", "DELETE"])
def test_any_other_body_is_refused(verb: str, content_type: str) -> None:
    assert body_status(head(verb, length=2, content_type=content_type)) == 415
    assert body_status(head(verb, length=2)) == 415


def test_a_coded_body_is_refused() -> None:
    given = {"length": 2, "content_type": "application/json"}
    assert body_status(head("POST", **given, content_encoding="gzip")) == 415
    assert body_status(head("POST", **given, content_encoding="identity")) is None


@pytest.mark.parametrize(("verb", "status"), [("POST", 411), ("PATCH", 411), ("DELETE", None), ("GET", None)])
def test_where_a_body_is_needed_its_length_is(verb: str, status: int | None) -> None:
    assert body_status(head(verb, content_type="application/json")) == status


def test_chunks_need_no_length() -> None:
    assert body_status(head("POST", is_chunked=True, content_type="application/json")) is None

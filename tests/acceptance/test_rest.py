"""The REST routes of a running daemon, past what an older program asks of them."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.daemon import Daemon

JSON = {"Content-Type": "application/json"}


class UnixHttp(http.client.HTTPConnection):
    """The standard library's client over the Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(str(self._path))


class Rest:
    """One connection."""

    def __init__(self, path: Path) -> None:
        self._connection = UnixHttp(path)

    def __call__(self, verb: str, path: str, body: object = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        """Status, body, headers."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        data = None if body is None else json.dumps(body)
        self._connection.request(verb, path, data, sent if body is None else {**JSON, **sent})
        response = self._connection.getresponse()
        text = response.read()
        return response.status, json.loads(text) if text else None, {k.lower(): v for k, v in response.getheaders()}

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("rest") / "data") as daemon:
        yield daemon


@pytest.fixture
def rest(daemon: Daemon) -> Iterator[Rest]:
    rest = Rest(daemon.socket_path)
    yield rest
    rest.close()


def new_session(rest: Rest, name: str) -> int:
    status, session, _ = rest("POST", "/sessions", {"externalId": name, "metadata": None})
    assert status == 201
    return int(session["id"])


def test_pages_of_a_list_are_followed_by_the_cursor_in_a_header(rest: Rest) -> None:
    session = new_session(rest, "pages")
    for n in range(5):
        assert rest("POST", "/episodes", {"sessionId": session, "userMessage": f"u{n}", "aiResponse": ""})[0] == 201
    path, seen, cursor = f"/sessions/{session}/episodes?order=asc&limit=2", [], ""
    while cursor is not None:
        _, page, headers = rest("GET", f"{path}&cursor={cursor}" if cursor else path)
        seen += [episode["userMessage"] for episode in page]
        cursor = headers.get("x-next-cursor")
    assert seen == ["u0", "u1", "u2", "u3", "u4"]


@pytest.mark.parametrize("id_", ["1e0", "1.0", "%201", "+1", "01", "one"])
def test_only_a_plain_number_is_an_id(rest: Rest, id_: str) -> None:
    session = new_session(rest, f"for {id_}")
    row = rest("POST", "/episodes", {"sessionId": session, "userMessage": "stays", "aiResponse": ""})[1]
    asked = id_.replace("1", str(row["id"]))
    assert rest("DELETE", f"/episodes/{asked}")[0] == 400
    assert rest("GET", f"/episodes/{row['id']}")[0] == 200


def test_get_all_answers_all_and_a_limit_makes_it_a_page(rest: Rest) -> None:
    for n in range(7):
        assert rest("POST", "/entities", {"name": f"n{n}", "type": "all of them/it", "notes": None})[0] == 201
    assert len(rest("GET", "/entities/by-type/all%20of%20them%2Fit")[1]) == 7
    _, page, headers = rest("GET", "/entities/by-type/all%20of%20them%2Fit?limit=3")
    assert (len(page), "x-next-cursor" in headers) == (3, True)


def test_the_same_request_under_the_same_key_is_done_once(rest: Rest) -> None:
    first = rest("POST", "/sessions", {"externalId": "once"}, Idempotency_Key="k1")
    again = rest("POST", "/sessions", {"externalId": "once"}, Idempotency_Key="k1")
    assert (first[:2], first[0]) == (again[:2], 201)
    assert rest("POST", "/sessions", {"externalId": "once"})[0] == 409
    status, error, _ = rest("POST", "/sessions", {"externalId": "twice"}, Idempotency_Key="k1")
    assert (status, error["error"]["data"]["kind"]) == (422, "idempotency_mismatch")
    call = {"jsonrpc": "2.0", "id": 1, "method": "sessions.create", "params": {"externalId": "once"}}
    assert rest("POST", "/rpc", call, Idempotency_Key="k1")[1]["result"] == first[1]   # the same call another way


def test_null_clears_what_can_be_nothing_and_leaves_what_cannot(rest: Rest) -> None:
    _, project, _ = rest("POST", "/projects", {"name": "p", "icon": "x", "colour": "#fff", "idempotencyKey": None})
    status, changed, _ = rest("PATCH", f"/projects/{project['id']}", {"name": None, "icon": None})
    assert (status, changed["name"], changed["icon"], changed["colour"]) == (200, "p", None, "#fff")


def test_a_hit_of_the_search_has_its_score(rest: Rest) -> None:
    session = new_session(rest, "search")
    rest("POST", "/episodes", {"sessionId": session, "userMessage": "about aardvarks", "aiResponse": "yes"})
    _, hits, _ = rest("GET", "/episodes/search?q=aardvarks")
    assert [(hit["userMessage"], isinstance(hit["score"], float)) for hit in hits] == [("about aardvarks", True)]
    status, error, _ = rest("GET", "/episodes/search?limit=1")
    assert (status, error["error"]["data"]["fields"]) == (400, [{"path": "q", "expected": "required"}])


def test_a_write_may_wait_for_the_index(rest: Rest) -> None:
    session = new_session(rest, "waits")
    body = {"sessionId": session, "userMessage": "u", "aiResponse": "a"}
    assert rest("POST", "/episodes?waitFor=indexed&timeoutMs=20000", body)[1]["vector"] == "indexed"


def test_what_was_written_one_way_is_there_the_other_way(rest: Rest, daemon: Daemon) -> None:
    session = new_session(rest, "both ways")
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(daemon.socket_path))
        line.sendall(b'{"jsonrpc":"2.0","id":1,"method":"sessions.get","params":[%d]}\n' % session)
        reply = json.loads(line.makefile("rb").readline())
    assert reply["result"] == rest("GET", f"/sessions/{session}")[1]


def test_the_daemon_says_that_it_is_well(rest: Rest) -> None:
    status, health, _ = rest("GET", "/health")
    assert (status, health["status"], health["writes"]) == (200, "ok", True)

"""One exchange in, found again."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from harness.daemon import Daemon

from nexusd.client import Client, RpcError

STORED = {
    "userMessage": "Where did we leave the spare house key?",
    "aiResponse": "It hangs on the hook behind the boiler in the cellar.",
}
PARAPHRASE = "how can I get in when I locked myself out"  # shares no word with what was stored
OTHERS = [
    ("What temperature should the greenhouse have?", "Between eighteen and twenty-two degrees."),
    ("Play something by Nina Simone.", "Playing Feeling Good."),
    ("When is the dentist appointment?", "On Tuesday at nine in the morning."),
]


@pytest.fixture
def session(client: Client) -> int:
    session_id: int = client.call("sessions.create", externalId="kitchen")["id"]
    for user, assistant in OTHERS:
        client.call("episodes.create", sessionId=session_id, userMessage=user, aiResponse=assistant)
    return session_id


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One daemon for the tests that look at nothing but a session of their own."""
    with Daemon(tmp_path_factory.mktemp("shared") / "data").start() as daemon, Client(daemon.socket_path) as connected:
        yield connected


@pytest.fixture
def own_session(shared: Client) -> int:
    session_id: int = shared.call("sessions.create", externalId=uuid4().hex)["id"]
    shared.call("episodes.create", sessionId=session_id, userMessage="first", aiResponse="")
    return session_id


def test_a_stored_exchange_is_found_by_meaning_and_by_word(client: Client, session: int) -> None:
    stored = client.call("episodes.create", sessionId=session, waitFor="indexed", **STORED)
    assert stored["vector"] == "indexed"

    by_meaning = client.call("memory.search", query=PARAPHRASE, mode="semantic", limit=1)
    assert [hit["id"] for hit in by_meaning["items"]] == [stored["id"]]
    by_both = client.call("memory.search", query=PARAPHRASE, limit=1)
    assert [hit["id"] for hit in by_both["items"]] == [stored["id"]]
    by_word = client.call("memory.search", query="boiler", mode="keyword")
    assert [hit["id"] for hit in by_word["items"]] == [stored["id"]]
    assert by_word["items"][0]["record"]["aiResponse"] == STORED["aiResponse"]


def test_keyword_search_finds_it_before_it_is_indexed(client: Client, session: int) -> None:
    stored = client.call("episodes.create", sessionId=session, **STORED)
    assert stored["vector"] == "pending"
    found = client.call("episodes.search", query="spare key")
    assert [match["episode"]["id"] for match in found["items"]] == [stored["id"]]


def test_a_raw_line_on_the_socket_is_answered(daemon: Daemon) -> None:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(daemon.socket_path))
        raw.sendall(b'{"jsonrpc":"2.0","id":"a","method":"sessions.create","params":["hall"]}\n')
        reply = json.loads(raw.makefile().readline())
    assert reply["id"] == "a"
    assert reply["result"]["externalId"] == "hall"


def test_a_deleted_exchange_is_found_by_nothing(client: Client, session: int) -> None:
    stored = client.call("episodes.create", sessionId=session, waitFor="indexed", **STORED)
    gone = client.call("episodes.delete", id=stored["id"])
    assert gone == {"deleted": {"episodes": 1}, "pointsQueued": 1, "outboxSeq": gone["outboxSeq"]}
    for mode in ("hybrid", "keyword", "semantic"):
        hits = client.call("memory.search", query=PARAPHRASE + " boiler", mode=mode)["items"]
        assert stored["id"] not in [hit["id"] for hit in hits], mode
    assert client.call("outbox.wait", timeoutMs=30_000)["done"]
    points = client.call("system.status")["index"]["points"]
    assert points["episodes"] == len(OTHERS)


def test_a_changed_exchange_is_found_by_its_new_meaning_only(client: Client, session: int) -> None:
    stored = client.call("episodes.create", sessionId=session, waitFor="indexed", **STORED)
    changed = client.call(
        "episodes.update", id=stored["id"], userMessage="What does the cat eat?",
        aiResponse="Salmon, twice a day.", waitFor="indexed",
    )
    assert (changed["version"], changed["vector"]) == (2, "indexed")
    found = client.call("memory.search", query="feeding the pet fish", mode="semantic", limit=1)["items"]
    assert [hit["id"] for hit in found] == [stored["id"]]
    assert client.call("memory.search", query="boiler", mode="keyword")["items"] == []


def test_filters_hold_in_both_engines(client: Client, session: int) -> None:
    project = client.call("projects.create", name="Garden")["id"]
    other = client.call("sessions.create", externalId="garden", projectId=project)["id"]
    inside = client.call("episodes.create", sessionId=other, waitFor="indexed", **STORED)
    outside = client.call("episodes.create", sessionId=session, waitFor="indexed", **STORED)
    for mode in ("hybrid", "keyword", "semantic"):
        for where, expected in (
            ({"projectId": project}, inside), ({"sessionId": other}, inside), ({"sessionId": session}, outside),
        ):
            hits = client.call("memory.search", query="spare key boiler", mode=mode, filter=where)["items"]
            ids = [hit["id"] for hit in hits]
            assert expected["id"] in ids, (mode, where)
            assert (inside["id"] in ids) != (outside["id"] in ids), (mode, where)


def test_a_session_that_moves_to_a_project_takes_its_points_along(client: Client, session: int) -> None:
    stored = client.call("episodes.create", sessionId=session, waitFor="indexed", **STORED)
    project = client.call("projects.create", name="House")["id"]
    client.call("sessions.update", id=session, projectId=project)
    assert client.call("outbox.wait", timeoutMs=30_000)["done"]
    hits = client.call("memory.search", query=PARAPHRASE, mode="semantic", filter={"projectId": project}, limit=1)
    assert [hit["id"] for hit in hits["items"]] == [stored["id"]]


def test_context_holds_recent_turns_and_what_is_remembered(client: Client, session: int) -> None:
    client.call("episodes.create", sessionId=session, waitFor="indexed", **STORED)
    running = client.call("sessions.create", externalId="now")["id"]
    client.call("episodes.create", sessionId=running, userMessage="I am at the door.", aiResponse="Welcome home.")
    package = client.call("memory.context", query=PARAPHRASE, sessionId=running, tokenBudget=300)
    assert "Welcome home." in package["text"]
    assert "hook behind the boiler" in package["text"]
    assert package["tokens"] <= 300


def test_a_text_of_a_megabyte_is_stored_whole_indexed_and_found(client: Client, session: int) -> None:
    text = "a lighthouse keeper " + "counts the waves " * 62_000
    stored = client.call("episodes.create", sessionId=session, userMessage=text, aiResponse="", waitFor="indexed")
    assert stored["vector"] == "indexed"
    assert client.call("episodes.get", id=stored["id"])["userMessage"] == text
    for mode in ("keyword", "semantic"):
        hits = client.call("memory.search", query="lighthouse keeper", mode=mode, limit=1)["items"]
        assert [hit["id"] for hit in hits] == [stored["id"]], mode


@pytest.mark.parametrize(
    ("method", "params", "kind", "field"),
    [
        ("episodes.create", {"sessionId": 1, "userMessage": "", "aiResponse": ""}, "invalid_params", "userMessage"),
        ("episodes.create", {"sessionId": 1, "userMessage": "a"}, "invalid_params", "aiResponse"),
        ("episodes.create", {"sessionId": 99, "userMessage": "a", "aiResponse": ""}, "not_found", None),
        ("episodes.create", {"sessionId": 1, "userMessage": "a", "aiResponse": "", "colour": 1}, "invalid_params",
         "colour"),
        ("episodes.get", {"id": "one"}, "invalid_params", "id"),
        ("episodes.list", {"sessionId": 1, "cursor": "x", "offset": 1}, "invalid_params", ""),
        ("outbox.wait", {"collection": "nonsense"}, "invalid_params", "collection"),
        ("outbox.list", {"collection": "nonsense"}, "invalid_params", "collection"),
        ("episodes.forget", {}, "method_not_found", None),
    ],
)
def test_bad_input_is_told_by_its_field_and_changes_nothing(
    shared: Client, own_session: int, method: str, params: dict[str, object], kind: str, field: str | None
) -> None:
    with pytest.raises(RpcError) as refused:
        shared.call(method, params)
    assert refused.value.kind == kind
    assert [one.path for one in refused.value.fields] == ([] if field is None else [field])
    assert len(shared.call("episodes.list", sessionId=own_session)["items"]) == 1


def test_a_repeated_create_with_its_key_stores_once(shared: Client, own_session: int) -> None:
    first = shared.call("episodes.create", sessionId=own_session, idempotencyKey="once", **STORED)
    again = shared.call("episodes.create", sessionId=own_session, idempotencyKey="once", **STORED)
    assert again == first
    listed = shared.call("episodes.list", sessionId=own_session)["items"]
    assert len(listed) == 2


def test_create_many_answers_each_item_with_its_row_or_its_own_error(shared: Client, own_session: int) -> None:
    good = {"sessionId": own_session, "userMessage": "one", "aiResponse": ""}
    answer = shared.call("episodes.createMany", items=[
        good, {**good, "userMessage": ""}, {**good, "sessionId": 999_999}, {**good, "colour": "red"}, good,
    ])["items"]
    assert [item.get("error", {}).get("data", {}).get("kind") for item in answer] == [
        None, "invalid_params", "not_found", "invalid_params", None,
    ]
    assert answer[1]["error"]["data"]["fields"][0]["path"] == "items[1].userMessage"
    assert answer[0]["id"] < answer[4]["id"]


def test_a_repeated_create_many_waits_and_answers_like_the_first(shared: Client, own_session: int) -> None:
    items = [{"sessionId": own_session, "userMessage": "one", "aiResponse": ""}, {"sessionId": own_session}]
    first = shared.call("episodes.createMany", items=items, idempotencyKey="many")
    again = shared.call("episodes.createMany", items=items, idempotencyKey="many", waitFor="indexed")
    assert again["items"][0] == {**first["items"][0], "vector": "indexed"}
    assert again["items"][1]["error"]["data"]["kind"] == "invalid_params"


def test_nexusctl_stores_and_finds(daemon: Daemon) -> None:
    def nexusctl(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).with_name("nexusctl")), "--socket", str(daemon.socket_path), *arguments],
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=60,
        )

    added = nexusctl("add", STORED["userMessage"], STORED["aiResponse"], "--wait")
    assert added.returncode == 0, added.stderr
    found = nexusctl("search", PARAPHRASE)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["items"][0]["record"]["aiResponse"] == STORED["aiResponse"]
    refused = nexusctl("call", "episodes.get", "id=424242")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "No episode has this id" in refused.stderr

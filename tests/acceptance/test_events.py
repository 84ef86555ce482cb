"""Events over the daemon's own sockets: what happened, once, in order, and never in anybody's way."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.daemon import Daemon

from nexusd.client import Client, Event, Events, InvalidParams

PRIVATE = "the spare key hangs behind the boiler"


@contextmanager
def line_by_line(daemon: Daemon) -> Iterator[Any]:
    """The socket as a file of lines."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(daemon.socket_path))
        with connection.makefile("rwb") as lines:
            yield lines


def ask(lines: Any, message: object) -> None:
    lines.write(json.dumps(message).encode() + b"\n")
    lines.flush()


def request(method: str, params: object = None, id_: int = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id_, "method": method, "params": params or {}}


def until(stream: Events, topic: str, **data: Any) -> list[Event]:
    """What comes up to the event of this topic that holds this."""
    seen = []
    for event in stream:
        seen.append(event)
        if event.topic == topic and data.items() <= event.data.items():
            break
    return seen


def test_every_change_is_told_by_its_method_and_ids_and_no_text_of_it(daemon: Daemon, client: Client) -> None:
    with line_by_line(daemon) as lines:
        ask(lines, request("events.subscribe", {"topics": ["episodes", "sessions", "entities"]}))
        subscribed = json.loads(lines.readline())["result"]
        session = client.call("sessions.create", externalId="hall", name=PRIVATE)["id"]
        row = client.call("episodes.create", sessionId=session, userMessage=PRIVATE, aiResponse=PRIVATE)["id"]
        client.call("episodes.update", id=row, userMessage=PRIVATE + "!", metadata={"note": PRIVATE})
        items = [{"sessionId": session, "userMessage": PRIVATE, "aiResponse": ""}, {"sessionId": session}] * 2
        client.call("episodes.createMany", items=items)
        entity = client.call("entities.upsert", name="Anna", type="person", notes=PRIVATE)["id"]
        client.call("episodes.delete", id=row)
        client.call("sessions.delete", id=session)
        raw = [lines.readline() for _ in range(7)]
    events = [json.loads(line)["params"] for line in raw]
    assert [(event["topic"], event["data"]) for event in events] == [
        ("sessions", {"method": "sessions.create", "id": session}),
        ("episodes", {"method": "episodes.create", "id": row}),
        ("episodes", {"method": "episodes.update", "id": row}),
        ("episodes", {"method": "episodes.createMany", "ids": [row + 1, row + 2]}),
        ("entities", {"method": "entities.upsert", "id": entity}),
        ("episodes", {"method": "episodes.delete", "id": row}),
        ("sessions", {"method": "sessions.delete", "id": session}),
    ]
    assert b"boiler" not in b"".join(raw)
    seqs = [event["seq"] for event in events]
    assert sorted(set(seqs)) == seqs
    assert seqs[0] > subscribed["seq"]
    assert {event["subscription"] for event in events} == {subscribed["subscription"]}


@pytest.mark.parametrize("wait", [{}, {"waitFor": "indexed", "timeoutMs": 60_000}], ids=["at once", "indexed"])
def test_a_repeated_call_is_no_second_event(client: Client, wait: dict[str, Any]) -> None:
    session = client.call("sessions.create", externalId="hall")["id"]
    one = {"sessionId": session, "userMessage": "tea", "aiResponse": "", "idempotencyKey": "one", **wait}
    many = {"items": [{"sessionId": session, "userMessage": "tea", "aiResponse": ""}], "idempotencyKey": "many", **wait}
    with client.events(["episodes", "sessions"]) as events:
        firsts, seconds = (
            [client.call("episodes.create", one), client.call("episodes.createMany", many)] for _ in range(2)
        )
        client.call("sessions.update", id=session, name="the end")
        told = [event.data["method"] for event in until(events, "sessions")]
    assert seconds == firsts
    assert told == ["episodes.create", "episodes.createMany", "sessions.update"]


def test_the_reply_comes_before_the_first_event_also_where_many_are_kept(daemon: Daemon, client: Client) -> None:
    for number in range(50):
        client.call("sessions.create", externalId=f"s{number}")
    with line_by_line(daemon) as lines:
        for id_ in (1, 2):
            ask(lines, request("events.subscribe", {"topics": ["sessions"], "sinceSeq": 0}, id_))
        messages = [json.loads(lines.readline()) for _ in range(2 + 2 * 51)]
    replied: set[int] = set()
    for message in messages:
        if "result" in message:
            replied.add(message["result"]["subscription"])
        else:
            assert message["params"]["subscription"] in replied
    mine = [m["params"] for m in messages if m.get("method") and m["params"]["subscription"] == min(replied)]
    assert [event["topic"] for event in mine] == ["lagged"] + ["sessions"] * 50


def test_parts_that_go_and_come_back_and_the_end_are_told(daemon: Daemon, client: Client) -> None:
    client.remember("Where is the key?", "Under the mat.", session="hall", wait=True)
    with client.events(["index", "embedder", "system", "outbox"]) as events:
        os.kill(daemon.children()["shard_process"], signal.SIGKILL)
        states = [event.data["state"] for event in until(events, "index", state="up") if event.topic == "index"]
        assert states == ["down", "up"]
        client.remember("What does the cat eat?", "Salmon.", session="hall")
        assert until(events, "outbox", state="drained")[-1].data == {"state": "drained", "dead": 0}
        os.kill(daemon.children()["model_process"], signal.SIGKILL)
        states = [event.data["state"] for event in until(events, "embedder", state="up") if event.topic == "embedder"]
        assert states == ["down", "up"]
        daemon.terminate()
        assert until(events, "system")[-1].data == {"state": "stopping"}


def test_a_listener_outlives_the_daemon_and_learns_what_it_may_have_missed(daemon: Daemon, client: Client) -> None:
    session = client.call("sessions.create", externalId="hall")["id"]
    with client.events(["sessions"]) as events:
        client.call("sessions.update", id=session, name="before")
        (before,) = until(events, "sessions")
        daemon.kill()
        daemon.start()
        lagged = next(events)
        client.call("sessions.update", id=session, name="after")
        after = next(events)
    assert (lagged.topic, lagged.data["after"]) == ("lagged", before.seq)
    assert after.data == {"method": "sessions.update", "id": session}
    assert before.seq < lagged.data["next"] <= after.seq


def test_who_does_not_read_is_told_and_holds_up_nobody(tmp_path: Path) -> None:
    count, kept, subscriptions = 2000, 50, 16
    settings = {"NEXUSD_SERVER__LIMITS__EVENT_REPLAY": str(kept)}
    with (
        Daemon(tmp_path / "data", settings=settings) as daemon,
        Client(daemon.socket_path) as client,
        line_by_line(daemon) as slow,
    ):
        client.wait_indexed()   # the index is up: nothing else happens from here on
        for id_ in range(subscriptions):
            ask(slow, request("events.subscribe", {"topics": ["cache"]}, id_))
            assert "result" in json.loads(slow.readline())
        for number in range(count):     # together more than the socket and the write queue of the slow one hold
            client.call("cache.set", key="k", value=number)
        with client.events() as events:
            latest = events.seq
        assert latest is not None
        told: dict[int, list[dict[str, Any]]] = {}
        while len(told) < subscriptions or any(events[-1]["seq"] < latest for events in told.values()):
            event = json.loads(slow.readline())["params"]
            told.setdefault(event["subscription"], []).append(event)
    for events_of_one in told.values():
        came = [event["seq"] for event in events_of_one if event["topic"] == "cache"]
        lost = [
            seq for event in events_of_one if event["topic"] == "lagged"
            for seq in range(event["data"]["after"] + 1, event["data"]["next"])
        ]  # fmt: skip
        assert lost
        assert sorted(came) == came
        assert sorted([*came, *lost]) == list(range(latest - count + 1, latest + 1)), "each came, or is announced"


def test_topics_that_are_none_and_the_future_are_refused(client: Client) -> None:
    with pytest.raises(InvalidParams) as refused:
        next(client.events(["episodes", "epsiodes"], since_seq=2**53 - 1))
    assert [field.path for field in refused.value.fields] == ["topics[1]", "sinceSeq"]


def test_over_http_and_in_a_batch_it_is_refused_in_plain_words(daemon: Daemon) -> None:
    message = request("events.subscribe")
    connection = http.client.HTTPConnection("localhost", timeout=30)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(daemon.socket_path))
    connection.request("POST", "/rpc", json.dumps(message), {"Content-Type": "application/json"})
    over_http = json.loads(connection.getresponse().read())
    connection.close()
    with line_by_line(daemon) as lines:
        ask(lines, [message])
        (in_a_batch,) = json.loads(lines.readline())
    for reply, words in ((over_http, "not over HTTP"), (in_a_batch, "outside a batch")):
        assert reply["error"]["data"]["kind"] == "invalid_request"
        assert words in reply["error"]["message"]


def test_a_subscription_is_ended_by_its_connection_alone(daemon: Daemon, client: Client) -> None:
    with line_by_line(daemon) as one, line_by_line(daemon) as other:
        ask(one, request("events.subscribe"))
        subscription = json.loads(one.readline())["result"]["subscription"]
        ask(other, request("events.unsubscribe", {"subscription": subscription}))
        assert json.loads(other.readline())["error"]["data"]["kind"] == "not_found"
        ask(one, request("events.unsubscribe", {"subscription": subscription}, 2))
        assert json.loads(one.readline())["result"]["subscription"] == subscription
        client.call("sessions.create", externalId="hall")
        ask(one, request("health", None, 3))
        assert json.loads(one.readline())["id"] == 3

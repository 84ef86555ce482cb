"""What the system learns (projects, entities, relationships, summaries), asked of a running daemon."""

from __future__ import annotations

from typing import Any

import pytest

from nexusd.client import Client
from nexusd.errors import RpcError


@pytest.fixture
def session(client: Client) -> int:
    return int(client.call("sessions.create", externalId="kitchen")["id"])


def entity(client: Client, name: str, **fields: Any) -> int:
    return int(client.call("entities.upsert", name=name, type="person", **fields)["id"])


def kind_of(client: Client, method: str, **params: Any) -> tuple[str, list[str]]:
    with pytest.raises(RpcError) as refused:
        client.call(method, params)
    return refused.value.kind, [field.path for field in refused.value.fields]


def test_a_project_lives_its_life(client: Client, session: int) -> None:
    made = client.call("projects.create", name="Garden", colour="#3d3a79")
    client.call("sessions.update", id=session, projectId=made["id"])
    client.call("summaries.create", sessionId=session, content="What was said of the garden.")
    assert client.call("projects.list")["items"] == [made]
    changed = client.call("projects.update", id=made["id"], name="Big garden", colour=None)
    assert client.call("projects.get", id=made["id"]) == changed
    assert (changed["name"], changed["colour"], changed["createdAt"]) == ("Big garden", None, made["createdAt"])
    gone = client.call("projects.delete", id=made["id"])
    assert (gone["deleted"], gone["pointsQueued"]) == ({"projects": 1}, 1)
    assert client.call("sessions.get", id=session)["projectId"] is None
    assert kind_of(client, "projects.get", id=made["id"]) == ("not_found", [])


def test_an_entity_is_learned_found_and_forgotten(client: Client) -> None:
    made = client.call("entities.upsert", name="Ada", type="person", notes="wrote programs", waitFor="indexed")
    assert (made["created"], made["vector"], made["version"]) == (True, "indexed", 1)
    again = client.call("entities.upsert", name="Ada", type="person", notes="wrote the first program")
    assert (again["id"], again["created"], again["vector"], again["version"]) == (made["id"], False, "pending", 2)
    stored = client.call("entities.get", id=made["id"])
    assert "created" not in stored
    (match,) = client.call("entities.search", query="first programs", type="person")["items"]
    assert match["entity"]["id"] == made["id"]
    assert [e["id"] for e in client.call("entities.list")["items"]] == [made["id"]]
    assert [e["id"] for e in client.call("entities.listByType", type="person")["items"]] == [made["id"]]
    gone = client.call("entities.delete", id=made["id"])
    assert (gone["deleted"], gone["pointsQueued"]) == ({"entities": 1, "relationships": 0}, 1)
    assert kind_of(client, "entities.delete", id=made["id"]) == ("not_found", [])


def test_many_entities_and_links_come_in_one_call_each_with_its_row_or_its_own_error(client: Client) -> None:
    items = [
        {"name": "Ada", "type": "person"}, {"name": "", "type": "person"}, {"name": "Ben", "type": "person"},
        {"name": "Ada", "type": "person", "notes": "n"},
    ]
    first = client.call("entities.upsertMany", items=items, idempotencyKey="many")["items"]
    assert [item.get("created") for item in first] == [True, None, True, False]
    assert first[1]["error"]["data"]["fields"][0]["path"] == "items[1].name"
    assert first[0]["id"] == first[3]["id"]
    again = client.call("entities.upsertMany", items=items, idempotencyKey="many", waitFor="indexed")["items"]
    assert [item.get("vector") for item in again] == ["indexed", None, "indexed", "indexed"]
    assert [item.get("id") for item in again] == [item.get("id") for item in first]
    ada, ben = first[0]["id"], first[2]["id"]
    links = client.call("relationships.upsertMany", items=[
        {"fromId": ada, "toId": ben, "label": "knows"}, {"fromId": ada, "toId": 999, "label": "knows"},
        {"fromId": ben, "toId": ben, "label": "knows"},
    ])["items"]
    assert [item.get("created") for item in links] == [True, None, True]
    assert links[1]["error"]["data"]["kind"] == "not_found"
    assert [field["path"] for field in links[1]["error"]["data"]["fields"]] == ["toId"]
    assert len(client.call("relationships.listTo", toId=ben)["items"]) == 2


def test_links_are_made_read_from_both_ends_walked_and_deleted(client: Client) -> None:
    ada, ben, cat = (entity(client, name) for name in ("Ada", "Ben", "Cat"))
    made = client.call("relationships.upsert", fromId=ada, toId=ben, label="knows", metadata={"since": 1843})
    client.call("relationships.upsert", fromId=ben, toId=cat, label="likes")
    assert made.pop("created") is True
    (link,) = client.call("relationships.listFrom", fromId=ada)["items"]
    assert link == {**made, "entity": {"id": ben, "name": "Ben", "type": "person"}}
    (back,) = client.call("relationships.listTo", toId=cat, label="likes")["items"]
    assert back["entity"]["name"] == "Ben"
    near = client.call("graph.neighbours", id=ada, depth=2)
    assert [(node["entity"]["name"], node["depth"]) for node in near["nodes"]] == [("Ada", 0), ("Ben", 1), ("Cat", 2)]
    assert [edge["label"] for edge in near["edges"]] == ["knows", "likes"]
    assert near["truncated"] is False
    key = {"fromId": ada, "toId": ben, "label": "knows"}
    assert client.call("relationships.delete", key) == {
        "deleted": {"relationships": 1}, "pointsQueued": 0, "outboxSeq": 0,
    }
    assert kind_of(client, "relationships.delete", **key) == ("not_found", [])
    assert kind_of(client, "relationships.upsert", fromId=ada, toId=999, label="knows") == ("not_found", ["toId"])
    assert kind_of(client, "relationships.listFrom", fromId=999) == ("not_found", ["fromId"])
    assert kind_of(client, "graph.neighbours", id=999) == ("not_found", [])


def test_what_waits_for_a_summary_waits_no_more_once_there_is_one(client: Client, session: int) -> None:
    ids = [
        client.call("episodes.create", sessionId=session, userMessage=f"note {i}", aiResponse="", createdAt=i)["id"]
        for i in range(4)
    ]
    (waiting,) = client.call("summaries.pending", minEpisodes=4)["items"]
    assert waiting == {
        "sessionId": session, "externalId": "kitchen", "name": None, "pendingEpisodes": 4, "firstEpisodeId": ids[0],
        "lastEpisodeId": ids[3], "oldestAt": 0,
    }
    run = {"sessionId": session, "content": "Notes.", "firstEpisodeId": ids[0], "lastEpisodeId": ids[2]}
    made = client.call("summaries.create", run, waitFor="indexed", tokenCount=2)
    assert (made["vector"], made["tokenCount"]) == ("indexed", 2)
    (waiting,) = client.call("summaries.pending")["items"]
    assert (waiting["pendingEpisodes"], waiting["firstEpisodeId"]) == (1, ids[3])
    assert client.call("summaries.list", sessionId=session)["items"] == [made]
    assert client.call("summaries.get", id=made["id"]) == made
    backwards = {**run, "firstEpisodeId": ids[2], "lastEpisodeId": ids[0]}
    assert kind_of(client, "summaries.create", **backwards) == ("invalid_params", ["lastEpisodeId"])
    gone = client.call("sessions.delete", id=session)
    assert (gone["deleted"], gone["pointsQueued"]) == ({"sessions": 1, "episodes": 4, "summaries": 1}, 5)
    assert kind_of(client, "summaries.delete", id=made["id"]) == ("not_found", [])


def test_a_repeated_call_with_its_key_does_nothing_twice(client: Client, session: int) -> None:
    ada, ben = entity(client, "Ada"), entity(client, "Ben")
    key = {"fromId": ada, "toId": ben, "label": "knows"}
    project = client.call("projects.create", name="p", idempotencyKey="p")
    summary = client.call("summaries.create", sessionId=session, content="s", idempotencyKey="s")
    calls: list[tuple[str, dict[str, Any], Any]] = [
        ("projects.create", {"name": "p", "idempotencyKey": "p"}, project),
        ("summaries.create", {"sessionId": session, "content": "s", "idempotencyKey": "s"}, summary),
    ]
    for number, (method, params) in enumerate((
        ("projects.update", {"id": project["id"], "name": "q"}),
        ("entities.upsert", {"name": "Eve", "type": "person"}),
        ("entities.upsertMany", {"items": [{"name": "Fay", "type": "person"}]}),
        ("relationships.upsert", key),
        ("relationships.upsertMany", {"items": [{**key, "label": "likes"}]}),
        ("relationships.delete", key),
        ("entities.delete", {"id": ada}),
        ("summaries.delete", {"id": summary["id"]}),
        ("projects.delete", {"id": project["id"]}),
    )):
        again = {**params, "idempotencyKey": str(number)}
        calls.append((method, again, client.call(method, again)))
    for method, params, answer in calls:
        assert client.call(method, params) == answer, method

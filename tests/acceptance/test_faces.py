"""One protocol, three dresses: every method answers the same over NDJSON, over HTTP, and on its REST route.

One script that uses every method runs against three fresh daemons, one for each face; what is told apart only by the
moment (times, request ids, the state of a vector) is set aside, everything else must be equal.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import pytest
from harness.daemon import Daemon

Json = Any
Params = dict[str, Json]
Saved = Mapping[str, Json]

# What the moment decides, or the machine.
VOLATILE = frozenset({
    "createdAt", "updatedAt", "since", "oldestAt", "modifiedAt", "expiresAt", "expiresInMs", "requestId", "vector",
    "oldestAgeMs", "rowsPerSecond", "drainEstimateMs", "bytes", "seq",
})
DAY = 1_700_000_000_000     # what is told in an order of time is given its time
# Answers that are figures of the moment throughout: only that they come, and their names, can be equal.
FIGURES = frozenset({
    "system.status", "outbox.status", "outbox.list", "cache.stats", "system.check", "index.status", "index.verify",
    "index.repair", "tokens.create", "tokens.list", "exports.begin",
    "backup.create", "backup.list", "backup.verify", "backup.status", "backup.restore", "backup.drill",
})
# Over HTTP there is no connection that stays.
NEEDS_A_CONNECTION = frozenset({"events.subscribe", "events.unsubscribe", "auth.login"})


@dataclass(frozen=True)
class Step:
    """One call. `save` keeps the result for the steps after it; `error` is the kind that must come instead."""

    method: str
    params: Params | Callable[[Saved], Params] = None  # type: ignore[assignment] # none
    save: str | None = None
    error: str | None = None


def S(  # noqa: N802 - a row of the table
    method: str, params: Params | Callable[[Saved], Params] | None = None, save: str | None = None,
    error: str | None = None,
) -> Step:
    return Step(method, params if params is not None else {}, save, error)


SCRIPT: tuple[Step, ...] = (
    S("health"),
    S("system.status"),
    S("system.reload"),
    S("system.check"),
    S("index.status"),
    S("rpc.discover"),
    S("help"),
    S("help", {"method": "episodes.create"}),
    # the memory service
    S("projects.create", {"name": "Garden", "description": "What grows", "colour": "#3d3a79", "icon": None}, "project"),
    S("projects.create", {"description": "no name"}, error="invalid_params"),
    S("projects.list"),
    S("projects.get", lambda s: {"id": s["project"]["id"]}),
    S("projects.get", {"id": 4711}, error="not_found"),
    S("projects.update", lambda s: {"id": s["project"]["id"], "colour": "#ffffff", "icon": None}),
    S("sessions.create", lambda s: {"externalId": "kitchen / 1", "projectId": s["project"]["id"]}, "session"),
    S("sessions.create", {"externalId": "kitchen / 1"}, error="conflict"),
    S("sessions.create", {"externalId": "", "metadata": []}, error="invalid_params"),
    S("sessions.list", {"limit": 10, "offset": 0}),
    S("sessions.get", lambda s: {"id": s["session"]["id"]}),
    S("sessions.getByExternalId", {"externalId": "kitchen / 1"}),
    S("sessions.getByExternalId", {"externalId": "cellar"}, error="not_found"),
    S("sessions.update", {"externalId": "kitchen / 1", "name": "Kitchen"}),
    S("sessions.update", {"externalId": "kitchen / 1", "name": ""}, error="invalid_params"),
    S("episodes.create", lambda s: {
        "sessionId": s["session"]["id"], "userMessage": "When do we plant tomatoes?", "aiResponse": "In May.",
        "tokenCount": 9, "metadata": {"mood": "calm"}, "createdAt": DAY, "waitFor": "indexed", "timeoutMs": 60_000,
    }, "episode"),
    S("episodes.create", {"sessionId": 4711, "userMessage": "to nobody", "aiResponse": ""}, error="not_found"),
    S("episodes.createMany", lambda s: {"items": [
        {"sessionId": s["session"]["id"], "userMessage": "Ada waters them.", "aiResponse": "Good.",
         "createdAt": DAY + 1},
        {"sessionId": s["session"]["id"], "userMessage": "", "aiResponse": "nothing was said"},
    ]}, "episodes"),
    S("episodes.get", lambda s: {"id": s["episode"]["id"]}),
    S("episodes.get", {"id": "one"}, error="invalid_params"),
    S("episodes.update", lambda s: {"id": s["episode"]["id"], "tokenCount": 10}),
    S("episodes.list", lambda s: {"sessionId": s["session"]["id"], "limit": 5, "offset": 0}),
    S("episodes.search", {"query": "tomatoes", "limit": 3}),
    S("entities.upsert", {"name": "Ada", "type": "person", "notes": "waters the tomatoes", "metadata": {}}, "ada"),
    S("entities.upsert", {"name": "Ada", "type": "person", "notes": "and the beans"}),
    S("entities.upsert", {"name": "no type"}, error="invalid_params"),
    S("entities.upsertMany", {"items": [{"name": "Garden", "type": "place"}, {"type": "nameless"}]}, "places"),
    S("entities.get", lambda s: {"id": s["ada"]["id"]}),
    S("entities.list", {"type": "person"}),
    S("entities.listByType", {"type": "person"}),
    S("entities.search", {"query": "beans"}),
    S("relationships.upsert", lambda s: {
        "fromId": s["ada"]["id"], "toId": s["places"]["items"][0]["id"], "label": "works in", "metadata": {"since": 1},
    }),
    S("relationships.upsert", lambda s: {"fromId": s["ada"]["id"], "toId": 4711, "label": "x"}, error="not_found"),
    S("relationships.upsertMany", lambda s: {
        "items": [{"fromId": s["ada"]["id"], "toId": s["ada"]["id"], "label": "knows"}],
    }),
    S("relationships.listFrom", lambda s: {"fromId": s["ada"]["id"]}),
    S("relationships.listTo", lambda s: {"toId": s["ada"]["id"]}),
    S("graph.neighbours", lambda s: {"id": s["ada"]["id"], "depth": 2}),
    S("summaries.pending"),
    S("summaries.create", lambda s: {
        "sessionId": s["session"]["id"], "content": "They spoke of tomatoes.",
        "firstEpisodeId": s["episode"]["id"], "lastEpisodeId": s["episode"]["id"], "createdAt": DAY + 4,
    }, "summary"),
    S("summaries.pending"),
    S("summaries.list", lambda s: {"sessionId": s["session"]["id"]}),
    S("summaries.get", lambda s: {"id": s["summary"]["id"]}),
    # the storage core
    S("groups.create", {"name": "Family", "config": {"quiet": True}}, "group"),
    S("groups.list"),
    S("groups.get", lambda s: {"id": s["group"]["id"]}),
    S("groups.update", lambda s: {"id": s["group"]["id"], "name": "House"}),
    S("users.set", {"id": "bo", "settings": {"language": "de", "theme": "dark"}}),
    S("users.set", {"id": "bo", "settings": {"theme": None}, "merge": True}),
    S("users.get", {"id": "bo"}),
    S("users.get", {"id": 5}, error="not_found"),
    S("users.list"),
    S("conversations.create", lambda s: {"title": "Tea", "userId": "bo", "groupId": s["group"]["id"]}, "chat"),
    S("conversations.list", {"userId": "bo"}),
    S("conversations.get", lambda s: {"id": s["chat"]["id"]}),
    S("conversations.update", lambda s: {"id": s["chat"]["id"], "title": "Green tea"}),
    S("messages.create", lambda s: {
        "conversationId": s["chat"]["id"], "role": "user", "content": "How hot for green tea?",
        "createdAt": DAY + 2,
    }, "message"),
    S("messages.createMany", lambda s: {
        "items": [{
            "conversationId": s["chat"]["id"], "role": "assistant", "content": "Seventy degrees.", "createdAt": DAY + 3,
        }],
    }),
    S("messages.list", lambda s: {"conversationId": s["chat"]["id"]}),
    S("messages.get", lambda s: {"id": s["message"]["id"]}),
    S("toolLogs.append", lambda s: {
        "tool": "clock", "arguments": {"zone": "UTC"}, "result": "12:00", "durationMs": 3,
        "conversationId": s["chat"]["id"],
    }, "log"),
    S("toolLogs.get", lambda s: {"id": s["log"]["id"]}),
    S("toolLogs.list", {"tool": "clock", "status": "ok"}),
    S("vectors.store", {"id": 5, "text": "The cellar is damp.", "waitFor": "indexed", "timeoutMs": 60_000}),
    S("vectors.storeMany", {"items": [{"id": "5", "text": "The attic is dry."}, {"id": "no text"}]}),
    S("vectors.get", {"id": 5}),
    S("vectors.list"),
    # everything is indexed from here on
    S("outbox.wait", {"timeoutMs": 60_000}),
    S("outbox.status"),
    S("outbox.list"),
    S("outbox.retry", {}),
    S("index.verify", {"timeoutMs": 60_000}, "verified"),
    S("index.repair", {"collections": ["episodes"], "timeoutMs": 60_000}),
    S("index.reembed"),
    S("backup.create", {"note": "of all this"}),
    S("backup.list", {"limit": 1}),
    S("backup.verify"),
    S("backup.status"),
    S("backup.restore", {"name": "none"}, error="no_such_backup"),
    S("backup.drill"),
    S("index.forget"),
    S("index.forget", {"key": "none"}, error="not_found"),
    S("vectors.search", {"query": "wet rooms", "limit": 2}),
    S("messages.search", {"query": "temperature of tea"}),
    S("memory.search", {"query": "tomatoes", "limit": 5}),
    S("memory.search", {"query": "tomatoes", "mode": "guess"}, error="invalid_params"),
    S("memory.context", {"query": "tomatoes", "tokenBudget": 300}),
    S("semantic.search", {"collection": "episodes", "query": "vegetables", "topK": 2, "filter": {
        "must": [{"key": "metadata.mood", "match": {"value": "calm"}}],
    }}),
    S("semantic.search", {"collection": "episodes", "query": "x", "filter": {"geo": []}}, error="invalid_params"),
    S("semantic.delete", lambda s: {"collection": "episodes", "id": s["episode"]["id"]}),
    S("semantic.search", {"collection": "episodes", "query": "vegetables", "topK": 5}),
    S("semantic.upsert", lambda s: {"collection": "episodes", "id": s["episode"]["id"]}),
    S("cache.set", {"key": "weather", "value": {"sun": True}, "ttl": 60_000}),
    S("cache.get", {"key": "weather"}),
    S("cache.get", {"key": "nothing"}),
    S("cache.stats"),
    S("cache.delete", {"key": "weather"}),
    S("cache.clear"),
    S("presets.create", {"name": "Careful", "content": {"temperature": 0.2}}),
    S("presets.create", {"name": "Careful", "content": {}}, error="conflict"),
    S("presets.create", {"name": "../escape", "content": {}}, error="bad_name"),
    S("presets.put", {"name": "Bold", "content": {"temperature": 1.2}}),
    S("presets.update", {"name": "Bold", "content": {"temperature": 1.5}}),
    S("presets.get", {"name": "Bold"}),
    S("presets.list"),
    S("presets.delete", {"name": "Bold"}),
    S("tools.put", {"name": "clock", "source": "export default () => Date.now();\n"}),
    S("tools.get", {"name": "clock"}),
    S("tools.list"),
    S("tools.delete", {"name": "clock"}),
    S("mcpServers.put", {"name": "files", "config": {"command": "mcp-files", "args": ["/srv"]}}),
    S("mcpServers.get", {"name": "files"}),
    S("mcpServers.list"),
    S("mcpServers.delete", {"name": "files"}),
    S("exports.begin", {}, "export"),
    S("exports.page", lambda s: {"cursor": s["export"]["cursor"], "limit": 1}),
    S("exports.page", {"cursor": "none of ours"}, error="invalid_params"),
    S("imports.lastIds"),
    S("imports.compare", {"table": "sessions", "items": [{"externalId": "kitchen / 1", "createdAt": 5}]}),
    S("imports.store", {"table": "sessions", "items": [{"id": 900, "externalId": "old", "createdAt": 5}]}),
    S("events.subscribe", {"topics": ["episodes"]}, "subscription"),
    S("events.unsubscribe", lambda s: {"subscription": s["subscription"]["subscription"]}),
    # and all of it away again
    S("relationships.delete", lambda s: {
        "fromId": s["ada"]["id"], "toId": s["places"]["items"][0]["id"], "label": "works in",
    }),
    S("relationships.delete", lambda s: {"fromId": s["ada"]["id"], "toId": 4711, "label": "x"}, error="not_found"),
    S("entities.delete", lambda s: {"id": s["ada"]["id"]}),
    S("summaries.delete", lambda s: {"id": s["summary"]["id"]}),
    S("episodes.delete", lambda s: {"id": s["episode"]["id"]}),
    S("sessions.delete", {"externalId": "kitchen / 1"}),
    S("projects.delete", lambda s: {"id": s["project"]["id"]}),
    S("projects.create", {"name": "Cellar"}, "cellar"),
    S("sessions.create", lambda s: {"externalId": "cellar", "projectId": s["cellar"]["id"]}, "below"),
    S("episodes.create", lambda s: {"sessionId": s["below"]["id"], "userMessage": "dark", "aiResponse": ""}),
    S("projects.delete", lambda s: {"id": s["cellar"]["id"], "withContents": True}, "gone"),
    S("sessions.get", lambda s: {"id": s["below"]["id"]}, error="not_found"),
    S("outbox.wait", lambda s: {"throughSeq": s["gone"]["outboxSeq"], "timeoutMs": 60_000}),
    S("outbox.wait", {"throughSeq": 1, "collection": "episodes"}, error="invalid_params"),
    S("messages.delete", lambda s: {"id": s["message"]["id"]}),
    S("toolLogs.prune", {"keep": 0}),
    S("conversations.delete", lambda s: {"id": s["chat"]["id"]}),
    S("users.delete", {"id": "bo"}),
    S("groups.delete", lambda s: {"id": s["group"]["id"]}),
    S("vectors.delete", {"id": 5}),
    # who may come in
    S("tokens.create", {"name": "tablet", "role": "admin", "methods": ["tokens.*"]}, "token"),
    S("tokens.create", {"name": "tablet", "role": "none"}, error="invalid_params"),
    S("tokens.list"),
    S("tokens.revoke", {"id": "a1"}, error="not_found"),
    S("auth.login", lambda s: {"token": s["token"]["token"]}),
)


@dataclass(frozen=True)
class Route:
    """A route of the memory service's specification, and the status of its success."""

    verb: str
    path: str
    status: int = 200


ROUTES: dict[str, Route] = {
    "health": Route("GET", "/health"),
    "sessions.create": Route("POST", "/sessions", 201),
    "sessions.list": Route("GET", "/sessions"),
    "sessions.get": Route("GET", "/sessions/{id}"),
    "sessions.getByExternalId": Route("GET", "/sessions/by-external/{externalId}"),
    "sessions.update": Route("PATCH", "/sessions/by-external/{externalId}"),
    "sessions.delete": Route("DELETE", "/sessions/by-external/{externalId}", 204),
    "episodes.create": Route("POST", "/episodes", 201),
    "episodes.search": Route("GET", "/episodes/search"),
    "episodes.get": Route("GET", "/episodes/{id}"),
    "episodes.list": Route("GET", "/sessions/{sessionId}/episodes"),
    "episodes.delete": Route("DELETE", "/episodes/{id}", 204),
    "projects.create": Route("POST", "/projects", 201),
    "projects.list": Route("GET", "/projects"),
    "projects.get": Route("GET", "/projects/{id}"),
    "projects.update": Route("PATCH", "/projects/{id}"),
    "projects.delete": Route("DELETE", "/projects/{id}", 204),
    "entities.upsert": Route("POST", "/entities", 201),
    "entities.listByType": Route("GET", "/entities/by-type/{type}"),
    "entities.get": Route("GET", "/entities/{id}"),
    "entities.delete": Route("DELETE", "/entities/{id}", 204),
    "relationships.upsert": Route("POST", "/relationships", 201),
    "relationships.listFrom": Route("GET", "/entities/{fromId}/relationships"),
    "relationships.delete": Route("DELETE", "/relationships", 204),
}
ERROR_STATUS = {"invalid_params": 400, "not_found": 404, "conflict": 409}
QUERY_NAMES = {"episodes.search": {"query": "q"}}
WITH_ITEMS = frozenset({
    "sessions.list", "episodes.list", "projects.list", "entities.listByType", "relationships.listFrom",
})


class Face(Protocol):
    """One way in: a reply is `{"result": ...}` or `{"error": ...}`; one of REST also has a status."""

    def call(self, method: str, params: Params) -> Json: ...

    def expected(self, method: str, reply: Json) -> Json:
        """What this face must answer where NDJSON answers this."""

    def close(self) -> None: ...


class Ndjson:
    def __init__(self, daemon: Daemon) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(60)
        self._socket.connect(str(daemon.socket_path))
        self._lines = self._socket.makefile("rb")

    def call(self, method: str, params: Params) -> Json:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        reply = json.loads(self._lines.readline())
        assert reply.pop("jsonrpc") == "2.0"
        assert reply.pop("id") == 1
        return reply

    def expected(self, method: str, reply: Json) -> Json:
        return reply

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


class UnixHttp(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        self.sock.connect(str(self._path))


class Http:
    def __init__(self, daemon: Daemon) -> None:
        self._connection = UnixHttp(daemon.socket_path)

    def request(self, verb: str, path: str, body: Json = None) -> tuple[int, Json]:
        sent = None if body is None else json.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        self._connection.request(verb, path, sent, headers)
        response = self._connection.getresponse()
        text = response.read()
        return response.status, json.loads(text) if text else None

    def call(self, method: str, params: Params) -> Json:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        status, reply = self.request("POST", "/rpc", request)
        assert status == 200
        assert (reply.pop("jsonrpc"), reply.pop("id")) == ("2.0", 1)
        return reply

    def expected(self, method: str, reply: Json) -> Json:
        return reply

    def close(self) -> None:
        self._connection.close()


class Rest(Http):
    """Routes where there are any, /rpc for the rest."""

    def call(self, method: str, params: Params) -> Json:
        route = ROUTES.get(method)
        if route is None:
            return super().call(method, params)
        left = dict(params)
        path = route.path
        for name in params:
            if f"{{{name}}}" in path:
                path = path.replace(f"{{{name}}}", quote(str(left.pop(name)), safe=""))
        if route.verb == "GET":
            names = QUERY_NAMES.get(method, {})
            query = urlencode({names.get(name, name): value for name, value in left.items()})
            status, body = self.request("GET", f"{path}?{query}" if query else path)
        else:
            status, body = self.request(route.verb, path, left or None)
        return {"status": status, "body": body}

    def expected(self, method: str, reply: Json) -> Json:
        route = ROUTES.get(method)
        if route is None:
            return reply
        if "error" in reply:
            return {"status": ERROR_STATUS[reply["error"]["data"]["kind"]], "body": {"error": reply["error"]}}
        body = reply["result"]
        if method == "episodes.search":
            body = [{**hit["episode"], "score": hit["score"]} for hit in body["items"]]
        elif method in WITH_ITEMS:
            body = body["items"]
        elif route.status == 204:
            body = None
        return {"status": route.status, "body": body}


def steady(value: Json, name: str = "") -> Json:
    """Without what the moment decides."""
    if name in VOLATILE and not isinstance(value, dict):
        return "*"
    if isinstance(value, dict):
        return {key: steady(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [steady(inner, name) for inner in value]
    if isinstance(value, float):
        return round(value, 6)
    return value


def run_script(face: Face, reference: list[Json] | None) -> list[Json]:
    """Every step over the face; the raw replies of NDJSON, or those compared with them."""
    saved: dict[str, Json] = {}
    replies = []
    for place, step in enumerate(SCRIPT):
        params = step.params(saved) if callable(step.params) else step.params
        reply = face.call(step.method, params)
        replies.append(reply)
        if reference is None:
            if step.error is None:
                assert "result" in reply, f"{step.method}: {reply}"
            else:
                assert reply.get("error", {}).get("data", {}).get("kind") == step.error, f"{step.method}: {reply}"
        elif step.method in NEEDS_A_CONNECTION:
            assert reply["error"]["data"]["kind"] == "invalid_request"
        elif step.method in FIGURES and step.error is None:
            assert reply.keys() == reference[place].keys()
            assert reply["result"].keys() == reference[place]["result"].keys()
        else:
            expected = face.expected(step.method, reference[place])
            assert steady(reply) == steady(expected), f"step {place}, {step.method}"
        if step.save is not None:   # of NDJSON where this face had no answer, or one of another form
            saved[step.save] = (reply if reference is None else reference[place])["result"]
    return replies


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Json]]:
    with Daemon(tmp_path_factory.mktemp("ndjson") / "data") as daemon:
        face = Ndjson(daemon)
        yield run_script(face, None)
        face.close()


@pytest.mark.parametrize("face_type", [Http, Rest])
def test_every_method_answers_the_same_over_every_face(
    face_type: type[Http], reference: list[Json], tmp_path: Path
) -> None:
    with Daemon(tmp_path / "data") as daemon:
        face = face_type(daemon)
        run_script(face, reference)
        face.close()


def test_the_script_uses_every_method_there_is(reference: list[Json]) -> None:
    discovered = next(reply for step, reply in zip(SCRIPT, reference, strict=True) if step.method == "rpc.discover")
    registered = {method["name"] for method in discovered["result"]["methods"]}
    assert registered - {step.method for step in SCRIPT} == set(), "in no step"
    assert set(ROUTES) <= registered

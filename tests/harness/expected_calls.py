"""What each call that changes something should answer and leave behind, on plain dictionaries.

A method `resource.verb` is the function `resource_verb` here (see `name_of`): from the parameters, and the result for
what only the daemon can know (the ids that it gave). It answers what the result must be, or raises `Refused`, and then
nothing has changed. Parameters are well formed: what is not is refused before any of this is asked.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from harness.expected_files import ExpectedFiles
from harness.expected_rows import ANYTHING, INDEXED, Record, as_json, by_time, place
from harness.likeness import Anything, Refusal, either
from harness.refused import Refused, refuse_unless

Params = dict[str, Any]
Result = Any    # JSON as it came

DIMENSION = 32


def name_of(method: str) -> str:
    """The function that stands for a method: `toolLogs.append` is tool_logs_append."""
    return "".join(f"_{one.lower()}" if one.isupper() else one for one in method).replace(".", "_")


class ExpectedCalls(ExpectedFiles):
    """All of the daemon's mutating methods."""

    def __init__(self) -> None:
        super().__init__()
        self.outage = False     # of the embedding model: nobody waits for it
        self.imported: dict[Any, Record] = {}   # texts whose number is to be learned

    def expect(self, method: str, params: Params, result: Result) -> Any:
        """What the result must be."""
        return getattr(self, name_of(method))(params, result)

    # ---- projects and sessions

    def projects_create(self, p: Params, r: Result) -> Any:
        given = {name: p.get(name) for name in ("name", "description", "colour", "icon")}
        return self._new("projects", r, **given)

    def projects_update(self, p: Params, _r: Result) -> Any:
        project = self._there("projects", p["id"])
        self.change("projects", project, **_given(p, "name", "description", "colour", "icon"))
        return dict(project)

    def projects_delete(self, p: Params, _r: Result) -> Any:
        project = self._there("projects", p["id"])
        sessions = list(self.of("sessions", projectId=project["id"]))
        if p.get("withContents"):
            gone = Counter[str](projects=1, sessions=0, episodes=0, summaries=0)
            for session in sessions:
                gone.update(self._drop_session(session))
            self.drop("projects", [project])
            return _deletion(gone["episodes"] + gone["summaries"], **gone)
        points = sum(self.move_session(session, None) for session in sessions)
        self.drop("projects", [project])
        return _deletion(points, projects=1)

    def sessions_create(self, p: Params, r: Result) -> Any:
        refuse_unless(not self.of("sessions", externalId=p["externalId"]), "conflict")
        self._known("projects", p.get("projectId"))
        return self._new(
            "sessions", r, externalId=p["externalId"], name=p.get("name"), projectId=p.get("projectId"),
            metadata=p.get("metadata", {}),
        )  # fmt: skip

    def sessions_update(self, p: Params, _r: Result) -> Any:
        session = self._session(p)
        if "projectId" in p and p["projectId"] != session["projectId"]:
            self._known("projects", p["projectId"])
            self.move_session(session, p["projectId"])
            session["updatedAt"] = self.now
        self.change("sessions", session, **_given(p, "name", "metadata"))
        return dict(session)

    def sessions_delete(self, p: Params, _r: Result) -> Any:
        gone = self._drop_session(self._session(p))
        return _deletion(gone["episodes"] + gone["summaries"], **gone)

    def _drop_session(self, session: Record) -> dict[str, int]:
        return {
            "episodes": self.drop("episodes", self.of("episodes", sessionId=session["id"])),
            "summaries": self.drop("summaries", self.of("summaries", sessionId=session["id"])),
            "sessions": self.drop("sessions", [session]),
        }

    def _session(self, p: Params) -> Record:
        if "id" in p:
            return self._there("sessions", p["id"])
        found = self.of("sessions", externalId=p["externalId"])
        refuse_unless(bool(found), "not_found")
        return found[0]

    # ---- exchanges and summaries

    def episodes_create(self, p: Params, r: Result) -> Any:
        self._known("sessions", p["sessionId"])
        return self._new(
            "episodes", r, sessionId=p["sessionId"], userMessage=p["userMessage"], aiResponse=p["aiResponse"],
            tokenCount=p.get("tokenCount"), metadata=p.get("metadata", {}), createdAt=p.get("createdAt"),
            waited="waitFor" in p,
        )  # fmt: skip

    def episodes_create_many(self, p: Params, r: Result) -> Any:
        return self._many(self.episodes_create, "episodes", p, r)

    def episodes_update(self, p: Params, _r: Result) -> Any:
        episode = self._there("episodes", p["id"])
        self.change("episodes", episode, **_given(p, "userMessage", "aiResponse", "tokenCount", "metadata"))
        return self.shown("episodes", episode, waited="waitFor" in p)

    def episodes_delete(self, p: Params, _r: Result) -> Any:
        return _deletion(self.drop("episodes", [self._there("episodes", p["id"])]), episodes=1)

    def summaries_create(self, p: Params, r: Result) -> Any:
        self._known("sessions", p["sessionId"])
        first_id, last_id = p.get("firstEpisodeId"), p.get("lastEpisodeId")
        run = None
        if first_id is not None:
            ends = [self.episodes.get(one) for one in (first_id, last_id)]
            refuse_unless(all(end and end["sessionId"] == p["sessionId"] for end in ends), "invalid_params")
            run = place(ends[0] or {}), place(ends[1] or {})
            refuse_unless(run[0] <= run[1], "invalid_params")
        wanted = self._new(
            "summaries", r, sessionId=p["sessionId"], content=p["content"], firstEpisodeId=first_id,
            lastEpisodeId=last_id, tokenCount=p.get("tokenCount"), metadata=p.get("metadata", {}),
            createdAt=p.get("createdAt"), waited="waitFor" in p,
        )  # fmt: skip
        if run is not None:
            self.runs[wanted["id"]] = run
        return wanted

    def summaries_delete(self, p: Params, _r: Result) -> Any:
        return _deletion(self.drop("summaries", [self._there("summaries", p["id"])]), summaries=1)

    # ---- entities and relationships

    def entities_upsert(self, p: Params, r: Result) -> Any:
        found = self.of("entities", name=p["name"], type=p["type"])
        waited = "waitFor" in p
        if not found:
            new = {name: p.get(name) for name in ("name", "type", "notes")}
            wanted = self._new("entities", r, **new, metadata=p.get("metadata", {}), waited=waited)
            return {**wanted, "created": True}
        self.change("entities", found[0], **_given(p, "notes", "metadata"))
        return {**self.shown("entities", found[0], waited=waited), "created": False}

    def entities_upsert_many(self, p: Params, r: Result) -> Any:
        return self._many(self.entities_upsert, "entities", p, r)

    def entities_delete(self, p: Params, _r: Result) -> Any:
        entity = self._there("entities", p["id"])
        links = [row for row in self.relationships.values() if entity["id"] in (row["fromId"], row["toId"])]
        gone = self.drop("relationships", links)
        return _deletion(self.drop("entities", [entity]), entities=1, relationships=gone)

    def relationships_upsert(self, p: Params, r: Result) -> Any:
        key = {name: p[name] for name in ("fromId", "toId", "label")}
        if found := self.of("relationships", **key):
            self.change("relationships", found[0], **_given(p, "metadata"))
            return {**found[0], "created": False}
        self._known("entities", p["fromId"])
        self._known("entities", p["toId"])
        return {**self._new("relationships", r, **key, metadata=p.get("metadata", {})), "created": True}

    def relationships_upsert_many(self, p: Params, r: Result) -> Any:
        return self._many(self.relationships_upsert, "relationships", p, r)

    def relationships_delete(self, p: Params, _r: Result) -> Any:
        found = self.of("relationships", fromId=p["fromId"], toId=p["toId"], label=p["label"])
        refuse_unless(bool(found), "not_found")
        return _deletion(0, relationships=self.drop("relationships", found))

    # ---- conversations, messages, and whose they are

    def conversations_create(self, p: Params, r: Result) -> Any:
        self._known("groups", p.get("groupId"))
        began = p.get("createdAt", self.now)
        wanted = self._new(
            "conversations", r, title=p.get("title"), userId=p.get("userId"), groupId=p.get("groupId"),
            metadata=p.get("metadata", {}), createdAt=began,
        )  # fmt: skip
        # nobody was active in it later than now
        self.conversations[wanted["id"]]["updatedAt"] = wanted["updatedAt"] = min(began, self.now)
        return wanted

    def conversations_update(self, p: Params, _r: Result) -> Any:
        conversation = self._there("conversations", p["id"])
        if p.get("groupId") != conversation["groupId"]:
            self._known("groups", p.get("groupId"))
        self.change("conversations", conversation, **_given(p, "title", "userId", "groupId", "metadata"))
        return dict(conversation)

    def conversations_delete(self, p: Params, _r: Result) -> Any:
        conversation = self._there("conversations", p["id"])
        messages = self.drop("messages", self.of("messages", conversationId=conversation["id"]))
        for log in self.of("toolLogs", conversationId=conversation["id"]):
            log["conversationId"] = None
        self.drop("conversations", [conversation])
        return _deletion(messages, conversations=1, messages=messages)

    def messages_create(self, p: Params, r: Result) -> Any:
        conversation = self._there("conversations", p["conversationId"])
        wanted = self._new(
            "messages", r, conversationId=p["conversationId"], role=p["role"], content=p["content"],
            metadata=p.get("metadata", {}), createdAt=p.get("createdAt"), waited="waitFor" in p,
        )  # fmt: skip
        said = min(wanted["createdAt"], self.now)
        conversation["updatedAt"] = max(conversation["updatedAt"], said)
        return wanted

    def messages_create_many(self, p: Params, r: Result) -> Any:
        return self._many(self.messages_create, "messages", p, r)

    def messages_delete(self, p: Params, _r: Result) -> Any:
        return _deletion(self.drop("messages", [self._there("messages", p["id"])]), messages=1)

    def users_set(self, p: Params, _r: Result) -> Any:
        user = self.users.get(p["id"])
        old = {} if user is None else user["settings"]
        settings = merged(old, p["settings"]) if p.get("merge") else p["settings"]
        if user is None:
            times = {"createdAt": self.now, "updatedAt": self.now}
            user = self.put("users", {"id": p["id"], "settings": settings, **times})
        self.change("users", user, settings=settings)
        return dict(user)

    def users_delete(self, p: Params, _r: Result) -> Any:
        return _deletion(0, users=self.drop("users", [self._there("users", p["id"])]))

    def groups_create(self, p: Params, r: Result) -> Any:
        return self._new("groups", r, name=p["name"], config=p.get("config", {}))

    def groups_update(self, p: Params, _r: Result) -> Any:
        group = self._there("groups", p["id"])
        self.change("groups", group, **_given(p, "name", "config"))
        return dict(group)

    def groups_delete(self, p: Params, _r: Result) -> Any:
        group = self._there("groups", p["id"])
        for conversation in self.of("conversations", groupId=group["id"]):
            conversation["groupId"] = None
        return _deletion(0, groups=self.drop("groups", [group]))

    # ---- what tools did

    def tool_logs_append(self, p: Params, r: Result) -> Any:
        self._known("conversations", p.get("conversationId"))
        log = {name: p.get(name) for name in ("tool", "arguments", "result", "error", "durationMs", "conversationId")}
        log |= {
            "id": self.take_id("toolLogs", r and r["id"]), "status": "ok" if p.get("error") is None else "error",
            "metadata": p.get("metadata", {}), "createdAt": p.get("createdAt", self.now),
        }  # fmt: skip
        return dict(self.put("toolLogs", log))

    def tool_logs_prune(self, p: Params, _r: Result) -> Any:
        logs = by_time(self.toolLogs.values(), newest=True)
        oldest = self.now - p["olderThanMs"] if p.get("olderThanMs") is not None else None
        young = [log for log in logs if oldest is None or log["createdAt"] >= oldest]
        stay = young if p.get("keep") is None else young[: p["keep"]]
        return _deletion(0, toolLogs=self.drop("toolLogs", [log for log in logs if log not in stay]))

    # ---- texts with vectors, and points

    def vectors_store(self, p: Params, r: Result) -> Any:
        embedding = p.get("embedding")
        if embedding is not None:
            refuse_unless(len(embedding) == DIMENSION, "dimension_mismatch")
            refuse_unless(any(embedding), "invalid_params")
        found, waited = self.vectors.get(p["id"]), "waitFor" in p
        text = {"text": p["text"], "metadata": p.get("metadata", {})}
        if found is None:
            row_id = self.take_id("vectors", r and r["rowId"])
            self.embeddings[row_id] = embedding
            row = {"id": p["id"], "rowId": row_id, **text, "version": 1, "createdAt": self.now, "updatedAt": self.now}
            self.vectors[p["id"]] = row
            self.unsettled.add(("vectors", row_id))
            return self.shown("vectors", row, waited=waited)
        same_embedding = self.embeddings[found["rowId"]] == embedding
        self.embeddings[found["rowId"]] = embedding
        if not self.change("vectors", found, **text) and not same_embedding:
            found["updatedAt"] = self.now
            self.count_up("vectors", found)
        return self.shown("vectors", found, waited=waited)

    def vectors_store_many(self, p: Params, r: Result) -> Any:
        return self._many(self.vectors_store, "vectors", p, r)

    def vectors_delete(self, p: Params, _r: Result) -> Any:
        return _deletion(self.drop("vectors", [self._there("vectors", p["id"])]), vectors=1)

    def semantic_upsert(self, p: Params, _r: Result) -> Any:
        table, vector = p["collection"], p.get("vector")
        refuse_unless(vector is None or len(vector) == DIMENSION, "dimension_mismatch")
        refuse_unless(vector is None or any(vector), "invalid_params")
        row = self._there(table, p["id"])
        point = table, row["id"]
        self.out.discard(point)
        self.own.pop(point, None)
        if vector is not None:
            self.own[point] = self.text_of(table, row), vector
        self.unsettled.add(point)
        state = self.state(table, row)
        return {"collection": table, "id": row["id"], "vector": either("pending", state) if self.outage else state}

    def semantic_delete(self, p: Params, _r: Result) -> Any:
        table, row = p["collection"], self._there(p["collection"], p["id"])
        point = table, row["id"]
        # the index was told before where it holds nothing of the row, and is known to
        nothing = self.state(table, row) == "none"
        queued: Any = (0 if nothing else 1) if point not in self.unsettled else either(0, 1) if nothing else 1
        self.out.add(point)
        self.own.pop(point, None)
        self.unsettled.add(point)
        return _deletion(queued)

    def outbox_retry(self, p: Params, _r: Result) -> Any:
        """All is delivered before it is asked."""
        refuse_unless(not p.get("seqs"), "not_found")   # those that are asked for were never used
        dead = self.dead()
        self.unsettled.update(dead)
        return {"retried": len(dead)}

    def index_reembed(self, _p: Params, r: Result) -> Any:
        """The configured model serves from the start."""
        return {**(r or {}), "state": "idle", "next": None, "total": 0, "done": 0, "dead": 0}

    def index_forget(self, p: Params, _r: Result) -> Any:
        refuse_unless("key" not in p, "not_found")
        return {"forgotten": [], "vectorsDeleted": 0}

    # ---- backups

    def backup_restore(self, _p: Params, _r: Result) -> Any:
        """No other one is asked for: what is compared here goes on."""
        raise Refused("no_such_backup")

    def backup_create(self, p: Params, r: Result) -> Any:
        told = ("name", "createdAt", "bytes", "databaseBytes", "schemaVersion", "program", "model", "rows", "files")
        return dict.fromkeys(told, ANYTHING) | {"kind": "manual", "note": p.get("note")}

    # ---- rows of another store

    def imports_store(self, p: Params, r: Result) -> Any:
        answers = r["items"] if r else [None] * len(p["items"])
        items = zip(p["items"], answers, strict=True)
        return {"items": [self._import(p["table"], item, answer) for item, answer in items]}

    def _import(self, table: str, row: Params, answer: Any) -> Any:
        if row.get("bad"):
            return Refusal("invalid_params")
        here = [*self.tables[table].values(), *(self.imported.values() if table == "vectors" else ())]
        same = [one for one in here if _same_row(table, one, row)]
        if table in {"users", "vectors"}:
            key = {"id": row["id"]}
        else:
            same.sort(key=lambda one: one["id"])
            key = {"id": ANYTHING}
            unique = table in {"sessions", "entities", "relationships"}
            same = same if unique else same[row.get("occurrence", 0) :][:1]
        if same:
            return {"id": same[0]["id"], "outcome": "existing"}
        for column, parent in _PARENTS.get(table, {}).items():
            if row.get(column) is not None and row[column] not in self.tables[parent]:
                return Refusal("not_found")
        self._insert_import(table, row, answer)
        kept = row.get("id") if key["id"] is ANYTHING else row["id"]
        larger = key["id"] is not ANYTHING or (kept is not None and kept == self.last_id[table])
        return {"id": kept if larger and kept is not None else ANYTHING, "outcome": "inserted"}

    def _insert_import(self, table: str, given: Params, answer: Any) -> None:
        row = {name: value for name, value in given.items() if name not in {"id", "occurrence", "embedding"}}
        row = {**dict.fromkeys(_OPTIONAL.get(table, ())), **row}
        if table != "toolLogs":
            row["updatedAt"] = row["createdAt"]
        if table not in {"projects", "users", "groups"}:
            row.setdefault("metadata", {})
        row |= {"settings": row.get("settings", {})} if table == "users" else {}
        row |= {"config": row.get("config", {})} if table == "groups" else {}
        if table in {"users", "vectors"}:
            row["id"] = given["id"]
        else:
            wanted, last = given.get("id"), self.last_id[table]
            row["id"] = self.take_id(table, answer and answer["id"])
            if wanted is not None and wanted > last:
                assert row["id"] == wanted, "a row with a larger id keeps it"
        if table == "toolLogs":
            row["status"] = "ok" if row["error"] is None else "error"
        if table == "vectors":
            self.imported[row["id"]] = {**row, "version": 1, "embedding": given.get("embedding")}
            return
        self.put(table, row)
        if table == "messages":
            conversation = self.conversations[row["conversationId"]]
            conversation["updatedAt"] = max(conversation["updatedAt"], row["createdAt"])
        if table == "summaries" and row["firstEpisodeId"] in self.episodes and row["lastEpisodeId"] in self.episodes:
            first, last = self.episodes[row["firstEpisodeId"]], self.episodes[row["lastEpisodeId"]]
            self.runs[row["id"]] = place(first), place(last)

    def learn(self, key: Any, row_id: int) -> None:
        """The index's number of an imported text, which its receipt does not tell."""
        row = self.imported.pop(key)
        row["rowId"] = self.take_id("vectors", row_id)
        self.embeddings[row_id] = row.pop("embedding")
        self.vectors[key] = row
        self.unsettled.add(("vectors", row_id))

    # ---- what the methods have in common

    def _there(self, table: str, key: Any) -> Record:
        row = self.tables[table].get(key)
        if row is None:
            raise Refused("not_found")
        return row

    def _known(self, table: str, key: Any) -> None:
        refuse_unless(key is None or key in self.tables[table], "not_found")

    def _new(self, table: str, r: Result, *, waited: bool = False, **row: Any) -> Record:
        row["id"] = self.take_id(table, r and r["id"])
        began = row.get("createdAt")
        row |= {"createdAt": self.now if began is None else began, "updatedAt": self.now}
        self.put(table, row)
        shown = self.shown(table, row, waited=waited)
        return shown if waited or table not in INDEXED else {**shown, "vector": "pending"}

    def _many(self, function: Any, table: str, p: Params, r: Result) -> Any:
        """Each item by itself; the states of the vectors are those after all of them."""
        answers = r["items"] if r else [None] * len(p["items"])
        waited = {"waitFor": p["waitFor"]} if "waitFor" in p else {}
        wanted: list[Any] = []
        for item, answer in zip(p["items"], answers, strict=True):
            if "bad" in item:   # of every kind of item the same one is spoilt
                wanted.append(Refusal("invalid_params"))
                continue
            try:
                wanted.append(function({**item, **waited}, answer))
            except Refused as refused:
                wanted.append(Refusal(refused.kind))
        if waited and table in INDEXED:
            self._wait_for(table, wanted)
        return {"items": wanted}

    def _wait_for(self, table: str, wanted: list[Any]) -> None:
        """The rows are as they were written one after the other, the states as they are when all are indexed."""
        for item in wanted:
            if not isinstance(item, Refusal):
                item["vector"] = self.state(table, self.tables[table][item["id"]])


def merged(target: Any, patch: Any) -> Any:
    """JSON Merge Patch, as RFC 7396 tells it."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def _deletion(points: Any, **deleted: int) -> Record:
    seq = 0 if points == 0 else Anything()
    return {"deleted": deleted, "pointsQueued": points, "outboxSeq": seq}


def _given(p: Params, *names: str) -> Params:
    return {name: p[name] for name in names if name in p}


# By what an imported row is the same as one that is here, as its documentation says.
_SAME_BY = {
    "projects": ("name", "createdAt"),
    "sessions": ("externalId",),
    "episodes": ("sessionId", "createdAt", "userMessage", "aiResponse"),
    "entities": ("name", "type"),
    "relationships": ("fromId", "toId", "label"),
    "summaries": ("sessionId", "createdAt", "content"),
    "users": ("id",),
    "groups": ("name", "createdAt"),
    "conversations": ("createdAt", "title", "userId"),
    "messages": ("conversationId", "createdAt", "role", "content"),
    "toolLogs": ("tool", "createdAt", "arguments", "result", "error"),
    "vectors": ("id",),
}
_PARENTS = {
    "sessions": {"projectId": "projects"}, "episodes": {"sessionId": "sessions"},
    "relationships": {"fromId": "entities", "toId": "entities"}, "summaries": {"sessionId": "sessions"},
    "conversations": {"groupId": "groups"}, "messages": {"conversationId": "conversations"},
    "toolLogs": {"conversationId": "conversations"},
}  # fmt: skip
_OPTIONAL = {
    "projects": ("description", "colour", "icon"), "sessions": ("name", "projectId"), "episodes": ("tokenCount",),
    "entities": ("notes",), "summaries": ("firstEpisodeId", "lastEpisodeId", "tokenCount"),
    "conversations": ("title", "userId", "groupId"),
    "toolLogs": ("arguments", "result", "error", "durationMs", "conversationId"),
}  # fmt: skip


def _same_row(table: str, here: Record, row: Params) -> bool:
    return all(as_json(here[name]) == as_json(row.get(name)) for name in _SAME_BY[table])

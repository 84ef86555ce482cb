"""Random calls of everything that changes something: sensible ones mostly, and a share that must be refused.

Owns what parameters are likely. What a call should do is not known here; `expected_calls` is asked only for ids and
keys that are in use.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from harness.expected_calls import DIMENSION, ExpectedCalls, name_of
from harness.expected_rows import REFUSED_WORD

Params = dict[str, Any]

ROOTS = ("fig", "oak", "elm", "walnut", "cedar", "quince")
SPELLINGS = {
    "fig": ("fig", "Fig", "FIGS", "f\u00edg"), "oak": ("oak", "oaks", "\u00d6ak"), "elm": ("elm", "ELM,"),
    "walnut": ("walnut", "walnuts"), "cedar": ("cedar", "(cedar)"), "quince": ("quince",),
}  # fmt: skip
NEVER_USED = 10**12
HOUR_MS = 3_600_000
METADATA: tuple[Params, ...] = ({}, {"n": 1}, {"n": True}, {"n": 1.5}, {"a": {"b": [1, None, "fig"]}, "n": "1"})
PATCH: Params = {"a": {"b": None, "c": [None]}}
KEYS: tuple[Any, ...] = ("anna", "5", 5, -1, "b\u00f6", 2**53 - 1)
FILE_NAMES = ("Chef", "Chef", "chef", "Caf\u00e9", "Cafe\u0301", "a b", "../up", ".hidden", "slash/ed")
DEEP: Params = {"x": 1}
for _ in range(40):
    DEEP = {"x": DEEP}
CONTENTS: tuple[Params, ...] = (
    {}, {"temperature": 0.7}, {"prompt": "line\nline\n", "n": [1, 2, {"x": None}]}, {"yes": "no", "n": "1e3"}, DEEP,
)  # fmt: skip
CONFIGS: tuple[Params, ...] = (
    {"command": "run", "args": ["-x"]}, {"url": "http://[::1]/", "headers": {"k": "v"}}, {"command": "run"}, {},
    {"command": "a", "url": "b"},
)  # fmt: skip
SERVER_NAMES = ("files", "web search", "\u00fc")
COLLECTIONS = ("episodes", "entities", "summaries", "messages")


class RandomCalls:
    """Parameters for each mutating method, by what the model holds now."""

    def __init__(self, chance: random.Random, model: ExpectedCalls) -> None:
        self.chance = chance
        self.model = model
        self.serial = 0
        self.patient = True     # whether calls may wait until they are indexed
        self._before: dict[str, int] = {}

    def params(self, method: str) -> Params:
        """Parameters of a call of this method."""
        made: Params = getattr(self, name_of(method))()
        return made

    # ---- parts of parameters

    def one(self, choices: Any) -> Any:
        return self.chance.choice(list(choices))

    def often(self, share: float = 0.5) -> bool:
        return self.chance.random() < share

    def text(self, most: int = 4) -> str:
        words = [self.one(SPELLINGS[self.one(ROOTS)]) for _ in range(self.chance.randint(1, most))]
        return " ".join([*words, REFUSED_WORD] if self.often(0.05) else words)

    def id_of(self, table: str) -> int:
        """One that is there mostly, and often the one before again; one that was, or never was, now and then."""
        rows = self.model.tables[table]
        if rows and self.often(0.92):
            if self._before.get(table) not in rows or self.often(0.6):
                self._before[table] = self.one(rows)
            return self._before[table]
        return int(self.one(self.model.gone[table])) if self.model.gone[table] and self.often() else NEVER_USED

    def key_of(self, table: str) -> Any:
        return self.one(self.model.tables[table]) if self.model.tables[table] and self.often(0.8) else self.one(KEYS)

    def some(self, **makers: Callable[[], Any]) -> Params:
        """Each of the optional fields, or not."""
        return {name: make() for name, make in makers.items() if self.often(0.4)}

    def changes(self, **makers: Callable[[], Any]) -> Params:
        """At least one of the fields."""
        return self.some(**makers) or {(name := self.one(makers)): makers[name]()}

    def metadata(self) -> Params:
        return dict(self.one(METADATA))

    def time(self) -> int:
        """Some time ago, at one of a few moments, or soon; or when something else happened."""
        if self.model.toolLogs and self.often(0.3):
            return int(self.one(self.model.toolLogs.values())["createdAt"])
        return int(self.model.now) + HOUR_MS * self.chance.choice((-1000, -2, -2, -1, 0, 3))

    def past(self) -> int:
        return int(self.model.now) - HOUR_MS * self.chance.choice((1000, 20, 2, 1))

    def count(self) -> int | None:
        return self.one((None, 0, 7))

    def wait(self) -> Params:
        return {"waitFor": "indexed", "timeoutMs": 60_000} if self.patient and self.often(0.1) else {}

    def vector(self) -> list[float]:
        """Fractions that float32 holds exactly; of a wrong dimension, or nothing but zeros, now and then."""
        size = DIMENSION - (1 if self.often(0.1) else 0)
        return [0.0] * size if self.often(0.1) else [self.chance.randint(-8, 8) / 8 or 0.125 for _ in range(size)]

    def nullable(self, make: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: None if self.often(0.2) else make()

    def items(self, make: Callable[[], Params]) -> list[Params]:
        return [{"bad": 1} if self.often(0.1) else make() for _ in range(self.chance.choice((1, 2, 3, 5)))]

    # ---- projects, sessions and what is said in them

    def projects_create(self) -> Params:
        return {"name": self.text(), **self.some(description=self.nullable(self.text), colour=lambda: "#123")}

    def projects_update(self) -> Params:
        changes = self.changes(name=self.text, description=self.nullable(self.text), icon=self.nullable(self.text))
        return {"id": self.id_of("projects"), **changes}

    def projects_delete(self) -> Params:
        return {"id": self.id_of("projects"), **self.some(withContents=lambda: self.often(0.5))}

    def sessions_create(self) -> Params:
        self.serial += 1
        of_another = self.model.sessions and self.often(0.1)
        name = self.one(self.model.sessions.values())["externalId"] if of_another else f"s{self.serial}"
        more = self.some(name=self.text, metadata=self.metadata)
        more |= {"projectId": self.id_of("projects")} if self.often(0.7) else {}
        return {"externalId": name, **more}

    def _session(self) -> Params:
        # one of whose rows the index was told something, now and then
        of_sessions = [(of, id_) for of, id_ in self.model.out if of in {"episodes", "summaries"}]
        told = [self.model.tables[of][id_]["sessionId"] for of, id_ in of_sessions]
        session_id = self.one(told) if told and self.often(0.2) else self.id_of("sessions")
        if session_id in self.model.sessions and self.often():
            return {"externalId": self.model.sessions[session_id]["externalId"]}
        return {"id": session_id} if self.often(0.9) else {"externalId": "nobody's"}

    def sessions_update(self) -> Params:
        project = self.nullable(lambda: self.id_of("projects"))
        return {**self._session(), **self.changes(name=self.text, projectId=project, metadata=self.metadata)}

    def sessions_delete(self) -> Params:
        return self._session()

    def episode(self) -> Params:
        return {
            "sessionId": self.id_of("sessions"), "userMessage": self.text(),
            "aiResponse": self.text() if self.often(0.8) else "",
            **self.some(tokenCount=self.count, metadata=self.metadata, createdAt=self.time),
        }  # fmt: skip

    def episodes_create(self) -> Params:
        return {**self.episode(), **self.wait()}

    def episodes_create_many(self) -> Params:
        return {"items": self.items(self.episode), **self.wait()}

    def episodes_update(self) -> Params:
        changes = self.changes(
            userMessage=self.text, aiResponse=self.text, tokenCount=self.count, metadata=self.metadata
        )
        return {"id": self.id_of("episodes"), **changes, **self.wait()}

    def episodes_delete(self) -> Params:
        return {"id": self.id_of("episodes")}

    def summaries_create(self) -> Params:
        talked = [row["sessionId"] for row in self.model.episodes.values()]
        session_id = self.one(talked) if talked and self.often(0.7) else self.id_of("sessions")
        ends = sorted(self.model.of("episodes", sessionId=session_id), key=lambda row: (row["createdAt"], row["id"]))
        run: Params = {}
        if ends and self.often(0.8):
            first, last = (self.chance.randrange(len(ends)) for _ in range(2))
            first, last = (last, first) if first > last and self.often(0.7) else (first, last)
            run = {"firstEpisodeId": ends[first]["id"], "lastEpisodeId": ends[last]["id"]}
            run |= {"lastEpisodeId": self.id_of("episodes")} if self.often(0.1) else {}
        more = self.some(tokenCount=self.count, metadata=self.metadata, createdAt=self.time)
        return {"sessionId": session_id, "content": self.text(), **run, **more, **self.wait()}

    def summaries_delete(self) -> Params:
        return {"id": self.id_of("summaries")}

    # ---- entities

    def entity(self) -> Params:
        name = self.one(("Fig", "fig", "fIG tree", "\u00c4sop", "z", "Oak"))
        more = self.some(notes=self.nullable(self.text), metadata=self.metadata)
        return {"name": name, "type": self.one(("person", "place")), **more}

    def entities_upsert(self) -> Params:
        return {**self.entity(), **self.wait()}

    def entities_upsert_many(self) -> Params:
        return {"items": self.items(self.entity), **self.wait()}

    def entities_delete(self) -> Params:
        return {"id": self.id_of("entities")}

    def relationship(self) -> Params:
        label = self.one(("uses", "Uses", "knows"))
        ends = {"fromId": self.id_of("entities"), "toId": self.id_of("entities")}
        return {**ends, "label": label, **self.some(metadata=self.metadata)}

    def relationships_upsert(self) -> Params:
        return self.relationship()

    def relationships_upsert_many(self) -> Params:
        return {"items": self.items(self.relationship)}

    def relationships_delete(self) -> Params:
        if self.model.relationships and self.often(0.8):
            row = self.one(self.model.relationships.values())
            return {name: row[name] for name in ("fromId", "toId", "label")}
        return {"fromId": self.id_of("entities"), "toId": self.id_of("entities"), "label": "no such"}

    # ---- conversations and whose they are

    def conversations_create(self) -> Params:
        return self.some(
            title=self.text, userId=lambda: self.one(KEYS), groupId=lambda: self.id_of("groups"),
            metadata=self.metadata, createdAt=self.time,
        )  # fmt: skip

    def conversations_update(self) -> Params:
        changes = self.changes(
            title=self.nullable(self.text), userId=self.nullable(lambda: self.one(KEYS)),
            groupId=self.nullable(lambda: self.id_of("groups")), metadata=self.metadata,
        )  # fmt: skip
        return {"id": self.id_of("conversations"), **changes}

    def conversations_delete(self) -> Params:
        return {"id": self.id_of("conversations")}

    def message(self) -> Params:
        content = self.one(("", " \n")) if self.often(0.15) else self.text()
        more = self.some(metadata=self.metadata, createdAt=self.time)
        role = self.one(("user", "assistant"))
        return {"conversationId": self.id_of("conversations"), "role": role, "content": content, **more}

    def messages_create(self) -> Params:
        return {**self.message(), **self.wait()}

    def messages_create_many(self) -> Params:
        return {"items": self.items(self.message), **self.wait()}

    def messages_delete(self) -> Params:
        return {"id": self.id_of("messages")}

    def users_set(self) -> Params:
        settings = self.one(({}, {"theme": "dark"}, {"theme": None}, {"a": {"b": 1}}, {"a": {"b": True}}, PATCH))
        key = self.one(KEYS[:3]) if self.often() else self.key_of("users")
        return {"id": key, "settings": settings, **self.some(merge=lambda: self.often(0.8))}

    def users_delete(self) -> Params:
        return {"id": self.key_of("users")}

    def groups_create(self) -> Params:
        return {"name": self.text(), **self.some(config=self.metadata)}

    def groups_update(self) -> Params:
        return {"id": self.id_of("groups"), **self.changes(name=self.text, config=self.metadata)}

    def groups_delete(self) -> Params:
        return {"id": self.id_of("groups")}

    def tool_logs_append(self) -> Params:
        anything = lambda: self.one((None, 1, "fig", [1, {}], {"x": None}))  # noqa: E731 - a value of any kind
        more = self.some(
            arguments=anything, result=anything, error=self.nullable(self.text), durationMs=self.count,
            conversationId=lambda: self.id_of("conversations"), metadata=self.metadata, createdAt=self.time,
        )  # fmt: skip
        return {"tool": self.one(("clock", "weather")), **more}

    def tool_logs_prune(self) -> Params:
        few = lambda: self.chance.choice((0, 1, 5, 20, 20, 40))  # noqa: E731 - a number
        return self.changes(olderThanMs=self.age, keep=few)

    def age(self) -> int:
        """That of a call exactly, or some hours."""
        ages = [self.model.now - log["createdAt"] for log in self.model.toolLogs.values()]
        return max(0, int(self.one(ages))) if ages and self.often() else HOUR_MS * self.one((2, 100, 2000))

    # ---- texts, points and what was given up

    def vector_text(self) -> Params:
        key = self.key_of("vectors")
        text = self.one(("", "  ")) if self.often(0.1) else self.text()
        if key in self.model.vectors and self.often():
            text = self.model.vectors[key]["text"]
        return {"id": key, "text": text, **self.some(embedding=self.vector, metadata=self.metadata)}

    def vectors_store(self) -> Params:
        return {**self.vector_text(), **self.wait()}

    def vectors_store_many(self) -> Params:
        return {"items": self.items(self.vector_text), **self.wait()}

    def vectors_delete(self) -> Params:
        return {"id": self.key_of("vectors")}

    def semantic_upsert(self) -> Params:
        return {**self.point(), **self.some(vector=self.vector)}

    def semantic_delete(self) -> Params:
        return self.point()

    def point(self) -> Params:
        collection = self.one(COLLECTIONS)
        row_id = self.id_of(collection)
        told = [*self.model.own, *self.model.out]   # of these the index was told something already
        if told and self.often(0.4):
            collection, row_id = self.one(told)
        return {"collection": collection, "id": row_id, "timeoutMs": 60_000 if self.patient else 1}

    def outbox_retry(self) -> Params:
        return self.some(seqs=lambda: [NEVER_USED])

    def index_reembed(self) -> Params:
        """With force it would be another model's: the tests of re-embedding do that."""
        return {}

    def index_forget(self) -> Params:
        return self.some(key=lambda: "none")

    def backup_restore(self) -> Params:
        return {"name": "none"}

    def backup_create(self) -> Params:
        return self.some(note=lambda: "before something")

    # ---- files and the cache

    def presets_create(self) -> Params:
        return {"name": self.one(FILE_NAMES), "content": self.one(CONTENTS)}

    presets_update = presets_put = presets_create

    def presets_delete(self) -> Params:
        return {"name": self.one(FILE_NAMES)}

    def tools_put(self) -> Params:
        return {"name": self.one(FILE_NAMES), "source": self.one(("", "export default 1\n", "// \u00fc\n"))}

    def tools_delete(self) -> Params:
        return {"name": self.one(FILE_NAMES)}

    def mcp_servers_put(self) -> Params:
        return {"name": self.one(SERVER_NAMES), "config": self.one(CONFIGS)}

    def mcp_servers_delete(self) -> Params:
        return {"name": self.one(SERVER_NAMES)}

    def cache_set(self) -> Params:
        value = self.one((None, 1, "x", {"a": [True]}))
        return {"key": self.one(KEYS), "value": value, **self.some(ttl=lambda: self.one((600_000, 10 * HOUR_MS)))}

    def cache_delete(self) -> Params:
        return {"key": self.one(KEYS)}

    def cache_clear(self) -> Params:
        return {}

    # ---- rows of another store

    def imports_store(self) -> Params:
        table = self.one(IMPORTS)
        items = self.items(lambda: {**IMPORTS[table](self), "createdAt": self.past()})
        if table not in {"users", "vectors"}:
            for item in items:
                item.update({} if "bad" in item else self.imported_id(table))
        return {"table": table, "items": items + items[:1] if self.often(0.2) else items}

    def imported_id(self, table: str) -> Params:
        """An id that was used here, or was not, and the place of the row among those that are the same."""
        last = self.model.last_id[table]
        occurrence = {"occurrence": 1} if self.often(0.3) else {}
        return {**self.some(id=lambda: self.one((1, last + 1, last + 3))), **occurrence}

    def imported_summary(self) -> Params:
        run = {name: value for name, value in self.summaries_create().items() if name in {"sessionId", "content"}}
        return {**run, "content": "  "} if self.often(0.1) else run


def _only(*names: str) -> Callable[[Params], Params]:
    return lambda params: {name: value for name, value in params.items() if name in names and value is not None}


IMPORTS: dict[str, Callable[[RandomCalls], Params]] = {
    "projects": lambda self: _only("name", "colour")(self.projects_create()),
    "sessions": lambda self: _only("externalId", "name", "projectId", "metadata")(self.sessions_create()),
    "episodes": lambda self: _only("sessionId", "userMessage", "aiResponse", "metadata")(self.episode()),
    "entities": lambda self: _only("name", "type", "notes", "metadata")(self.entity()),
    "relationships": lambda self: self.relationship(),
    "summaries": lambda self: self.imported_summary(),
    "users": lambda self: _only("id", "settings")(self.users_set()),
    "groups": lambda self: self.groups_create(),
    "conversations": lambda self: _only("title", "userId", "groupId", "metadata")(self.conversations_create()),
    "messages": lambda self: _only("conversationId", "role", "content", "metadata")(self.message()),
    "toolLogs": lambda self: _only("tool", "arguments", "error", "conversationId")(self.tool_logs_append()),
    "vectors": lambda self: _only("id", "text")({**self.vector_text(), "text": self.text()}),
}

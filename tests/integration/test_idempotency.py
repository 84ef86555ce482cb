"""A call that is sent again is not done again, whichever method it is of.

Each method that changes something is called on a small store with a key: twice, twice at the same moment, with other
parameters, and by somebody else. What each of them leaves behind is compared to the last row and file.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import hashlib
import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fakes.index import FakeIndex
from harness.backup_files import backup_of
from harness.backup_files import fill as small_database
from harness.expected_rows import REFUSED_WORD
from harness.methods import real_table
from harness.walk import Refusing
from harness.whole_daemon import Listener, WalkingClock, WholeDaemon, whole_daemon

from nexusd.store.tokens import NewToken, insert_token
from nexusd.wire.methods import Principal

pytestmark = pytest.mark.anyio

Params = dict[str, Any]

DAY_MS = 86_400_000
KEY = "the key"
KEY_FIELD = "idempotencyKey"
SOMEBODY_ELSE = Principal("uid:2000", "admin")
VECTOR = [0.5] * 32
AS_WITHOUT_A_KEY = {None, "not_found", "conflict"}  # what another call may meet that really is done


@dataclass(frozen=True)
class Example:
    """Parameters that work on the small store, and others that make another call of it."""

    params: Params
    other: Params


# Of every method that changes something, on the store that `small_store` makes.
EXAMPLES = {
    "projects.create": Example({"name": "new"}, {"name": "other"}),
    "projects.update": Example({"id": 1, "name": "new"}, {"id": 1, "name": "other"}),
    "projects.delete": Example({"id": 1}, {"id": 2}),
    "sessions.create": Example({"externalId": "new"}, {"externalId": "other"}),
    "sessions.update": Example({"id": 1, "projectId": None}, {"id": 1, "projectId": 2}),
    "sessions.delete": Example({"id": 1}, {"externalId": "second"}),
    "episodes.create": Example(
        {"sessionId": 1, "userMessage": "new", "aiResponse": ""},
        {"sessionId": 1, "userMessage": "new", "aiResponse": "other"},
    ),
    "episodes.createMany": Example(
        {"items": [{"sessionId": 1, "userMessage": "new", "aiResponse": ""}, {"sessionId": 99}, {
            "sessionId": 99, "userMessage": "nowhere", "aiResponse": "",
        }]},
        {"items": [{"sessionId": 1, "userMessage": "other", "aiResponse": ""}]},
    ),
    "episodes.update": Example({"id": 1, "aiResponse": "new"}, {"id": 2, "aiResponse": "new"}),
    "episodes.delete": Example({"id": 1}, {"id": 2}),
    "summaries.create": Example({"sessionId": 1, "content": "new"}, {"sessionId": 2, "content": "new"}),
    "summaries.delete": Example({"id": 1}, {"id": 2}),
    "entities.upsert": Example(
        {"name": "Ada", "type": "person", "notes": "new"}, {"name": "Ada", "type": "person", "notes": "other"}
    ),
    "entities.upsertMany": Example(
        {"items": [{"name": "Bo", "type": "person"}, {"name": ""}]}, {"items": [{"name": "Cy", "type": "person"}]}
    ),
    "entities.delete": Example({"id": 1}, {"id": 2}),
    "relationships.upsert": Example(
        {"fromId": 2, "toId": 1, "label": "new"}, {"fromId": 2, "toId": 1, "label": "other"}
    ),
    "relationships.upsertMany": Example(
        {"items": [{"fromId": 2, "toId": 1, "label": "new"}, {"fromId": 2, "toId": 99, "label": "new"}]},
        {"items": [{"fromId": 2, "toId": 1, "label": "other"}]},
    ),
    "relationships.delete": Example(
        {"fromId": 1, "toId": 2, "label": "uses"}, {"fromId": 1, "toId": 2, "label": "knows"}
    ),
    "conversations.create": Example({"title": "new", "groupId": 1}, {"title": "other"}),
    "conversations.update": Example({"id": 1, "groupId": None}, {"id": 1, "title": "other"}),
    "conversations.delete": Example({"id": 1}, {"id": 2}),
    "messages.create": Example(
        {"conversationId": 1, "role": "user", "content": "new"}, {"conversationId": 1, "role": "user", "content": ""}
    ),
    "messages.createMany": Example(
        {"items": [{"conversationId": 1, "role": "user", "content": "new"}, {
            "conversationId": 99, "role": "user", "content": "nowhere",
        }]},
        {"items": [{"conversationId": 1, "role": "user", "content": "other"}]},
    ),
    "messages.delete": Example({"id": 1}, {"id": 2}),
    "users.set": Example(
        {"id": 5, "settings": {"a": None, "b": 2}, "merge": True}, {"id": 5, "settings": {"a": None, "b": 2}}
    ),
    "users.delete": Example({"id": 5}, {"id": "5"}),
    "groups.create": Example({"name": "new"}, {"name": "other"}),
    "groups.update": Example({"id": 1, "name": "new"}, {"id": 1, "name": "other"}),
    "groups.delete": Example({"id": 1}, {"id": 2}),
    "toolLogs.append": Example({"tool": "clock", "result": 1}, {"tool": "clock", "result": True}),
    "toolLogs.prune": Example({"keep": 1}, {"keep": 0}),
    "vectors.store": Example({"id": 5, "text": "new"}, {"id": "5", "text": "new"}),
    "vectors.storeMany": Example(
        {"items": [{"id": 5, "text": "new", "embedding": VECTOR}, {"id": 6, "text": "short", "embedding": [1.0]}]},
        {"items": [{"id": 6, "text": "other"}]},
    ),
    "vectors.delete": Example({"id": 5}, {"id": "5"}),
    "semantic.upsert": Example(
        {"collection": "episodes", "id": 1, "vector": VECTOR}, {"collection": "episodes", "id": 2, "vector": VECTOR}
    ),
    "semantic.delete": Example({"collection": "episodes", "id": 1}, {"collection": "episodes", "id": 2}),
    "outbox.retry": Example({}, {"seqs": [10**6]}),
    "index.reembed": Example({"force": True}, {}),
    "index.forget": Example({}, {"key": "another"}),
    "backup.create": Example({"note": "new"}, {"note": "other"}),
    "backup.restore": Example({"name": "then"}, {"name": "then", "dryRun": True}),
    "presets.create": Example({"name": "new", "content": {"a": 1}}, {"name": "new", "content": {"a": True}}),
    "presets.update": Example({"name": "Chef", "content": {"a": 1}}, {"name": "Chef", "content": {"a": True}}),
    "presets.put": Example({"name": "Chef", "content": {"a": 1}}, {"name": "Chef", "content": {"a": 1.5}}),
    "presets.delete": Example({"name": "Chef"}, {"name": "Waiter"}),
    "tools.put": Example({"name": "dice", "source": "new"}, {"name": "dice", "source": "other"}),
    "tools.delete": Example({"name": "dice"}, {"name": "coin"}),
    "mcpServers.put": Example(
        {"name": "files", "config": {"command": "new"}}, {"name": "files", "config": {"command": "other"}}
    ),
    "mcpServers.delete": Example({"name": "files"}, {"name": "web"}),
    "imports.store": Example(
        {"table": "projects", "items": [{"name": "new", "createdAt": 1}, {"name": "bad"}]},
        {"table": "groups", "items": [{"name": "new", "createdAt": 1}]},
    ),
    "tokens.create": Example({"name": "new", "role": "read"}, {"name": "new", "role": "write"}),
    "tokens.revoke": Example({"id": "a1"}, {"id": "b2"}),
    "cache.set": Example({"key": 5, "value": "new"}, {"key": 5, "value": "other"}),
    "cache.delete": Example({"key": 5}, {"key": "5"}),
    "cache.clear": Example({}, {}),
}
# Done twice it is the same as once, and what is gone with the memory needs no receipt on disk: see api/cache.
WITHOUT_RECEIPT = {"cache.set", "cache.delete", "cache.clear"}
# Its reply is kept nowhere: it holds a secret.
WITHOUT_REPLY = {"tokens.create"}
WITH_RECEIPT = sorted(EXAMPLES.keys() - WITHOUT_RECEIPT - WITHOUT_REPLY)


async def fill(daemon: WholeDaemon) -> None:
    """Two of everything, so that there is another one."""
    for number, name in enumerate(("first", "second"), 1):
        await daemon.get("projects.create", name=name)
        await daemon.get("sessions.create", externalId=name, projectId=1)
        await daemon.get("episodes.create", sessionId=1, userMessage=name, aiResponse="")
        await daemon.get("summaries.create", sessionId=1, content=name)
        await daemon.get("entities.upsert", name=("Ada", "SQLite")[number - 1], type="person")
        await daemon.get("groups.create", name=name)
        await daemon.get("conversations.create", title=name, groupId=1)
        await daemon.get("messages.create", conversationId=1, role="user", content=name)
        await daemon.get("toolLogs.append", tool="clock", conversationId=1)
        await daemon.get("users.set", id=(5, "5")[number - 1], settings={"a": 1})
        await daemon.get("vectors.store", id=(5, "5")[number - 1], text=name)
        await daemon.get("presets.put", name=("Chef", "Waiter")[number - 1], content={"n": number})
        await daemon.get("tools.put", name=("dice", "coin")[number - 1], source=name)
        await daemon.get("mcpServers.put", name=("files", "web")[number - 1], config={"command": name})
    for id_ in ("a1", "b2"):
        new = NewToken(
            id=id_, hash=bytes(32), name=id_, role="read", methods=[], networks=[], expires_at=None, rate=None,
            created_by="",
        )
        await daemon.store.write(insert_token, None, new, 0)
    for label in ("uses", "knows"):
        await daemon.get("relationships.upsert", fromId=1, toId=2, label=label)
    await daemon.get("episodes.create", sessionId=2, userMessage=REFUSED_WORD, aiResponse="")  # a dead letter
    await daemon.drained()


@pytest.fixture(scope="module")
async def small_store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FakeIndex]:
    """A data directory to be copied."""
    data = tmp_path_factory.mktemp("small") / "data"
    async with whole_daemon(data, embedder=Refusing(), clock=WalkingClock(), index=(index := FakeIndex())) as daemon:
        await fill(daemon)
    (data / "backups").mkdir(exist_ok=True)
    backup_of(data / "backups/then.tar", small_database(data.parent / "then.db", ["a text"]))
    return data, index


class Case:
    """A daemon on a copy of the small store."""

    def __init__(self, daemon: WholeDaemon, data: Path, clock: WalkingClock) -> None:
        self.daemon = daemon
        self.clock = clock
        self.listener = Listener()
        self._data = data

    async def call(self, method: str, params: Params, *, key: str = KEY, **who: Any) -> bytes:
        return await self.daemon.answer(method, {**params, KEY_FIELD: key}, **who)

    async def left(self) -> dict[str, Any]:
        """Everything that the daemon keeps: rows, files, and what it said of changes."""
        await self.daemon.drained()
        tables = [name for (name,) in await self.daemon.select(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '%!_fts%' ESCAPE '!'"
            " AND name NOT LIKE '%!_terms' ESCAPE '!'"
        )]  # fmt: skip
        kept: dict[str, Any] = {name: await self.daemon.select(f'SELECT * FROM "{name}"') for name in tables}
        for path in (*self._data.glob("presets/*"), *self._data.glob("tools/*"), self._data / "mcp-servers.json"):
            kept[path.name] = path.read_bytes(), path.stat().st_ino
        return kept | {"events": len(self.listener.events)}


@pytest.fixture
async def case(small_store: tuple[Path, FakeIndex], tmp_path: Path) -> AsyncIterator[Case]:
    data, index = small_store
    shutil.copytree(data, tmp_path / "data")
    clock = WalkingClock()
    async with contextlib.AsyncExitStack() as running:
        daemon = await running.enter_async_context(
            whole_daemon(tmp_path / "data", embedder=Refusing(), clock=clock, index=copy.deepcopy(index))
        )
        await daemon.drained()
        one = Case(daemon, tmp_path / "data", clock)
        topics = sorted({method.partition(".")[0] for method in EXAMPLES} - {"outbox", "index", "backup"})
        await daemon.ask("events.subscribe", {"topics": topics}, client=one.listener)
        await asyncio.sleep(0.0)
        yield one


def kind(reply: bytes) -> str | None:
    """The kind of the reply's error."""
    found: str | None = json.loads(reply).get("error", {}).get("data", {}).get("kind")
    return found


def test_every_method_that_changes_something_is_in_the_table() -> None:
    assert set(EXAMPLES) == {method.name for method in real_table() if method.mutates}


@pytest.mark.parametrize("method", WITH_RECEIPT)
async def test_the_same_call_again_gets_the_same_reply_and_changes_nothing(case: Case, method: str) -> None:
    params = EXAMPLES[method].params
    before = await case.left()
    first = await case.call(method, params)
    assert kind(first) is None
    after = await case.left()
    assert after != before
    case.clock.advance(DAY_MS - 1)
    assert await case.call(method, params) == first
    assert await case.left() == after


@pytest.mark.parametrize("method", WITH_RECEIPT)
async def test_the_same_call_at_the_same_moment_is_done_once(case: Case, method: str) -> None:
    params = EXAMPLES[method].params
    first, second = await asyncio.gather(case.call(method, params), case.call(method, params))
    assert kind(first) is None
    assert second == first
    after = await case.left()
    assert await case.call(method, params) == first
    assert await case.left() == after


@pytest.mark.parametrize("method", WITH_RECEIPT)
async def test_other_parameters_under_the_same_key_are_refused_for_a_day(case: Case, method: str) -> None:
    example = EXAMPLES[method]
    assert kind(await case.call(method, example.params)) is None
    after = await case.left()
    assert kind(await case.call(method, example.other)) == "idempotency_mismatch"
    other_method = "users.set" if method == "groups.create" else "groups.create"
    assert kind(await case.call(other_method, EXAMPLES[other_method].params)) == "idempotency_mismatch"
    assert await case.left() == after
    case.clock.advance(DAY_MS)
    assert kind(await case.call(method, example.other)) in AS_WITHOUT_A_KEY


@pytest.mark.parametrize("method", WITH_RECEIPT)
async def test_the_same_key_of_somebody_else_is_another_key(case: Case, method: str) -> None:
    example = EXAMPLES[method]
    mine = await case.call(method, example.params)
    theirs = await case.call(method, example.other, principal=SOMEBODY_ELSE)
    assert kind(theirs) in AS_WITHOUT_A_KEY
    assert await case.call(method, example.params) == mine
    if kind(theirs) is None:
        assert await case.call(method, example.other, principal=SOMEBODY_ELSE) == theirs
        receipts = await case.daemon.select("SELECT principal FROM idempotency WHERE key = ?", KEY)
        assert len(receipts) == len(set(receipts)) == 2


WAITING = [name for name in WITH_RECEIPT if "waitFor" in real_table().get(name).params.__struct_encode_fields__]


@pytest.mark.parametrize("method", WAITING)
async def test_how_long_to_wait_makes_no_other_call_of_it(case: Case, method: str) -> None:
    params = EXAMPLES[method].params
    waited = await case.call(method, {**params, "waitFor": "indexed"})
    after = await case.left()
    assert b'"vector":"indexed"' in waited
    again = await case.call(method, {**params, "waitFor": "indexed", "timeoutMs": 60_000})
    assert again == waited
    at_once = await case.call(method, params)
    assert at_once.replace(b'"vector":"pending"', b'"vector":"indexed"') == waited
    assert await case.left() == after


@pytest.mark.parametrize("method", sorted(WITHOUT_REPLY))
async def test_a_call_whose_reply_is_secret_is_done_once_and_told_once(case: Case, method: str) -> None:
    example = EXAMPLES[method]
    first = await case.call(method, example.params)
    assert kind(first) is None
    after = await case.left()
    again = await case.call(method, example.params)
    assert kind(again) == "conflict"
    assert b"it cannot be told again" in again
    assert kind(await case.call(method, example.other)) == "idempotency_mismatch"
    assert await case.left() == after
    secret = json.loads(first)["result"]["token"].rpartition("_")[2]
    assert secret not in repr(after)
    assert hashlib.sha256(json.loads(first)["result"]["token"].encode()).digest() in after["tokens"][-1]
    assert kind(await case.call(method, example.params, principal=SOMEBODY_ELSE)) is None


@pytest.mark.parametrize("method", sorted(WITHOUT_RECEIPT))
async def test_in_the_cache_a_key_has_no_effect(case: Case, method: str) -> None:
    example = EXAMPLES[method]
    for params in (example.params, example.other, example.params):
        assert kind(await case.call(method, params)) is None
    assert await case.daemon.select("SELECT count(*) FROM idempotency") == [(0,)]


async def test_a_key_on_what_changes_nothing_is_refused_by_name(case: Case) -> None:
    for method in real_table():
        if not method.mutates:
            reply = await case.call(method.name, method.example or {})
            assert kind(reply) == "invalid_params", method.name
            assert KEY_FIELD in [field["path"] for field in json.loads(reply)["error"]["data"]["fields"]], method.name


async def test_a_call_that_failed_leaves_its_key_free(case: Case) -> None:
    before = await case.left()
    assert kind(await case.call("sessions.create", {"externalId": "first"})) == "conflict"
    assert kind(await case.call("episodes.delete", {"id": 99})) == "not_found"
    assert kind(await case.call("presets.create", {"name": "Chef", "content": {}})) == "conflict"
    assert kind(await case.call("mcpServers.delete", {"name": "none"})) == "not_found"
    assert kind(await case.call("projects.create", {"name": ""})) == "invalid_params"
    assert await case.left() == before
    assert kind(await case.call("projects.create", {"name": "now"})) is None

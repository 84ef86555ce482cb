"""The methods on conversations, messages, users, groups and tool logs, from the frame to the disk."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fakes.embedder import FakeEmbedder
from fakes.index import FakeIndex

from nexusd.api.conversations import ConversationsApi
from nexusd.api.groups import GroupsApi
from nexusd.api.messages import MessagesApi
from nexusd.api.tool_logs import ToolLogsApi
from nexusd.api.users import UsersApi
from nexusd.clock import SystemClock
from nexusd.config_sections import LimitsConfig, OutboxConfig, StorageConfig
from nexusd.embedding.serving import KeyedModel, Serving
from nexusd.retrieval.search import MemorySearch
from nexusd.store import tool_logs
from nexusd.store.database import Database
from nexusd.sync.collections import Collections
from nexusd.sync.worker import OutboxWorker
from nexusd.wire.dispatch import Dispatcher
from nexusd.wire.gate import Gate
from nexusd.wire.methods import MethodTable, Principal

pytestmark = pytest.mark.anyio
CALLER = Principal("uid:1000", "admin")
LATER = 2**53 - 1


@dataclass
class House:
    """The five resources over a real store; the worker runs."""

    store: Database
    embedder: FakeEmbedder
    table: MethodTable
    dispatcher: Dispatcher
    changes: list[tuple[str, Any]]

    async def answer(self, method: str, **params: Any) -> dict[str, Any]:
        frame = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        answer = self.dispatcher.begin(frame, CALLER)
        reply = answer if isinstance(answer, bytes | None) else await answer
        assert reply is not None
        told: dict[str, Any] = json.loads(reply)
        return told

    async def call(self, method: str, **params: Any) -> Any:
        reply = await self.answer(method, **params)
        assert "result" in reply, reply
        return reply["result"]

    async def refused(self, method: str, **params: Any) -> tuple[str, str]:
        error = (await self.answer(method, **params))["error"]
        return error["data"]["kind"], error["message"]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    clock = SystemClock()
    worker: OutboxWorker | None = None

    def committed() -> None:
        if worker is not None:
            worker.wake()

    def fatal(error: Exception) -> None:
        raise AssertionError(error)

    store = Database(tmp_path / "nexus.db", StorageConfig(), clock, on_commit=committed, on_fatal=fatal)
    await store.open()
    index, embedder = FakeIndex(), FakeEmbedder()
    model = KeyedModel(embedder.fingerprint.short, embedder)
    collections = Collections(store, index, model)
    worker = OutboxWorker(store, index, model, collections, OutboxConfig(), clock, random.Random(7))
    search = MemorySearch(store, index, Serving(model), clock)
    table = MethodTable()
    for api in (
        ConversationsApi(store, clock), MessagesApi(store, worker, search, clock), UsersApi(store, clock),
        GroupsApi(store, clock), ToolLogsApi(store, clock),
    ):
        table.register(api.methods())
    changes: list[tuple[str, Any]] = []
    gate = Gate()
    gate.open()
    dispatcher = Dispatcher(
        table, LimitsConfig(), clock=clock, gate=gate,
        on_change=lambda method, params, result: changes.append(
            (method.name, method.subject(params, result) if method.subject is not None else result)
        ),
    )
    running = asyncio.create_task(worker.run())
    try:
        yield House(store, embedder, table, dispatcher, changes)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await store.close()


async def test_every_example_works_on_an_empty_store(house: House) -> None:
    for method in list(house.table):
        if method.example is not None:
            await house.call(method.name, **method.example)


async def test_everything_can_be_made_found_changed_and_deleted(house: House) -> None:
    group = await house.call("groups.create", name="Family", config={"model": "small"})
    assert await house.call("groups.get", id=group["id"]) == group
    assert (await house.call("groups.update", id=group["id"], name="Us"))["config"] == {"model": "small"}
    assert (await house.call("groups.list"))["items"][0]["name"] == "Us"

    user = await house.call("users.set", id="anna", settings={"theme": {"dark": True, "size": 2}})
    merged = await house.call("users.set", id="anna", settings={"theme": {"size": None}}, merge=True)
    assert merged["settings"] == {"theme": {"dark": True}}
    assert await house.call("users.get", id="anna") == merged
    assert (await house.call("users.list"))["items"] == [merged]
    assert user["createdAt"] == merged["createdAt"]

    chat = await house.call("conversations.create", title="Plans", userId="anna", groupId=group["id"])
    assert await house.call("conversations.get", id=chat["id"]) == chat
    assert (await house.call("conversations.update", id=chat["id"], title=None))["title"] is None
    said = await house.call("messages.create", conversationId=chat["id"], role="user", content="Where to?")
    assert (said["vector"], said["version"]) == ("pending", 1)
    listed = await house.call("messages.list", conversationId=chat["id"])
    assert [message["content"] for message in listed["items"]] == ["Where to?"]
    assert (await house.call("conversations.list", userId="anna"))["items"][0]["updatedAt"] >= said["createdAt"]

    log = await house.call("toolLogs.append", tool="maps", arguments=["Graz"], conversationId=chat["id"], error="down")
    assert (log["status"], log["arguments"], log["result"]) == ("error", ["Graz"], None)
    assert (await house.call("toolLogs.list", status="error", tool="maps", since=0, until=LATER))["items"] == [log]

    nothing_owed = {"pointsQueued": 0, "outboxSeq": 0}
    assert await house.call("groups.delete", id=group["id"]) == {"deleted": {"groups": 1}, **nothing_owed}
    assert (await house.call("conversations.get", id=chat["id"]))["groupId"] is None
    gone = await house.call("conversations.delete", id=chat["id"])
    assert (gone["deleted"], gone["pointsQueued"]) == ({"conversations": 1, "messages": 1}, 1)
    assert (await house.call("toolLogs.get", id=log["id"]))["conversationId"] is None
    assert await house.call("users.delete", id="anna") == {"deleted": {"users": 1}, **nothing_owed}


@pytest.mark.parametrize(
    ("method", "params", "kind", "message"),
    [
        ("conversations.get", {"id": 7}, "not_found", "No conversation has this id."),
        ("conversations.create", {"groupId": 7}, "not_found", "No group has this id."),
        ("conversations.create", {"title": ""}, "invalid_params", "title"),
        ("conversations.create", {"userId": True}, "invalid_params", "userId"),
        ("conversations.update", {"id": 7}, "invalid_params", "at least one of"),
        ("messages.create", {"conversationId": 7, "role": "user", "content": "x"}, "not_found", "No conversation"),
        ("messages.create", {"conversationId": 7, "role": "", "content": "x"}, "invalid_params", "role"),
        ("messages.create", {"conversationId": 7, "role": "r" * 65, "content": "x"}, "invalid_params", "role"),
        ("messages.get", {"id": 7}, "not_found", "No message has this id."),
        ("messages.list", {"conversationId": 7}, "not_found", "No conversation has this id."),
        ("users.get", {"id": "nobody"}, "not_found", "No user has this id."),
        ("users.set", {"id": "anna", "settings": [1]}, "invalid_params", "settings"),
        ("groups.create", {"name": "g", "config": "x"}, "invalid_params", "config"),
        ("groups.get", {"id": 7}, "not_found", "No group has this id."),
        ("toolLogs.append", {"tool": "t", "conversationId": 7}, "not_found", "No conversation has this id."),
        ("toolLogs.append", {"tool": "t", "durationMs": -1}, "invalid_params", "durationMs"),
        ("toolLogs.get", {"id": 7}, "not_found", "No tool log has this id."),
        ("toolLogs.list", {"status": "bad"}, "invalid_params", "status"),
        ("toolLogs.prune", {}, "invalid_params", "at least one of"),
    ],
)
async def test_what_is_wrong_is_named(
    house: House, method: str, params: dict[str, Any], kind: str, message: str
) -> None:
    told = await house.refused(method, **params)
    assert told[0] == kind
    assert message in told[1]


async def test_every_write_sent_again_is_answered_and_not_done_again(house: House) -> None:
    async def twice(method: str, **params: Any) -> Any:
        first = await house.call(method, **params, idempotencyKey=f"key of {method}")
        changes = len(house.changes)
        assert await house.call(method, **params, idempotencyKey=f"key of {method}") == first
        assert len(house.changes) == changes
        return first

    group = await twice("groups.create", name="g")
    chat = await twice("conversations.create", title="t", groupId=group["id"])
    await twice("conversations.update", id=chat["id"], title="u")
    await twice("groups.update", id=group["id"], name="h")
    said = await twice("messages.create", conversationId=chat["id"], role="user", content="x")
    item = {"conversationId": chat["id"], "role": "user", "content": "y"}
    many = await twice("messages.createMany", items=[item, {}, item])
    assert ["error" in answer for answer in many["items"]] == [False, True, False]
    await twice("users.set", id=1, settings={"a": 1}, merge=True)
    await twice("toolLogs.append", tool="t")
    assert len((await house.call("messages.list", conversationId=chat["id"]))["items"]) == 3
    assert len((await house.call("toolLogs.list"))["items"]) == 1
    await twice("messages.delete", id=said["id"])
    await twice("conversations.delete", id=chat["id"])
    await twice("groups.delete", id=group["id"])
    await twice("users.delete", id=1)
    await twice("toolLogs.prune", keep=0)
    mutating = {method.name for method in house.table if method.mutates}
    assert {name for name, _ in house.changes} == mutating


async def test_wait_answers_when_the_messages_are_indexed(house: House) -> None:
    chat = await house.call("conversations.create")
    given = {"conversationId": chat["id"], "role": "user", "content": "tea"}
    assert (await house.call("messages.create", **given, waitFor="indexed"))["vector"] == "indexed"
    many = await house.call("messages.createMany", items=[given, {}, given], waitFor="indexed")
    assert [answer.get("vector") for answer in many["items"]] == ["indexed", None, "indexed"]


@pytest.mark.parametrize("content", ["", " \n\t"])
async def test_a_message_of_nothing_is_stored_and_the_index_owes_it_nothing(house: House, content: str) -> None:
    chat = await house.call("conversations.create")
    said = await house.call(
        "messages.create", conversationId=chat["id"], role="assistant", content=content, waitFor="indexed"
    )
    assert (said["content"], said["vector"]) == (content, "none")
    assert await house.call("messages.get", id=said["id"]) == said
    assert house.embedder.document_calls == []


async def test_bulk_messages_are_answered_in_order_each_with_its_row_or_its_error(house: House) -> None:
    chat = await house.call("conversations.create")
    good = [{"conversationId": chat["id"], "role": "user", "content": f"m{i}", "createdAt": i} for i in range(200)]
    bad = {50: {"conversationId": 99, "role": "user", "content": "x"}, 70: {"role": "user", "content": "x"}}
    items = [bad.get(i, good[i]) for i in range(200)]
    answers = (await house.call("messages.createMany", items=items))["items"]
    for i, answer in enumerate(answers):
        if i in bad:
            assert answer["error"]["data"]["kind"] == ("not_found" if i == 50 else "invalid_params")
        else:
            assert answer["content"] == f"m{i}"
    page = await house.call("messages.list", conversationId=chat["id"], limit=500)
    assert [message["content"] for message in page["items"]] == [f"m{i}" for i in range(200) if i not in bad]


async def test_a_large_prune_lets_other_writes_through_and_counts_all(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool_logs, "PRUNE_SLICE", 3)
    for at in range(20):
        await house.call("toolLogs.append", tool="t", createdAt=at)
    batches = house.store.progress().writes
    prune = asyncio.create_task(house.call("toolLogs.prune", keep=2, idempotencyKey="k"))
    written_between = 0
    while not prune.done():
        await house.call("users.set", id=1, settings={"n": written_between})
        written_between += 1
    assert await prune == {"deleted": {"toolLogs": 18}, "pointsQueued": 0, "outboxSeq": 0}
    assert written_between > 2
    assert house.store.progress().writes - batches - written_between >= 6     # so many slices
    left = [log["createdAt"] for log in (await house.call("toolLogs.list"))["items"]]
    assert left == [19, 18]
    assert ("toolLogs.prune", {"deleted": {"toolLogs": 18}}) in house.changes
    # sent again, it deletes nothing, though there would be something by now
    for at in range(20, 30):
        await house.call("toolLogs.append", tool="t", createdAt=at)
    again = await house.call("toolLogs.prune", keep=2, idempotencyKey="k")
    assert again == {"deleted": {"toolLogs": 18}, "pointsQueued": 0, "outboxSeq": 0}
    assert len((await house.call("toolLogs.list"))["items"]) == 12

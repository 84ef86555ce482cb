"""What is deleted for good is in no file of the data directory any more: while the daemon runs, and after it stopped.

Every kind of memory is written with words that nothing else holds: in texts, names, ids, notes and metadata, and as a
vector. Each is called for under an idempotency key, changed and found, so that every table, index and log has had it.
Then all of it is deleted, the receipts are waited on, and every file is searched for the words, byte for byte.
"""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import pytest
from harness.daemon import Daemon

from nexusd.client import Client, RpcError

DIMENSION = 384
OWN_VECTOR = [0.6, 0.8] + [0.0] * (DIMENSION - 2)  # of length 1: kept as it is by whoever normalises it
VECTOR_BYTES = struct.pack("<2f", *OWN_VECTOR[:2])
TAIL = 9  # the full-text index leaves out what a term begins with, and stems what it ends with


class Words:
    """Words that nobody else says: after two common letters no vowel, no ending that a stemmer takes away."""

    def __init__(self) -> None:
        self._chance = random.Random(7)
        self.made: list[str] = []

    def __call__(self) -> str:
        word = "zq" + "".join(self._chance.choice("bcdfghjkmpqtvwxz") for _ in range(13)) + "x"
        self.made.append(word)
        return word.capitalize() if len(self.made) % 2 else word

    def metadata(self) -> dict[str, Any]:
        """As text, in lists and objects, and as the name of a number, which the index keeps by its name."""
        return {self(): self(), "list": [self(), 4711], "nested": {self(): len(self.made) + 0.5}}


def found_in(directory: Path, words: Words) -> dict[str, int]:
    """By file, how many of the words are in it."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            content = path.read_bytes().translate(None, b"\0").lower()  # the engine's log is 32 MB of zeros
            count = sum(word[-TAIL - 1 : -1].encode() in content for word in words.made)
            count += VECTOR_BYTES.lower() in content
            if count:
                found[str(path.relative_to(directory))] = count
    return found


class Memory:
    """One of every kind, written under keys; and the calls that delete it."""

    def __init__(self, client: Client, words: Words) -> None:
        self.client = client
        self.say = words
        self.keyed: list[tuple[str, dict[str, Any]]] = []

    def ask(self, method: str, **params: Any) -> Any:
        params["idempotencyKey"] = f"key {len(self.say.made)} {len(self.keyed)}"
        self.keyed.append((method, params))
        return self.client.call(method, params)

    def write(self) -> None:
        say = self.say
        self.project = self.ask("projects.create", name=say(), description=say(), icon=say())["id"]
        self.ask("projects.update", id=self.project, description=say())
        self.session = self.ask(
            "sessions.create", externalId=say(), name=say(), projectId=self.project, metadata=say.metadata()
        )["id"]
        self.ask("sessions.update", id=self.session, name=say())
        exchange = {"sessionId": self.session, "metadata": say.metadata()}
        self.episode = self.ask("episodes.create", userMessage=f"I said {say()}.", aiResponse=say(), **exchange)["id"]
        many = [{"userMessage": f"{say()} {n}", "aiResponse": say(), **exchange} for n in range(20)]
        self.ask("episodes.createMany", items=many)
        self.ask("episodes.update", id=self.episode, aiResponse=f"No, {say()}!")
        self.ask("summaries.create", sessionId=self.session, content=f"Of {say()}.", metadata=say.metadata())
        ada = self.ask("entities.upsert", name=say(), type=say(), notes=say(), metadata=say.metadata())
        ben = self.ask("entities.upsertMany", items=[{"name": say(), "type": "person", "notes": say()}])["items"][0]
        self.entities = [ada["id"], ben["id"]]
        self.ask(
            "relationships.upsert", fromId=ada["id"], toId=ben["id"], label=say(), metadata=say.metadata()
        )
        self.group = self.ask("groups.create", name=say(), config={say(): say()})["id"]
        self.user = self.ask("users.set", id=say(), settings={say(): say()})["id"]
        self.chat = self.ask(
            "conversations.create", title=say(), groupId=self.group, userId=self.user, metadata=say.metadata()
        )["id"]
        self.ask("messages.create", conversationId=self.chat, role="user", content=say(), metadata=say.metadata())
        self.ask("messages.createMany", items=[{"conversationId": self.chat, "role": say(), "content": say()}])
        self.ask("toolLogs.append", tool=say(), arguments={say(): say()}, result=say(), conversationId=self.chat)
        self.vector = self.ask(
            "vectors.store", id=say(), text=say(), metadata=say.metadata(), embedding=OWN_VECTOR
        )["id"]
        self.ask("presets.put", name="Secret", content={say(): say()})
        self.ask("tools.put", name="secret", source=f"// {say()}\n")
        self.ask("mcpServers.put", name=say(), config={"command": say()})
        self.server = self.client.call("mcpServers.list")["items"][0]["name"]

    def delete(self) -> int:
        """All of it; answers how far the receipts reach."""
        client = self.client
        gone = [
            client.call("projects.delete", id=self.project, withContents=True),
            *(client.call("entities.delete", id=entity) for entity in self.entities),
            client.call("conversations.delete", id=self.chat),
            client.call("vectors.delete", id=self.vector),
            client.call("groups.delete", id=self.group),
            client.call("users.delete", id=self.user),
            client.call("toolLogs.prune", keep=0),
            client.call("presets.delete", name="Secret"),
            client.call("tools.delete", name="secret"),
            client.call("mcpServers.delete", name=self.server),
        ]
        return max(receipt["outboxSeq"] for receipt in gone)


STAYS = [("How warm is the greenhouse?", "Eighteen degrees."), ("Who waters the beans?", "Ada does, in the evening.")]


def write_what_stays(client: Client) -> int:
    session: int = client.call("sessions.create", externalId="kitchen")["id"]
    for question, answer in STAYS:
        client.call("episodes.create", sessionId=session, userMessage=question, aiResponse=answer, metadata={"n": 1})
    client.call("entities.upsert", name="Ada", type="person", notes="waters the beans")
    return session


def find_what_stays(client: Client, session: int) -> None:
    listed = client.call("episodes.list", sessionId=session)["items"]
    assert {(each["userMessage"], each["aiResponse"]) for each in listed} == set(STAYS)
    for mode in ("keyword", "semantic", "hybrid"):
        best = client.call("memory.search", query="who waters the beans", collections=["episodes"], mode=mode)["items"]
        assert best[0]["record"]["aiResponse"] == STAYS[1][1], mode
    assert client.call("entities.search", query="beans")["items"][0]["entity"]["name"] == "Ada"


def wait(client: Client, seq: int, **more: Any) -> dict[str, Any]:
    """On the receipts, as long as one call may wait."""
    waited: dict[str, Any] = client.call("outbox.wait", throughSeq=seq, timeoutMs=60_000, **more)
    assert waited["done"], waited
    return waited


def test_what_was_deleted_for_good_is_in_no_file(tmp_path: Path) -> None:
    data, words = tmp_path / "data", Words()
    with Daemon(data).start() as plain, Client(plain.socket_path, timeout_s=120) as client:
        session = write_what_stays(client)
        memory = Memory(client, words)
        memory.write()
        client.call("outbox.wait", timeoutMs=60_000)
        seq = memory.delete()
        wait(client, seq)
        with pytest.raises(RpcError, match="secureDelete"):
            client.call("outbox.wait", throughSeq=seq, erased=True)
        assert plain.terminate() == 0
    left = found_in(data, words)
    assert "nexus.db" in left, "nothing was left: what follows would hold of anything"
    assert any(path.startswith("index/") for path in left), left

    # What was deleted before the setting was on is wiped too; so both are looked for from here on.
    secure = Daemon(data, settings={"NEXUSD_STORAGE__SECURE_DELETE": "true"})
    with secure.start(), Client(secure.socket_path, timeout_s=120) as client:
        memory = Memory(client, words)
        memory.write()
        client.call("outbox.wait", timeoutMs=60_000)
        assert wait(client, memory.delete(), erased=True)["erased"] is True
        assert found_in(data, words) == {}
        find_what_stays(client, session)
        for method, params in memory.keyed:  # a call that is repeated is neither answered nor done again
            with pytest.raises(RpcError) as refused:
                client.call(method, params)
            assert (refused.value.kind, "erased" in refused.value.message) == ("conflict", True), method
        assert client.call("projects.list")["items"] == []
        assert secure.terminate() == 0
    assert found_in(data, words) == {}
    log = secure.log_path.read_text().lower()
    assert not any(word.lower() in log for word in words.made)

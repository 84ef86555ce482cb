"""A random walk over the whole daemon beside the model of what it should hold.

Owns the steps, what is compared after each of them, and the keys of calls that are sent again. Everything random
comes from one seed: the same walk again takes the same steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fakes.embedder import FakeEmbedder
from fakes.index import FakeIndex
from harness.expected_calls import ExpectedCalls
from harness.expected_rows import REFUSED_WORD
from harness.likeness import difference
from harness.random_calls import RandomCalls
from harness.refused import Refused
from harness.whole_daemon import Listener, WalkingClock, WholeDaemon, whole_daemon

from nexusd.embedding.embedder import RejectedText
from nexusd.wire.methods import Principal

Params = dict[str, Any]

DAY_MS = 86_400_000
PRINCIPALS = (Principal("uid:1000", "admin"), Principal("uid:2000", "admin"))

# How often each mutating method is called; the test holds that none is missing.
WEIGHTS = {
    "projects.create": 3, "projects.update": 2, "projects.delete": 2,
    "sessions.create": 9, "sessions.update": 4, "sessions.delete": 1,
    "episodes.create": 10, "episodes.createMany": 5, "episodes.update": 6, "episodes.delete": 2,
    "summaries.create": 6, "summaries.delete": 2,
    "entities.upsert": 8, "entities.upsertMany": 4, "entities.delete": 3,
    "relationships.upsert": 8, "relationships.upsertMany": 4, "relationships.delete": 2,
    "conversations.create": 7, "conversations.update": 4, "conversations.delete": 1,
    "messages.create": 8, "messages.createMany": 5, "messages.delete": 2,
    "users.set": 5, "users.delete": 1, "groups.create": 3, "groups.update": 2, "groups.delete": 1,
    "toolLogs.append": 10, "toolLogs.prune": 1,
    "vectors.store": 8, "vectors.storeMany": 4, "vectors.delete": 2,
    "semantic.upsert": 10, "semantic.delete": 6, "outbox.retry": 1,
    "index.reembed": 1, "index.forget": 1, "backup.create": 1, "backup.restore": 1,
    "presets.create": 2, "presets.update": 2, "presets.put": 3, "presets.delete": 2,
    "tools.put": 3, "tools.delete": 2, "mcpServers.put": 3, "mcpServers.delete": 2,
    "cache.set": 8, "cache.delete": 2, "cache.clear": 2,
    "imports.store": 8,
}  # fmt: skip
# The replies of these are secret, or go by them: tests/integration/test_tokens.py holds what they do.
NOT_WALKED = frozenset({"tokens.create", "tokens.revoke"})
# Steps beside the calls: what happens to a daemon.
HAPPENINGS = {
    "pass_time": 30, "drain": 12, "restart": 2, "edit_preset": 3, "edit_servers": 2, "pass_a_day": 1, "outage": 6,
    "burst": 5,
}  # fmt: skip

# What happens to these is told too, whoever calls.
WITH_EVENTS_OF_THEIR_OWN = {"outbox", "index", "backup"}

# Which rows' texts a method may change.
CHANGES_TEXTS = {"episodes.update": {"episodes"}, "entities.upsert": {"entities"}, "entities.upsertMany": {"entities"}}
# In the cache nothing is kept of a key: doing it twice is the same as once, see cache.* in `help`.
WITHOUT_RECEIPT = frozenset({"cache.set", "cache.delete", "cache.clear"})


class Refusing(FakeEmbedder):
    """An embedding model that never takes a text with a certain word."""

    def _vector(self, text: str, position: int) -> bytes:
        if REFUSED_WORD in text:
            raise RejectedText("the model refuses this word", position)
        return super()._vector(text, position)


@dataclass(frozen=True)
class Sent:
    """A call that was done under a key, and its reply."""

    method: str
    params: Params
    key: str
    principal: Principal
    reply: dict[str, Any]
    at_ms: int


class Walk:
    """One walk over a data directory."""

    def __init__(self, data: Path, seed: int, index: FakeIndex | None) -> None:
        self.chance = random.Random(seed)
        self.model = ExpectedCalls()
        self.calls = RandomCalls(self.chance, self.model)
        self.clock = WalkingClock()
        self.embedder = Refusing()
        self.done: list[str] = []
        self.sent: dict[tuple[str, str], Sent] = {}
        self.listener = Listener()
        self._data = data
        self._index = index
        self._running = contextlib.AsyncExitStack()
        self.daemon: WholeDaemon
        self.model.now = self.clock.now_ms()

    # ---- the daemon

    async def __aenter__(self) -> Walk:
        self.daemon = await self._running.enter_async_context(
            whole_daemon(self._data, embedder=self.embedder, clock=self.clock, index=self._index)
        )
        await self.daemon.ask("events.subscribe", {"topics": self._topics()}, client=self.listener)
        await asyncio.sleep(0)  # it listens from the next turn of the loop on
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._running.aclose()

    def _topics(self) -> list[str]:
        return sorted({method.partition(".")[0] for method in WEIGHTS} - WITH_EVENTS_OF_THEIR_OWN)

    async def restart(self) -> None:
        """Stop it, and start it on what it left behind."""
        await self._running.aclose()
        self.embedder = Refusing()
        if self.model.outage:
            self._outage(False)
            self.clock.advance(DAY_MS // 24)
        self._running = contextlib.AsyncExitStack()
        self.model.restart()
        await self.__aenter__()

    async def drain(self) -> None:
        """Wait until all is delivered; not while that cannot be."""
        if not self.model.outage:
            await self.daemon.drained()
            self.model.settle()

    # ---- steps

    async def step(self) -> None:
        """One call, or something that happens to a daemon."""
        steps = WEIGHTS | HAPPENINGS
        (name,) = self.chance.choices(list(steps), list(steps.values()))
        self.done.append(name)
        if name in HAPPENINGS:
            await getattr(self, name)()
            return
        if self.sent and self.chance.random() < 0.08:
            await self._send_again(self.chance.choice(list(self.sent.values())))
            return
        if name == "outbox.retry":
            await self.outage_ends()
            await self.drain()
        params = self.calls.params(name)
        if self.model.outage and {of for of, _ in self.model.own} & CHANGES_TEXTS.get(name, set()):
            return  # whether the new text was embedded, in place of a caller's vector, would be a matter of chance
        if self.chance.random() < 0.03:
            await self._send_spoilt(name, params)
            return
        key = f"key-{len(self.done)}" if self.chance.random() < 0.3 else None
        await self._call(name, params, key)

    async def _call(self, method: str, params: Params, key: str | None) -> None:
        principal = PRINCIPALS[0]
        given = params if key is None else {**params, "idempotencyKey": key}
        had_own = dict(self.model.own)
        heard = len(self.listener.events)
        reply = await self._ask(method, given, principal)
        if not self._compare(method, params, reply):
            assert self.listener.events[heard:] == [], "an event of what did not happen"
            return
        self._heard(method, reply["result"], heard)
        if key is not None and method not in WITHOUT_RECEIPT:
            sent = Sent(method, copy.deepcopy(params), key, principal, reply, self.clock.now_ms())
            self.sent[principal.name, key] = sent
        for imported in list(self.model.imported):
            row = await self.daemon.get("vectors.get", id=imported)
            self.model.learn(imported, row["rowId"])
        if any(text != self.model.text_of(point[0], self.model.tables[point[0]][point[1]])
               for point, (text, _) in had_own.items() if point[1] in self.model.tables[point[0]]):
            await self.drain()  # so that whose vector it is now is no matter of chance

    def _compare(self, method: str, params: Params, reply: dict[str, Any]) -> bool:
        """The reply is the one that was expected; whether it was a success."""
        wanted, kind = None, None
        try:
            wanted = self.model.expect(method, copy.deepcopy(params), copy.deepcopy(reply.get("result")))
        except Refused as refused:
            kind = refused.kind
        if kind is not None:
            assert "error" in reply, f"{method} {params} should be refused as {kind}: {reply}"
            assert reply["error"]["data"]["kind"] == kind, (method, params, reply)
            return False
        assert "result" in reply, f"{method} {params}: {reply}"
        found = difference(reply["result"], wanted)
        assert found is None, f"{method} {params}: {found}"
        return True

    def _heard(self, method: str, result: Any, heard: int) -> None:
        """Of every change there is one event, under its resource; of many items none of which was taken, none."""
        topic = method.partition(".")[0]
        if topic in WITH_EVENTS_OF_THEIR_OWN:
            return
        if method.endswith("Many") and all("error" in item for item in result["items"]):
            assert self.listener.events[heard:] == [], method
            return
        (event,) = self.listener.events[heard:]
        assert (event["topic"], event["data"]["method"]) == (topic, method), event
        if isinstance(result, dict) and "id" in result and topic not in {"semantic", "presets"}:
            assert event["data"]["id"] == result["id"], (event, result)

    async def _ask(self, method: str, params: Params, principal: Principal) -> dict[str, Any]:
        self.model.now = self.clock.now_ms()
        self.model.monotonic_s = self.clock.monotonic_s()
        return await self.daemon.ask(method, params, principal=principal)

    async def _send_again(self, sent: Sent) -> None:
        """The same call, another one under its key, or somebody else's."""
        heard = len(self.listener.events)
        old = self.clock.now_ms() - sent.at_ms >= DAY_MS
        if old:
            del self.sent[sent.principal.name, sent.key]
            return
        how = self.chance.choice(("same", "same", "other parameters", "other method"))
        if "waitFor" in sent.params and not self.calls.patient:
            return  # it would wait for a model that is away for as long as it may
        if how == "same":
            reply = await self._ask(sent.method, {**sent.params, "idempotencyKey": sent.key}, sent.principal)
            # what it waits for is seen as it is now
            kept, again = (_without_states(one["result"]) for one in (sent.reply, reply))
            assert kept == again, (sent, reply)
        else:
            method = sent.method if how == "other parameters" else "projects.create"
            params = {**sent.params, **_OTHER.get(method, {})} if how == "other parameters" else {"name": "of a key"}
            if method == sent.method and params == sent.params:
                return
            reply = await self._ask(method, {**params, "idempotencyKey": sent.key}, sent.principal)
            assert reply["error"]["data"]["kind"] == "idempotency_mismatch", (sent, method, params, reply)
        assert self.listener.events[heard:] == [], f"an event of a call that was only repeated: {sent.method}"

    async def _send_spoilt(self, method: str, params: Params) -> None:
        """What is wrong in itself is refused, whatever is there."""
        spoilt = self.chance.choice((
            {**params, "noSuchParameter": 1}, {**params, "idempotencyKey": ""}, {name: [[]] for name in params} or [{}],
        ))
        heard = len(self.listener.events)
        reply = await self._ask(method, spoilt, PRINCIPALS[0])
        assert reply["error"]["data"]["kind"] == "invalid_params", (method, spoilt, reply)
        assert self.listener.events[heard:] == []

    # ---- what happens to a daemon

    async def burst(self) -> None:
        """Many callers at once: what they wrote is one transaction, and each gets his own."""
        method = self.chance.choice(("episodes.create", "messages.create", "sessions.create"))
        calls = [self.calls.params(method) for _ in range(self.chance.randint(2, 12))]
        replies = await asyncio.gather(*(self._ask(method, params, PRINCIPALS[0]) for params in calls))
        # by the ids that they were given they came one after the other
        given = sorted(zip(calls, replies, strict=True), key=lambda one: one[1].get("result", {}).get("id", 0))
        for params, reply in given:
            self._compare(method, params, reply)

    async def outage(self) -> None:
        """The embedding model goes away, or keeps a batch waiting; or all is well again. Nothing else waits for it."""
        if self.model.outage:
            await self.outage_ends()
            return
        await self.drain()
        self._outage(True)
        if self.chance.random() < 0.6:
            self.embedder.unavailable = ""
            self.embedder.gate = asyncio.Event()

    async def outage_ends(self) -> None:
        """It is back, and all that waited is delivered."""
        if self.model.outage:
            self._outage(False)
            self.clock.advance(DAY_MS // 24)    # past every pause
            self.daemon.worker.wake()
            await self.drain()

    def _outage(self, away: bool) -> None:
        self.model.outage = away
        self.calls.patient = not away
        self.embedder.unavailable = "away" if away else ""
        if self.embedder.gate is not None:
            self.embedder.gate.set()
            self.embedder.gate = None

    async def pass_time(self) -> None:
        """A moment, a minute, or an hour."""
        self.clock.advance(self.chance.choice((1, 1, 1, 7, 2_000, 61_000, 3_600_000)))

    async def pass_a_day(self) -> None:
        """Keys are forgotten: under each of them a call is a new one."""
        self.clock.advance(DAY_MS)

    async def edit_preset(self) -> None:
        """A person writes, breaks or removes the file of a preset."""
        self.model.now = self.clock.now_ms()
        name = self.chance.choice(("Chef", "by hand"))
        path = self._data / "presets" / f"{name}.yaml"
        match self.chance.choice(("write", "break", "remove")):
            case "write":
                content = self.chance.choice(({"edited": True}, {"edited": {"by": "hand", "n": 1}}))
                path.write_text(json.dumps(content))
                await self.daemon.files.scan()
                told = (await self.daemon.get("presets.get", name=name))["id"]
                self.model.preset_seen(name, content, told)
            case "break":
                path.write_text("a: [1")
                await self.daemon.files.scan()
                self.model.preset_files[name] = None
            case "remove":
                path.unlink(missing_ok=True)
                await self.daemon.files.scan()
                self.model.preset_files.pop(name, None)
                self.model.drop("presets", self.model.of("presets", name=name))

    async def edit_servers(self) -> None:
        """A person breaks mcp-servers.json, or mends it."""
        path = self._data / "mcp-servers.json"
        self.model.servers_broken = not self.model.servers_broken
        if self.model.servers_broken:
            path.write_text('{"mcpServers": {')
        else:
            self.model.servers = {"mended": {"url": "http://localhost"}}
            path.write_text(json.dumps({"mcpServers": self.model.servers}))
        await self.daemon.files.scan()


# What makes another call of one; where nothing is said, the same parameters are another call under another method.
_OTHER: dict[str, Params] = {
    "projects.create": {"name": "another"}, "sessions.create": {"externalId": "another's"},
    "episodes.create": {"userMessage": "another"}, "messages.create": {"content": "another"},
    "entities.upsert": {"notes": "others"}, "vectors.store": {"text": "another"}, "toolLogs.append": {"tool": "other"},
    "users.set": {"settings": {"other": 1}}, "conversations.create": {"title": "another"},
    "presets.put": {"content": {"other": 1}}, "tools.put": {"source": "other"},
    "summaries.create": {"content": "other"}, "mcpServers.put": {"config": {"command": "other"}},
    "semantic.delete": {"id": 1_000_000},
}  # fmt: skip


def _without_states(result: Any) -> Any:
    """A reply but for what it says of vectors, which goes on after it was kept."""
    if isinstance(result, dict):
        return {name: _without_states(value) for name, value in result.items() if name != "vector"}
    return [_without_states(one) for one in result] if isinstance(result, list) else result



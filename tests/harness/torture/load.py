"""A mixed load: several clients that create, change and remove, one by one and many at once, and try again.

Owns which change comes next, and the connections: each reply goes into the ledger the moment it arrives.
"""

from __future__ import annotations

import contextlib
import json
import random
import selectors
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.torture.ledger import Change, Ledger, Thing

CLIENTS = 4
PIPELINED = 3
DIMENSION = 32
WORDS = ("tea", "rain", "bread", "violin", "letter", "lamp", "garden", "stairs", "kettle", "boiler")
# What no change of this load deserves.
NEVER = frozenset({"?", "invalid_params", "internal", "not_found", "conflict", "idempotency_mismatch", "forbidden"})
# How often what is done.
WEIGHTS = {
    "say": 8, "say_many": 2, "correct": 4, "take_back": 2, "chat": 3, "chat_many": 1, "unsay": 1, "learn": 2,
    "relearn": 2, "unlearn": 1, "keep": 2, "keep_anew": 2, "throw_away": 1, "sum_up": 1, "meet": 1, "part": 0.3,
}  # fmt: skip


class Changes:
    """What a household does to its memory; everything has a tag of its own."""

    def __init__(self, ledger: Ledger, chance: random.Random, name: str) -> None:
        self.spices: tuple[str, ...] = ()  # words in some of the texts: what an embedder is to stumble over
        self._ledger = ledger
        self._chance = chance
        self._name = name
        self._count = 0
        self.conversation = 0

    def next(self) -> Change:
        """One that is possible now."""
        while True:
            (what,) = self._chance.choices(list(WEIGHTS), list(WEIGHTS.values()))
            change: Change | None = getattr(self, what)()
            if change is not None:
                return change

    def _tag(self) -> str:
        self._count += 1
        return f"{self._name}-{self._count}"

    def _words(self) -> str:
        spices = [word for word in self.spices if self._chance.random() < 0.1]
        return " ".join([*self._chance.choices(WORDS, k=4), *spices])

    def _change(self, method: str, params: dict[str, Any], *effects: tuple[Thing, Any]) -> Change:
        key = f"key {self._tag()}" if self._chance.random() < 0.6 else None
        return Change(method, params, key, list(effects))

    def _one(self, table: str) -> Thing | None:
        things = self._ledger.alive(table)
        return self._chance.choice(things) if things else None

    def _deletion(self, table: str) -> Change | None:
        thing = self._one(table)
        if thing is None:
            return None
        return self._change(f"{table}.delete", {"id": thing.tag if table == "vectors" else thing.id}, (thing, None))

    # ---- sessions and what was said in them

    def meet(self) -> Change:
        tag = self._tag()
        return self._change("sessions.create", {"externalId": tag}, (self._ledger.new("sessions", tag), ("", 1)))

    def part(self) -> Change | None:
        """A session goes, with all that was said in it."""
        if len(self._ledger.alive("sessions")) < 3 or (session := self._one("sessions")) is None:
            return None
        children = self._ledger.children(session)
        if any(child.busy or len(child.possible) > 1 for child in children):
            return None
        gone = [(thing, None) for thing in (session, *children)]
        return self._change("sessions.delete", {"id": session.id}, *gone)

    def _exchange(self) -> tuple[dict[str, Any], tuple[Thing, Any]] | None:
        session = self._one("sessions")
        if session is None:
            return None
        tag, answer = self._tag(), self._words()
        thing = self._ledger.new("episodes", tag, session)
        return {"sessionId": session.id, "userMessage": f"{tag} {self._words()}", "aiResponse": answer}, (
            thing, (answer, 1)
        )  # fmt: skip

    def say(self) -> Change | None:
        made = self._exchange()
        return None if made is None else self._change("episodes.create", made[0], made[1])

    def say_many(self) -> Change | None:
        if not self._ledger.alive("sessions"):
            return None
        made = [one for _ in range(self._chance.randint(2, 9)) if (one := self._exchange()) is not None]
        return self._change("episodes.createMany", {"items": [item for item, _ in made]}, *(one for _, one in made))

    def correct(self) -> Change | None:
        thing = self._one("episodes")
        if thing is None or thing.state is None:
            return None
        answer = f"{self._tag()} {self._words()}"
        return self._change(
            "episodes.update", {"id": thing.id, "aiResponse": answer}, (thing, (answer, thing.state[1] + 1))
        )

    def take_back(self) -> Change | None:
        return self._deletion("episodes")

    def sum_up(self) -> Change | None:
        session = self._one("sessions")
        if session is None:
            return None
        tag = self._tag()
        thing = self._ledger.new("summaries", tag, session)
        return self._change("summaries.create", {"sessionId": session.id, "content": f"{tag} {self._words()}"},
                            (thing, ("", 1)))

    # ---- messages

    def _message(self) -> tuple[dict[str, Any], tuple[Thing, Any]]:
        tag = self._tag()
        thing = self._ledger.new("messages", tag)
        return {"conversationId": self.conversation, "role": "user", "content": f"{tag} {self._words()}"}, (
            thing, ("", 1)
        )  # fmt: skip

    def chat(self) -> Change:
        made = self._message()
        return self._change("messages.create", made[0], made[1])

    def chat_many(self) -> Change:
        made = [self._message() for _ in range(self._chance.randint(2, 9))]
        return self._change("messages.createMany", {"items": [item for item, _ in made]}, *(one for _, one in made))

    def unsay(self) -> Change | None:
        return self._deletion("messages")

    # ---- entities

    def learn(self) -> Change:
        tag, notes = self._tag(), self._words()
        thing = self._ledger.new("entities", tag)
        return self._change("entities.upsert", {"name": tag, "type": "thing", "notes": notes}, (thing, (notes, 1)))

    def relearn(self) -> Change | None:
        thing = self._one("entities")
        if thing is None or thing.state is None:
            return None
        notes = f"{self._tag()} {self._words()}"
        return self._change("entities.upsert", {"name": thing.tag, "type": "thing", "notes": notes},
                            (thing, (notes, thing.state[1] + 1)))

    def unlearn(self) -> Change | None:
        return self._deletion("entities")

    # ---- texts under the caller's own ids, some with the caller's own vectors

    def _text(self, thing: Thing, version: int) -> Change:
        text = f"{self._tag()} {self._words()}"
        params: dict[str, Any] = {"id": thing.tag, "text": text}
        if self._chance.random() < 0.5:
            params["embedding"] = [round(self._chance.uniform(-1, 1), 3) for _ in range(DIMENSION)]
        return self._change("vectors.store", params, (thing, (text, version)))

    def keep(self) -> Change:
        return self._text(self._ledger.new("vectors", self._tag()), 1)

    def keep_anew(self) -> Change | None:
        thing = self._one("vectors")
        return None if thing is None or thing.state is None else self._text(thing, thing.state[1] + 1)

    def throw_away(self) -> Change | None:
        return self._deletion("vectors")


class Load:
    """The clients while one daemon runs: they keep it busy, and write down what it acknowledges."""

    def __init__(self, socket_path: Path, ledger: Ledger, changes: Changes) -> None:
        self._path = socket_path
        self._ledger = ledger
        self._changes = changes
        self._selector = selectors.DefaultSelector()
        self._connections: list[socket.socket] = []
        self._buffers: dict[socket.socket, bytearray] = {}
        self._under_way: dict[int, tuple[socket.socket, Change]] = {}
        self._serial = 0
        self.acknowledged = 0
        self.refusals: list[str] = []
        self.ended = False  # the daemon hung up
        self.faulty = False  # the disk is gone: an error that nobody foresaw is no wonder
        self.too_late = False  # the power is gone: what is still acknowledged nobody would have heard

    def __enter__(self) -> Load:
        for _ in range(CLIENTS):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(self._path))
            connection.setblocking(False)
            self._connections.append(connection)
            self._buffers[connection] = bytearray()
            self._selector.register(connection, selectors.EVENT_READ)
        for connection in self._connections:
            for _ in range(PIPELINED):
                self._send(connection)
        return self

    def __exit__(self, *_: object) -> None:
        """What is still unanswered now is in doubt."""
        for _, change in self._under_way.values():
            self._ledger.doubt(change)
        self._under_way.clear()
        self._selector.close()
        for connection in self._connections:
            connection.close()

    def pump(self, until: Callable[[], bool], *, seconds: float = 30.0, refill: bool = True) -> bool:
        """Go on until this is so, the daemon hangs up, or the time is over; whether it was so."""
        ends_s = time.monotonic() + seconds
        while not until():
            if self.ended or time.monotonic() > ends_s:
                return False
            for key, _ in self._selector.select(timeout=0.05):
                self._receive(key.fileobj, refill=refill)  # type: ignore[arg-type]
        return True

    def hear_out(self, seconds: float = 10.0) -> None:
        """What was acknowledged before the end counts too: read until the streams end."""
        ends_s = time.monotonic() + seconds
        while self._selector.get_map() and time.monotonic() < ends_s:
            for key, _ in self._selector.select(timeout=0.5):
                self._receive(key.fileobj, refill=False)  # type: ignore[arg-type]
        if self._selector.get_map():
            raise AssertionError("the daemon is gone and its streams do not end")

    def _send(self, connection: socket.socket) -> None:
        change = self._changes.next()
        self._serial += 1
        params = change.params if change.key is None else {**change.params, "idempotencyKey": change.key}
        body = {"jsonrpc": "2.0", "id": self._serial, "method": change.method, "params": params}
        self._ledger.send(change)
        self._under_way[self._serial] = (connection, change)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, BlockingIOError):  # then it stays in doubt
            connection.sendall(json.dumps(body).encode() + b"\n")

    def _receive(self, connection: socket.socket, *, refill: bool) -> None:
        try:
            data = connection.recv(262_144)
        except ConnectionResetError:  # what it had not read yet when it died resets the rest
            data = b""
        if not data:
            self._selector.unregister(connection)
            self.ended = True
            return
        buffer = self._buffers[connection]
        buffer += data
        *lines, rest = bytes(buffer).split(b"\n")
        buffer[:] = rest
        for line in lines:
            self._answered(json.loads(line))
            if refill and not self.ended:
                self._send(connection)

    def _answered(self, reply: dict[str, Any]) -> None:
        _, change = self._under_way.pop(reply["id"])
        if "result" in reply:
            if self.too_late:
                self._ledger.doubt(change)
                return
            self.acknowledged += 1
            self._ledger.acknowledge(change, reply["result"])
            return
        kind = reply["error"].get("data", {}).get("kind", "?")
        self.refusals.append(kind)
        if kind == "outcome_unknown" or (kind == "internal" and self.faulty):
            self._ledger.doubt(change)
        else:
            self._ledger.refuse(change)
        if kind in NEVER and not (kind == "internal" and self.faulty):
            raise AssertionError(f"{change.method} {change.params} is refused: {reply['error']}")

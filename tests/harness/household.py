"""A household that talks to the daemon: seeded writes, changes and deletes of every kind that the index holds."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

from nexusd.store.indexed import TABLES

Call = Callable[..., Any]
MANY = 500  # of one createMany
THINGS = ("kettle", "boiler", "greenhouse", "violin", "bicycle", "letter", "lamp", "stairs", "garden", "piano")


class Household:
    """`call(method, **params)` is how it speaks. `took_s` has how long it waited for each write."""

    def __init__(self, call: Call, *, seed: int = 1, owner: str = "") -> None:
        """`owner` begins the names of its things, where several households share a daemon."""
        self.chance = random.Random(seed)
        self.took_s: list[float] = []
        self.last = ""  # a word that only the exchange written last has
        self._call = call
        self._owner = owner
        self._held: dict[str, list[Any]] = {name: [] for name in TABLES}
        self._session = self._write("sessions.create", externalId=f"hall-{seed}")["id"]
        self._conversation = self._write("conversations.create", title="hall")["id"]

    def live(self, times: int) -> None:
        """So many writes; a third of them change or remove what is there."""
        for _ in range(times):
            what = self.chance.choices(
                (self.say, self._correct, self._forget, self._know, self._chat, self._sum_up, self._keep),
                weights=(8, 3, 2, 3, 2, 1, 2),
            )[0]
            what()

    def say(self) -> str:
        """One exchange; the word that only it has."""
        self._held["episodes"].append(self._write("episodes.create", **self._exchange())["id"])
        return self.last

    def say_many(self, count: int, words: int = 1) -> None:
        """So many exchanges in a burst, with answers of so many words."""
        answer = "noted" if words == 1 else " ".join(self.chance.choices(THINGS, k=words))
        for start in range(0, count, MANY):
            items = [{**self._exchange(), "aiResponse": answer} for _ in range(min(MANY, count - start))]
            made = self._write("episodes.createMany", items=items)["items"]
            self._held["episodes"] += [row["id"] for row in made]

    def _write(self, method: str, **params: Any) -> Any:
        began_s = time.monotonic()
        result = self._call(method, **params)
        self.took_s.append(time.monotonic() - began_s)
        return result

    def _words(self) -> str:
        return " ".join(self.chance.choices(THINGS, k=6))

    def _exchange(self) -> dict[str, Any]:
        self.last = f"w{self.chance.randrange(16**8):08x}"
        return {"sessionId": self._session, "userMessage": f"{self.last} {self._words()}", "aiResponse": "noted"}

    def _taken(self, collection: str) -> Any:
        """Anything of it, which is held no more; None where there is nothing."""
        held = self._held[collection]
        return held.pop(self.chance.randrange(len(held))) if held else None

    def _correct(self) -> None:
        if held := self._held["episodes"]:
            self._write("episodes.update", id=self.chance.choice(held), aiResponse=self._words())

    def _forget(self) -> None:
        collection = self.chance.choice(list(TABLES))
        if (id_ := self._taken(collection)) is not None:
            self._write(f"{collection}.delete", id=id_)

    def _know(self) -> None:
        name = f"{self._owner}{self.chance.choice(THINGS)} {self.chance.randrange(40)}"
        made = self._write("entities.upsert", name=name, type="thing", notes=self._words())
        if made["created"]:
            self._held["entities"].append(made["id"])

    def _chat(self) -> None:
        made = self._write("messages.create", conversationId=self._conversation, role="user", content=self._words())
        self._held["messages"].append(made["id"])

    def _sum_up(self) -> None:
        made = self._write("summaries.create", sessionId=self._session, content=self._words())
        self._held["summaries"].append(made["id"])

    def _keep(self) -> None:
        key = f"{self._owner}note {self.chance.randrange(40)}"
        self._write("vectors.store", id=key, text=self._words())
        if key not in self._held["vectors"]:
            self._held["vectors"].append(key)


def select(database: Path, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    """The rows of a query of a database that another process has open."""
    db = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return list(db.execute(sql, values))
    finally:
        db.close()


def row_versions(database: Path) -> dict[str, dict[int, int]]:
    """What the index is to hold, by the rows of a database that another process has open: versions by id."""
    wanted = "SELECT id, version FROM {} WHERE id NOT IN (SELECT row_id FROM unindexed WHERE collection = ?)"
    return {name: dict(select(database, wanted.format(table), name)) for name, table in TABLES.items()}

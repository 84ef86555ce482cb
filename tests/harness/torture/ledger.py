"""What was sent and what was acknowledged, kept where no fault of the daemon's reaches it.

Owns, for everything that was ever written, which states it may be in now: one after an acknowledgement, two while the
outcome of a change is not known. Everything carries a tag that is used once, so a row tells which change made it, and
two rows with one tag tell that it was made twice. Knows no socket and no SQL.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

State = tuple[str, int] | None  # what it says and its version; None: there is no such row
Rows = dict[tuple[str, str], list[tuple[int, State]]]  # by table and tag: id and state


@dataclass
class Thing:
    """One row, before, while and after it is there."""

    table: str
    tag: str
    possible: set[State] = field(default_factory=lambda: {None})
    id: int | None = None
    parent: Thing | None = None
    busy: bool = False  # a change is under way: another one would not know what it changes

    @property
    def state(self) -> State:
        """The state of what is not in doubt."""
        (state,) = self.possible
        return state

    @property
    def alive(self) -> bool:
        """Whether it can be changed: it is there for certain, and nothing is under way."""
        return not self.busy and len(self.possible) == 1 and self.state is not None and self.id is not None


@dataclass
class Change:
    """One call that changes things: each with the states it may have been in, and the one that it is to have."""

    method: str
    params: dict[str, Any]
    key: str | None
    effects: list[tuple[Thing, State]]
    before: list[set[State]] = field(default_factory=list)
    reply: Any = None

    def sent(self) -> None:
        """It is on its way: from now on it may have been done, or not."""
        self.before = [set(thing.possible) for thing, _ in self.effects]
        for thing, after in self.effects:
            thing.possible = thing.possible | {after}
            thing.busy = True

    def acknowledged(self, result: Any) -> None:
        """It was done, all of it but the items that were refused."""
        items = result["items"] if self.method.endswith("Many") else [result] * len(self.effects)
        for (thing, after), before, item in zip(self.effects, self.before, items, strict=True):
            thing.busy = False
            thing.possible = {after} if "error" not in item else before
            if thing.id is None and after is not None:
                thing.id = item.get("rowId", item.get("id"))
        self.reply = result

    def refused(self) -> None:
        """Nothing was done; of more than one thing it may have been begun."""
        for (thing, _), before in zip(self.effects, self.before, strict=True):
            thing.busy = False
            if len(self.effects) == 1:
                thing.possible = before

    def forgotten(self) -> None:
        """Nobody knows whether it was done."""
        for thing, _ in self.effects:
            thing.busy = False


@dataclass
class Findings:
    """What a comparison of ledger and rows found."""

    lost: list[str] = field(default_factory=list)  # acknowledged, and not there
    wrong: list[str] = field(default_factory=list)  # there, and never sent; or done twice

    def __bool__(self) -> bool:
        return bool(self.lost or self.wrong)


class Ledger:
    """Everything that was written to one data directory."""

    def __init__(self) -> None:
        self.things: dict[tuple[str, str], Thing] = {}
        self.counts: Counter[str] = Counter()  # changes: sent, acknowledged, stored, refused
        self.unknown: list[Change] = []  # their outcomes will show
        self.repeatable: list[Change] = []  # acknowledged under a key: sent again they must change nothing
        self._alive: dict[str, list[Thing]] = {}

    def new(self, table: str, tag: str, parent: Thing | None = None) -> Thing:
        """A thing that is not there yet."""
        thing = self.things[table, tag] = Thing(table, tag, parent=parent)
        self._alive.setdefault(table, []).append(thing)
        return thing

    def alive(self, table: str) -> list[Thing]:
        """What can be changed."""
        kept = self._alive[table] = [
            thing for thing in self._alive.get(table, []) if thing.busy or thing.possible != {None}
        ]
        return [thing for thing in kept if thing.alive]

    def children(self, parent: Thing) -> list[Thing]:
        """What goes with it when it goes."""
        return [thing for table in ("episodes", "summaries") for thing in self._alive.get(table, [])
                if thing.parent is parent and (thing.busy or thing.possible != {None})]

    # ---- what became of changes

    def send(self, change: Change) -> None:
        """It is on its way."""
        self.counts["sent"] += 1
        change.sent()

    def acknowledge(self, change: Change, result: Any) -> None:
        """It was done."""
        self.counts["acknowledged"] += 1
        self.counts["stored"] += 1
        change.acknowledged(result)
        if change.key is not None:
            self.repeatable.append(change)

    def refuse(self, change: Change) -> None:
        """It was not done."""
        self.counts["refused"] += 1
        change.refused()

    def doubt(self, change: Change) -> None:
        """Nobody knows."""
        change.forgotten()
        self.unknown.append(change)

    # ---- against what is there

    def compare(self, rows: Rows) -> Findings:
        """Whether acknowledged is in stored, and stored in sent. What was in doubt is known afterwards."""
        found = Findings()
        for place, there in rows.items():
            thing = self.things.get(place)
            if thing is None:
                found.wrong.append(f"{place} was never sent")
            elif len(there) > 1:
                found.wrong.append(f"{place} is there {len(there)} times: {there}")
            elif thing.id is not None and thing.id != there[0][0]:
                found.wrong.append(f"{place} was acknowledged with the id {thing.id}: {there}")
        for place, thing in self.things.items():
            id_, state = rows.get(place, [(None, None)])[0]
            if state not in thing.possible:
                certain = len(thing.possible) == 1
                (found.lost if certain else found.wrong).append(f"{place} is {state}, not one of {thing.possible}")
            thing.possible = {state}
            thing.id = id_ if id_ is not None else thing.id
        self._settle()
        return found

    def _settle(self) -> None:
        for change in self.unknown:
            done = all(thing.possible == {after} for thing, after in change.effects)
            self.counts["stored"] += done
        self._alive = {}
        for thing in self.things.values():
            if thing.possible != {None}:
                self._alive.setdefault(thing.table, []).append(thing)

    def points(self, collections: Iterable[str]) -> dict[str, dict[int, int]]:
        """What of these is there by what is known: versions by id."""
        wanted: dict[str, dict[int, int]] = {name: {} for name in collections}
        for thing in self.things.values():
            if thing.table in wanted and thing.state is not None and thing.id is not None:
                wanted[thing.table][thing.id] = thing.state[1]
        return wanted

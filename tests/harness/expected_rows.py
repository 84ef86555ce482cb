"""What the daemon should hold, as plain dictionaries: the rows, and what goes or changes with them.

Written from what the daemon promises, not from how it does it: nothing of it is imported here but the texts that
the index is said to hold. Records are those of the wire, without `vector`, which follows from the rest.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

from harness.likeness import Anything, either

Record = dict[str, Any]
Point = tuple[str, int]     # a collection, and the id of a row

INDEXED = ("episodes", "entities", "summaries", "messages", "vectors")
TABLES = (
    "projects", "sessions", *INDEXED, "relationships", "conversations", "users", "groups", "presets", "toolLogs",
)  # fmt: skip
# The index refuses this, wherever it stands alone; see `Rows.refused`.
REFUSED_WORD = "unspeakable"


def roots(text: str) -> set[str]:
    """The words of a text as a search finds them: without case, accents and the plural."""
    bare = "".join(one for one in unicodedata.normalize("NFD", text.lower()) if not unicodedata.combining(one))
    words = "".join(one if one.isalnum() else " " for one in bare).split()
    return {word.removesuffix("s") for word in words}


def as_json(value: Any) -> str:
    """A value so that equal texts are equal values: to Python, 1 and true are equal."""
    return json.dumps(value, sort_keys=True)


class Rows:
    """All rows, by table and id."""

    def __init__(self) -> None:
        self.now = 0
        self.tables: dict[str, dict[Any, Record]] = {name: {} for name in TABLES}
        self.last_id: dict[str, int] = dict.fromkeys(TABLES, 0)
        self.gone: dict[str, set[int]] = {name: set() for name in TABLES}
        self.runs: dict[int, tuple[tuple[int, int], tuple[int, int]]] = {}  # of summaries: the places of both ends
        self.embeddings: dict[int, list[float] | None] = {}     # of the vectors: the caller's own
        self.out: set[Point] = set()                # taken out of the index on purpose
        self.own: dict[Point, tuple[str, list[float]]] = {}     # the caller's vector, and the text that it is for
        self.unsettled: set[Point] = set()          # what changed since everything was known to be delivered

    def __getattr__(self, name: str) -> dict[Any, Record]:
        tables: dict[str, dict[Any, Record]] = self.__dict__.get("tables", {})
        if name not in tables:
            raise AttributeError(name)
        return tables[name]

    # ---- ids

    def take_id(self, table: str, told: Any) -> int:
        """The id that a new row was given, if it is one that was never used."""
        assert type(told) is int, f"no new row of {table}: {told!r}"
        assert told > self.last_id[table], f"the id {told} of {table} was used before"
        self.last_id[table] = told
        return told

    def of(self, table: str, **fields: Any) -> list[Record]:
        """The rows with these values."""
        return [row for row in self.tables[table].values() if all(row[name] == value for name, value in fields.items())]

    # ---- changes

    def put(self, table: str, row: Record) -> Record:
        """A new row."""
        self.tables[table][row["id"]] = row
        if table in INDEXED:
            row["version"] = 1
            self.unsettled.add((table, row["id"]))
        return row

    def change(self, table: str, row: Record, **fields: Any) -> bool:
        """Change what is given; whether that was anything. What changes nothing leaves version and time as they are."""
        if all(as_json(row[name]) == as_json(value) for name, value in fields.items()):
            return False
        row.update(fields, updatedAt=self.now)
        if table in INDEXED:
            self.count_up(table, row)
        return True

    def count_up(self, table: str, row: Record) -> None:
        """The row is another one now, for the index too, whatever it was told of it before."""
        row["version"] += 1
        self.out.discard((table, self.row_id(table, row)))
        self.unsettled.add((table, self.row_id(table, row)))

    @staticmethod
    def row_id(table: str, row: Record) -> int:
        """The number under which the index knows a row."""
        found: int = row["rowId" if table == "vectors" else "id"]
        return found

    def drop(self, table: str, rows: Iterable[Record]) -> int:
        """Rows go; how many."""
        count = 0
        for row in list(rows):
            del self.tables[table][row["id"]]
            if isinstance(row["id"], int):
                self.gone[table].add(row["id"])
            if table in INDEXED:
                point = (table, self.row_id(table, row))
                self.out.discard(point)
                self.own.pop(point, None)
                self.unsettled.discard(point)
            count += 1
        return count

    def move_session(self, session: Record, project_id: int | None) -> int:
        """A session belongs to another project, which its points carry; how many points that are."""
        session["projectId"] = project_id
        moved = 0
        for table in ("episodes", "summaries"):
            for row in self.of(table, sessionId=session["id"]):
                self.count_up(table, row)
                moved += 1
        return moved

    # ---- what the index should hold

    def text_of(self, table: str, row: Record) -> str:
        """What is embedded of a row."""
        match table:
            case "episodes":
                return f"User: {row['userMessage']}\nAssistant: {row['aiResponse']}"
            case "entities":
                heading = f"{row['name']} ({row['type']})"
                return f"{heading}\n{row['notes']}" if row["notes"] else heading
            case "messages":
                return f"{row['role']}: {row['content']}" if row["content"].strip() else ""
            case "summaries":
                return str(row["content"])
        return str(row["text"])

    @staticmethod
    def refused(text: str) -> bool:
        """Whether the embedding model of the test refuses a text: see `Refusing`."""
        return REFUSED_WORD in text

    def state(self, table: str, row: Record) -> str:
        """The state of a row's vector when all is delivered."""
        point, text = (table, self.row_id(table, row)), self.text_of(table, row)
        if point in self.out:
            return "none"
        if self.own_vector(table, row) is not None:
            return "indexed"
        if not text.strip():
            return "none"
        return "dead" if self.refused(text) else "indexed"

    def own_vector(self, table: str, row: Record) -> list[float] | None:
        """The caller's own vector of a row as it is now."""
        if table == "vectors":
            return self.embeddings[row["rowId"]]
        text, vector = self.own.get((table, row["id"]), ("", None))
        return vector if text == self.text_of(table, row) else None

    def settle(self) -> None:
        """Everything was delivered. A new text was embedded, and its vector is kept in place of the caller's."""
        self.unsettled.clear()
        for (table, row_id), (text, _) in list(self.own.items()):
            row = self.tables[table][row_id]
            if text != self.text_of(table, row) and self.state(table, row) == "indexed":
                del self.own[table, row_id]

    def shown(self, table: str, row: Record, *, waited: bool = False) -> Record:
        """The row as it is answered."""
        if table not in INDEXED:
            return dict(row)
        state = self.state(table, row)
        settled = waited or (table, self.row_id(table, row)) not in self.unsettled
        return {**row, "vector": state if settled else either("pending", state)}

    def points(self, table: str) -> dict[int, int]:
        """The versions of the rows that the index should hold, by id."""
        rows = self.tables[table].values()
        return {self.row_id(table, row): row["version"] for row in rows if self.state(table, row) == "indexed"}

    def dead(self) -> list[Point]:
        """The rows that the index never takes."""
        return [
            (table, self.row_id(table, row))
            for table in INDEXED for row in self.tables[table].values() if self.state(table, row) == "dead"
        ]  # fmt: skip

    # ---- what is read of them

    def holding(self, table: str, word: str) -> set[int]:
        """The ids of the rows whose texts hold a word."""
        return {row["id"] for row in self.tables[table].values() if word in self.words_of(table, row)}

    @staticmethod
    def words_of(table: str, row: Record) -> set[str]:
        """What a search by words knows of a row."""
        fields = {
            "episodes": ("userMessage", "aiResponse"), "entities": ("name", "type", "notes"),
            "summaries": ("content",), "messages": ("content",),
        }[table]  # fmt: skip
        return set().union(*(roots(row[field] or "") for field in fields))

    def uncovered(self, session_id: int) -> list[Record]:
        """A session's exchanges that no summary covers, in their order."""
        runs = [self.runs[row["id"]] for row in self.of("summaries", sessionId=session_id) if row["id"] in self.runs]
        mine = by_time(self.of("episodes", sessionId=session_id))
        return [row for row in mine if not any(first <= place(row) <= last for first, last in runs)]

    def neighbourhood(self, start: int, depth: int, direction: str, labels: list[str] | None) -> Record:
        """Breadth first: each entity by the relationship with the smallest id that leads to it from one step nearer."""
        links = [row for row in self.relationships.values() if labels is None or row["label"] in labels]
        reached: dict[int, tuple[int, int | None]] = {start: (0, None)}
        for step in range(1, depth + 1):
            found: dict[int, int] = {}
            frontier = {one for one, (of, _) in reached.items() if of == step - 1}
            for link in links:
                for here, there in _ways(link, direction):
                    if here in frontier and there not in reached:
                        found[there] = min(link["id"], found.get(there, link["id"]))
            reached.update({one: (step, found[one]) for one in found})
        order = sorted(reached, key=lambda one: (reached[one][0], one))
        return {
            "nodes": [
                {"entity": self.shown("entities", self.entities[one]), "depth": reached[one][0], "via": reached[one][1]}
                for one in order
            ],
            "edges": [dict(row) for row in links if row["fromId"] in reached and row["toId"] in reached],
            "truncated": False,
        }


def _ways(link: Record, direction: str) -> Iterator[tuple[int, int]]:
    if direction in {"out", "both"}:
        yield link["fromId"], link["toId"]
    if direction in {"in", "both"}:
        yield link["toId"], link["fromId"]


def place(row: Record) -> tuple[int, int]:
    """Where a row stands in time; of two at the same moment the one that came later has the larger id."""
    return row["createdAt"], row["id"]


def by_time(rows: Iterable[Record], *, newest: bool = False, field: str = "createdAt") -> list[Record]:
    """In the order of time."""
    return sorted(rows, key=lambda row: (row[field], row["id"]), reverse=newest)


ANYTHING = Anything()

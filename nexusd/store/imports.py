"""Rows that come from another store.

Owns how a row is recognised as one that is here already, and when it keeps its id. A row is looked for by what it
says, not by where it came from: the same file read twice, moved, or grown since adds only what is new. Knows no
file.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import apsw
import msgspec

from nexusd.errors import Conflict, RowNotFound, RpcError
from nexusd.model.fields import Params
from nexusd.model.imports import ComparedRow, ImportedRow, ImportRow, ImportTable, LastIds, Rule
from nexusd.store.connection import Connection, is_foreign_key
from nexusd.store.embeddings import replace_vector
from nexusd.store.import_targets import TARGETS, Target, Values
from nexusd.store.same_json import same_json
from nexusd.store.values import in_powers_of_two, placeholders

# An id past this is not kept: the ids after it would soon be more than a JavaScript client can tell apart.
LARGEST_KEPT_ID = 2**48
JSON_COLUMNS = frozenset({"metadata", "settings", "config", "arguments", "result"})

# the largest id that a table ever used
SELECT_LAST_ID = "SELECT seq FROM sqlite_sequence WHERE name = ?"

# more rows; one alone has its id or the next one
INSERT_ROWS = 'INSERT INTO "{table}" ({columns}) VALUES {rows}'

# the row that there can be one of
FIND_ONE = 'SELECT "{key}" FROM "{table}" WHERE {condition}'

# how many rows there are in one place, from an index alone
COUNT_GROUP = 'SELECT count(*) FROM "{table}" WHERE {condition}'

# what tells the rows of one place apart
READ_GROUP = 'SELECT id, {same} FROM "{table}" WHERE {condition} ORDER BY id'

# the same of one row of the place, by its id
READ_ONE = 'SELECT {same} FROM "{table}" WHERE id = ? AND {condition}'

# what a row that is here says
READ_CHANGES = 'SELECT {columns} FROM "{table}" WHERE "{key}" = ?'

# have it say what the file does
UPDATE_ROW = 'UPDATE "{table}" SET {changes} WHERE "{key}" = ?'

# Rows after an id wait for the index since now, not since they were made elsewhere.
WAIT_SINCE_NOW = """
UPDATE outbox SET created_ms = CAST(unixepoch('subsec') * 1000 AS INTEGER)
WHERE collection = ? AND row_id > ?"""

# where a run of exchanges lay whose ends are gone: no trigger can look their times up any more
SET_RUN_TIMES = """
UPDATE summaries SET first_episode_at = coalesce(first_episode_at, ?), last_episode_at = coalesce(last_episode_at, ?)
WHERE id = ?"""

_FIRST_TIME, _LAST_TIME = "first_episode_at", "last_episode_at"


@dataclass(slots=True)
class _Group:
    """The rows that are here in one place. `unclaimed`: how many of them no row of this file was found to be."""

    unclaimed: int
    by_text: dict[bytes, list[int]] | None = None   # ids by what tells the rows apart; None until it is asked for


@dataclass(frozen=True, slots=True)
class _New:
    """A row that is to be inserted, and where its answer goes."""

    place: int
    row: Params
    values: Values
    text: bytes
    group: _Group | None


@dataclass(slots=True)
class _Here:
    """What is here of a table, as far as one call has looked."""

    db: Connection
    target: Target
    groups: dict[tuple[Any, ...], _Group] = field(default_factory=dict)

    def one(self, values: Values) -> int | str | None:
        """The row that there can be one of."""
        sql = FIND_ONE.format(
            key=self.target.key, table=self.target.table, condition=_condition(self.target.same)
        )
        key: int | str | None = self.db.execute(sql, [values[name] for name in self.target.same]).get
        return key

    def group(self, values: Values, taken_before: int | None) -> _Group:
        """The rows in the place of this one."""
        assert self.target.group is not None  # noqa: S101 - for the type checker: the caller looked
        place = tuple(values[name] for name in self.target.group)
        group = self.groups.get(place)
        if group is None:
            sql = COUNT_GROUP.format(table=self.target.table, condition=_condition(self.target.group))
            count: int = self.db.execute(sql, place).get
            group = self.groups[place] = _Group(count - (taken_before or 0))
        return group

    def under_its_id(self, values: Values, text: bytes, row_id: int | None) -> int | None:
        """The row with this id, if it is in the place and says the same: found without looking at its neighbours."""
        if row_id is None or row_id > LARGEST_KEPT_ID:
            return None
        assert self.target.group is not None  # noqa: S101 - for the type checker: the caller looked
        columns = ", ".join(f'"{name}"' for name in self.target.same)
        sql = READ_ONE.format(table=self.target.table, same=columns, condition=_condition(self.target.group))
        texts = self.db.execute(sql, (row_id, *(values[name] for name in self.target.group))).fetchone()
        return row_id if texts is not None and _digest(texts) == text else None

    def same(self, group: _Group, values: Values, text: bytes, occurrence: int) -> int | None:
        """The so many-th of those in the place that say the same."""
        if group.by_text is None:
            assert self.target.group is not None  # noqa: S101 - as above
            columns = ", ".join(f'"{name}"' for name in self.target.same)
            sql = READ_GROUP.format(
                table=self.target.table, same=columns, condition=_condition(self.target.group)
            )
            group.by_text = {}
            for row_id, *texts in self.db.execute(sql, [values[name] for name in self.target.group]):
                group.by_text.setdefault(_digest(texts), []).append(row_id)
        found = group.by_text.get(text, [])
        return found[occurrence] if occurrence < len(found) else None


def _condition(columns: Sequence[str]) -> str:
    return " AND ".join(f'"{name}" = ?' for name in columns) or "TRUE"


def _found(here: _Here, group: _Group, values: Values, text: bytes, row: ImportRow) -> int | None:
    """The row that this one is, of those in its place.

    An import that is run again finds its rows under their ids. Of equal rows only the first is looked for so: whether
    there are as many as in the file only a count can tell.
    """
    if row.taken_before is not None and row.occurrence == 0:
        found = here.under_its_id(values, text, row.id)
        if found is not None:
            return found
    return here.same(group, values, text, row.occurrence)


def _digest(texts: Sequence[Any]) -> bytes:
    """Of the texts of a row: a place may hold more of them than memory does."""
    return hashlib.blake2b(msgspec.msgpack.encode(texts), digest_size=16).digest()


class _Import:
    """One call: rows of one table, in order."""

    def __init__(self, db: Connection, table: ImportTable, model: str, rule: Rule | None) -> None:
        self._db = db
        self._target = TARGETS[table]
        self._here = _Here(db, self._target)
        self._model = model
        self._rule = rule
        self._last_id = _last_id(db, self._target.table)
        self._new: list[_New] = []
        self._answers: list[ImportedRow | RpcError | None] = []

    def take(self, rows: Sequence[Params]) -> list[ImportedRow | RpcError]:
        """Take them in."""
        last_before = self._last_id
        for row in rows:
            self._take(row)
        self._insert_pending()
        answers = [answer for answer in self._answers if answer is not None]
        self._keep_vectors(rows, answers)
        self._db.execute(WAIT_SINCE_NOW, (self._target.table, last_before))
        return answers

    def _take(self, row: Params) -> None:
        target, place = self._target, len(self._answers)
        self._answers.append(None)
        values = _values(target, row, self._model)
        if target.group is None:
            found, text, group = self._here.one(values), b"", None
        else:
            assert isinstance(row, ImportRow)  # noqa: S101 - for the type checker: those with unique keys alone are not
            text = _digest([values[name] for name in target.same])
            group = self._here.group(values, row.taken_before)
            found = None
            if group.unclaimed > 0 or row.taken_before is None:
                self._insert_pending()  # it may be among them
                found = _found(self._here, group, values, text, row)
        if found is not None:
            if group is not None:
                group.unclaimed -= 1
            self._answers[place] = self._met(found, values)
            return
        self._new.append(_New(place, row, values, text, group))
        if target.group is None:
            self._insert_pending()      # the next one may be the same

    def _met(self, key: int | str, values: Values) -> ImportedRow | RpcError:
        """The answer for a row that is here already."""
        if self._rule is None or not _differs(self._db, self._target, key, values):
            return ImportedRow(key, "existing")
        if self._rule == "skip":
            return ImportedRow(key, "kept")
        if self._rule == "fail":
            return Conflict("The row is here already and says something else.")
        columns = [*self._target.changes, *(["updated_at"] if "updated_at" in values else [])]
        changes = [f'"{name}" = ?' for name in columns] + ["version = version + 1"] * self._target.versioned
        sql = UPDATE_ROW.format(table=self._target.table, changes=", ".join(changes), key=self._target.key)
        try:
            self._db.execute(sql, [*(values.get(name) for name in columns), key])
        except apsw.ConstraintError as error:
            return _refusal(error)
        return ImportedRow(key, "updated")

    def _insert_pending(self) -> None:
        """Insert what was found to be new, many rows a statement; if one is refused, one by one."""
        for run in in_powers_of_two(self._new):
            last_before = self._last_id
            ids = [self._id_for(new.row) for new in run]
            try:
                self._insert(run, ids)
            except apsw.ConstraintError as error:   # a failed statement undoes itself
                self._last_id = last_before
                if len(run) == 1:
                    self._answers[run[0].place] = _refusal(error)
                else:
                    self._insert_one_by_one(run)
                continue
            for new, row_id in zip(run, ids, strict=True):
                self._inserted(new, row_id)
        self._new = []

    def _insert_one_by_one(self, run: Sequence[_New]) -> None:
        for new in run:
            last_before = self._last_id
            row_id = self._id_for(new.row)
            try:
                self._insert([new], [row_id])
            except apsw.ConstraintError as error:
                self._last_id = last_before
                self._answers[new.place] = _refusal(error)
                continue
            self._inserted(new, row_id)

    def _id_for(self, row: Params) -> int:
        """Its own, where no row here ever had it or a larger one; else the next. There is one writer: it is free."""
        wanted = row.id if isinstance(row, ImportRow) else None
        kept = wanted is not None and self._last_id < wanted <= LARGEST_KEPT_ID
        self._last_id = wanted if kept and wanted is not None else self._last_id + 1
        return self._last_id

    def _insert(self, run: Sequence[_New], ids: Sequence[int]) -> None:
        names = [name for name in run[0].values if name not in {_FIRST_TIME, _LAST_TIME}]
        id_column = "seq" if self._target.table == "users" else "id"
        columns = [id_column, *names]
        values: list[Any] = []
        for new, row_id in zip(run, ids, strict=True):
            values.append(row_id)
            values += [new.values[name] for name in names]
        sql = INSERT_ROWS.format(
            table=self._target.table, columns=", ".join(f'"{name}"' for name in columns),
            rows=placeholders(len(run), len(columns)),
        )
        self._db.execute(sql, values)

    def _inserted(self, new: _New, row_id: int) -> None:
        target = self._target
        if new.group is not None and new.group.by_text is not None:
            new.group.by_text.setdefault(new.text, []).append(row_id)
        if new.values.get(_FIRST_TIME) is not None or new.values.get(_LAST_TIME) is not None:
            self._db.execute(SET_RUN_TIMES, (new.values[_FIRST_TIME], new.values[_LAST_TIME], row_id))
        key = row_id if target.keeps_ids else new.values[target.key]
        self._answers[new.place] = ImportedRow(key, "inserted")

    def _keep_vectors(self, rows: Sequence[Params], answers: Sequence[ImportedRow | RpcError]) -> None:
        """Keep the vectors of rows that came in or changed: the index is filled from them, and nothing is embedded."""
        for row, answer in zip(rows, answers, strict=True):
            vector, text_hash = getattr(row, "vector", None), getattr(row, "text_hash", None)
            if vector is None or text_hash is None or isinstance(answer, RpcError):
                continue
            if answer.outcome not in {"inserted", "updated"}:
                continue
            row_id = answer.id if self._target.keeps_ids else self._row_id(answer.id)
            replace_vector(self._db, self._target.table, int(row_id), self._model, bytes.fromhex(text_hash),
                           base64.b64decode(vector))

    def _row_id(self, key: int | str) -> int:
        sql = FIND_ONE.format(key="id", table=self._target.table, condition=_condition([self._target.key]))
        row_id: int = self._db.execute(sql, (key,)).get
        return row_id


def import_rows(
    db: Connection, rows: Sequence[Params], table: ImportTable, model: str, rule: Rule | None = None
) -> list[ImportedRow | RpcError]:
    """Take rows in, in order; each answers where it is now, or its own error while the others stand.

    A caller's own vector belongs to the embedding model with the key `model`, unless the row says to which. A vector
    that was made of a row is that model's.
    """
    return _Import(db, table, model, rule).take(rows)


def compare_rows(
    db: Connection, rows: Sequence[Params], table: ImportTable, model: str
) -> list[ComparedRow | RpcError]:
    """Where each row is, and whether it says the same there. Writes nothing."""
    target = TARGETS[table]
    here = _Here(db, target)
    answers: list[ComparedRow | RpcError] = []
    for row in rows:
        values = _values(target, row, model)
        found: int | str | None = None
        if target.group is None:
            found = here.one(values)
        elif isinstance(row, ImportRow):
            group = here.group(values, row.taken_before)
            if group.unclaimed > 0 or row.taken_before is None:
                text = _digest([values[name] for name in target.same])
                found = _found(here, group, values, text, row)
                group.unclaimed -= found is not None
        if found is None:
            answers.append(ComparedRow(None, "new"))
        else:
            answers.append(ComparedRow(found, "different" if _differs(db, target, found, values) else "same"))
    return answers


def _values(target: Target, row: Params, model: str) -> Values:
    values = target.values(row)
    if values.get("embedding") is not None and values["embedding_model"] is None:
        values["embedding_model"] = model
    return values


def _differs(db: Connection, target: Target, key: int | str, values: Values) -> bool:
    columns = ", ".join(f'"{name}"' for name in target.changes)
    here = db.execute(READ_CHANGES.format(columns=columns, table=target.table, key=target.key), (key,)).fetchone()
    return here is None or any(
        not (same_json(msgspec.json.decode(was), msgspec.json.decode(values[name])) if name in JSON_COLUMNS
             else was == values[name])
        for name, was in zip(target.changes, here, strict=True)
    )


def _refusal(error: apsw.ConstraintError) -> RpcError:
    if is_foreign_key(error):
        return RowNotFound("A row that it belongs to is not there.")
    return Conflict(f"The row does not fit: {error}")


def _last_id(db: Connection, table: str) -> int:
    return db.execute(SELECT_LAST_ID, (table,)).get or 0


def last_ids(db: Connection, model: str) -> LastIds:
    """The largest id that each table ever used, of those that keep ids; and the model that was asked for."""
    keeping = {name: target.table for name, target in TARGETS.items() if target.keeps_ids}
    return LastIds({name: _last_id(db, table) for name, table in keeping.items()}, model)

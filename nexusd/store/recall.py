"""Memories of every kind by their keys: which kinds there are, what stands where, and the records of the hits.

Owns no table. A key is the collection and the id of a row, for ids are given out by each table for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from nexusd.model.memory import COLLECTIONS, Collection, MemoryFilter, MemoryRecord
from nexusd.store.connection import Connection
from nexusd.store.entities import ENTITY_COLUMNS, entity_from_row
from nexusd.store.episodes import EPISODE_COLUMNS, episode_from_row
from nexusd.store.memory_filter import TEXT_TABLES, filter_condition
from nexusd.store.messages import MESSAGE_COLUMNS, message_from_row
from nexusd.store.summaries import SUMMARY_COLUMNS, summary_from_row
from nexusd.store.text_budget import TextBudget

Key = tuple[Collection, int]

# which collections hold any row, in the order of COLLECTIONS
SELECT_STOCKED = """
SELECT
    EXISTS (SELECT 1 FROM episodes) AS episodes,
    EXISTS (SELECT 1 FROM entities) AS entities,
    EXISTS (SELECT 1 FROM summaries) AS summaries,
    EXISTS (SELECT 1 FROM messages) AS messages"""

# of exchanges that are there: when each was made, its session, and the one before and the one after it there
SELECT_EPISODE_PLACES = """
SELECT json_group_array(json_array(e.id, e.created_at, e.session_id, (
    SELECT p.id FROM episodes p
    WHERE p.session_id = e.session_id AND (p.created_at, p.id) < (e.created_at, e.id)
    ORDER BY p.created_at DESC, p.id DESC LIMIT 1), (
    SELECT n.id FROM episodes n
    WHERE n.session_id = e.session_id AND (n.created_at, n.id) > (e.created_at, e.id)
    ORDER BY n.created_at, n.id LIMIT 1)))
FROM episodes e WHERE e.id IN (SELECT value FROM json_each(?))"""

# of other rows that are there: when each was made
SELECT_PLACES = """
SELECT json_group_array(json_array(id, created_at, NULL, NULL, NULL))
FROM {table} WHERE id IN (SELECT value FROM json_each(?))"""

# rows by their ids, as far as they meet a condition; CROSS JOIN keeps the order in which they were asked for
SELECT_RECORDS = """
SELECT {columns} FROM json_each(?) asked CROSS JOIN {table} {alias} ON {alias}.id = asked.value
WHERE {condition}"""


class Place(NamedTuple):    # not a frozen dataclass, which takes three times as long to make; a search makes hundreds
    """When a memory was made. Of an exchange also its session, and the keys of those before and after it there."""

    created_at: int
    session: int | None = None
    previous: Key | None = None
    following: Key | None = None


@dataclass(frozen=True, slots=True)
class _Records:
    """How a table's rows become records, and which columns of a row are its texts."""

    columns: str
    record: Callable[[tuple[Any, ...]], MemoryRecord]
    texts: tuple[int, ...]


_RECORDS: dict[Collection, _Records] = {
    "episodes": _Records(EPISODE_COLUMNS, episode_from_row, (2, 3, 5)),
    "entities": _Records(ENTITY_COLUMNS, entity_from_row, (1, 3, 4)),
    "summaries": _Records(SUMMARY_COLUMNS, summary_from_row, (2, 6)),
    "messages": _Records(MESSAGE_COLUMNS, message_from_row, (3, 4)),
}


def stocked(db: Connection, collections: Iterable[Collection]) -> tuple[Collection, ...]:
    """Those of the collections that hold any row, in the order of COLLECTIONS. Costs a few look-ups."""
    asked = set(collections)
    (holds,) = db.execute(SELECT_STOCKED)
    return tuple(name for name, any_row in zip(COLLECTIONS, holds, strict=True) if any_row and name in asked)


def place_memories(db: Connection, keys: Iterable[Key]) -> dict[Key, Place]:
    """Where each of the memories stands, by key; one that is gone has no place."""
    places: dict[Key, Place] = {}
    for collection, ids in by_collection(keys).items():
        sql = SELECT_PLACES.format(table=TEXT_TABLES[collection].name)
        if collection == "episodes":
            sql = SELECT_EPISODE_PLACES
        found: list[tuple[int, int, int | None, int | None, int | None]]
        found = msgspec.json.decode(db.execute(sql, (_json(ids),)).get)
        for id_, created_at, session, previous, following in found:
            places[collection, id_] = Place(
                created_at,
                session,
                None if previous is None else (collection, previous),
                None if following is None else (collection, following),
            )
    return places


def select_memories(
    db: Connection, keys: Sequence[Key], where: MemoryFilter, budget: TextBudget
) -> dict[Key, MemoryRecord]:
    """Those of the memories that are there and pass the filter, by key; in order, as far as the budget goes."""
    rows = {collection: _rows(db, collection, ids, where) for collection, ids in by_collection(keys).items()}
    waiting = {collection: next(of_it, None) for collection, of_it in rows.items()}
    found: dict[Key, MemoryRecord] = {}
    for collection, id_ in keys:
        row = waiting[collection]
        if row is None or row[0] != id_:
            continue    # gone, or filtered out
        records = _RECORDS[collection]
        if budget.take(*(row[text] or "" for text in records.texts)):
            found[collection, id_] = records.record(row)
        elif budget.exhausted:
            break
        waiting[collection] = next(rows[collection], None)
    return found


def _rows(
    db: Connection, collection: Collection, ids: Sequence[int], where: MemoryFilter
) -> Iterator[tuple[Any, ...]]:
    """A cursor over the rows, which reads no further than it is asked: they may hold megabytes each."""
    table = TEXT_TABLES[collection]
    condition = filter_condition(where, table)
    sql = SELECT_RECORDS.format(
        columns=_RECORDS[collection].columns, table=table.name, alias=table.alias,
        condition=condition.sql if condition else "TRUE",
    )
    return db.execute(sql, (_json(ids), *(condition.values if condition else ())))


def by_collection(keys: Iterable[Key]) -> Mapping[Collection, list[int]]:
    """The ids of each collection."""
    ids: dict[Collection, list[int]] = {}
    for collection, id_ in keys:
        ids.setdefault(collection, []).append(id_)
    return ids


def _json(ids: Sequence[int]) -> str:
    return msgspec.json.encode(ids).decode()

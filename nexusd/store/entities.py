"""Entities in SQLite. The full-text index and the outbox follow by triggers, in the same transaction."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec

from nexusd.errors import EntityNotFound
from nexusd.model.entities import (
    Entity,
    EntityMatch,
    EntityMatches,
    ListEntities,
    ListEntitiesByType,
    NewEntity,
    SearchEntities,
    UpsertedEntity,
    UpsertEntity,
)
from nexusd.model.fields import UNSET, Deletion, Listing
from nexusd.store.cascades import ENTITY
from nexusd.store.connection import Connection
from nexusd.store.cursors import decode_cursor, decode_text_cursor, encode_cursor
from nexusd.store.full_text import ENTITIES, Condition, match_words
from nexusd.store.indexed import vector_column, vector_state
from nexusd.store.paging import take_page
from nexusd.store.same_json import same_json
from nexusd.store.slices import delete_whole
from nexusd.store.text_budget import TextBudget

# The columns of a record of `entities n`.
ENTITY_COLUMNS = f"""
n.id, n.name, n.type, n.notes, n.metadata, n.version, n.created_at, n.updated_at, {vector_column('entities', 'n')}"""

# a new entity
INSERT_ENTITY = """
INSERT INTO entities (name, type, notes, metadata, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?) RETURNING id"""

# one entity
SELECT_ENTITY = f"SELECT {ENTITY_COLUMNS} FROM entities n WHERE n.id = ?"

# the entity of this name and type
SELECT_ENTITY_BY_NAME = f"SELECT {ENTITY_COLUMNS} FROM entities n WHERE n.name = ? AND n.type = ?"

# entities by their ids; CROSS JOIN keeps the order in which they were asked for
SELECT_ENTITIES = f"""
SELECT {ENTITY_COLUMNS} FROM json_each(?) asked CROSS JOIN entities n ON n.id = asked.value"""

# the newest entities before an id
LIST_ENTITIES = f"SELECT {ENTITY_COLUMNS} FROM entities n WHERE n.id < ? ORDER BY n.id DESC LIMIT ? OFFSET ?"

# the same, of one type
LIST_NEWEST_OF_TYPE = f"""
SELECT {ENTITY_COLUMNS} FROM entities n INDEXED BY entities_by_type
WHERE n.type = ? AND n.id < ? ORDER BY n.id DESC LIMIT ? OFFSET ?"""

# the entities of a type by name, as people sort
LIST_OF_TYPE = f"""
SELECT {ENTITY_COLUMNS} FROM entities n INDEXED BY entities_by_type_and_name
WHERE n.type = ? ORDER BY n.name COLLATE NOCASE, n.id LIMIT ? OFFSET ?"""

# the same after a place; the first bound alone is one that the index is searched by
LIST_OF_TYPE_AFTER = f"""
SELECT {ENTITY_COLUMNS} FROM entities n INDEXED BY entities_by_type_and_name
WHERE n.type = ?1 AND n.name COLLATE NOCASE >= ?2 AND (n.name COLLATE NOCASE, n.id) > (?2, ?3)
ORDER BY n.name COLLATE NOCASE, n.id LIMIT ?4 OFFSET ?5"""

# change an entity; the new version queues it (trigger)
UPDATE_ENTITY = """
UPDATE entities SET notes = ?, metadata = ?, version = version + 1, updated_at = ? WHERE id = ?"""

# only of this type
OF_TYPE = "n.type = ?"

_TEXTS = (3, 4)     # the columns that may be long
_NEWEST = "entities.newest"
_BY_NAME = "entities.byName"
_LAST_ID = 2**63 - 1


def entity_from_row(row: tuple[Any, ...]) -> Entity:
    """The record of a row of ENTITY_COLUMNS."""
    return Entity(**_fields(row))


def _fields(row: tuple[Any, ...]) -> dict[str, Any]:
    return {
        "id": row[0],
        "name": row[1],
        "type": row[2],
        "notes": row[3],
        "metadata": msgspec.json.decode(row[4]),
        "version": row[5],
        "created_at": row[6],
        "updated_at": row[7],
        "vector": vector_state(row[8]),
    }


def upsert_entity(db: Connection, new: NewEntity | UpsertEntity, now_ms: int) -> UpsertedEntity:
    """Make the entity, or change what is given of the one with this name and type.

    A change that changes nothing leaves the version as it is.
    """
    row = db.execute(SELECT_ENTITY_BY_NAME, (new.name, new.type)).fetchone()
    if row is None:     # there is one writer: nobody makes it in between
        notes = None if new.notes is UNSET else new.notes
        metadata = {} if new.metadata is UNSET else new.metadata
        values = (new.name, new.type, notes, msgspec.json.encode(metadata).decode(), now_ms, now_ms)
        entity_id: int = db.execute(INSERT_ENTITY, values).get
        return UpsertedEntity(
            id=entity_id, name=new.name, type=new.type, notes=notes, metadata=metadata, version=1,
            created_at=now_ms, updated_at=now_ms, vector="pending", created=True,
        )
    old = entity_from_row(row)
    notes = old.notes if new.notes is UNSET else new.notes
    metadata = old.metadata if new.metadata is UNSET else new.metadata
    if notes != old.notes or not same_json(metadata, old.metadata):
        db.execute(UPDATE_ENTITY, (notes, msgspec.json.encode(metadata).decode(), now_ms, old.id))
        row = db.execute(SELECT_ENTITY, (old.id,)).fetchall()[0]
    return UpsertedEntity(**_fields(row), created=False)


def select_entity(db: Connection, entity_id: int) -> Entity:
    """One entity.

    Raises:
        EntityNotFound: there is none of this id.
    """
    row = db.execute(SELECT_ENTITY, (entity_id,)).fetchone()
    if row is None:
        raise EntityNotFound
    return entity_from_row(row)


def select_entities(db: Connection, ids: Sequence[int], budget: TextBudget | None = None) -> dict[int, Entity]:
    """Those of the entities that are there, by id; in order, as far as the budget goes."""
    budget = budget or TextBudget()
    rows = db.execute(SELECT_ENTITIES, (msgspec.json.encode(ids).decode(),))
    return {
        row[0]: entity_from_row(row)
        for row in itertools.takewhile(lambda row: budget.take(*(row[place] or "" for place in _TEXTS)), rows)
    }


def list_entities(db: Connection, page: ListEntities) -> Listing[Entity]:
    """A page of entities, newest first.

    Raises:
        InvalidParams: the cursor is none of this listing.
    """
    (before,) = decode_cursor(_NEWEST, page.cursor, 1) if page.cursor is not None else (_LAST_ID,)
    reach = (before, page.limit + 1, page.offset or 0)
    if page.type is None:
        rows = db.execute(LIST_ENTITIES, reach)
    else:
        rows = db.execute(LIST_NEWEST_OF_TYPE, (page.type, *reach))
    entities, more = take_page(rows, page.limit, entity_from_row, _TEXTS)
    return Listing(items=entities, next_cursor=encode_cursor(_NEWEST, entities[-1].id) if more else None)


def list_entities_by_type(db: Connection, page: ListEntitiesByType) -> Listing[Entity]:
    """A page of the entities of a type, by name.

    Raises:
        InvalidParams: the cursor is none of this listing.
    """
    reach = (page.limit + 1, page.offset or 0)
    if page.cursor is None:
        rows = db.execute(LIST_OF_TYPE, (page.type, *reach))
    else:
        place = decode_text_cursor(_BY_NAME, page.cursor)
        rows = db.execute(LIST_OF_TYPE_AFTER, (page.type, *place, *reach))
    entities, more = take_page(rows, page.limit, entity_from_row, _TEXTS)
    next_cursor = encode_cursor(_BY_NAME, entities[-1].name, entities[-1].id) if more else None
    return Listing(items=entities, next_cursor=next_cursor)


def search_entities(db: Connection, params: SearchEntities) -> EntityMatches:
    """The entities that hold every word of the query in name, type or notes, best first.

    Raises:
        InvalidParams: more different words than a query may have.
    """
    condition = None if params.type is None else Condition(OF_TYPE, (params.type,))
    matches = match_words(db, ENTITIES, params.query, params.limit, condition)
    budget = TextBudget()
    entities = select_entities(db, [match.id for match in matches], budget)
    return EntityMatches(
        truncated=budget.exhausted,
        items=[
            EntityMatch(entity=entities[match.id], score=match.score)
            for match in matches
            if match.id in entities     # else the budget ended, or the full-text index has drifted from the rows
        ],
    )


def delete_entity(db: Connection, entity_id: int) -> Deletion:
    """Delete an entity and the relationships at both its ends at once; its point is queued for removal.

    Raises:
        EntityNotFound: there is none of this id.
    """
    return delete_whole(db, ENTITY, entity_id)

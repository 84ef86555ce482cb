"""Relationships in SQLite: directed, labelled links between entities."""

from __future__ import annotations

from typing import Any

import apsw
import msgspec

from nexusd.errors import EntityNotFound, RelationshipNotFound
from nexusd.field_errors import FieldError
from nexusd.model.fields import UNSET, Deletion, Listing
from nexusd.model.relationships import (
    DeleteRelationship,
    Link,
    LinkedEntity,
    ListLinksFrom,
    ListLinksTo,
    NewRelationship,
    Relationship,
    UpsertedRelationship,
    UpsertRelationship,
)
from nexusd.store.connection import Connection, is_foreign_key
from nexusd.store.cursors import decode_text_cursor, encode_cursor
from nexusd.store.paging import take_page
from nexusd.store.same_json import same_json

# The columns of a record of `relationships r`.
RELATIONSHIP_COLUMNS = "r.id, r.from_id, r.to_id, r.label, r.metadata, r.created_at, r.updated_at"

# the relationship of this key
SELECT_RELATIONSHIP = f"""
SELECT {RELATIONSHIP_COLUMNS} FROM relationships r WHERE r.from_id = ? AND r.to_id = ? AND r.label = ?"""

# a new relationship
INSERT_RELATIONSHIP = """
INSERT INTO relationships (from_id, to_id, label, metadata, created_at, updated_at)
VALUES (?, ?, ?, ?, ?, ?) RETURNING id"""

# replace its metadata
UPDATE_RELATIONSHIP = "UPDATE relationships SET metadata = ?, updated_at = ? WHERE id = ?"

# whether there is such an entity
SELECT_ENTITY_EXISTS = "SELECT 1 FROM entities WHERE id = ?"

# the links that begin in an entity, by label and then by the entity at the other end; CROSS JOIN keeps that order
LIST_FROM = f"""
SELECT {RELATIONSHIP_COLUMNS}, n.id, n.name, n.type
FROM relationships r INDEXED BY relationships_by_source CROSS JOIN entities n ON n.id = r.to_id
WHERE r.from_id = ? {{conditions}} ORDER BY r.label, r.to_id LIMIT ? OFFSET ?"""

# the same of those that end in it
LIST_TO = f"""
SELECT {RELATIONSHIP_COLUMNS}, n.id, n.name, n.type
FROM relationships r INDEXED BY relationships_by_target CROSS JOIN entities n ON n.id = r.from_id
WHERE r.to_id = ? {{conditions}} ORDER BY r.label, r.from_id LIMIT ? OFFSET ?"""

# only of this label
OF_LABEL = "AND r.label = ?"
# after a place: a label, and the entity at the other end; of one label, the end alone
AFTER_TARGET = "AND (r.label, r.to_id) > (?, ?)"
AFTER_SOURCE = "AND (r.label, r.from_id) > (?, ?)"
AFTER_TARGET_OF_LABEL = "AND r.to_id > ?"
AFTER_SOURCE_OF_LABEL = "AND r.from_id > ?"

# the relationship of this key
DELETE_RELATIONSHIP = "DELETE FROM relationships WHERE from_id = ? AND to_id = ? AND label = ?"

_TEXTS = (4,)   # the columns that may be long
_FROM = "relationships.from"
_TO = "relationships.to"


def relationship_from_row(row: tuple[Any, ...]) -> Relationship:
    """The record of a row of RELATIONSHIP_COLUMNS."""
    return Relationship(**_fields(row))


def _fields(row: tuple[Any, ...]) -> dict[str, Any]:
    return {
        "id": row[0],
        "from_id": row[1],
        "to_id": row[2],
        "label": row[3],
        "metadata": msgspec.json.decode(row[4]),
        "created_at": row[5],
        "updated_at": row[6],
    }


def _link(row: tuple[Any, ...]) -> Link:
    return Link(**_fields(row), entity=LinkedEntity(id=row[7], name=row[8], type=row[9]))


def upsert_relationship(
    db: Connection, new: NewRelationship | UpsertRelationship, now_ms: int
) -> UpsertedRelationship:
    """Make the link, or replace the metadata of the one that is there, if new ones are given.

    Raises:
        EntityNotFound: an end does not exist; `fields` says which.
    """
    key = (new.from_id, new.to_id, new.label)
    row = db.execute(SELECT_RELATIONSHIP, key).fetchone()
    if row is None:     # there is one writer: nobody makes it in between
        metadata = {} if new.metadata is UNSET else new.metadata
        values = (*key, msgspec.json.encode(metadata).decode(), now_ms, now_ms)
        try:
            relationship_id: int = db.execute(INSERT_RELATIONSHIP, values).get
        except apsw.ConstraintError as error:
            if is_foreign_key(error):
                raise _missing_ends(db, new) from None
            raise
        return UpsertedRelationship(
            id=relationship_id, from_id=new.from_id, to_id=new.to_id, label=new.label, metadata=metadata,
            created_at=now_ms, updated_at=now_ms, created=True,
        )
    old = _fields(row)
    if new.metadata is not UNSET and not same_json(new.metadata, old["metadata"]):
        db.execute(UPDATE_RELATIONSHIP, (msgspec.json.encode(new.metadata).decode(), now_ms, old["id"]))
        old |= {"metadata": new.metadata, "updated_at": now_ms}
    return UpsertedRelationship(**old, created=False)


def _missing_ends(db: Connection, new: NewRelationship | UpsertRelationship) -> EntityNotFound:
    return EntityNotFound(fields=tuple(
        FieldError(field, "the id of an entity")
        for field, entity_id in (("fromId", new.from_id), ("toId", new.to_id))
        if not entity_exists(db, entity_id)
    ))


def entity_exists(db: Connection, entity_id: int) -> bool:
    """Whether there is an entity of this id."""
    return db.execute(SELECT_ENTITY_EXISTS, (entity_id,)).fetchone() is not None


def list_links_from(db: Connection, page: ListLinksFrom) -> Listing[Link]:
    """A page of the links that begin in an entity, by label.

    Raises:
        EntityNotFound: there is no such entity.
        InvalidParams: the cursor is none of this listing.
    """
    after = AFTER_TARGET if page.label is None else AFTER_TARGET_OF_LABEL
    links, more = _page(db, LIST_FROM, after, _FROM, page.from_id, page)
    if not links and not entity_exists(db, page.from_id):
        raise EntityNotFound(fields=(FieldError("fromId", "the id of an entity"),))
    return Listing(items=links, next_cursor=encode_cursor(_FROM, links[-1].label, links[-1].to_id) if more else None)


def list_links_to(db: Connection, page: ListLinksTo) -> Listing[Link]:
    """A page of the links that end in an entity, by label.

    Raises:
        EntityNotFound: there is no such entity.
        InvalidParams: the cursor is none of this listing.
    """
    after = AFTER_SOURCE if page.label is None else AFTER_SOURCE_OF_LABEL
    links, more = _page(db, LIST_TO, after, _TO, page.to_id, page)
    if not links and not entity_exists(db, page.to_id):
        raise EntityNotFound(fields=(FieldError("toId", "the id of an entity"),))
    return Listing(items=links, next_cursor=encode_cursor(_TO, links[-1].label, links[-1].from_id) if more else None)


def _page(
    db: Connection, sql: str, after: str, listing: str, entity_id: int, page: ListLinksFrom | ListLinksTo
) -> tuple[list[Link], bool]:
    """As many as a page may hold, and whether there are more."""
    conditions: list[str] = []
    values: list[int | str] = [entity_id]
    if page.label is not None:
        conditions.append(OF_LABEL)
        values.append(page.label)
    if page.cursor is not None:
        label, other = decode_text_cursor(listing, page.cursor)
        conditions.append(after)
        values += (other,) if page.label is not None else (label, other)
    values += (page.limit + 1, page.offset or 0)
    return take_page(db.execute(sql.format(conditions=" ".join(conditions)), values), page.limit, _link, _TEXTS)


def delete_relationship(db: Connection, which: DeleteRelationship) -> Deletion:
    """Delete the link of this key. It is not in the index.

    Raises:
        RelationshipNotFound: there is none.
    """
    db.execute(DELETE_RELATIONSHIP, (which.from_id, which.to_id, which.label))
    if db.changes() == 0:
        raise RelationshipNotFound
    return Deletion(deleted={"relationships": 1}, points_queued=0)

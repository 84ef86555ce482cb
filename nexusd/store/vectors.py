"""Texts under the caller's own ids in SQLite. The outbox follows by triggers, in the same transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from nexusd.errors import VectorNotFound
from nexusd.model.fields import Deletion, Listing
from nexusd.model.numbers import unpacked
from nexusd.model.vectors import ListVectors, NewVector, StoredText, StoredVector, StoreVector
from nexusd.store.connection import Connection
from nexusd.store.cursors import decode_cursor, encode_cursor
from nexusd.store.deletions import deletion
from nexusd.store.indexed import vector_column, vector_state
from nexusd.store.paging import take_page
from nexusd.store.text_budget import TextBudget

_LISTING = "vectors"
_LAST_ID = 2**63 - 1
_COLUMNS = f"""
v.key, v.id, v.text, v.metadata, v.version, v.created_at, v.updated_at, {vector_column('vectors', 'v')}"""
_TEXTS = (2, 3)

# a text, new under its id or in place of the one that had it; where nothing differs, nothing is written
UPSERT_VECTOR = """
INSERT INTO vectors (key, text, embedding, embedding_model, metadata, created_at, updated_at)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET
    text = excluded.text, embedding = excluded.embedding, embedding_model = excluded.embedding_model,
    metadata = excluded.metadata, version = version + 1, updated_at = excluded.updated_at
WHERE text IS NOT excluded.text OR embedding IS NOT excluded.embedding OR metadata IS NOT excluded.metadata
    OR embedding_model IS NOT excluded.embedding_model"""

# one text by the caller's id
SELECT_TEXT = f"SELECT {_COLUMNS} FROM vectors v WHERE v.key = ?"

# the same with the caller's own vector
SELECT_VECTOR = f"SELECT {_COLUMNS}, v.embedding FROM vectors v WHERE v.key = ?"

# texts by their rows' ids; CROSS JOIN keeps the order in which they were asked for
SELECT_TEXTS = f"SELECT {_COLUMNS} FROM json_each(?) asked CROSS JOIN vectors v ON v.id = asked.value"

# the newest texts before a row
LIST_VECTORS = f"SELECT {_COLUMNS} FROM vectors v WHERE v.id < ? ORDER BY v.id DESC LIMIT ? OFFSET ?"

# one text; its point is queued for removal (trigger)
DELETE_VECTOR = "DELETE FROM vectors WHERE key = ?"

# how many texts the index does not hold yet
COUNT_PENDING = "SELECT count(*) FROM outbox WHERE collection = 'vectors' AND op = 'upsert' AND state <> 'dead'"


def upsert_vector(
    db: Connection, new: NewVector | StoreVector, embedding: bytes | None, model: str, now_ms: int
) -> StoredText:
    """Store the text under its id, in place of the one that had it. The same again changes nothing.

    `embedding` is the caller's own vector, packed, and means something to the model with this key alone.
    """
    metadata = msgspec.json.encode(new.metadata).decode()
    belongs_to = None if embedding is None else model
    db.execute(UPSERT_VECTOR, (new.id, new.text, embedding, belongs_to, metadata, now_ms, now_ms))
    return select_text(db, new.id)


def select_text(db: Connection, key: str | int) -> StoredText:
    """One text without its vector.

    Raises:
        VectorNotFound: there is none under this id.
    """
    row = db.execute(SELECT_TEXT, (key,)).fetchone()
    if row is None:
        raise VectorNotFound
    return _text(row)


def select_vector(db: Connection, key: str | int) -> StoredVector:
    """One text with the caller's own vector.

    Raises:
        VectorNotFound: there is none under this id.
    """
    row = db.execute(SELECT_VECTOR, (key,)).fetchone()
    if row is None:
        raise VectorNotFound
    embedding = None if row[-1] is None else unpacked(row[-1])
    return StoredVector(**msgspec.structs.asdict(_text(row)), embedding=embedding)


def select_texts(db: Connection, row_ids: Sequence[int], budget: TextBudget) -> dict[int, StoredText]:
    """Those of the rows that are there, by their ids; in order, as far as the budget goes."""
    found = {}
    for row in db.execute(SELECT_TEXTS, (msgspec.json.encode(row_ids).decode(),)):
        if not budget.take(*(row[place] for place in _TEXTS)):
            break
        found[row[1]] = _text(row)
    return found


def list_vectors(db: Connection, page: ListVectors) -> Listing[StoredText]:
    """A page of texts, newest first.

    Raises:
        InvalidParams: the cursor is none of this listing.
    """
    (before,) = decode_cursor(_LISTING, page.cursor, 1) if page.cursor is not None else (_LAST_ID,)
    rows = db.execute(LIST_VECTORS, (before, page.limit + 1, page.offset or 0))
    texts, more = take_page(rows, page.limit, _text, _TEXTS)
    return Listing(items=texts, next_cursor=encode_cursor(_LISTING, texts[-1].row_id) if more else None)


def delete_vector(db: Connection, key: str | int) -> Deletion:
    """Delete a text; its point is queued for removal.

    Raises:
        VectorNotFound: there is none under this id.
    """
    db.execute(DELETE_VECTOR, (key,))
    if db.changes() == 0:
        raise VectorNotFound
    return deletion(db, 1, vectors=1)


def count_pending(db: Connection) -> int:
    """How many texts wait to be indexed. For a reader: 15 ms where 100,000 wait."""
    count: int = db.execute(COUNT_PENDING).get
    return count


def _text(row: tuple[Any, ...]) -> StoredText:
    return StoredText(
        id=row[0],
        row_id=row[1],
        text=row[2],
        metadata=msgspec.json.decode(row[3]),
        version=row[4],
        created_at=row[5],
        updated_at=row[6],
        vector=vector_state(row[7]),
    )

"""Vectors that were paid for, kept beside their rows: unchanged text is never embedded twice.

Owns the table `embeddings`. A vector is float32, little-endian; a content hash is 16 or 32 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from nexusd.store.connection import Connection
from nexusd.store.indexed import table_of
from nexusd.store.values import in_powers_of_two, placeholders

FLOAT_BYTES = 4

# the vectors of rows under a model
SELECT_VECTORS = """
SELECT row_id, content_hash, vector FROM embeddings
WHERE collection = ? AND model = ? AND row_id IN (SELECT value FROM json_each(?))"""

# keep vectors, but only of rows that are still there: a deleted row's would stay for ever. One that was kept for the
# same text meanwhile stays: it is the same, or the caller's own. So does any other of a row that has changed since.
SAVE_VECTORS = """
WITH new (row_id, version, content_hash, vector) AS (VALUES {rows})
INSERT INTO embeddings (collection, row_id, model, dim, content_hash, vector)
SELECT ?, new.row_id, ?, ?, new.content_hash, new.vector FROM new JOIN {table} t ON t.id = new.row_id
WHERE t.version = new.version OR NOT EXISTS (
    SELECT 1 FROM embeddings e WHERE e.collection = ? AND e.row_id = new.row_id AND e.model = ?)
ON CONFLICT (collection, row_id, model) DO UPDATE SET
    dim = excluded.dim, content_hash = excluded.content_hash, vector = excluded.vector
WHERE content_hash <> excluded.content_hash"""

# keep a caller's own vector of a row, in place of any other
REPLACE_VECTOR = """
INSERT OR REPLACE INTO embeddings (collection, row_id, model, dim, content_hash, vector) VALUES (?, ?, ?, ?, ?, ?)"""

# forget a row's vectors under every model
FORGET_ROW = "DELETE FROM embeddings WHERE collection = ? AND row_id = ?"

# forget vectors that the index refused
FORGET_VECTORS = """
DELETE FROM embeddings
WHERE collection = ? AND model = ? AND row_id IN (SELECT value FROM json_each(?))"""


def select_vectors(
    db: Connection, collection: str, row_ids: Sequence[int], model: str
) -> dict[int, tuple[bytes, bytes]]:
    """Row id -> (content hash, vector), for those of the rows that have one under this model."""
    rows = db.execute(SELECT_VECTORS, (collection, model, msgspec.json.encode(row_ids).decode()))
    return {row_id: (content_hash, vector) for row_id, content_hash, vector in rows}


def save_vectors(
    db: Connection, collection: str, model: str, dim: int, vectors: Sequence[tuple[int, int, bytes, bytes]]
) -> None:
    """Keep (row id, version, content hash, vector) under the model.

    Passed over are rows that are gone meanwhile, and those that have a vector of the same text, or of a newer one.
    """
    table = table_of(collection)
    for run in in_powers_of_two(vectors):
        values = [part for vector in run for part in vector]
        sql = SAVE_VECTORS.format(rows=placeholders(len(run), 4), table=table)
        db.execute(sql, (*values, collection, model, dim, collection, model))


def replace_vector(
    db: Connection, collection: str, row_id: int, model: str, content_hash: bytes, vector: bytes
) -> None:
    """Keep a caller's own vector of a row that is there, for its text as it is now."""
    db.execute(REPLACE_VECTOR, (collection, row_id, model, len(vector) // FLOAT_BYTES, content_hash, vector))


def forget_row(db: Connection, collection: str, row_id: int) -> None:
    """Forget all vectors of a row."""
    db.execute(FORGET_ROW, (collection, row_id))


def forget_vectors(db: Connection, collection: str, row_ids: Sequence[int], model: str) -> None:
    """Forget these rows' vectors under the model."""
    db.execute(FORGET_VECTORS, (collection, model, msgspec.json.encode(row_ids).decode()))

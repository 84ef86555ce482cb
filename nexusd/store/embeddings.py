"""Vectors that were paid for, kept beside their rows: unchanged text is never embedded twice.

Owns the table `embeddings`. A vector is float32, little-endian; a content hash is 16 or 32 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from nexusd.store.connection import Connection
from nexusd.store.indexed import table_of
from nexusd.store.values import in_powers_of_two, placeholders

# the vectors of rows under a model
SELECT_VECTORS = """
SELECT row_id, content_hash, vector FROM embeddings
WHERE collection = ? AND model = ? AND row_id IN (SELECT value FROM json_each(?))"""

# keep vectors, but only of rows that are still there: a deleted row's would stay for ever
SAVE_VECTORS = """
WITH new (row_id, content_hash, vector) AS (VALUES {rows})
INSERT INTO embeddings (collection, row_id, model, dim, content_hash, vector)
SELECT ?, row_id, ?, ?, content_hash, vector FROM new WHERE row_id IN (SELECT id FROM {table})
ON CONFLICT (collection, row_id, model) DO UPDATE SET
    dim = excluded.dim, content_hash = excluded.content_hash, vector = excluded.vector"""

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
    db: Connection, collection: str, model: str, dim: int, vectors: Sequence[tuple[int, bytes, bytes]]
) -> None:
    """Keep (row id, content hash, vector) under the model; rows that are gone meanwhile are passed over."""
    table = table_of(collection)
    for run in in_powers_of_two(vectors):
        values = [part for vector in run for part in vector]
        sql = SAVE_VECTORS.format(rows=placeholders(len(run), 3), table=table)
        db.execute(sql, (*values, collection, model, dim))


def forget_vectors(db: Connection, collection: str, row_ids: Sequence[int], model: str) -> None:
    """Forget these rows' vectors under the model."""
    db.execute(FORGET_VECTORS, (collection, model, msgspec.json.encode(row_ids).decode()))

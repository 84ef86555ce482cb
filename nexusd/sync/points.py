"""One point on a caller's word: put in with the row's own text or the caller's vector, or taken out.

Owns what that means for the vectors that are kept and for the outbox; the worker does the rest. Functions for the
store's writer: all of it is one transaction.
"""

from __future__ import annotations

import apsw

from nexusd.model.fields import Deletion
from nexusd.model.memory import Collection
from nexusd.model.semantic import PointState
from nexusd.store.deletions import deletion
from nexusd.store.embeddings import forget_row, forget_vectors, replace_vector
from nexusd.store.unindexed import let_in, take_out
from nexusd.sync.sources import LOADERS


def put_point(
    db: apsw.Connection, collection: Collection, row_id: int, vector: bytes | None, model: str, now_ms: int
) -> PointState:
    """Queue the row, with this vector for as long as its text stays, or to be embedded anew.

    Raises:
        RowNotFound: there is no such row.
    """
    let_in(db, collection, row_id, now_ms)
    if vector is None:
        forget_vectors(db, collection, [row_id], model)
    else:
        (document,) = LOADERS[collection](db, [row_id], "")
        replace_vector(db, collection, row_id, model, document.content_hash, vector)
    return PointState(collection=collection, id=row_id, vector="pending")


def remove_point(db: apsw.Connection, collection: Collection, row_id: int, now_ms: int) -> Deletion:
    """Queue the removal of the row's point; a vector that was kept for it goes too.

    Raises:
        RowNotFound: there is no such row.
    """
    queued = take_out(db, collection, row_id, now_ms)
    forget_row(db, collection, row_id)
    return deletion(db, queued)

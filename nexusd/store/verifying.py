"""What a verification reads: a run of rows beside everything that is kept of them, as they are at one moment.

Owns these queries and no table. All of a slice is read in one short transaction, and in one step, as JSON: between two
rows SQLite gives the interpreter's lock away, and a busy loop takes its time to give it back. Knows
neither the index nor the wording of the texts that are embedded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from nexusd.model.fields import IndexedCollection
from nexusd.store.connection import Connection
from nexusd.store.indexed import table_of
from nexusd.store.memory_filter import TEXT_TABLES

LAST_ID = 2**63 - 1  # SQLite's largest
MAX_SLICE_BYTES = 1024 * 1024  # of texts, but one row at least: they may hold megabytes each

# What a row's text is made of, by collection.
TEXT_COLUMNS: dict[IndexedCollection, str] = {
    "episodes": "user_message, ai_response",
    "entities": "name, type, notes",
    "summaries": "content",
    "messages": "role, content",
    "vectors": "text",
}
# How many bytes that is, about: what may be long of it. SQLite knows it without reading them.
TEXT_SIZES: dict[IndexedCollection, str] = {
    "episodes": "octet_length(user_message) + octet_length(ai_response)",
    "entities": "coalesce(octet_length(notes), 0)",
    "summaries": "octet_length(content)",
    "messages": "octet_length(content)",
    "vectors": "octet_length(text)",
}
# Whether the caller gave a vector of its own for this model, where rows can have one: then the text is not embedded.
OWN_VECTOR: dict[IndexedCollection, str] = {"vectors": "embedding IS NOT NULL AND embedding_model IS ?2"}

# Everything of the next rows, in one row and so in one step. Bound: collection, model, after, end, limit, bytes.
#   fitting   the next rows, as many as there is room for
#   slice     where the slice ends: at the last of these if there are more, else at the end
# Answered are where it ends; the rows (id, version, whether the vector is the caller's, what the text is made of); what
# waits in the outbox, in which state; what is to stay out of the index; which texts the stored vectors are of; stored
# vectors without a row, under any model; rows that have vectors of a model that nobody knows; and which ids the
# full-text index has.
SELECT_SLICE = """
WITH following AS MATERIALIZED (
    SELECT id, {size} AS size FROM {table} WHERE id > ?3 AND id <= ?4 ORDER BY id LIMIT ?5),
measured AS MATERIALIZED (
    SELECT id, sum(size) OVER (ORDER BY id) AS total, row_number() OVER (ORDER BY id) AS number FROM following),
fitting AS MATERIALIZED (SELECT id FROM measured WHERE total <= ?6 OR number = 1),
slice AS MATERIALIZED (
    SELECT iif((SELECT count(*) FROM following) < ?5
            AND (SELECT count(*) FROM fitting) = (SELECT count(*) FROM following),
        ?4, (SELECT max(id) FROM fitting)) AS until)
SELECT
    until,
    (SELECT json_group_array(json_array(id, version, {own}, {columns})) FROM (
        SELECT * FROM {table} WHERE id > ?3 AND id <= until ORDER BY id)),
    (SELECT json_group_array(json_array(row_id, state)) FROM outbox
        WHERE collection = ?1 AND row_id > ?3 AND row_id <= until),
    (SELECT json_group_array(row_id) FROM unindexed WHERE collection = ?1 AND row_id > ?3 AND row_id <= until),
    (SELECT json_group_array(json_array(row_id, lower(hex(content_hash)))) FROM embeddings
        WHERE collection = ?1 AND row_id > ?3 AND row_id <= until AND model = ?2),
    (SELECT json_group_array(DISTINCT row_id) FROM embeddings
        WHERE collection = ?1 AND row_id > ?3 AND row_id <= until
            AND NOT EXISTS (SELECT 1 FROM {table} WHERE id = row_id)),
    (SELECT json_group_array(DISTINCT row_id) FROM embeddings
        WHERE collection = ?1 AND row_id > ?3 AND row_id <= until AND model <> ?2
            AND model NOT IN (SELECT key FROM models) AND EXISTS (SELECT 1 FROM {table} WHERE id = row_id)),
    {worded}
FROM slice"""
WORDED = "(SELECT json_group_array(id) FROM {table}_fts_docsize WHERE id > ?3 AND id <= until)"

# rows as they are now: which version the index should hold, none of those that are gone or are to stay out; and which
# wait in the outbox
SELECT_STATES = """
SELECT
    (SELECT json_group_array(json_array(id, version)) FROM {table}
        WHERE id IN (SELECT value FROM json_each(?2))
            AND id NOT IN (SELECT row_id FROM unindexed WHERE collection = ?1)),
    (SELECT json_group_array(row_id) FROM outbox
        WHERE collection = ?1 AND row_id IN (SELECT value FROM json_each(?2)))"""

# the model whose outbox this is
SELECT_SERVING = "SELECT key FROM models WHERE state = 'serving'"

# how many rows there are, whether or not they are to be in the index
COUNT_TABLE = "SELECT count(*) FROM {table}"


@dataclass(frozen=True, slots=True)
class Slice:
    """Everything that is kept of the rows of a run of ids, up to and including `until`, at one moment.

    A row is a list, since there are very many: id, version, whether its vector is the caller's own (0 or 1), and what
    its text is made of. `hashes` are the content hashes of the vectors under the model that serves, in hexadecimal;
    `worded` is None for a collection without full text.
    """

    until: int
    rows: list[list[Any]]
    queued: dict[int, str]
    out: set[int]
    hashes: dict[int, str]
    orphaned_vectors: list[int]
    unknown_models: list[int]
    worded: set[int] | None


@dataclass(frozen=True, slots=True)
class RowState:
    """A row as the index should follow it. `version` None: it should hold nothing of it. `queued`: it waits."""

    version: int | None
    queued: bool


def read_slice(
    db: Connection, collection: IndexedCollection, model: str, after: int, end: int, limit: int
) -> Slice:
    """The next rows after an id, at most `limit` and none beyond `end`, and what is kept of them."""
    table = table_of(collection)
    with_words = collection in TEXT_TABLES
    sql = SELECT_SLICE.format(
        table=table,
        size=TEXT_SIZES[collection],
        own=OWN_VECTOR.get(collection, "FALSE"),
        columns=TEXT_COLUMNS[collection],
        worded=WORDED.format(table=table) if with_words else "NULL",
    )
    ((until, rows, queued, out, hashes, orphaned, unknown, worded),) = db.execute(
        sql, (collection, model, after, end, limit, MAX_SLICE_BYTES)
    )
    decode = msgspec.json.decode
    return Slice(
        until=until,
        rows=decode(rows),
        queued=dict(decode(queued)),
        out=set(decode(out)),
        hashes=dict(decode(hashes)),
        orphaned_vectors=decode(orphaned),
        unknown_models=decode(unknown),
        worded=set(decode(worded)) if with_words else None,
    )


def row_states(db: Connection, collection: IndexedCollection, ids: Sequence[int]) -> dict[int, RowState]:
    """The states of rows, of those that are not there too."""
    values = (collection, msgspec.json.encode(ids).decode())
    ((found, queued),) = db.execute(SELECT_STATES.format(table=table_of(collection)), values)
    versions: dict[int, int] = dict(msgspec.json.decode(found))
    waiting = set(msgspec.json.decode(queued))
    return {row_id: RowState(versions.get(row_id), row_id in waiting) for row_id in ids}


def serving_key(db: Connection) -> str | None:
    """The key of the model that the outbox is for; None where none was ever noted."""
    key: str | None = db.execute(SELECT_SERVING).get
    return key


def count_tables(db: Connection, collections: Sequence[IndexedCollection]) -> dict[str, int]:
    """How many rows the collections have, whether or not they are to be in the index."""
    return {each: db.execute(COUNT_TABLE.format(table=table_of(each))).get for each in collections}

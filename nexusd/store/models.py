"""The embedding models whose vectors are in the index, and what a change of roles means for the outbox.

Owns the tables `models` and `outbox_next`, and the change from one model to another as one transaction. Knows no
embedder: what one is made of again (`settings`) is text here.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec

from nexusd.errors import Conflict, RowNotFound
from nexusd.store.connection import Connection
from nexusd.store.indexed import TABLES
from nexusd.store.meta import get_meta, incarnation_of, set_meta
from nexusd.store.outbox import requeue_collection

ModelState = Literal["serving", "next", "kept"]

FILLED = 2**63 - 1  # in place of the last id that was queued: all of the collection's rows were
FAMILY = 12  # characters of a key that are the fingerprint's; what follows tells weights of the same name apart

_COLUMNS = "key, state, provider, model, dimension, prefix, settings, filled, since_ms, keep_until_ms"

# all models, those that came last at the end
SELECT_MODELS = f"SELECT {_COLUMNS} FROM models ORDER BY since_ms, key"

# a model that has no row yet
INSERT_MODEL = f"INSERT INTO models ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

# what a model's embedder is made of again
UPDATE_SETTINGS = "UPDATE models SET settings = ? WHERE key = ? AND settings <> ?"

# a kept model that is wanted again: what it lacks is found by comparing
PROMOTE_KEPT = """
UPDATE models SET state = 'next', settings = ?, filled = ?, since_ms = ?, keep_until_ms = NULL
WHERE key = ? AND state = 'kept'"""

# deletes that are still owed to it, as they were while it was kept
KEEP_DELETES = """
INSERT INTO outbox_next (collection, row_id, version, op, created_ms)
SELECT collection, row_id, version, op, created_ms FROM outbox WHERE op = 'delete' ORDER BY seq
ON CONFLICT (collection, row_id) DO NOTHING"""

# how far the rows were queued for the next model
UPDATE_FILLED = "UPDATE models SET filled = ? WHERE state = 'next'"

# the model in this role, if any, is kept for a while
SET_ASIDE = "UPDATE models SET state = 'kept', since_ms = ?, keep_until_ms = ?, filled = '{}' WHERE state = ?"

# the next model serves
SERVE_NEXT = "UPDATE models SET state = 'serving', since_ms = ?, filled = '{}' WHERE state = 'next'"

# a kept model is to go at once
EXPIRE = "UPDATE models SET keep_until_ms = 0 WHERE state = 'kept' AND key IN (SELECT value FROM json_each(?))"

# a kept model is gone
DELETE_MODEL = "DELETE FROM models WHERE key = ? AND state = 'kept'"

# what is known of it and of its collections; the names of these facts end with its key
DELETE_FACTS = "DELETE FROM meta WHERE key LIKE '%._%' AND substr(key, -length(?1)) = ?1"

# a slice of the rows of a collection, queued for the next model unless they are already, or are to stay out
FILL = """
INSERT INTO outbox_next (collection, row_id, version, op, created_ms)
SELECT ?1, id, version, 'upsert', ?2 FROM {table}
WHERE id > ?3 AND id <= ?4 AND id NOT IN (SELECT row_id FROM unindexed WHERE collection = ?1)
ON CONFLICT (collection, row_id) DO NOTHING"""

# where such a slice ends
SLICE_END = "SELECT max(id) FROM (SELECT id FROM {table} WHERE id > ? ORDER BY id LIMIT ?)"

# how many rows the next model still owes that the model which serves does not
COUNT_BEHIND = """
SELECT count(*) FROM outbox_next n WHERE state <> 'dead'
    AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.collection = n.collection AND o.row_id = n.row_id)"""

# whether any of these waits to be tried again
ANY_POSTPONED = """
SELECT EXISTS (SELECT 1 FROM outbox_next n WHERE state = 'pending' AND not_before_ms > ?
    AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.collection = n.collection AND o.row_id = n.row_id))"""

# --- the queue of the next model becomes the outbox ---
# Rows of both keep their number: who waits for a delete up to a number must not see it pass to a later one. Deletes
# stay, for the collections that are kept.
DROP_SETTLED = """
DELETE FROM outbox WHERE op = 'upsert'
    AND NOT EXISTS (SELECT 1 FROM outbox_next n WHERE n.collection = outbox.collection AND n.row_id = outbox.row_id)"""
TAKE_OVER = """
UPDATE outbox SET version = n.version, op = n.op, state = iif(n.state = 'inflight', 'pending', n.state),
    attempts = n.attempts, not_before_ms = n.not_before_ms, error_kind = n.error_kind, error = n.error
FROM outbox_next n WHERE n.collection = outbox.collection AND n.row_id = outbox.row_id"""
MOVE = """
INSERT INTO outbox (collection, row_id, version, op, state, attempts, not_before_ms, error_kind, error, created_ms)
SELECT collection, row_id, version, op, iif(state = 'inflight', 'pending', state), attempts, not_before_ms, error_kind,
    error, created_ms
FROM outbox_next n
WHERE NOT EXISTS (SELECT 1 FROM outbox o WHERE o.collection = n.collection AND o.row_id = n.row_id)
ORDER BY seq"""
EMPTY_NEXT = "DELETE FROM outbox_next"

# texts of nothing that the model before had no vector for, and this one has: their callers' own
LET_IN_OWN = """
INSERT INTO outbox (collection, row_id, version, op, created_ms)
SELECT 'vectors', v.id, v.version, 'upsert', ?2 FROM unindexed u JOIN vectors v ON v.id = u.row_id
WHERE u.collection = 'vectors' AND v.embedding_model = ?1
ON CONFLICT (collection, row_id) DO NOTHING"""
FORGET_LET_IN = """
DELETE FROM unindexed
WHERE collection = 'vectors' AND row_id IN (SELECT id FROM vectors WHERE embedding_model = ?)"""

# deletes that a model which is set aside still owed; the worker takes them to the kept collections too
SELECT_DELETES = """
SELECT collection, row_id, version, created_ms FROM outbox_next n WHERE op = 'delete'
    AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.collection = n.collection AND o.row_id = n.row_id)
ORDER BY seq"""
SELECT_SEQS = "SELECT seq FROM outbox"
INSERT_DELETE = "INSERT INTO outbox (seq, collection, row_id, version, op, created_ms) VALUES (?, ?, ?, ?, 'delete', ?)"

# callers' own vectors, given before it was noted which model they belong to
CLAIM_OWN_VECTORS = "UPDATE vectors SET embedding_model = ? WHERE embedding IS NOT NULL AND embedding_model IS NULL"

# vectors kept under a model, a slice of rows at a time: there is no index by model, and the primary key serves
VECTORS_END = """
SELECT max(row_id) FROM (SELECT row_id FROM embeddings WHERE collection = ? AND row_id > ? ORDER BY row_id LIMIT ?)"""
DELETE_VECTORS = "DELETE FROM embeddings WHERE collection = ? AND row_id > ? AND row_id <= ? AND model = ?"
COUNT_VECTORS = "SELECT count(*) FROM embeddings WHERE model IN (SELECT value FROM json_each(?))"

# of what dimension the vectors under a key are
SELECT_DIMENSION = "SELECT dim FROM embeddings WHERE model = ? LIMIT 1"


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model's row. `filled`: by collection, the last id that was queued for it."""

    key: str
    state: ModelState
    provider: str
    model: str
    dimension: int
    prefix: str
    settings: str
    filled: dict[str, int]
    since_ms: int
    keep_until_ms: int | None = None

    @property
    def family(self) -> str:
        """The fingerprint's part of the key."""
        return family_of(self.key)


def family_of(key: str) -> str:
    """The fingerprint's part of a key."""
    return key[:FAMILY]


def select_models(db: Connection) -> list[StoredModel]:
    """All models, in the order of their last change."""
    rows: list[tuple[Any, ...]] = db.execute(SELECT_MODELS).fetchall()
    return [
        StoredModel(
            key=row[0], state=row[1], provider=row[2], model=row[3], dimension=row[4], prefix=row[5], settings=row[6],
            filled=msgspec.json.decode(row[7]), since_ms=row[8], keep_until_ms=row[9],
        )
        for row in rows
    ]  # fmt: skip


def insert_model(db: Connection, model: StoredModel) -> None:
    """A model that has no row yet."""
    db.execute(
        INSERT_MODEL,
        (
            model.key, model.state, model.provider, model.model, model.dimension, model.prefix, model.settings,
            msgspec.json.encode(model.filled).decode(), model.since_ms, model.keep_until_ms,
        ),
    )  # fmt: skip


def set_settings(db: Connection, key: str, settings: str) -> None:
    """The model is reached in another way; it is the same."""
    db.execute(UPDATE_SETTINGS, (settings, key, settings))


def begin_next(db: Connection, wanted: StoredModel, now_ms: int, *, anew: bool = False) -> StoredModel:
    """Let a model of this fingerprint come next: one that is kept, if there is one, else a new one.

    `anew`: none that is there, but one more of the same name.
    """
    same = [model for model in select_models(db) if model.family == wanted.family]
    kept = [model.key for model in same if model.state == "kept" and model.keep_until_ms != 0]
    if kept and not anew:
        filled = msgspec.json.encode(dict.fromkeys(TABLES, FILLED)).decode()
        db.execute(PROMOTE_KEPT, (wanted.settings, filled, now_ms, kept[-1]))
        db.execute(KEEP_DELETES)
    else:
        key = f"{wanted.key}-{1 + max(_number(model.key) for model in same)}" if same else wanted.key
        insert_model(db, replace(wanted, key=key, state="next", filled={}, since_ms=now_ms, keep_until_ms=None))
    (chosen,) = (model for model in select_models(db) if model.state == "next")
    return chosen


def _number(key: str) -> int:
    """Which of the models of one fingerprint it is; the first one's key has no number."""
    return int(key[FAMILY + 1 :] or 1)


def abandon_next(db: Connection, now_ms: int, keep_until_ms: int) -> None:
    """The next model is not wanted any more: it is kept as far as it came."""
    db.execute(SET_ASIDE, (now_ms, keep_until_ms, "next"))
    # Numbers that are free again, the lowest ones: who waits for a delete up to a number must not see it pass.
    taken = {seq for (seq,) in db.execute(SELECT_SEQS)}
    free = (seq for seq in itertools.count(1) if seq not in taken)
    deletes: list[Any] = db.execute(SELECT_DELETES).fetchall()
    for seq, delete in zip(free, deletes, strict=False):
        db.execute(INSERT_DELETE, (seq, *delete))
    db.execute(EMPTY_NEXT)


def fill_next(db: Connection, limit: int, now_ms: int) -> bool:
    """Queue a slice of rows for the next model; false when all are."""
    (model,) = (model for model in select_models(db) if model.state == "next")
    for collection, table in TABLES.items():
        after = model.filled.get(collection, 0)
        if after == FILLED:
            continue
        until: int | None = db.execute(SLICE_END.format(table=table), (after, limit)).get
        if until is not None:
            db.execute(FILL.format(table=table), (collection, now_ms, after, until))
        filled = {**model.filled, collection: FILLED if until is None else until}
        db.execute(UPDATE_FILLED, (msgspec.json.encode(filled).decode(),))
        return True
    return False


def count_behind(db: Connection) -> int:
    """How many rows the next model still owes that the model which serves has already, or owes not any more."""
    return int(db.execute(COUNT_BEHIND).get)


def any_postponed(db: Connection, now_ms: int) -> bool:
    """Whether any of the rows that the next model is behind is not to be tried yet."""
    return bool(db.execute(ANY_POSTPONED, (now_ms,)).get)


def serve_next(db: Connection, now_ms: int, keep_until_ms: int) -> list[StoredModel] | None:
    """Let the next model serve, and its queue be the outbox; answers all models, or None if it is behind."""
    if count_behind(db):
        return None
    db.execute(SET_ASIDE, (now_ms, keep_until_ms, "serving"))
    db.execute(SERVE_NEXT, (now_ms,))
    for sql in (DROP_SETTLED, TAKE_OVER, MOVE, EMPTY_NEXT):
        db.execute(sql)
    models = select_models(db)
    (key,) = (model.key for model in models if model.state == "serving")
    db.execute(LET_IN_OWN, (key, now_ms))
    db.execute(FORGET_LET_IN, (key,))
    return models


def expire(db: Connection, key: str | None) -> list[str]:
    """Let a kept model go, or all kept ones; answers which.

    Raises:
        RowNotFound: there is no such model.
        Conflict: it is not kept, but in use.
    """
    models = select_models(db)
    if key is not None:
        found = next((model for model in models if model.key == key), None)
        if found is None:
            raise RowNotFound(f"There is no embedding model with the key {key!r}; see `index.status`.")
        if found.state != "kept":
            raise Conflict(f"The model {key} is in use; only kept ones can be forgotten.")
    keys = [model.key for model in models if model.state == "kept" and key in {None, model.key}]
    db.execute(EXPIRE, (_json(keys),))
    return keys


def delete_model(db: Connection, key: str) -> None:
    """A kept model whose collections and vectors are gone."""
    db.execute(DELETE_MODEL, (key,))
    db.execute(DELETE_FACTS, (key,))


def delete_vectors(db: Connection, collection: str, key: str, after: int, limit: int) -> tuple[int, int] | None:
    """Delete a slice of the vectors kept under a model: where the slice ends and how many went; None at the end."""
    until: int | None = db.execute(VECTORS_END, (collection, after, limit)).get
    if until is None:
        return None
    db.execute(DELETE_VECTORS, (collection, after, until, key))
    return until, db.changes()


def count_vectors(db: Connection, keys: Sequence[str]) -> int:
    """How many vectors are kept under these models."""
    return int(db.execute(COUNT_VECTORS, (_json(keys),)).get)


def claim_own_vectors(db: Connection, key: str) -> None:
    """Callers' own vectors of before belong to this model."""
    db.execute(CLAIM_OWN_VECTORS, (key,))


# --- a database from before there was the table ---


def former_key(db: Connection) -> str | None:
    """The key of the model that a database of before names; None if it names none."""
    targets = {name: get_meta(db, f"collection.{name}") for name in TABLES}
    named = [(name, target) for name, target in targets.items() if target is not None]
    return named[0][1].removeprefix(f"{named[0][0]}-") if named else None


def take_over_pointers(db: Connection, configured: StoredModel, now_ms: int, keep_until_ms: int) -> str | None:
    """The first model of a database of before; answers the key of another one that it named, which is kept.

    What that one's embedder was made of is not known: every row is queued for the configured one.
    """
    former = former_key(db)
    insert_model(db, configured)
    claim_own_vectors(db, former or configured.key)
    for collection in TABLES:
        incarnation = get_meta(db, f"incarnation.{collection}")
        if former is not None and incarnation is not None:
            set_meta(db, incarnation_of(f"{collection}-{former}"), incarnation)
        set_meta(db, f"incarnation.{collection}", None)
        set_meta(db, f"collection.{collection}", None)
        if former not in {None, configured.key}:
            requeue_collection(db, collection, now_ms)
    if former is None or former == configured.key:
        return None
    dimension: int | None = db.execute(SELECT_DIMENSION, (former,)).get
    insert_model(
        db,
        StoredModel(
            former, "kept", "unknown", "unknown", dimension or 0, "", "{}", {}, now_ms,
            keep_until_ms if dimension else 0,
        ),
    )  # fmt: skip
    return former


def _json(keys: Sequence[str]) -> str:
    return msgspec.json.encode(keys).decode()

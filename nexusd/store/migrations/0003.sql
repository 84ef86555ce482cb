-- Schema version 3: more than one embedding model at a time, and an outbox that stays quick while many rows wait.

-- The embedding models whose vectors are in the index: the one that serves, the next one while it is filled, and those
-- kept so that going back costs nothing. `key` names their collections and their stored vectors. `settings` is what
-- the embedder is made of again; no secret is in it. `filled` is how far the next one's rows were queued, by collection.
CREATE TABLE models (
    key           TEXT    PRIMARY KEY,
    state         TEXT    NOT NULL CHECK (state IN ('serving', 'next', 'kept')),
    provider      TEXT    NOT NULL,
    model         TEXT    NOT NULL,
    dimension     INTEGER NOT NULL,
    prefix        TEXT    NOT NULL DEFAULT '',
    settings      TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(settings)),
    filled        TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(filled)),
    since_ms      INTEGER NOT NULL,
    keep_until_ms INTEGER
) STRICT, WITHOUT ROWID;

-- one serves, and one at most comes next
CREATE UNIQUE INDEX models_serving ON models (state) WHERE state = 'serving';
CREATE UNIQUE INDEX models_next    ON models (state) WHERE state = 'next';

-- A caller's own vector belongs to the model that served when it was given.
ALTER TABLE vectors ADD COLUMN embedding_model TEXT;

-- A collection's pending rows by the time from which they may be tried, and there by age: what is due is found at once,
-- however many were postponed, and the newest as fast as the oldest.
DROP INDEX outbox_pending;
CREATE INDEX outbox_due ON outbox (collection, not_before_ms, seq) WHERE state = 'pending';

-- What the index still owes to the rows under the next model; the same shape and the same rules.
CREATE TABLE outbox_next (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT,
    collection    TEXT    NOT NULL,
    row_id        INTEGER NOT NULL,
    version       INTEGER NOT NULL,
    op            TEXT    NOT NULL CHECK (op IN ('upsert', 'delete')),
    state         TEXT    NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'inflight', 'dead')),
    attempts      INTEGER NOT NULL DEFAULT 0,
    not_before_ms INTEGER NOT NULL DEFAULT 0,
    error_kind    TEXT,
    error         TEXT,
    created_ms    INTEGER NOT NULL,
    UNIQUE (collection, row_id)
) STRICT;

CREATE INDEX outbox_next_due      ON outbox_next (collection, not_before_ms, seq) WHERE state = 'pending';
CREATE INDEX outbox_next_inflight ON outbox_next (seq) WHERE state = 'inflight';
CREATE INDEX outbox_next_dead     ON outbox_next (seq) WHERE state = 'dead';

-- While a next model is filled, whatever is queued for the index is queued for it too.
CREATE TRIGGER outbox_also_next_insert AFTER INSERT ON outbox
WHEN EXISTS (SELECT 1 FROM models WHERE state = 'next')
BEGIN
    INSERT INTO outbox_next (collection, row_id, version, op, created_ms)
    VALUES (new.collection, new.row_id, new.version, new.op, new.created_ms)
    ON CONFLICT (collection, row_id) DO UPDATE SET
        version = excluded.version, op = excluded.op, state = 'pending',
        attempts = 0, not_before_ms = 0, error_kind = NULL, error = NULL;
END;

CREATE TRIGGER outbox_also_next_update AFTER UPDATE OF version ON outbox
WHEN EXISTS (SELECT 1 FROM models WHERE state = 'next')
BEGIN
    INSERT INTO outbox_next (collection, row_id, version, op, created_ms)
    VALUES (new.collection, new.row_id, new.version, new.op, new.created_ms)
    ON CONFLICT (collection, row_id) DO UPDATE SET
        version = excluded.version, op = excluded.op, state = 'pending',
        attempts = 0, not_before_ms = 0, error_kind = NULL, error = NULL;
END;

-- The deletes that are still to be delivered: whoever waits for one must not look through a backlog of other work.
CREATE INDEX outbox_deletes      ON outbox      (seq) WHERE op = 'delete';
CREATE INDEX outbox_next_deletes ON outbox_next (seq) WHERE op = 'delete';

-- A delete in slices keeps what went so far under its caller's key; null where the reply is kept.
ALTER TABLE idempotency ADD COLUMN unfinished BLOB;

-- The kept replies that hold anything, by method: a secure delete empties those that may speak of what it deletes.
CREATE INDEX idempotency_kept ON idempotency (method) WHERE length(reply) > 0;

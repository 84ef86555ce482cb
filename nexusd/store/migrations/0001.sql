-- Schema version 1: the memory's tables, the full-text index, and what the index and the wire need kept.
-- Every id is AUTOINCREMENT: a reused id would inherit a dead row's vector. Times are milliseconds since 1970, UTC.

CREATE TABLE projects (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    name        TEXT    NOT NULL,
    description TEXT,
    colour      TEXT,
    icon        TEXT,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL
) STRICT;

CREATE TABLE sessions (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    external_id TEXT    NOT NULL UNIQUE,
    name        TEXT,
    project_id  INTEGER REFERENCES projects (id) ON DELETE SET NULL,
    metadata    TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(metadata)),
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL
) STRICT;

-- the sessions of a project, newest first (an index ends in the row's id)
CREATE INDEX sessions_by_project ON sessions (project_id);

CREATE TABLE episodes (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id   INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    user_message TEXT    NOT NULL,
    ai_response  TEXT    NOT NULL,
    token_count  INTEGER,
    metadata     TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(metadata)),
    version      INTEGER NOT NULL DEFAULT 1,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL
) STRICT;

-- the exchanges of a session in their order, and its cascade
CREATE INDEX episodes_by_session ON episodes (session_id, created_at);

CREATE VIRTUAL TABLE episodes_fts USING fts5 (
    user_message,
    ai_response,
    content = 'episodes',
    content_rowid = 'id',
    tokenize = "porter unicode61 remove_diacritics 2"
);

-- how many rows hold a term: what a search's budget of matched rows is reckoned with
CREATE VIRTUAL TABLE episodes_terms USING fts5vocab ('episodes_fts', 'row');

CREATE TABLE entities (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT    NOT NULL,
    type       TEXT    NOT NULL,
    notes      TEXT,
    metadata   TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(metadata)),
    version    INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (name, type)
) STRICT;

CREATE INDEX entities_by_type ON entities (type);

CREATE TABLE relationships (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    from_id    INTEGER NOT NULL REFERENCES entities (id) ON DELETE CASCADE,
    to_id      INTEGER NOT NULL REFERENCES entities (id) ON DELETE CASCADE,
    label      TEXT    NOT NULL,
    metadata   TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(metadata)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (from_id, to_id, label)
) STRICT;

-- the links that end in an entity, and its cascade
CREATE INDEX relationships_by_target ON relationships (to_id);

-- The run of episodes is named by its ends, without foreign keys: a summary outlives the exchanges that it condenses.
CREATE TABLE summaries (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id       INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    content          TEXT    NOT NULL,
    first_episode_id INTEGER,
    last_episode_id  INTEGER,
    token_count      INTEGER,
    metadata         TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(metadata)),
    version          INTEGER NOT NULL DEFAULT 1,
    created_at       INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL
) STRICT;

CREATE INDEX summaries_by_session ON summaries (session_id, created_at);

-- What the index still owes to the rows. No payload: the worker reads the row when it sends.
CREATE TABLE outbox (
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

-- Partial, so that a row is in one of them at a time and many dead letters cost the living nothing.
CREATE INDEX outbox_pending  ON outbox (seq) WHERE state = 'pending';
CREATE INDEX outbox_inflight ON outbox (seq) WHERE state = 'inflight';
CREATE INDEX outbox_dead     ON outbox (seq) WHERE state = 'dead';

-- Every vector that was paid for, float32 little-endian: a wiped index is rebuilt without embedding again.
CREATE TABLE embeddings (
    collection   TEXT    NOT NULL,
    row_id       INTEGER NOT NULL,
    model        TEXT    NOT NULL,
    dim          INTEGER NOT NULL,
    content_hash BLOB    NOT NULL,
    vector       BLOB    NOT NULL CHECK (length(vector) = 4 * dim),
    PRIMARY KEY (collection, row_id, model)
) STRICT;

-- Replies by key, for 24 hours. `id` runs with the time: the oldest are the first.
CREATE TABLE idempotency (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    principal       TEXT    NOT NULL,
    key             TEXT    NOT NULL,
    method          TEXT    NOT NULL,
    parameters_hash BLOB    NOT NULL,
    reply           BLOB    NOT NULL,
    created_ms      INTEGER NOT NULL,
    UNIQUE (principal, key)
) STRICT;

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO meta (key, value) VALUES ('epoch', lower(hex(randomblob(16))));

-- The full-text index follows the rows.

CREATE TRIGGER episodes_fts_insert AFTER INSERT ON episodes
BEGIN
    INSERT INTO episodes_fts (rowid, user_message, ai_response)
    VALUES (new.id, new.user_message, new.ai_response);
END;

CREATE TRIGGER episodes_fts_update AFTER UPDATE OF user_message, ai_response ON episodes
WHEN new.user_message IS NOT old.user_message OR new.ai_response IS NOT old.ai_response
BEGIN
    INSERT INTO episodes_fts (episodes_fts, rowid, user_message, ai_response)
    VALUES ('delete', old.id, old.user_message, old.ai_response);
    INSERT INTO episodes_fts (rowid, user_message, ai_response)
    VALUES (new.id, new.user_message, new.ai_response);
END;

CREATE TRIGGER episodes_fts_delete AFTER DELETE ON episodes
BEGIN
    INSERT INTO episodes_fts (episodes_fts, rowid, user_message, ai_response)
    VALUES ('delete', old.id, old.user_message, old.ai_response);
END;

-- Every change of a row that the index must follow is queued in the same transaction. A newer change takes
-- the place of an older one, and keeps its place in the queue: the row is behind since then.

CREATE TRIGGER episodes_outbox_insert AFTER INSERT ON episodes
BEGIN
    INSERT INTO outbox (collection, row_id, version, op, created_ms)
    VALUES ('episodes', new.id, new.version, 'upsert', new.updated_at)
    ON CONFLICT (collection, row_id) DO UPDATE SET
        version = excluded.version, op = excluded.op, state = 'pending',
        attempts = 0, not_before_ms = 0, error_kind = NULL, error = NULL;
END;

CREATE TRIGGER episodes_outbox_update AFTER UPDATE OF version ON episodes
WHEN new.version IS NOT old.version
BEGIN
    INSERT INTO outbox (collection, row_id, version, op, created_ms)
    VALUES ('episodes', new.id, new.version, 'upsert', CAST(unixepoch('subsec') * 1000 AS INTEGER))
    ON CONFLICT (collection, row_id) DO UPDATE SET
        version = excluded.version, op = excluded.op, state = 'pending',
        attempts = 0, not_before_ms = 0, error_kind = NULL, error = NULL;
END;

-- Also for the cascade from sessions: foreign key actions fire triggers.
CREATE TRIGGER episodes_outbox_delete AFTER DELETE ON episodes
BEGIN
    DELETE FROM embeddings WHERE collection = 'episodes' AND row_id = old.id;
    INSERT INTO outbox (collection, row_id, version, op, created_ms)
    VALUES ('episodes', old.id, old.version + 1, 'delete', CAST(unixepoch('subsec') * 1000 AS INTEGER))
    ON CONFLICT (collection, row_id) DO UPDATE SET
        version = excluded.version, op = excluded.op, state = 'pending',
        attempts = 0, not_before_ms = 0, error_kind = NULL, error = NULL;
END;

-- The project is in the payload of the session's points; ON DELETE SET NULL comes through here too.
CREATE TRIGGER sessions_project_changed AFTER UPDATE OF project_id ON sessions
WHEN new.project_id IS NOT old.project_id
BEGIN
    UPDATE episodes SET version = version + 1 WHERE session_id = new.id;
END;

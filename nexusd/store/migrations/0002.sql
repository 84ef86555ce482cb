-- Schema version 2: the rest of what the two older services kept, and what makes every kind of memory findable:
-- full text and outbox for entities, summaries, messages and vectors.

CREATE TABLE conversations (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    title      TEXT,
    user_id    ANY,                 -- the caller's own id, as users.id; no foreign key: settings may never be kept
    group_id   INTEGER REFERENCES "groups" (id) ON DELETE SET NULL,
    metadata   TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(metadata)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE INDEX conversations_by_user ON conversations (user_id, created_at);
-- also for the SET NULL of a group that goes
CREATE INDEX conversations_by_group ON conversations (group_id, created_at);
-- the last active first: of all, of a user, of a group
CREATE INDEX conversations_by_activity ON conversations (updated_at);
CREATE INDEX conversations_by_user_activity ON conversations (user_id, updated_at);
CREATE INDEX conversations_by_group_activity ON conversations (group_id, updated_at);
-- the latest first, and the same one again when a file is imported twice
CREATE INDEX conversations_by_time ON conversations (created_at);

CREATE TABLE messages (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation_id INTEGER NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    role            TEXT    NOT NULL,
    content         TEXT    NOT NULL,
    metadata        TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(metadata)),
    version         INTEGER NOT NULL DEFAULT 1,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL
) STRICT;

-- the messages of a conversation in their order, and its cascade
CREATE INDEX messages_by_conversation ON messages (conversation_id, created_at);

-- Ids are the caller's own, a text or a number.
CREATE TABLE users (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,   -- the order of the list; callers never see it
    id         ANY     NOT NULL UNIQUE,
    settings   TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(settings)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE TABLE "groups" (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT    NOT NULL,
    config     TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(config)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

-- The mirror of the files in presets/: a row is the last good content of its file.
CREATE TABLE presets (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT    NOT NULL UNIQUE,
    content    TEXT    NOT NULL CHECK (json_valid(content)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE TABLE tool_logs (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    tool            TEXT    NOT NULL,
    status          TEXT    NOT NULL CHECK (status IN ('ok', 'error')),
    arguments       TEXT    NOT NULL DEFAULT 'null' CHECK (json_valid(arguments)),
    result          TEXT    NOT NULL DEFAULT 'null' CHECK (json_valid(result)),
    error           TEXT,
    duration_ms     INTEGER,
    conversation_id INTEGER REFERENCES conversations (id) ON DELETE SET NULL,
    metadata        TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(metadata)),
    created_at      INTEGER NOT NULL
) STRICT;

CREATE INDEX tool_logs_by_time ON tool_logs (created_at);
CREATE INDEX tool_logs_by_tool ON tool_logs (tool, created_at);
-- also for the SET NULL of a conversation that goes
CREATE INDEX tool_logs_by_conversation ON tool_logs (conversation_id, created_at);
-- Errors are looked for most and are the fewest.
CREATE INDEX tool_logs_errors ON tool_logs (created_at) WHERE status = 'error';
CREATE INDEX tool_logs_errors_by_tool ON tool_logs (tool, created_at) WHERE status = 'error';

-- Texts under the caller's own ids. `embedding` is the caller's own vector, float32 little-endian, where one was given.
CREATE TABLE vectors (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    key        ANY     NOT NULL UNIQUE,
    text       TEXT    NOT NULL,
    embedding  BLOB,
    metadata   TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(metadata)),
    version    INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

-- Rows whose point was taken out of the index on purpose; until the row changes, nothing puts it back.
CREATE TABLE unindexed (
    collection TEXT    NOT NULL,
    row_id     INTEGER NOT NULL,
    PRIMARY KEY (collection, row_id)
) STRICT, WITHOUT ROWID;

-- names as people write them, to find the entities that a text speaks of
CREATE INDEX entities_by_name ON entities (name COLLATE NOCASE);

-- all of a type, by name as people sort
CREATE INDEX entities_by_type_and_name ON entities (type, name COLLATE NOCASE);

-- The links of an entity by label and other end: a walk over the graph reads nothing but these, whichever way it goes.
CREATE INDEX relationships_by_source ON relationships (from_id, label, to_id);
DROP INDEX relationships_by_target;
CREATE INDEX relationships_by_target ON relationships (to_id, label, from_id);

-- Where in its session the run of a summary begins and ends, kept beside the ids since exchanges may be deleted.
ALTER TABLE summaries ADD COLUMN first_episode_at INTEGER;
ALTER TABLE summaries ADD COLUMN last_episode_at INTEGER;

UPDATE summaries SET
    first_episode_at = (SELECT created_at FROM episodes WHERE id = first_episode_id),
    last_episode_at = (SELECT created_at FROM episodes WHERE id = last_episode_id);

CREATE TRIGGER summaries_run AFTER INSERT ON summaries
WHEN new.first_episode_id IS NOT NULL
BEGIN
    UPDATE summaries SET
        first_episode_at = (SELECT created_at FROM episodes WHERE id = new.first_episode_id),
        last_episode_at = (SELECT created_at FROM episodes WHERE id = new.last_episode_id)
    WHERE id = new.id;
END;

-- the runs of a session in their order, to find what lies between them
CREATE INDEX summaries_by_run ON summaries (session_id, first_episode_at, first_episode_id, last_episode_at, last_episode_id)
WHERE first_episode_at IS NOT NULL;

-- The full-text indexes, cut and stemmed as that of the episodes; their vocabularies tell how rare a term is.

CREATE VIRTUAL TABLE entities_fts USING fts5 (
    name, type, notes,
    content = 'entities',
    content_rowid = 'id',
    tokenize = "porter unicode61 remove_diacritics 2"
);

CREATE VIRTUAL TABLE entities_terms USING fts5vocab ('entities_fts', 'row');

INSERT INTO entities_fts (entities_fts) VALUES ('rebuild');

CREATE TRIGGER entities_fts_insert AFTER INSERT ON entities
BEGIN
    INSERT INTO entities_fts (rowid, name, type, notes) VALUES (new.id, new.name, new.type, new.notes);
END;

CREATE TRIGGER entities_fts_update AFTER UPDATE OF name, type, notes ON entities
WHEN new.name IS NOT old.name
    OR new.type IS NOT old.type
    OR new.notes IS NOT old.notes
BEGIN
    INSERT INTO entities_fts (entities_fts, rowid, name, type, notes) VALUES ('delete', old.id, old.name, old.type, old.notes);
    INSERT INTO entities_fts (rowid, name, type, notes) VALUES (new.id, new.name, new.type, new.notes);
END;

CREATE TRIGGER entities_fts_delete AFTER DELETE ON entities
BEGIN
    INSERT INTO entities_fts (entities_fts, rowid, name, type, notes) VALUES ('delete', old.id, old.name, old.type, old.notes);
END;

CREATE VIRTUAL TABLE summaries_fts USING fts5 (
    content,
    content = 'summaries',
    content_rowid = 'id',
    tokenize = "porter unicode61 remove_diacritics 2"
);

CREATE VIRTUAL TABLE summaries_terms USING fts5vocab ('summaries_fts', 'row');

INSERT INTO summaries_fts (summaries_fts) VALUES ('rebuild');

CREATE TRIGGER summaries_fts_insert AFTER INSERT ON summaries
BEGIN
    INSERT INTO summaries_fts (rowid, content) VALUES (new.id, new.content);
END;

CREATE TRIGGER summaries_fts_update AFTER UPDATE OF content ON summaries
WHEN new.content IS NOT old.content
BEGIN
    INSERT INTO summaries_fts (summaries_fts, rowid, content) VALUES ('delete', old.id, old.content);
    INSERT INTO summaries_fts (rowid, content) VALUES (new.id, new.content);
END;

CREATE TRIGGER summaries_fts_delete AFTER DELETE ON summaries
BEGIN
    INSERT INTO summaries_fts (summaries_fts, rowid, content) VALUES ('delete', old.id, old.content);
END;

CREATE VIRTUAL TABLE messages_fts USING fts5 (
    content,
    content = 'messages',
    content_rowid = 'id',
    tokenize = "porter unicode61 remove_diacritics 2"
);

CREATE VIRTUAL TABLE messages_terms USING fts5vocab ('messages_fts', 'row');

INSERT INTO messages_fts (messages_fts) VALUES ('rebuild');

CREATE TRIGGER messages_fts_insert AFTER INSERT ON messages
BEGIN
    INSERT INTO messages_fts (rowid, content) VALUES (new.id, new.content);
END;

CREATE TRIGGER messages_fts_update AFTER UPDATE OF content ON messages
WHEN new.content IS NOT old.content
BEGIN
    INSERT INTO messages_fts (messages_fts, rowid, content) VALUES ('delete', old.id, old.content);
    INSERT INTO messages_fts (rowid, content) VALUES (new.id, new.content);
END;

CREATE TRIGGER messages_fts_delete AFTER DELETE ON messages
BEGIN
    INSERT INTO messages_fts (messages_fts, rowid, content) VALUES ('delete', old.id, old.content);
END;

-- The outbox follows every kind of memory, as it does the episodes.

CREATE TRIGGER entities_outbox_insert AFTER INSERT ON entities
BEGIN
    INSERT INTO outbox (collection, row_id, version, op, created_ms)
    VALUES ('entities', new.id, new.version, 'upsert', new.updated_at)
    ON CONFLICT (collection, row_id) DO UPDATE SET
        version = excluded.version, op = excluded.op, state = 'pending',
        attempts = 0, not_before_ms = 0, error_kind = NULL, error = NULL;
END;

CREATE TRIGGER entities_outbox_update AFTER UPDATE OF version ON entities
WHEN new.version IS NOT old.version
BEGIN
    DELETE FROM unindexed WHERE collection = 'entities' AND row_id = new.id;
    INSERT INTO outbox (collection, row_id, version, op, created_ms)
    VALUES ('entities', new.id, new.version, 'upsert', CAST(unixepoch('subsec') * 1000 AS INTEGER))
    ON CONFLICT (collection, row_id) DO UPDATE SET
        version = excluded.version, op = excluded.op, state = 'pending',
        attempts = 0, not_before_ms = 0, error_kind = NULL, error = NULL;
END;

CREATE TRIGGER entities_outbox_delete AFTER DELETE ON entities
BEGIN
    DELETE FROM unindexed WHERE collection = 'entities' AND row_id = old.id;
    DELETE FROM embeddings WHERE collection = 'entities' AND row_id = old.id;
    INSERT INTO outbox (collection, row_id, version, op, created_ms)
    VALUES ('entities', old.id, old.version + 1, 'delete', CAST(unixepoch('subsec') * 1000 AS INTEGER))
    ON CONFLICT (collection, row_id) DO UPDATE SET
        version = excluded.version, op = excluded.op, state = 'pending',
        attempts = 0, not_before_ms = 0, error_kind = NULL, error = NULL;
END;

CREATE TRIGGER summaries_outbox_insert AFTER INSERT ON summaries
BEGIN
    INSERT INTO outbox (collection, row_id, version, op, created_ms)
    VALUES ('summaries', new.id, new.version, 'upsert', new.updated_at)
    ON CONFLICT (collection, row_id) DO UPDATE SET
        version = excluded.version, op = excluded.op, state = 'pending',
        attempts = 0, not_before_ms = 0, error_kind = NULL, error = NULL;
END;

CREATE TRIGGER summaries_outbox_update AFTER UPDATE OF version ON summaries
WHEN new.version IS NOT old.version
BEGIN
    DELETE FROM unindexed WHERE collection = 'summaries' AND row_id = new.id;
    INSERT INTO outbox (collection, row_id, version, op, created_ms)
    VALUES ('summaries', new.id, new.version, 'upsert', CAST(unixepoch('subsec') * 1000 AS INTEGER))
    ON CONFLICT (collection, row_id) DO UPDATE SET
        version = excluded.version, op = excluded.op, state = 'pending',
        attempts = 0, not_before_ms = 0, error_kind = NULL, error = NULL;
END;

CREATE TRIGGER summaries_outbox_delete AFTER DELETE ON summaries
BEGIN
    DELETE FROM unindexed WHERE collection = 'summaries' AND row_id = old.id;
    DELETE FROM embeddings WHERE collection = 'summaries' AND row_id = old.id;
    INSERT INTO outbox (collection, row_id, version, op, created_ms)
    VALUES ('summaries', old.id, old.version + 1, 'delete', CAST(unixepoch('subsec') * 1000 AS INTEGER))
    ON CONFLICT (collection, row_id) DO UPDATE SET
        version = excluded.version, op = excluded.op, state = 'pending',
        attempts = 0, not_before_ms = 0, error_kind = NULL, error = NULL;
END;

-- A conversation was active when something was last said in it; an old message, imported, does not make it newer.
CREATE TRIGGER messages_activity AFTER INSERT ON messages
BEGIN
    UPDATE conversations SET updated_at = min(new.created_at, new.updated_at)
    WHERE id = new.conversation_id AND updated_at < min(new.created_at, new.updated_at);
END;

CREATE TRIGGER messages_outbox_insert AFTER INSERT ON messages
BEGIN
    INSERT INTO outbox (collection, row_id, version, op, created_ms)
    VALUES ('messages', new.id, new.version, 'upsert', new.updated_at)
    ON CONFLICT (collection, row_id) DO UPDATE SET
        version = excluded.version, op = excluded.op, state = 'pending',
        attempts = 0, not_before_ms = 0, error_kind = NULL, error = NULL;
END;

CREATE TRIGGER messages_outbox_update AFTER UPDATE OF version ON messages
WHEN new.version IS NOT old.version
BEGIN
    DELETE FROM unindexed WHERE collection = 'messages' AND row_id = new.id;
    INSERT INTO outbox (collection, row_id, version, op, created_ms)
    VALUES ('messages', new.id, new.version, 'upsert', CAST(unixepoch('subsec') * 1000 AS INTEGER))
    ON CONFLICT (collection, row_id) DO UPDATE SET
        version = excluded.version, op = excluded.op, state = 'pending',
        attempts = 0, not_before_ms = 0, error_kind = NULL, error = NULL;
END;

CREATE TRIGGER messages_outbox_delete AFTER DELETE ON messages
BEGIN
    DELETE FROM unindexed WHERE collection = 'messages' AND row_id = old.id;
    DELETE FROM embeddings WHERE collection = 'messages' AND row_id = old.id;
    INSERT INTO outbox (collection, row_id, version, op, created_ms)
    VALUES ('messages', old.id, old.version + 1, 'delete', CAST(unixepoch('subsec') * 1000 AS INTEGER))
    ON CONFLICT (collection, row_id) DO UPDATE SET
        version = excluded.version, op = excluded.op, state = 'pending',
        attempts = 0, not_before_ms = 0, error_kind = NULL, error = NULL;
END;

CREATE TRIGGER vectors_outbox_insert AFTER INSERT ON vectors
BEGIN
    INSERT INTO outbox (collection, row_id, version, op, created_ms)
    VALUES ('vectors', new.id, new.version, 'upsert', new.updated_at)
    ON CONFLICT (collection, row_id) DO UPDATE SET
        version = excluded.version, op = excluded.op, state = 'pending',
        attempts = 0, not_before_ms = 0, error_kind = NULL, error = NULL;
END;

CREATE TRIGGER vectors_outbox_update AFTER UPDATE OF version ON vectors
WHEN new.version IS NOT old.version
BEGIN
    DELETE FROM unindexed WHERE collection = 'vectors' AND row_id = new.id;
    INSERT INTO outbox (collection, row_id, version, op, created_ms)
    VALUES ('vectors', new.id, new.version, 'upsert', CAST(unixepoch('subsec') * 1000 AS INTEGER))
    ON CONFLICT (collection, row_id) DO UPDATE SET
        version = excluded.version, op = excluded.op, state = 'pending',
        attempts = 0, not_before_ms = 0, error_kind = NULL, error = NULL;
END;

CREATE TRIGGER vectors_outbox_delete AFTER DELETE ON vectors
BEGIN
    DELETE FROM unindexed WHERE collection = 'vectors' AND row_id = old.id;
    DELETE FROM embeddings WHERE collection = 'vectors' AND row_id = old.id;
    INSERT INTO outbox (collection, row_id, version, op, created_ms)
    VALUES ('vectors', old.id, old.version + 1, 'delete', CAST(unixepoch('subsec') * 1000 AS INTEGER))
    ON CONFLICT (collection, row_id) DO UPDATE SET
        version = excluded.version, op = excluded.op, state = 'pending',
        attempts = 0, not_before_ms = 0, error_kind = NULL, error = NULL;
END;

CREATE TRIGGER episodes_reindexed AFTER UPDATE OF version ON episodes
WHEN new.version IS NOT old.version
BEGIN
    DELETE FROM unindexed WHERE collection = 'episodes' AND row_id = new.id;
END;

CREATE TRIGGER episodes_unindexed_delete AFTER DELETE ON episodes
BEGIN
    DELETE FROM unindexed WHERE collection = 'episodes' AND row_id = old.id;
END;

-- The project is in the payload of the session's summaries too.
CREATE TRIGGER sessions_project_changed_summaries AFTER UPDATE OF project_id ON sessions
WHEN new.project_id IS NOT old.project_id
BEGIN
    UPDATE summaries SET version = version + 1 WHERE session_id = new.id;
END;

-- Rows from before this version: the index does not know them yet. They wait since now.
INSERT INTO outbox (collection, row_id, version, op, created_ms)
SELECT 'entities', id, version, 'upsert', CAST(unixepoch('subsec') * 1000 AS INTEGER) FROM entities
UNION ALL
SELECT 'summaries', id, version, 'upsert', CAST(unixepoch('subsec') * 1000 AS INTEGER) FROM summaries;

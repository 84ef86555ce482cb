-- Schema version 4: tokens by which callers on the network are known.

-- One row a token that is valid or has expired; a revoked one is gone. `id` is the one in the token, `hash` the SHA-256
-- of the whole token: the secret itself is nowhere. `methods` and `networks` are JSON arrays, empty where there is no
-- limit; `rate` is in requests a second.
CREATE TABLE tokens (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT    NOT NULL UNIQUE,
    hash       BLOB    NOT NULL CHECK (length(hash) = 32),
    name       TEXT    NOT NULL,
    role       TEXT    NOT NULL CHECK (role IN ('read', 'write', 'admin')),
    methods    TEXT    NOT NULL DEFAULT '[]' CHECK (json_valid(methods)),
    networks   TEXT    NOT NULL DEFAULT '[]' CHECK (json_valid(networks)),
    expires_at INTEGER,
    rate       REAL,
    created_at INTEGER NOT NULL,
    created_by TEXT    NOT NULL
) STRICT;

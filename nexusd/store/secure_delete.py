"""Deletes that leave nothing of a row behind in the database's files: `storage.secureDelete`.

Owns what the setting means for SQLite, for full text, and for the replies that are kept for repeated calls. Without it
a deleted text stays in free pages, in the full-text index until a merge comes by, in the WAL until it is written over,
and in kept replies for a day.

What is done, and where it is remembered: pages are overwritten with zeros (a pragma of the writing connection), words
are taken out of the full-text segments (an option that each full-text table keeps in the file; it also tells whether
the setting was on before), kept replies that spoke of rows of the same kind are emptied (triggers of the writing
connection; the keys stay, so that a repeated call is refused and not done twice), and the WAL is cut soon after (see
`nexusd.store.checkpoints`). What was deleted before the setting was on is wiped when it comes on, by writing the whole
file anew. Backups are files of their own, which none
of this reaches: rotation must.
"""

from __future__ import annotations

from collections.abc import Callable

import apsw

from nexusd.store.connection import Connection

# By table, the methods whose kept replies hold texts of its rows. imports.store answers callers' own ids.
REPLIES: dict[str, tuple[str, ...]] = {
    "projects": ("projects.create", "projects.update"),
    "sessions": ("sessions.create", "sessions.update"),
    "episodes": ("episodes.create", "episodes.createMany", "episodes.update"),
    "entities": ("entities.upsert", "entities.upsertMany"),
    "relationships": ("relationships.upsert", "relationships.upsertMany"),
    "summaries": ("summaries.create",),
    "conversations": ("conversations.create", "conversations.update"),
    "messages": ("messages.create", "messages.createMany"),
    "users": ("users.set", "imports.store"),
    "groups": ("groups.create", "groups.update"),
    "presets": ("presets.create", "presets.update", "presets.put"),
    "tool_logs": ("toolLogs.append",),
    "vectors": ("vectors.store", "vectors.storeMany", "imports.store"),
}

# the full-text tables
SELECT_FULL_TEXT = "SELECT name FROM sqlite_schema WHERE sql LIKE 'CREATE VIRTUAL TABLE % USING fts5 %' ORDER BY name"

# whether one of them takes words out for good: on, or nothing where it was never set
SELECT_OPTION = "SELECT v FROM \"{table}_config\" WHERE k = 'secure-delete'"
SET_OPTION = "INSERT INTO \"{table}\" (\"{table}\", rank) VALUES ('secure-delete', ?)"

# merge all of it into one segment, without what was deleted
OPTIMIZE = "INSERT INTO \"{table}\" (\"{table}\") VALUES ('optimize')"

# empty every kept reply; the keys stay
ERASE_ALL_REPLIES = "UPDATE idempotency SET reply = x'' WHERE length(reply) > 0"

# the same of some methods; a partial index finds those that hold anything
ERASE_REPLIES = ERASE_ALL_REPLIES + " AND method IN ({methods})"

# with every row that goes, whichever statement it goes by
ON_DELETE = """
CREATE TEMP TRIGGER "erase_{table}" AFTER DELETE ON main."{table}"
BEGIN
    {erase};
    {note};
END"""

# tell the connection
NOTE_DELETION = "SELECT note_deletion()"

# values of columns that ANALYZE keeps, should somebody have run it
SELECT_SAMPLES = "SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_stat4'"
FORGET_SAMPLES = "DELETE FROM sqlite_stat4"

# temporary files may be as large as the database: not in memory, as they are otherwise
SPILL = "PRAGMA temp_store = FILE"
KEEP_IN_MEMORY = "PRAGMA temp_store = MEMORY"


def apply_secure_delete(db: Connection, on_deletion: Callable[[], None], *, secure: bool) -> bool:
    """Make the writing connection and the full-text tables do as the setting says; True if old traces were wiped.

    `on_deletion` is called with every row that is deleted from then on, before its transaction ends.
    """
    tables = [str(name) for (name,) in db.execute(SELECT_FULL_TEXT)]
    was_on = all(db.execute(SELECT_OPTION.format(table=table)).get for table in tables)
    if secure:
        db.execute("PRAGMA secure_delete = ON").fetchall()
        if db.execute(SELECT_SAMPLES).get:
            db.execute(FORGET_SAMPLES)
        if not was_on:      # the option comes last: a crash before it does all of this again
            _wipe(db, tables)
        _erase_with_every_row(db, on_deletion)  # after it: another temp_store drops what is temporary
    with db:
        for table in tables:
            if bool(db.execute(SELECT_OPTION.format(table=table)).get) is not secure:
                db.execute(SET_OPTION.format(table=table), (int(secure),))
    return secure and not was_on


def _wipe(db: Connection, tables: list[str]) -> None:
    """Write everything anew, without what was deleted before."""
    with db:
        db.execute(ERASE_ALL_REPLIES)
        for table in tables:
            db.execute(OPTIMIZE.format(table=table))
    db.execute(SPILL).fetchall()
    try:
        db.execute("VACUUM")
    finally:
        db.execute(KEEP_IN_MEMORY).fetchall()
    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)     # until then the file is as it was


def _erase_with_every_row(db: Connection, on_deletion: Callable[[], None]) -> None:
    db.create_scalar_function("note_deletion", lambda *_: on_deletion(), 0)
    for table, methods in REPLIES.items():
        names = ", ".join(f"'{method}'" for method in methods)
        db.execute(ON_DELETE.format(table=table, erase=ERASE_REPLIES.format(methods=names), note=NOTE_DELETION))


def erase_replies(db: Connection, *methods: str) -> None:
    """Empty the kept replies of these methods, for what is deleted elsewhere than in a table.

    Only where the setting is on.
    """
    db.execute(ERASE_REPLIES.format(methods=", ".join("?" * len(methods))), methods)
    db.execute(NOTE_DELETION).fetchall()

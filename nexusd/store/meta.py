"""Facts about the database itself and its index: its epoch, and what is known of the index's collections.

Owns the table `meta`. Values are text.
"""

from __future__ import annotations

from nexusd.store.connection import Connection

EPOCH = "epoch"     # random, made once with the database: tells the points of this database from another's

# one fact
SELECT_META = "SELECT value FROM meta WHERE key = ?"

# set a fact, new or not
UPSERT_META = """
INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"""

# forget a fact
DELETE_META = "DELETE FROM meta WHERE key = ?"


def get_meta(db: Connection, key: str) -> str | None:
    """The value of `key`, or None."""
    row = db.execute(SELECT_META, (key,)).fetchone()
    return None if row is None else row[0]


def set_meta(db: Connection, key: str, value: str | None) -> None:
    """Set `key`, or forget it if the value is None."""
    if value is None:
        db.execute(DELETE_META, (key,))
    else:
        db.execute(UPSERT_META, (key, value))


def incarnation_of(physical: str) -> str:
    """The key of the fact which incarnation of a physical collection was last found in order."""
    return f"incarnation.{physical}"


def get_epoch(db: Connection) -> str:
    """The database's epoch, 32 hex digits."""
    epoch = get_meta(db, EPOCH)
    if epoch is None:
        raise LookupError("meta has no epoch: the first migration makes it")
    return epoch

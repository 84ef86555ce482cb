"""Whether the database is sound: its pages, its references, its full-text indexes.

Owns the two ways to look: everything at once, for a connection that may write, and piece by piece, for readers, so
that no read transaction lasts long. Knows not what is done about a finding.
"""

from __future__ import annotations

import apsw

from nexusd.store.connection import Connection
from nexusd.store.memory_filter import TEXT_TABLES

# pages, indexes and constraints; at most so many findings
INTEGRITY = "PRAGMA integrity_check(20)"

# references that lead nowhere
FOREIGN_KEYS = "PRAGMA foreign_key_check"

# compare a full-text index with the rows that it is of: integrity_check does not see an emptied one
FULL_TEXT = "INSERT INTO {name}_fts ({name}_fts, rank) VALUES ('integrity-check', 1)"

# what has pages of its own; a virtual table has none
TABLES = """
SELECT name FROM sqlite_schema WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL TABLE%' ORDER BY rowid"""

# one table's pages and indexes; of a full-text index, whether it is whole in itself, not whether it has the words of
# its rows, which no reader can ask
QUICK_CHECK = "PRAGMA quick_check({name})"

# rows that have no entry in their full-text index, and entries that have no row
MISSING_ENTRIES = "SELECT count(*) FROM {name} WHERE id NOT IN (SELECT id FROM {name}_fts_docsize)"
ORPHANED_ENTRIES = "SELECT count(*) FROM {name}_fts_docsize WHERE id NOT IN (SELECT id FROM {name})"

# when the daemon last gave a row a time of its own: what callers send along is created_at
NEWEST = """
SELECT max(at) FROM (
    SELECT max(updated_at) AS at FROM (SELECT updated_at FROM sessions ORDER BY id DESC LIMIT 100)
    UNION ALL SELECT max(updated_at) FROM (SELECT updated_at FROM episodes ORDER BY id DESC LIMIT 100)
    UNION ALL SELECT max(updated_at) FROM (SELECT updated_at FROM entities ORDER BY id DESC LIMIT 100)
    UNION ALL SELECT max(updated_at) FROM (SELECT updated_at FROM conversations ORDER BY id DESC LIMIT 100)
    UNION ALL SELECT max(updated_at) FROM (SELECT updated_at FROM messages ORDER BY id DESC LIMIT 100)
    UNION ALL SELECT max(updated_at) FROM (SELECT updated_at FROM vectors ORDER BY id DESC LIMIT 100))"""


def table_names(db: Connection) -> list[str]:
    """The tables that `check_table` can look at, those of full-text indexes included."""
    return [name for (name,) in db.execute(TABLES)]


def check_table(db: Connection, name: str) -> list[str]:
    """What is wrong with one table, a sentence a finding. Reads all of it."""
    return [f"table {name}: {line}" for (line,) in db.execute(QUICK_CHECK.format(name=_quoted(name))) if line != "ok"]


def check_references(db: Connection) -> list[str]:
    """Which references lead nowhere, a sentence each."""
    return [
        f"row {rowid} of {table} refers to no row of {parent}"
        for table, rowid, parent, _ in db.execute(FOREIGN_KEYS)
    ]


def count_full_text(db: Connection, name: str) -> tuple[int, int]:
    """How many rows of a table its full-text index lacks, and how many of its entries have no row."""
    missing: int = db.execute(MISSING_ENTRIES.format(name=name)).get
    orphaned: int = db.execute(ORPHANED_ENTRIES.format(name=name)).get
    return missing, orphaned


def newest_ms(db: Connection) -> int | None:
    """The latest moment at which this database was written, by the clock of then; None where nothing says it."""
    newest: int | None = db.execute(NEWEST).get
    return newest


def check_integrity(db: Connection) -> list[str]:
    """What is wrong, a sentence a finding. Reads everything; wants a connection that may write."""
    findings = [f"integrity_check: {line}" for (line,) in db.execute(INTEGRITY) if line != "ok"]
    findings += [f"foreign_key_check: {line}" for line in check_references(db)]
    for table in TEXT_TABLES.values():
        try:
            db.execute(FULL_TEXT.format(name=table.name))
        except apsw.CorruptError as error:
            findings.append(f"{table.name}_fts is not in step with {table.name}: {error}")
    return findings


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'

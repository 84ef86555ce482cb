"""Whether the database is sound: its pages, its references, its full-text indexes."""

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


def check_integrity(db: Connection) -> list[str]:
    """What is wrong, a sentence a finding. Reads everything; wants a connection that may write."""
    findings = [f"integrity_check: {line}" for (line,) in db.execute(INTEGRITY) if line != "ok"]
    findings += [
        f"foreign_key_check: row {rowid} of {table} refers to no row of {parent}"
        for table, rowid, parent, _ in db.execute(FOREIGN_KEYS)
    ]
    for table in TEXT_TABLES.values():
        try:
            db.execute(FULL_TEXT.format(name=table.name))
        except apsw.CorruptError as error:
            findings.append(f"{table.name}_fts is not in step with {table.name}: {error}")
    return findings

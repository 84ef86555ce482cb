"""What is in a database and an index, read from outside the daemon while it rests.

Owns the queries. The database is read on connections of this process's own: another process's locks are kept.
"""

from __future__ import annotations

from pathlib import Path

import apsw
from harness.torture.ledger import Rows

from nexusd.store.indexed import TABLES

# of each table: id, tag, what it says, version
QUERIES = {
    "sessions": "SELECT id, external_id, '', 1 FROM sessions",
    "episodes": "SELECT id, user_message, ai_response, version FROM episodes",
    "messages": "SELECT id, content, '', version FROM messages",
    "summaries": "SELECT id, content, '', version FROM summaries",
    "entities": "SELECT id, name, notes, version FROM entities",
    "vectors": "SELECT id, key, text, version FROM vectors",
}
UNINDEXED = "SELECT row_id FROM unindexed WHERE collection = ?"
FULL_TEXT = "SELECT name FROM sqlite_schema WHERE sql LIKE 'CREATE VIRTUAL TABLE%USING fts5 %'"


def read_rows(database: Path) -> tuple[Rows, dict[str, dict[int, int]]]:
    """Rows by table and tag, and what of them the index is to hold: versions by id. What has no tag is not counted."""
    rows: Rows = {}
    wanted: dict[str, dict[int, int]] = {}
    db = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        with db:  # one picture of all
            for table, query in QUERIES.items():
                versions: dict[int, int] = {}
                for id_, text, says, version in db.execute(query):
                    versions[id_] = version
                    if tag := str(text).partition(" ")[0]:
                        rows.setdefault((table, tag), []).append((id_, (says, version)))
                if table in TABLES:
                    for (left_out,) in db.execute(UNINDEXED, (table,)):
                        versions.pop(left_out, None)
                    wanted[table] = versions
    finally:
        db.close()
    return rows, wanted


def unsound(database: Path) -> list[str]:
    """What SQLite, its foreign keys and its full-text indexes complain of."""
    db = apsw.Connection(str(database))
    db.set_busy_timeout(10_000)
    try:
        found = [str(line) for (line,) in db.execute("PRAGMA integrity_check") if line != "ok"]
        found += [f"foreign key: {row}" for row in db.execute("PRAGMA foreign_key_check")]
        tables = [name for (name,) in db.execute(FULL_TEXT)]
        assert tables, "there is no full-text index"
        for table in tables:
            try:
                db.execute(f"INSERT INTO {table} ({table}, rank) VALUES ('integrity-check', 1)")
            except apsw.Error as error:
                found.append(f"{table}: {error}")
        return found
    finally:
        db.close()


def disagreements(held: dict[str, dict[int, int]], wanted: dict[str, dict[int, int]]) -> list[str]:
    """How the index differs from the rows."""
    return [
        f"{name} {id_}: the index holds version {held[name].get(id_)}, the row is {versions.get(id_)}"
        for name, versions in wanted.items()
        for id_ in sorted(versions.keys() | held[name].keys())
        if held[name].get(id_) != versions.get(id_)
    ]

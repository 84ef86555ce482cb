"""What a database holds, in figures: to be written down beside a copy of it, and found again in the copy.

Owns the queries on a database as a whole, of any version of the schema. Knows nothing of backups.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any

import apsw

from nexusd.store.connection import Connection
from nexusd.store.integrity import FULL_TEXT, INTEGRITY, check_references
from nexusd.store.memory_filter import TEXT_TABLES
from nexusd.store.meta import get_epoch

# tables with rows of their own: not SQLite's, not virtual ones, and not those in which a full-text index keeps itself
TABLES = """
SELECT name FROM pragma_table_list
WHERE schema = 'main' AND type = 'table' AND name NOT LIKE 'sqlite|_%' ESCAPE '|' ORDER BY name"""

# how many rows a table has
COUNT = "SELECT count(*) FROM {name}"

# whether there is a table of this name, virtual ones included
HAS_TABLE = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?"

# the embedding model that serves
SERVING_MODEL = "SELECT key FROM models WHERE state = 'serving'"

# the texts of the newest rows of a full-text index
NEWEST_TEXTS = "SELECT rowid, * FROM {name}_fts ORDER BY rowid DESC LIMIT 20"

# whether a search for a word finds a row
FINDS = "SELECT count(*) FROM {name}_fts WHERE {name}_fts MATCH ? AND rowid = ?"

TRIED_WORDS = 8     # of a row; one that is found proves enough, and a script's odd letters may be cut another way
_WORD = re.compile(r"\w{3,40}")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a database is, and the number of rows in each of its tables."""

    application_id: int
    schema_version: int
    epoch: str
    model: str | None
    rows: dict[str, int]


def read_facts(db: Connection) -> Facts:
    """All of it. In one read transaction, if the caller began one."""
    models = db.execute(HAS_TABLE, ("models",)).get
    return Facts(
        application_id=db.pragma("application_id"),
        schema_version=db.pragma("user_version"),
        epoch=get_epoch(db),
        model=db.execute(SERVING_MODEL).get if models else None,
        rows={name: db.execute(COUNT.format(name=_quoted(name))).get for name in table_names(db)},
    )


def table_names(db: Connection) -> list[str]:
    """The tables that have rows of their own."""
    return [str(name) for (name,) in db.execute(TABLES)]


def damages(db: Connection) -> list[str]:
    """What is wrong with pages and indexes, a sentence a finding. Reads everything."""
    return [f"integrity_check: {line}" for (line,) in db.execute(INTEGRITY) if line != "ok"]


def dangling(db: Connection) -> list[str]:
    """Which references lead nowhere, a sentence each."""
    return [f"foreign_key_check: {line}" for line in check_references(db)]


def full_text_indexes(db: Connection) -> list[str]:
    """The tables that are searched by words; an earlier schema has fewer."""
    return [table.name for table in TEXT_TABLES.values() if db.execute(HAS_TABLE, (f"{table.name}_fts",)).get]


def drifted(db: Connection, name: str) -> str | None:
    """What is wrong with a table's full-text index, or None. Wants a connection that may write; changes nothing."""
    try:
        db.execute(FULL_TEXT.format(name=name))
    except apsw.CorruptError as error:
        return f"{name}_fts is not in step with {name}: {error}"
    return None


def searched_row(db: Connection, name: str) -> tuple[int, bool] | None:
    """The newest row with a word in it, and whether a search for one of its words finds it; None where none has."""
    rows: list[tuple[Any, ...]] = db.execute(NEWEST_TEXTS.format(name=name)).fetchall()
    for row_id, *texts in rows:
        words = dict.fromkeys(word for text in texts if isinstance(text, str) for word in _plain_words(text))
        tried = sorted(words, key=lambda word: not word.isascii())[:TRIED_WORDS]
        if tried:
            return row_id, any(db.execute(FINDS.format(name=name), (f'"{word}"', row_id)).get for word in tried)
    return None


def _plain_words(text: str) -> list[str]:
    """Words that every reader cuts in the same way: of letters alone, with no mark that belongs to a letter."""
    if any(unicodedata.category(one).startswith("M") for one in text[:10_000] if not one.isascii()):
        return [word for word in _WORD.findall(text[:10_000]) if word.isascii() and word.isalpha()]
    return [word for word in _WORD.findall(text[:10_000]) if word.isalpha()]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'

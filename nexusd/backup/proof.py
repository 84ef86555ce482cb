"""Whether a database that was copied, or unpacked, is sound and is the one that its manifest speaks of.

Owns what counts as proof: pages, references, full-text indexes, the rows of every table, and a search that finds.
Everything here blocks. Knows neither tar nor where the file came from.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import apsw

from nexusd.backup.course import Course
from nexusd.backup.manifest import DatabaseFacts
from nexusd.errors import BackupInvalid
from nexusd.store.connection import APPLICATION_ID
from nexusd.store.facts import Facts, damages, dangling, drifted, full_text_indexes, read_facts, searched_row
from nexusd.store.migrations import load_migrations
from nexusd.store.snapshot import open_copy

SHOWN = 3   # findings named in the message


def prove(database: Path, facts: DatabaseFacts, course: Course | None = None) -> list[str]:
    """Look at all of this database, which nobody else has open; what was looked at, a line each.

    The file stays as it is, to the last byte.

    Raises:
        BackupInvalid: it is damaged, not ours, newer than this program, or not what `facts` says.
        HaltedError: the course was halted.
    """
    newest = len(load_migrations())
    if facts.application_id != APPLICATION_ID:
        raise BackupInvalid("The database is another program's.")
    if facts.schema_version > newest:
        raise BackupInvalid(
            f"The database has schema version {facts.schema_version}, this program knows {newest} at most: "
            "it was written by a newer nexusd, which can restore it."
        )
    try:
        with open_copy(database) as db:
            if course is None:
                return _look(db, facts)
            with course.over(db):
                return _look(db, facts, course)
    except (apsw.CorruptError, apsw.NotADBError, apsw.SQLError, LookupError) as error:
        raise BackupInvalid(f"The database is damaged: {error}") from error


def _look(db: apsw.Connection, facts: DatabaseFacts, course: Course | None = None) -> list[str]:
    checks = []

    def looked(said: str, done: float) -> None:
        checks.append(said)
        if course is not None:
            course.at(done)

    _refuse("is damaged", damages(db))
    looked("integrity_check: every page and index is sound", 0.5)
    _refuse("has references that lead nowhere", dangling(db))
    looked("foreign_key_check: every reference leads to a row", 0.6)
    searched = full_text_indexes(db)
    _refuse("has a damaged full-text index", (found for name in searched if (found := drifted(db, name))))
    looked(f"full text: in step with its rows in {', '.join(searched)}", 0.8)
    _refuse("is not the one of the manifest", _differences(read_facts(db), facts))
    looked(f"rows: {sum(facts.rows.values()):,} in {len(facts.rows)} tables, as the manifest says", 0.9)
    for name in searched:
        if (searched_one := searched_row(db, name)) is not None:
            row_id, finds_it = searched_one
            _refuse("cannot be searched", [] if finds_it else [f"no word of row {row_id} of {name} finds it"])
            looked(f"search: a word of row {row_id} of {name} finds it", 1.0)
    return checks


def _differences(found: Facts, said: DatabaseFacts) -> list[str]:
    differing = [
        f"{name} is {getattr(found, name)!r}, not {getattr(said, name)!r}"
        for name in ("application_id", "schema_version", "epoch", "model")
        if getattr(found, name) != getattr(said, name)
    ]
    return differing + [
        f"{name} has {found.rows.get(name)} rows, not {said.rows.get(name)}"
        for name in sorted(found.rows.keys() | said.rows.keys())
        if found.rows.get(name) != said.rows.get(name)
    ]


def _refuse(what: str, findings: Iterable[str]) -> None:
    found = list(findings)
    if found:
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise BackupInvalid(f"The database {what}: {'; '.join(found[:SHOWN])}{more}")

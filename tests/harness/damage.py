"""Damage to a database's file, done past SQLite."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import apsw

PAGE_BYTES = 4096
GARBAGE = b"\xa5" * PAGE_BYTES

# the pages of a table or index, the inner ones of its tree too
PAGES = "SELECT pageno FROM dbstat WHERE name = ? ORDER BY pageno"


def pages_of(database: Path, name: str) -> list[int]:
    """The pages of a table or index."""
    with apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READONLY) as db:
        return [page for (page,) in db.execute(PAGES, (name,))]


def overwrite(database: Path, pages: Iterable[int]) -> None:
    """Nonsense in place of these pages."""
    with database.open("r+b") as file:
        for page in pages:
            file.seek((page - 1) * PAGE_BYTES)
            file.write(GARBAGE)


def shorten(database: Path, pages: int) -> None:
    """End the file before this page."""
    with database.open("r+b") as file:
        file.truncate((pages - 1) * PAGE_BYTES)

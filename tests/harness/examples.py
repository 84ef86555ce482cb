"""Many examples on one migrated database: each finds it as it was before the first."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from nexusd.store.connection import Connection


@contextlib.contextmanager
def undone(db: Connection) -> Iterator[None]:
    """Undo what is done inside, whether it went well or not."""
    db.execute("SAVEPOINT example")
    try:
        yield
    finally:
        db.execute("ROLLBACK TO example")
        db.execute("RELEASE example")

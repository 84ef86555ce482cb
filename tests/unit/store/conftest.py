"""A migrated database in a file, on its writing connection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nexusd.model.sessions import CreateSession, Session
from nexusd.store.connection import Connection, open_writer
from nexusd.store.migrations import load_migrations, migrate
from nexusd.store.sessions import insert_session


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Connection]:
    connection = open_writer(tmp_path / "nexus.db", "FULL")
    migrate(connection, load_migrations())
    yield connection
    connection.close()


@pytest.fixture
def session(db: Connection) -> Session:
    return insert_session(db, CreateSession(external_id="first"), 1_000)

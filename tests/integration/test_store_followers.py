"""Another process that has the database open is seen by its lock, and nothing is lost by looking."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import apsw
import pytest
from harness.database import open_database

from nexusd.config_sections import StorageConfig
from nexusd.errors import DatabaseRefusedError, DataDirectoryError
from nexusd.store.adopting import adopt
from nexusd.store.connection import open_writer
from nexusd.store.followers import other_holders
from nexusd.store.meta import get_epoch, get_meta, incarnation_of, set_meta

VISITOR = """
import apsw, sys
db = apsw.Connection(sys.argv[1])
db.execute("SELECT count(*) FROM meta").get
print("reading", flush=True)
sys.stdin.read()
"""


def test_a_process_counts_as_long_as_it_has_the_database_open(tmp_path: Path) -> None:
    path = tmp_path / "nexus.db"
    assert other_holders(path) == []
    own = open_writer(path, "FULL")
    own.execute("CREATE TABLE meta (key TEXT)")
    assert other_holders(path) == [], "our own connections are none"
    with subprocess.Popen(
        [sys.executable, "-c", VISITOR, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as visitor:
        assert visitor.stdout is not None
        visitor.stdout.readline()
        assert other_holders(path) == [visitor.pid]
        visitor.communicate()
    assert other_holders(path) == []
    own.close()
    assert other_holders(path) == []


def test_a_database_that_was_put_back_is_another_to_every_index(tmp_path: Path) -> None:
    path = tmp_path / "nexus.db"
    with pytest.raises(DatabaseRefusedError, match="nothing was put back"):
        adopt(path, StorageConfig())
    assert not path.exists()
    path.write_bytes(b"")   # as good as new
    first = adopt(path, StorageConfig())
    db = apsw.Connection(str(path))
    set_meta(db, incarnation_of("nexusd-episodes-abc"), "1")
    set_meta(db, "other", "stays")
    db.close()
    second = adopt(path, StorageConfig())
    db = apsw.Connection(str(path))
    assert get_epoch(db) == second != first
    assert len(second) == 32
    assert (get_meta(db, "other"), get_meta(db, incarnation_of("nexusd-episodes-abc"))) == ("stays", None)
    db.close()


@pytest.mark.anyio
async def test_a_database_that_a_daemon_holds_is_not_adopted(tmp_path: Path) -> None:
    async with open_database(tmp_path / "nexus.db") as database:
        epoch = await database.read(get_epoch)
        with pytest.raises(DataDirectoryError, match="Another nexusd"):
            await asyncio.to_thread(adopt, tmp_path / "nexus.db", StorageConfig())
        assert await database.read(get_epoch) == epoch

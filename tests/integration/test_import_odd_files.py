"""Files of the older services that are not quite as their specifications say."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.daemon import Daemon
from harness.older_services import memory_service

from nexusd.cli.import_command import import_file
from nexusd.client import Client


@pytest.fixture
def nexus(tmp_path: Path) -> Iterator[Client]:
    with Daemon(tmp_path / "data") as daemon, Client(daemon.socket_path) as client:
        yield client


def made(path: Path, script: str, *rows: tuple[str, tuple[Any, ...]]) -> Path:
    """A database of this script and these statements."""
    db = sqlite3.connect(path)
    db.executescript(script)
    for sql, values in rows:
        db.execute(sql, values)
    db.commit()
    db.close()
    return path


@pytest.mark.parametrize(
    ("metadata", "taken"),
    [
        ('{"n": %s}' % ("9" * 40), {"n": "9" * 40}),
        ('{"n": -9223372036854775809}', {"n": "-9223372036854775809"}),
        ('{"n": -9223372036854775808}', {"n": -(2**63)}),
        ('{"n": %s}' % ("9" * 5000), {"n": "9" * 5000}),
        (r'{"half": "a\ud800b"}', {"half": "a?b"}),
        (r'{"half\udfff": 1}', {"half?": 1}),
        (r'{"whole": "\ud83d\ude00"}', {"whole": "\N{GRINNING FACE}"}),
    ],
)
def test_json_that_no_message_can_hold_is_taken_as_text(
    nexus: Client, tmp_path: Path, metadata: str, taken: dict[str, Any]
) -> None:
    path = memory_service(tmp_path / "old.db", sessions=1, episodes=1)
    made(path, "", ("UPDATE episodes SET metadata = ?", (metadata,)))
    assert not import_file(nexus, path, None).refusals
    assert nexus.call("episodes.get", id=1)["metadata"] == taken

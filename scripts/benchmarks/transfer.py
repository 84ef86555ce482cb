"""What `nexusctl export` and `nexusctl import` manage, each from the start of the command to its end.

Owns the commands and the proof that every exchange came over. The daemons are real ones, asked over their Unix sockets;
their embedding service does not answer, so that embedding and indexing take nothing from what is measured.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
from daemon import MeasuredDaemon, running
from prefill import prefill

NEXUSCTL = Path(sys.executable).with_name("nexusctl")
RUNS = 3    # of each command, every import into a memory that is empty
AWAY = {"EMBEDDING_SERVICE_URL": "http://127.0.0.1:9", "NEXUSD_STORAGE__BACKUPS__ENABLED": "false"}

# what a memory service's file has of the same exchanges
OLDER_TABLES = {
    "sessions": "external_id, created_at", "episodes": "session_id, user_message, ai_response, created_at",
}


def transfers(work: Path, episodes: int) -> Iterator[tuple[str, list[float]]]:
    """What was done with so many exchanges, and how many seconds each run took."""
    prefill(work / "full" / "nexus.db", episodes)
    exported, older = work / "export.jsonl", work / "older.db"
    with running(work / "full", **AWAY) as daemon:
        yield "nexusctl export", [_export(daemon, exported, episodes) for _ in range(RUNS)]
    _write_older(work / "full" / "nexus.db", older)
    for what, path in (("nexusctl import of that", exported), ("nexusctl import of an older service's file", older)):
        yield what, [_import(work / "empty", path, episodes) for _ in range(RUNS)]


def _export(daemon: MeasuredDaemon, into: Path, episodes: int) -> float:
    into.unlink(missing_ok=True)
    took_s, _ = _timed(daemon, "export", str(into))
    with into.open("rb") as file:
        rows = sum(line.startswith(b'{"table":"episodes"') for line in file)
    _same(rows, episodes)
    return took_s


def _import(data: Path, path: Path, episodes: int) -> float:
    with running(data, **AWAY) as daemon:
        took_s, printed = _timed(daemon, "--json", "import", str(path))
    shutil.rmtree(data)
    _same({table["table"]: table["inserted"] for table in json.loads(printed)["tables"]}["episodes"], episodes)
    return took_s


def _timed(daemon: MeasuredDaemon, *arguments: str) -> tuple[float, bytes]:
    command = [str(NEXUSCTL), "--socket", str(daemon.socket_path), *arguments]
    began_s = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return time.perf_counter() - began_s, done.stdout


def _write_older(database: Path, path: Path) -> None:
    db = apsw.Connection(str(path))
    db.execute("ATTACH ? AS ours", (str(database),))
    for table, columns in OLDER_TABLES.items():
        db.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, {columns})")
        db.execute(f"INSERT INTO {table} SELECT id, {columns} FROM ours.{table}")
    db.close()


def _same(found: Any, episodes: int) -> None:
    if found != episodes:
        raise RuntimeError(f"{found} exchanges came over, not {episodes}")

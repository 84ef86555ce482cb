"""The database is damaged under a running daemon: it says so, serves what it can, and a restore mends it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.daemon import Daemon, DaemonFailed
from harness.damage import overwrite, pages_of
from harness.database import open_database
from harness.nexusctl import in_pipe

from nexusd.client import Client
from nexusd.client.errors import ClientError
from nexusd.client.exchange import Retry
from nexusd.errors import BackupInvalid, RpcError, StoreDamaged
from nexusd.store.connection import Connection

DRIVER = str(Path(__file__).parent.parent / "harness" / "killing_daemon.py")  # its model is a fake: it starts at once
CONDEMNED = "the database is damaged: no writes until a backup is restored"


def until(met: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What `met` answers in the end; the daemon is another process, so nothing can tell us."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if found := met():
                return found
        except (ClientError, RpcError):
            pass
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def filled(data: Path) -> Path:
    """A database with rows in it, at rest: a daemon that starts on it has read none of them."""

    def insert(db: Connection) -> None:
        db.execute("INSERT INTO sessions (id, external_id, created_at, updated_at) VALUES (1, 's', 1, 1)")
        db.execute("INSERT INTO projects (name, created_at, updated_at) VALUES ('house', 1, 1)")
        db.executemany(
            "INSERT INTO episodes (session_id, user_message, ai_response, created_at, updated_at)"
            " VALUES (1, ?, ?, 1, 1)", [(f"kettle {n}", "y" * 900) for n in range(200)],
        )

    async def fill() -> None:
        async with open_database(data / "nexus.db") as database:
            await database.write(insert)

    data.mkdir()
    asyncio.run(fill())
    return data


def test_damage_is_told_and_served_around_and_mended_by_a_restore_and_no_start_is_tried_in_a_loop(
    tmp_path: Path,
) -> None:
    data = filled(tmp_path / "data")
    daemon = Daemon(data, program=[DRIVER])
    with daemon.start():
        with Client(daemon.socket_path, retry=Retry(tries=1)) as client:
            backup = client.call("backup.create")["name"]
            overwrite(data / "nexus.db", pages_of(data / "nexus.db", "episodes"))
            with pytest.raises(StoreDamaged) as refusal:
                client.call("episodes.update", id=100, aiResponse="changed")
            assert not refusal.value.retryable
            assert "nexusctl restore" in refusal.value.message
            with pytest.raises(StoreDamaged):
                client.call("sessions.create", externalId="late")
            with pytest.raises(StoreDamaged):
                client.call("episodes.get", id=100)
            # what can be read is read
            assert client.call("projects.list")["items"][0]["name"] == "house"
            assert client.call("sessions.getByExternalId", externalId="s")["externalId"] == "s"
            health = client.call("health")
            assert (health["status"], health["writes"]) == ("failed", False)
            assert "nexusctl restore" in health["reasons"][0]
            assert daemon.get("/health").startswith("HTTP/1.1 503 ")
            assert 'nexusd_disk_state{state="damaged"} 1.0' in daemon.metrics()
            checks = {check["check"]: check for check in client.call("system.check")["checks"]}
            assert checks["database"]["state"] == "problem"
            assert "nexusctl restore NAME" in checks["database"]["advice"]
            assert client.call("system.reload")     # which tells the service manager, too
            # no backup is made of it, and none that is good goes for one
            with pytest.raises(BackupInvalid, match="damaged"):
                client.call("backup.create")
            assert [one["name"] for one in client.call("backup.list")["items"]] == [backup]
            assert client.call("backup.verify", name=backup)
        assert any(line.startswith("STATUS=failed") and "damaged" in line for line in daemon.told())
        done = in_pipe("--socket", str(daemon.socket_path), "restore", backup, "--yes")
        assert done.code == 0, done
        with Client(daemon.socket_path) as client:
            assert until(lambda: client.call("health"))["writes"]
            assert client.call("episodes.get", id=100)["aiResponse"] == "y" * 900
            assert client.call("episodes.update", id=100, aiResponse="changed")["aiResponse"] == "changed"
            # again: a stop is one like another, and a start that finds too little is not tried again
            overwrite(data / "nexus.db", pages_of(data / "nexus.db", "episodes"))
            with pytest.raises(StoreDamaged):
                client.call("episodes.get", id=5)
        assert daemon.terminate() == 0
        for table in ("models", "tokens"):
            overwrite(data / "nexus.db", pages_of(data / "nexus.db", table))
        with pytest.raises(DaemonFailed, match="ended with 78") as failed:
            daemon.start()
        assert "nexusd --restore NAME" in str(failed.value)
    log = daemon.log_path.read_text()
    assert log.count(CONDEMNED) == 3
    assert "Traceback" not in log
    assert "unforeseen" not in log

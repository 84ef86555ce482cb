"""nexusctl backup: made, listed, verified and told; whoever watches sees how far it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.scripted_daemon import ScriptedDaemon, refuses
from harness.nexusctl import in_pipe, on_terminal

BACKUP = {
    "name": "nexusd-1", "kind": "manual", "createdAt": 1, "bytes": 14_300, "databaseBytes": 364_500, "schemaVersion": 3,
    "program": "1", "model": None, "rows": {"episodes": 9}, "files": 2, "note": "before\u202e the upgrade",
}  # fmt: skip


def status(**more: Any) -> dict[str, Any]:
    return {"enabled": True, "directory": "/b", "running": None, "newest": None, "newestAgeMs": None,
            "nextInMs": 60_000, "lastTriedAt": None, "lastTookMs": None, "lastError": None, "alarm": None,
            "count": 0, "bytes": 0, "drill": None, **more}  # fmt: skip


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    with ScriptedDaemon(tmp_path / "nexusd.sock") as daemon:
        daemon.answers["backup.status"] = status()
        yield daemon


def test_a_backup_is_made_and_told_in_a_line(daemon: ScriptedDaemon) -> None:
    daemon.answers["backup.create"] = BACKUP
    done = on_terminal("--socket", daemon.address, "backup", "now", "-m", "before the upgrade")
    assert done.code == 0
    assert "✓ nexusd-1 · 14.3 kB · 9 rows, 2 files, proven" in done.words
    assert daemon.calls("backup.create")[0]["note"] == "before the upgrade"
    done = in_pipe("--socket", daemon.address, "backup", "now")
    assert (done.code, json.loads(done.output)["name"], done.errors) == (0, "nexusd-1", "")


def test_its_steps_are_shown_while_it_is_made(daemon: ScriptedDaemon) -> None:
    asked = asyncio.Event()

    async def create(one: ScriptedDaemon, writer: asyncio.StreamWriter, request: dict[str, Any]) -> None:
        await asked.wait()
        await one.send(writer, {"jsonrpc": "2.0", "id": request["id"], "result": BACKUP})

    def look(_params: Any) -> Any:
        asked.set()
        return status(running={"step": "packing", "done": 0.42, "since": 1})

    daemon.acts["backup.create"], daemon.answers["backup.status"] = [create], look
    done = on_terminal("--socket", daemon.address, "backup", "now")
    assert (done.code, "packing" in done.errors, "42%" in done.errors) == (0, True, True)


def test_a_refusal_is_exit_code_1_with_its_reason(daemon: ScriptedDaemon) -> None:
    for run in (on_terminal, in_pipe):
        daemon.acts["backup.create"] = [refuses(-32041, "backup_invalid", "The database itself is damaged.")]
        done = run("--socket", daemon.address, "backup", "now")
        assert (done.code, "itself is damaged" in done.errors) == (1, True)


def test_the_list_has_a_line_each_and_no_control_characters(daemon: ScriptedDaemon) -> None:
    daemon.answers["backup.list"] = {"items": [BACKUP], "nextCursor": None}
    done = on_terminal("--socket", daemon.address, "backup", "list", width=160)
    assert "nexusd-1" in done.words
    assert "\u202e" not in done.output
    daemon.answers["backup.list"] = {"items": [], "nextCursor": None}
    assert "There is no backup yet" in on_terminal("--socket", daemon.address, "backup", "list").words


def test_a_verification_tells_what_was_looked_at(daemon: ScriptedDaemon) -> None:
    daemon.answers["backup.verify"] = {"backup": BACKUP, "checks": ["rows: 9"], "tookMs": 28}
    done = on_terminal("--socket", daemon.address, "backup", "verify", "nexusd-1")
    assert "✓ nexusd-1 is good, in 28 ms:" in done.words
    assert daemon.calls("backup.verify")[0]["name"] == "nexusd-1"


def test_an_alarm_is_exit_code_1_of_status(daemon: ScriptedDaemon) -> None:
    assert on_terminal("--socket", daemon.address, "backup", "status").code == 0
    daemon.answers["backup.status"] = status(alarm="there is no good one", lastError="The disk is full", enabled=False)
    done = on_terminal("--socket", daemon.address, "backup", "status")
    assert done.code == 1
    for piece in ("there is no good one", "failed: The disk is full", "storage.backups.enabled is false"):
        assert piece in done.words
    assert in_pipe("--socket", daemon.address, "backup", "status").code == 1

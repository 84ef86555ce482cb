"""A JavaScript program that was written for the memory service, against the daemon."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from harness.daemon import Daemon

from nexusd.client import Client

PROGRAM = Path(__file__).parent / "memory_service_client.mjs"
STEPS = ["health", "sessions", "episodes", "projects", "entities", "relationships"]
FIRST_WITH_FETCH = 18


def why_not() -> str | None:
    node = shutil.which("node")
    if node is None:
        return "Node.js is not installed"
    version = subprocess.run([node, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    if int(version.removeprefix("v").split(".")[0]) < FIRST_WITH_FETCH:
        return f"Node.js {version} has no fetch()"
    return None


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_a_program_written_for_the_memory_service_works_unchanged(tmp_path: Path) -> None:
    settings = {"NEXUSD_SERVER__TCP__ENABLED": "true", "NEXUSD_SERVER__TCP__PORT": "0"}
    with Daemon(tmp_path / "data", settings=settings) as daemon, Client(daemon.socket_path) as nexus:
        address = nexus.status().server.tcp
        ran = subprocess.run(
            ["node", str(PROGRAM), f"http://{address}"], capture_output=True, text=True, timeout=60, check=False
        )
    assert (ran.returncode, ran.stdout.split("\n")[:-1]) == (0, [f"{step} ok" for step in STEPS]), ran.stderr

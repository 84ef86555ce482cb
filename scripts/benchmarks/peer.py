"""The Express + better-sqlite3 service that is timed side by side, where it is there."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

START_TIMEOUT_S = 20.0


def why_not(peer: Path | None) -> str | None:
    """Why the peer cannot be measured, or None when it can."""
    if peer is None:
        return "no --peer DIR given"
    if shutil.which("node") is None:
        return "Node is missing"
    if not (peer / "node_modules").is_dir():
        return f"run `npm install` in {peer} first"
    return None


@contextlib.contextmanager
def running_peer(peer: Path, directory: Path) -> Iterator[int]:
    """The service with SYNC=FULL on a free port, which is answered."""
    directory.mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environ = {**os.environ, "PORT": str(port), "SYNC": "FULL", "SQLITE_PATH": str(directory / "peer.db")}
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(["node", "server.js"], cwd=peer, env=environ, stdout=log, stderr=log)
        try:
            until = time.monotonic() + START_TIMEOUT_S
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    if time.monotonic() > until or process.poll() is not None:
                        raise RuntimeError("the peer did not start") from None
                    time.sleep(0.1)
            yield port
        finally:
            process.terminate()
            process.wait(10)

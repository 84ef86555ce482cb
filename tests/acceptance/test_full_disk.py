"""A full disk, for real: a small tmpfs that only the daemon sees."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.daemon import Daemon

from nexusd.client import Client
from nexusd.client.exchange import Retry
from nexusd.errors import DiskFull

ROOM = "24m"


def _may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=False, capture_output=True
    )
    return tried.returncode == 0


class DaemonOnSmallDisk(Daemon):
    """The data directory is a tmpfs in the daemon's own mount namespace."""

    def launch(self, environ: object = None) -> None:
        mount = f'mount -t tmpfs -o size={ROOM} tmpfs "$0" && exec "$@"'
        command = [sys.executable, "-m", "nexusd", "--data", str(self.data)]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", mount, str(self.data), *command],
                env={**os.environ, **self._settings, **(environ or {})},  # type: ignore[dict-item]
                cwd=self.data.parent, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )

    @property
    def inside(self) -> Path:
        """The data directory as the daemon sees it."""
        return Path(f"/proc/{self.pid}/root{self.data}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[DaemonOnSmallDisk]:
    if not _may_mount():
        pytest.skip("needs the right to mount a tmpfs in a namespace of its own")
    outside = tmp_path / "nexusd.sock"  # the data directory is not visible from here
    daemon = DaemonOnSmallDisk(tmp_path / "data", settings={"NEXUSD_SERVER__SOCKET__PATH": str(outside)})
    daemon.socket_path = outside
    with daemon.start():
        yield daemon


def test_a_full_disk_is_told_and_reads_go_on_and_writes_resume_without_a_restart(
    small_disk: DaemonOnSmallDisk,
) -> None:
    with Client(small_disk.socket_path, retry=Retry(tries=1)) as client:
        session = client.call("sessions.create", externalId="s")["id"]
        kept = client.call("episodes.create", sessionId=session, userMessage="before", aiResponse="", waitFor="indexed")
        filler = small_disk.inside / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 65536)
            except OSError:
                pass  # full: that is the point
        acknowledged = [kept["id"]]
        with pytest.raises(DiskFull) as refusal:
            for n in range(10_000):
                text = f"n {n} " + "y" * 4000
                row = client.call("episodes.create", sessionId=session, userMessage=text, aiResponse="")
                acknowledged.append(row["id"])
        assert refusal.value.retryable
        assert client.call("health")["status"] == "degraded"
        assert client.call("episodes.get", id=kept["id"])["userMessage"] == "before"
        assert client.call("memory.search", query="before", mode="keyword")["items"]

        filler.unlink()
        while True:  # the daemon's own probe finds the room; nobody restarts anything
            try:
                late = client.call("episodes.create", sessionId=session, userMessage="after", aiResponse="")
                break
            except DiskFull:
                continue
        assert late["userMessage"] == "after"
        for row_id in acknowledged:
            assert client.call("episodes.get", id=row_id)["id"] == row_id
        while not client.call("outbox.wait", timeoutMs=30_000)["done"]:
            pass
        assert client.call("health")["status"] == "ok"


def test_a_start_on_a_full_disk_says_that_trying_again_may_help(tmp_path: Path) -> None:
    if not _may_mount():
        pytest.skip("needs the right to mount a tmpfs in a namespace of its own")
    with Daemon(tmp_path / "sound").start() as sound, Client(sound.socket_path) as client:
        client.call("sessions.create", externalId="s")
    full = tmp_path / "full"
    full.mkdir()
    fill = (
        f'mount -t tmpfs -o size=4m tmpfs "$0" && cp "$1" "$0/nexus.db" && '
        f'dd if=/dev/zero of="$0/filler" bs=4k 2>/dev/null; exec "{sys.executable}" -m nexusd --data "$0"'
    )
    ended = subprocess.run(
        ["unshare", "--mount", "sh", "-c", fill, str(full), str(tmp_path / "sound" / "nexus.db")],
        capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
        env={**os.environ, "NEXUSD_SERVER__TCP__ENABLED": "false"},
    )
    assert ended.returncode == 70, ended.stderr
    assert "cannot be opened now" in ended.stderr
    assert "Traceback" not in ended.stderr

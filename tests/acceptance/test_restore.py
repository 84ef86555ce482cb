"""The day the disk dies: a backup, another directory, and everything is there again; also where it was cut off.

The daemon is a process, and its embedding model a service that counts what it is asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import harness.restoring_daemon
import pytest
from fakes.embedding_server import EmbeddingServer, InThread
from harness.daemon import Daemon
from harness.everything import answers, fill, rows
from harness.household import select
from harness.nexusctl import environment

from nexusd.client import Client, Retry
from nexusd.client.errors import ClientError
from nexusd.errors import BackupBusy, BackupInvalid, NoSuchBackup, RpcError

PROGRAM = (sys.executable, "-m", "nexusd")
NOT_FILLED = {"outbox", "outbox_next"}   # of a daemon at rest


def until(met: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What `met` answers in the end; the daemon is another process, so nothing can tell us."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(ClientError, RpcError):
            if found := met():
                return found
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def service() -> Iterator[EmbeddingServer]:
    with InThread(EmbeddingServer("ollama", 32)) as server:
        yield server

LARGE_ROWS, LARGE_WORDS, LARGE_BYTES = 32_000, 900, 500_000_000  # by option


def settings(server: EmbeddingServer, backups: Path | None = None) -> dict[str, str]:
    elsewhere = {} if backups is None else {"NEXUSD_STORAGE__BACKUPS__DIRECTORY": str(backups)}
    return {
        **elsewhere,
        "NEXUSD_EMBEDDING__PROVIDER": server.kind, "NEXUSD_EMBEDDING__URL": server.url,
        "NEXUSD_EMBEDDING__DIMENSION": str(server.dimension), "NEXUSD_EMBEDDING__MODEL": server.model,
        "NEXUSD_STORAGE__BACKUPS__ENABLED": "false",
    }  # fmt: skip


class Load:
    """Somebody who writes without a pause, and what was acknowledged to them until when."""

    def __init__(self, socket_path: Path) -> None:
        self.acknowledged: list[int] = []
        self._path = socket_path
        self._over = threading.Event()
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        assert self._begun.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)

    def _run(self) -> None:
        with Client(self._path) as client:
            session = client.call("sessions.create", externalId="load")["id"]
            while not self._over.is_set():
                made = client.call("episodes.create", sessionId=session, userMessage="hurry, hurry", aiResponse="")
                self.acknowledged.append(made["id"])
                if len(self.acknowledged) >= 20:
                    self._begun.set()


def drain(client: Client) -> None:
    """However long it takes: the test has a limit of its own."""
    while not client.call("outbox.wait", timeoutMs=60_000)["done"]:
        continue


@pytest.mark.timeout(1600)  # by option with 500 MB
def test_a_destroyed_store_comes_back_with_every_row_and_every_answer(
    tmp_path: Path, service: EmbeddingServer, pytestconfig: pytest.Config
) -> None:
    data, backups = tmp_path / "data", tmp_path / "elsewhere"
    large = bool(pytestconfig.getoption("--long"))
    patience_s = 900 if large else 60
    with (
        Daemon(data, settings=settings(service, backups)) as daemon,
        Client(daemon.socket_path, timeout_s=patience_s) as client,
    ):
        household = fill(client.call)
        if large:
            household.say_many(LARGE_ROWS, LARGE_WORDS)
            drain(client)
            assert (data / "nexus.db").stat().st_size >= LARGE_BYTES
        with Load(daemon.socket_path) as load:
            before = list(load.acknowledged)
            under_load = client.call("backup.create", note="under load")
            after = list(load.acknowledged)
        found, held = answers(client.call, large=large), rows(data / "nexus.db")
        backup = client.call("backup.create", note="at rest")
        assert {name for name, count in backup["rows"].items() if not count} <= NOT_FILLED
    shutil.rmtree(data)
    texts, began_s = len(service.texts), time.monotonic()

    restored = subprocess.run(
        [*PROGRAM, "--restore", str(backups / f"{backup['name']}.tar"), "--data", str(data), "--json"],
        check=True, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert json.loads(restored.stdout)["rows"]["episodes"] == [0, backup["rows"]["episodes"]]
    restored_s = time.monotonic() - began_s
    with (
        Daemon(data, settings=settings(service, backups)) as daemon,
        Client(daemon.socket_path, timeout_s=patience_s) as client,
    ):
        ready_s = time.monotonic() - began_s
        print(f"\n{backup['databaseBytes']:,} bytes restored in {restored_s:.1f} s, READY after {ready_s:.1f} s")
        drain(client)
        assert answers(client.call, large=large) == found
        assert rows(data / "nexus.db") == held
        asked = service.texts[texts:]
        assert not [text for text in asked if "User:" in text], "stored vectors are embedded again"
        assert client.call("index.verify", timeoutMs=60_000)["agrees"]
        # a call that was acknowledged before is still the same call
        assert client.call("sessions.create", externalId="first", projectId=1, idempotencyKey="kept")["id"] == 1

        # and back to the one that was made under load, by the daemon itself
        plan = client.call("backup.restore", name=under_load["name"], idempotencyKey="back")
        assert plan["rows"]["episodes"] == [backup["rows"]["episodes"], under_load["rows"]["episodes"]]
        assert client.call("backup.restore", name=under_load["name"], idempotencyKey="back") == plan
        hurried = select(data / "nexus.db", "SELECT id FROM episodes WHERE user_message = 'hurry, hurry'")
        there = {id_ for (id_,) in hurried}
        assert set(before) <= there <= set(after)
        drain(client)
        assert client.call("index.verify", timeoutMs=60_000)["agrees"]
        assert rows(Path(plan["setAside"]) / "nexus.db") == held


@pytest.fixture(scope="module")
def gone_on(tmp_path_factory: pytest.TempPathFactory, service: EmbeddingServer) -> tuple[Path, str]:
    """A data directory that has gone on after its backup, and that one's name."""
    data = tmp_path_factory.mktemp("gone-on") / "data"
    with Daemon(data, settings=settings(service)) as daemon, Client(daemon.socket_path) as client:
        client.call("sessions.create", externalId="s")
        client.call("episodes.create", sessionId=1, userMessage="before", aiResponse="")
        client.call("presets.put", name="kind", content={"prompt": "before"})
        assert client.call("outbox.wait", timeoutMs=30_000)["done"]
        name = client.call("backup.create")["name"]
        client.call("episodes.create", sessionId=1, userMessage="after", aiResponse="")
        client.call("presets.put", name="kind", content={"prompt": "after"})
        client.call("presets.put", name="later", content={})
    return data, name


@pytest.fixture
def backed_up(gone_on: tuple[Path, str], tmp_path: Path) -> tuple[Path, Path, str]:
    """A copy of it; its backups, and the one's name."""
    data, name = gone_on
    return Path(shutil.copytree(data, tmp_path / "data")), tmp_path / "data/backups", name


def said(client: Client) -> list[str]:
    return [row["userMessage"] for row in client.call("episodes.list", sessionId=1)["items"]]


def presets(client: Client) -> dict[str, Any]:
    return {row["name"]: row["content"] for row in client.call("presets.list")["items"]}


@pytest.mark.parametrize("step", ["proven", "swapped"])
def test_a_daemon_that_dies_while_it_restores_finishes_it_or_never_began(
    step: str, backed_up: tuple[Path, Path, str], service: EmbeddingServer
) -> None:
    data, _, name = backed_up
    program = (harness.restoring_daemon.__file__ or "", step)
    with Daemon(data, settings=settings(service), program=program) as daemon:
        with Client(daemon.socket_path) as client, contextlib.suppress(ClientError, RpcError):
            client.call("backup.restore", name=name)
        assert daemon.process is not None
        assert daemon.process.wait(30) == -signal.SIGKILL
    with Daemon(data, settings=settings(service)) as daemon, Client(daemon.socket_path) as client:
        if step == "proven":
            assert (sorted(said(client)), set(presets(client))) == (["after", "before"], {"kind", "later"})
        else:
            assert (said(client), presets(client)) == (["before"], {"kind": {"prompt": "before"}})
            (aside,) = data.glob("before-restore-*")
            assert (aside / "presets/later.yaml").exists()
        assert client.call("outbox.wait", timeoutMs=60_000)["done"]
        assert client.call("index.verify", timeoutMs=60_000)["agrees"]
    assert not list(data.glob("*.restore"))
    assert not list(data.glob(".*restoring*"))


def test_systemd_sees_a_reload_and_whoever_calls_may_try_again(
    backed_up: tuple[Path, Path, str], service: EmbeddingServer
) -> None:
    data, _, name = backed_up
    with Daemon(data, settings=settings(service)) as daemon, Client(daemon.socket_path) as client:
        pid = daemon.pid
        assert client.call("backup.restore", name=name, dryRun=True)["restoring"] is False
        assert sorted(said(client)) == ["after", "before"]
        assert client.call("backup.restore", name=name)["restoring"] is True
        assert said(client) == ["before"]   # the client has tried again until it answered
        assert daemon.pid == pid
        assert daemon.process is not None
        assert daemon.process.poll() is None
        told = until(lambda: (new := daemon.told()) and "READY=1" in new and new)
        assert [one for one in told if one.partition("=")[0] in {"RELOADING", "READY", "STOPPING"}] == [
            "RELOADING=1", "READY=1",
        ]  # fmt: skip
        assert client.call("backup.drill")["error"] is None
        assert client.call("backup.status")["drill"]["backup"] == name
        with pytest.raises(NoSuchBackup):
            client.call("backup.restore", name="none")
        assert daemon.terminate() == 0


def test_what_is_acknowledged_once_a_restore_is_promised_is_not_set_aside(
    backed_up: tuple[Path, Path, str], service: EmbeddingServer
) -> None:
    data, _, name = backed_up
    acknowledged: list[str] = []
    over = threading.Event()

    def say_on(path: Path) -> None:
        with Client(path) as client:
            while not over.is_set():
                said = f"word {len(acknowledged)}"
                client.call("episodes.create", sessionId=1, userMessage=said, aiResponse="")
                acknowledged.append(said)

    with (
        Daemon(data, settings=settings(service)) as daemon,
        Client(daemon.socket_path) as client,
        socket.socket(socket.AF_UNIX) as silent,
    ):
        silent.connect(str(daemon.socket_path))     # whose first word a stop waits for
        talking = threading.Thread(target=say_on, args=(daemon.socket_path,))
        talking.start()
        try:
            until(lambda: acknowledged)
            client.call("backup.restore", name=name)
            promised = len(acknowledged) + 1    # the one that was on its way may have come before
            until(lambda: "later" not in presets(client))
            restored = len(acknowledged)
            until(lambda: len(acknowledged) > restored)
        finally:
            over.set()
            talking.join(30)
    there = {said for (said,) in select(data / "nexus.db", "SELECT user_message FROM episodes")}
    assert set(acknowledged[promised:]) <= there


def test_a_backup_that_is_no_good_changes_nothing_and_fails_the_drill(
    backed_up: tuple[Path, Path, str], service: EmbeddingServer
) -> None:
    data, backups, name = backed_up
    path = backups / f"{name}.tar"
    with tarfile.open(path) as tar:
        at = tar.getmember("nexus.db.zst").offset_data + 1000
    tampered = bytearray(path.read_bytes())
    tampered[at] ^= 1
    path.write_bytes(tampered)
    with Daemon(data, settings=settings(service)) as daemon, Client(daemon.socket_path) as client:
        with pytest.raises(BackupInvalid, match="damaged"):
            client.call("backup.restore", name=name)
        assert sorted(said(client)) == ["after", "before"]
        assert "damaged" in client.call("backup.drill")["error"]
        assert "nexusd_backup_drill_failed 1.0" in daemon.metrics()
    assert not list(data.glob("before-restore-*"))


def test_while_another_program_follows_the_database_nothing_is_swapped(
    backed_up: tuple[Path, Path, str], service: EmbeddingServer
) -> None:
    data, _, name = backed_up
    with (
        Daemon(data, settings=settings(service)) as daemon,
        Client(daemon.socket_path, retry=Retry(tries=1)) as client,
    ):
        visitor = apsw.Connection(str(data / "nexus.db"))
        assert visitor.execute("SELECT count(*) FROM episodes").get
        with pytest.raises(BackupBusy, match=f"process {os.getpid()}"):
            client.call("backup.restore", name=name)
        assert sorted(said(client)) == ["after", "before"]
        visitor.close()
        client.call("backup.restore", name=name)
        until(lambda: said(client) == ["before"])


def test_a_backup_of_another_embedding_model_ends_with_the_configured_one(
    backed_up: tuple[Path, Path, str], service: EmbeddingServer
) -> None:
    data, _, name = backed_up
    with InThread(EmbeddingServer("openai", 48)) as other:
        other.model = "other"
        chosen = settings(other)
        with Daemon(data, settings=chosen) as daemon, Client(daemon.socket_path) as client:
            until(lambda: client.call("index.reembed")["next"] is None)
            assert client.call("backup.restore", name=name)["sameModel"] is False
            until(lambda: client.call("index.reembed")["next"] is None)
            state = client.call("index.reembed")
            assert state["serving"]["model"] == "other"
            assert client.call("outbox.wait", timeoutMs=30_000)["done"]
            found = client.call("memory.search", query="before", mode="semantic")
            assert [hit["record"]["userMessage"] for hit in found["items"]] == ["before"]
            assert client.call("index.verify", timeoutMs=60_000)["agrees"]


def test_nexusctl_restores_with_a_daemon_without_one_and_elsewhere(
    backed_up: tuple[Path, Path, str], service: EmbeddingServer, tmp_path: Path
) -> None:
    data, backups, name = backed_up

    def nexusctl(*arguments: str) -> subprocess.CompletedProcess[str]:
        program = "from nexusd.cli.main import main; main()"
        command = [sys.executable, "-c", program, "--socket", str(data / "nexusd.sock"), "restore", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=tmp_path,
            env=environment(STATE_DIRECTORY=str(data)),
        )  # fmt: skip

    assert nexusctl(name).returncode == 3   # nobody is there to be asked
    elsewhere = nexusctl(name, "--to", str(tmp_path / "moved"), "--yes")
    assert (elsewhere.returncode, json.loads(elsewhere.stdout)["rows"]["episodes"]) == (0, [0, 1])
    assert (tmp_path / "moved/presets/kind.yaml").exists()
    tried = nexusctl(str(backups / f"{name}.tar"), "--dry-run")
    assert (tried.returncode, json.loads(tried.stdout)["rows"]["episodes"]) == (0, [2, 1])
    assert nexusctl("none", "--yes").returncode == 1
    with Daemon(data, settings=settings(service)) as daemon, Client(daemon.socket_path) as client:
        assert sorted(said(client)) == ["after", "before"]
        refused = subprocess.run(
            [*PROGRAM, "--restore", str(backups / f"{name}.tar"), "--data", str(data)],
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert (refused.returncode, "Another nexusd holds" in refused.stderr) == (78, True)
        done = nexusctl(str(backups / f"{name}.tar"), "--yes")
        assert (done.returncode, json.loads(done.stdout)["restoring"]) == (0, True)
        assert said(client) == ["before"]
        (copied := tmp_path / "copied.tar").write_bytes((backups / f"{name}.tar").read_bytes())
        elsewhere = nexusctl(str(copied), "--yes")
        assert (elsewhere.returncode, "move" in elsewhere.stderr) == (3, True)
    (data / "nexus.db").unlink()
    assert nexusctl(name, "--yes").returncode == 0
    with Daemon(data, settings=settings(service)) as daemon, Client(daemon.socket_path) as client:
        assert said(client) == ["before"]

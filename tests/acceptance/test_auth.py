"""The daemon as a process, its door closed: who comes in, with what, and what the log says of it."""

from __future__ import annotations

import grp
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.daemon import Daemon
from harness.nexusctl import PROGRAM, environment
from harness.services import until

from nexusd.client import Client
from nexusd.client.core import Request
from nexusd.client.errors import ConnectionFailed
from nexusd.errors import Forbidden, Unauthenticated
from nexusd.model.tokens import CreatedToken, RevokedToken

BOOTSTRAP = f"nx1_first_{'a1' * 32}"
SOMEBODY, ADMIN, GUESTS = "54321", "54322", "54401"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
# As one user with these groups: connect, ask, and say what came.
ASK = """
import json, os, socket, sys
path, method, uid, *groups = sys.argv[1:]
os.setgroups([int(group) for group in groups])
os.setgid(int(uid))
os.setuid(int(uid))
with socket.socket(socket.AF_UNIX) as sock:
    sock.settimeout(20)
    sock.connect(path)
    sock.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": {}}).encode() + b"\\n")
    lines = sock.makefile("rb")
    reply = json.loads(lines.readline())
    sock.shutdown(socket.SHUT_WR)
    print(reply["error"]["data"]["kind"] if "error" in reply else "ok")
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """One that every user may enter, unlike those of pytest."""
    made = Path(tempfile.mkdtemp(prefix="nexusd-auth-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def ask(daemon: Daemon, method: str, *who: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(daemon.socket_path), method, *who],
        capture_output=True, text=True, timeout=30, check=False, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_root
def test_each_user_has_the_role_of_the_lists_and_trusted_networks_are_told_at_each_use(directory: Path) -> None:
    family = next(group for group in grp.getgrall() if group.gr_gid)
    settings = {
        "NEXUSD_SERVER__SOCKET__MODE": "0666", "NEXUSD_SERVER__SOCKET__GROUP": family.gr_name,
        "NEXUSD_SERVER__SOCKET__READERS": f"@{GUESTS}", "NEXUSD_SERVER__SOCKET__ADMINS": ADMIN,
        "NEXUSD_SERVER__TCP__ENABLED": "true", "NEXUSD_SERVER__TCP__PORT": "0", "NEXUSD_SERVER__TCP__AUTH": "token",
        "NEXUSD_SERVER__TCP__TRUSTED_NETWORKS": "127.0.0.0/8=read",
    }
    daemon = Daemon(directory / "data", settings=settings)
    daemon.data.chmod(0o755)
    with daemon.start():
        assert ask(daemon, "projects.list", SOMEBODY, GUESTS) == "ok"
        assert ask(daemon, "cache.clear", SOMEBODY, GUESTS) == "forbidden"
        assert ask(daemon, "cache.clear", SOMEBODY, GUESTS, str(family.gr_gid)) == "ok"
        assert ask(daemon, "tokens.list", SOMEBODY, str(family.gr_gid)) == "forbidden"
        assert ask(daemon, "tokens.list", ADMIN) == "ok"
        assert ask(daemon, "health", SOMEBODY) == "forbidden"
        assert "not in the lists of server.socket" in daemon.log_path.read_text()
        assert 'event="a network needs no token" network=127.0.0.0/8 role=read' in daemon.log_path.read_text()
        with Client(daemon.socket_path) as nexus:
            url = f"tcp://{nexus.status().server.tcp}"
        with Client(url) as older:
            older.call("sessions.list")
            with pytest.raises(Forbidden):
                older.call("projects.create", name="x")
        until(lambda: 'event="let in without a token"' in daemon.log_path.read_text())


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One that asks for tokens, and was given its first one by systemd."""
    directory = tmp_path_factory.mktemp("auth")
    (directory / "credentials").mkdir()
    (directory / "credentials" / "nexusd-token").write_text(BOOTSTRAP + "\n")
    settings = {
        "NEXUSD_SERVER__TCP__ENABLED": "true", "NEXUSD_SERVER__TCP__PORT": "0", "NEXUSD_SERVER__TCP__AUTH": "token",
        "CREDENTIALS_DIRECTORY": str(directory / "credentials"),
    }
    with Daemon(directory / "data", settings=settings) as running:
        yield running


@pytest.fixture(scope="module")
def url(daemon: Daemon) -> str:
    with Client(daemon.socket_path) as nexus:
        address = nexus.status().server.tcp
    assert address is not None
    return f"tcp://{address}"


def create(nexus: Client, **params: Any) -> CreatedToken:
    return nexus.execute(Request("tokens.create", {"name": "tablet", **params}, CreatedToken, mutates=True))


def test_from_the_first_token_to_a_revoked_one(daemon: Daemon, url: str) -> None:
    with Client(url, token=BOOTSTRAP) as boss:
        made = create(boss, role="write", methods=["sessions.*", "episodes.*", "events.*"])
        with Client(url, token=made.token) as tablet:
            tablet.remember("Where is the key?", "Under the mat.", session="kitchen")
            with pytest.raises(Forbidden):
                tablet.call("tokens.list")
            with tablet.events(["episodes"]) as stream:
                boss.execute(Request("tokens.revoke", {"id": made.id}, RevokedToken, mutates=True))
                with pytest.raises((Unauthenticated, ConnectionFailed)):
                    next(stream)
            with pytest.raises((Unauthenticated, ConnectionFailed)):
                tablet.call("sessions.list")
    with Client(url) as stranger, pytest.raises(Unauthenticated):
        stranger.call("sessions.list")
    log = daemon.log_path.read_text()
    for said in ("logged in", "token created", "token revoked", "admin call", "refused"):
        assert f'event="{said}"' in log or f"event={said}" in log, said
    for secret in (BOOTSTRAP, made.token):
        assert secret.rpartition("_")[2] not in log


def test_a_token_outlives_a_restart_and_a_revoked_one_does_not_come_back(daemon: Daemon, url: str) -> None:
    with Client(url, token=BOOTSTRAP) as boss:
        kept, gone = create(boss, role="read"), create(boss, role="read")
        boss.execute(Request("tokens.revoke", {"id": gone.id}, RevokedToken, mutates=True))
    daemon.terminate()
    daemon.start()
    with Client(daemon.socket_path) as nexus:
        address = f"tcp://{nexus.status().server.tcp}"
    with Client(address, token=kept.token) as tablet:
        tablet.call("sessions.list")
    with Client(address, token=gone.token) as nobody, pytest.raises(Unauthenticated):
        nobody.connect()


def nexusctl(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments], capture_output=True, text=True, timeout=60, check=False, env=environment(**environ)
    )


def test_nexusctl_shows_its_token_from_a_file_or_the_environment(daemon: Daemon, tmp_path: Path) -> None:
    with Client(daemon.socket_path) as nexus:
        url = f"tcp://{nexus.status().server.tcp}"
        narrow = create(nexus, role="read").token
    refused = nexusctl("--url", url, "call", "sessions.list")
    assert (refused.returncode, "unauthenticated" in refused.stderr) == (1, True)
    file = tmp_path / "token"
    file.write_text(narrow + "\n")
    assert nexusctl("--url", url, "--token-file", str(file), "call", "sessions.list").returncode == 0
    assert nexusctl("--url", url, "call", "sessions.list", NEXUSD_TOKEN=narrow).returncode == 0
    # of the environment it is for the network; said aloud it holds everywhere
    local = ["--socket", str(daemon.socket_path), "call", "tokens.list"]
    assert nexusctl(*local, NEXUSD_TOKEN=narrow).returncode == 0
    said = nexusctl("--token-file", str(file), *local)
    assert (said.returncode, "forbidden" in said.stderr) == (1, True)
    file.write_text("hunter2")
    wrong = nexusctl("--url", url, "--token-file", str(file), "call", "sessions.list")
    assert (wrong.returncode, "hunter2" in wrong.stderr) == (3, False)


def test_what_older_programs_call_asks_for_a_token_and_life_does_not(daemon: Daemon) -> None:
    with Client(daemon.socket_path) as nexus:
        host, port = str(nexus.status().server.tcp).split(":")

    def get(path: str, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        body = response.read().decode()
        connection.close()
        return response.status, json.loads(body) if body.startswith(("{", "[")) else body

    assert get("/health") == (200, {"status": "ok"})
    for path in ("/sessions", "/metrics", "/episodes/1"):
        assert get(path)[0] == 401
        assert get(path, Authorization=f"Bearer {BOOTSTRAP}")[0] in {200, 404}
    assert get("/health", Authorization=f"Bearer {BOOTSTRAP}")[1]["reasons"] == []

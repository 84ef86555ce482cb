"""scripts/install: what it makes, what it leaves alone, and the way back from an upgrade that fails."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.installed import Installed
from harness.machine import Machine

PLACES = ("/etc", "/opt", "/usr/local", "/var/lib", "/run", "/home", "/root")
FILES = "find " + " ".join(PLACES) + " -xdev -path /run/host -prune -o -path /opt/packages -prune -o -print | sort"
NEW_TABLE = "CREATE TABLE tried_{number} (id INTEGER PRIMARY KEY) STRICT;\n"


@pytest.fixture(scope="module")
def bare(booting: None) -> Iterator[Installed]:
    """A machine on which nothing was installed yet, and which keeps what each test leaves there."""
    with Machine() as machine:
        nexus = Installed(machine)
        nexus.seed_packages()
        yield nexus


def version(nexus: Installed) -> str:
    found: str = nexus.call("system.status")["version"]
    return found


def release(nexus: Installed, number: str) -> None:
    """Make the project's sources those of this version."""
    init = nexus.source / "nexusd" / "__init__.py"
    init.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{number}"', init.read_text()))


def schema(nexus: Installed) -> int:
    found: int = nexus.call("system.status")["database"]["schema"]
    return found


def add_migration(nexus: Installed) -> Path:
    migrations = nexus.source / "nexusd" / "store" / "migrations"
    number = len(list(migrations.glob("*.sql"))) + 1
    added = migrations / f"{number:04d}.sql"
    added.write_text(NEW_TABLE.format(number=number))
    return added


def test_asked_what_it_would_do_it_says_so_and_does_nothing(bare: Installed) -> None:
    before = bare.machine.output("sh", "-c", FILES)
    said = bare.install("--dry-run").stdout
    assert "makes the user nexusd and the group nexus" in said
    assert "writes /usr/local/lib/systemd/system/nexusd.service" in said
    assert bare.machine.output("sh", "-c", FILES) == before
    assert bare.install("--upgrade", check=False).stderr == "install: nothing is installed in /opt/nexusd\n"


def test_it_installs_and_starts_and_a_second_time_there_is_nothing_to_do(bare: Installed) -> None:
    said = bare.install()
    assert "starts it" in said.stdout
    assert 'ready, 0 clients, outbox 0' in said.stdout
    assert version(bare)
    pid = bare.main_pid()
    assert "nothing to do" in bare.install().stdout
    assert bare.main_pid() == pid
    enabled = bare.machine.output("systemctl", "is-enabled", "nexusd.service", "nexusd-unix.socket")
    assert enabled.split() == ["enabled", "enabled"]
    assert bare.machine.run("systemctl", "is-enabled", "nexusd-lan.socket", check=False).stdout == "disabled\n"


def test_settings_that_name_a_service_on_the_network_open_the_network_and_only_then(bare: Installed) -> None:
    machine, settings = bare.machine, "/etc/nexusd/config.yaml"
    drop_in = "/usr/local/lib/systemd/system/nexusd.service.d/network.conf"
    machine.run("sed", "-i", "s|^  provider: builtin .*|  provider: ollama|", settings)
    assert f"writes {drop_in}" in bare.install().stdout
    assert machine.show("nexusd.service", "PrivateNetwork") == {"PrivateNetwork": "no"}
    machine.run("sed", "-i", "s|^  provider: ollama|  provider: builtin  # As before.|", settings)
    assert f"removes {drop_in}" in bare.install().stdout
    assert machine.show("nexusd.service", "PrivateNetwork") == {"PrivateNetwork": "yes"}


def test_wrong_settings_stop_it_before_anything_is_changed(bare: Installed) -> None:
    release(bare, "0.1.1")
    pid, before = bare.main_pid(), version(bare)
    bare.machine.run("sed", "-i", "1i nonsense: 1", "/etc/nexusd/config.yaml")
    refused = bare.install("--upgrade", check=False)
    bare.machine.run("sed", "-i", "1d", "/etc/nexusd/config.yaml")
    assert refused.returncode == 1
    assert "nonsense: no such setting" in refused.stderr
    assert (bare.main_pid(), version(bare)) == (pid, before)


def test_an_upgrade_migrates_keeps_the_data_and_a_copy_of_it(bare: Installed) -> None:
    session = bare.call("sessions.create", externalId="kept")["id"]
    row = bare.call("episodes.create", sessionId=session, userMessage="before", aiResponse="the upgrade")
    before = schema(bare)
    release(bare, "0.2.0")
    add_migration(bare)
    bare.install("--upgrade")
    assert (version(bare), schema(bare)) == ("0.2.0", before + 1)
    assert bare.call("episodes.get", id=row["id"])["aiResponse"] == "the upgrade"
    copy = bare.machine.output("sh", "-c", "ls -l /var/lib/nexusd/before-upgrade")
    assert re.search(r"-rw------- 1 nexusd nexusd .* nexus\.db$", copy, re.MULTILINE)
    assert bare.machine.run("ls", "/run/systemd/system/nexusd.service.d", check=False).returncode != 0


def test_an_upgrade_that_does_not_become_ready_is_taken_back_with_its_migration(bare: Installed) -> None:
    rows = bare.call("episodes.list", sessionId=1)["items"]
    before = schema(bare)
    release(bare, "0.3.0")
    migration = add_migration(bare)
    app = bare.source / "nexusd" / "app.py"
    good = app.read_text()
    app.write_text(good.replace("parts.notifier.ready(", 'raise RuntimeError("not today")\n                ('))
    said = bare.install("--upgrade", check=False)
    app.write_text(good)
    migration.unlink()
    assert said.returncode == 1
    assert "not today" in said.stderr
    assert "the upgrade failed; 0.2.0" in said.stderr
    assert (version(bare), schema(bare)) == ("0.2.0", before)
    assert bare.call("episodes.list", sessionId=1)["items"] == rows
    assert bare.machine.run("ls", "/run/systemd/system/nexusd.service.d", check=False).returncode != 0
    health = json.loads(bare.machine.output("nexusctl", "--json", "call", "health"))
    assert health["writes"]


def test_uninstalled_it_is_gone_and_the_data_is_there(bare: Installed) -> None:
    said = bare.install("--uninstall").stdout
    assert "left: /etc/nexusd, /var/lib/nexusd" in said
    machine = bare.machine
    assert machine.run("systemctl", "cat", "nexusd.service", check=False).returncode != 0
    assert machine.run("test", "-e", "/opt/nexusd", check=False).returncode != 0
    assert "nexus.db" in machine.output("ls", "/var/lib/nexusd")
    bare.seed_packages()
    bare.install()
    assert bare.call("sessions.getByExternalId", externalId="kept")["id"] == 1


def test_purged_nothing_is_left_and_without_a_yes_nothing_happens(bare: Installed) -> None:
    machine = bare.machine
    for answer in ("", "yes\n"):
        refused = bare.install("--purge", check=False, text=answer)
        assert refused.returncode == 1
        assert "nothing was removed" in refused.stderr
    assert version(bare)
    machine.write("/etc/systemd/system/nexusd.service.d/override.conf", "[Service]\nNice=1\n")
    bare.install("--purge", text="purge\n")
    left = [path for path in machine.output("sh", "-c", FILES).splitlines() if "nexus" in path]
    assert left == []
    for database, name in (("passwd", "nexusd"), ("group", "nexusd"), ("group", "nexus")):
        assert machine.run("getent", database, name, check=False).returncode != 0
    assert machine.output("systemctl", "list-units", "--all", "--no-legend", "nexusd*") == ""


def test_a_person_installs_it_without_root_and_takes_it_away_again(bare: Installed) -> None:
    machine = bare.machine
    bare.seed_packages()
    machine.run("useradd", "--create-home", "bob")
    user_id = machine.output("id", "-u", "bob")
    machine.run("systemctl", "start", f"user@{user_id}.service")
    home = "/home/bob/.local/share/nexusd"
    machine.run("sh", "-c", f"mkdir -p {home}/releases && cp -a /opt/nexusd/releases/seed {home}/releases/ &&"
                            f" chown -R bob: /home/bob && rm -r /opt/nexusd")
    environ = {"HOME": "/home/bob", "USER": "bob", "XDG_RUNTIME_DIR": f"/run/user/{user_id}"}

    def as_bob(*command: str) -> str:
        return machine.run(*command, user="bob", environ=environ).stdout

    said = as_bob(bare.script, "--user", "--python", bare.python)
    assert "ready, 0 clients" in said
    assert "nothing to do" in as_bob(bare.script, "--user", "--python", bare.python)
    assert json.loads(as_bob("/home/bob/.local/bin/nexusctl", "add", "u", "a", "--wait"))["vector"] == "indexed"
    assert 'Status: "ready' in as_bob("systemctl", "--user", "status", "nexusd")
    as_bob("systemctl", "--user", "reload", "nexusd")
    as_bob(bare.script, "--user", "--purge", "--yes")
    left = [path for path in machine.output("sh", "-c", FILES).splitlines() if "nexus" in path]
    assert left == []


@pytest.mark.long
@pytest.mark.timeout(600)
def test_from_a_clean_copy_with_packages_from_where_pip_gets_them(booting: None) -> None:
    environ = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    environ |= {"HOME": str(Path.home())}
    with Machine(network="host") as machine:
        nexus = Installed(machine)
        tried = ["python3", "-m", "pip", "download", "--no-deps", "--dest", "/run/host/tried", "sdnotify"]
        reached = machine.run(*tried, environ=environ, check=False)
        if reached.returncode != 0:
            pytest.skip("pip reaches no package index from here")
        machine.run(nexus.script, environ=environ, timeout_s=500)
        added = machine.run("nexusctl", "add", "u", "a", "--wait").stdout
        assert json.loads(added)["vector"] == "indexed"

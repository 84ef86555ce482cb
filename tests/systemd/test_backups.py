"""Backups of the daemon as a service: the unit as it is shipped lets them be made, and be put back while it runs."""

from __future__ import annotations

import json

import pytest
from harness.installed import Installed

ELSEWHERE = "/srv/nexusd-backups"


def sessions(nexus: Installed) -> list[str]:
    return [row["externalId"] for row in nexus.call("sessions.list", limit=500)["items"]]


def backup(nexus: Installed) -> str:
    made = json.loads(nexus.machine.output("nexusctl", "--json", "backup", "now"))
    return str(made["name"])


def test_a_backup_takes_the_place_of_what_is_there_and_the_unit_stays_up(running: Installed) -> None:
    running.call("sessions.create", externalId="before the backup")
    name = backup(running)
    running.call("sessions.create", externalId="after it")
    machine, pid = running.machine, running.main_pid()
    epoch = running.call("system.status")["database"]["epoch"]
    told = json.loads(machine.output("nexusctl", "--json", "restore", name, "--yes"))
    assert told["restoring"] is True
    there = sessions(running)
    assert ("before the backup" in there, "after it" in there) == (True, False)
    assert running.call("system.status")["database"]["epoch"] != epoch
    assert machine.show("nexusd.service", "ActiveState", "MainPID", "NRestarts") == {
        "ActiveState": "active", "MainPID": str(pid), "NRestarts": "0",
    }  # fmt: skip
    owner = "nexusd:nexusd 700"     # of what was there before
    assert machine.output("stat", "--format=%U:%G %a", told["setAside"]) == owner


@pytest.mark.long
def test_backups_elsewhere_want_a_path_that_the_unit_may_write_to(running: Installed) -> None:
    machine = running.machine
    machine.run("install", "-d", "-o", "nexusd", "-g", "nexusd", "-m", "700", ELSEWHERE)
    setting = f"[Service]\nEnvironment=NEXUSD_STORAGE__BACKUPS__DIRECTORY={ELSEWHERE}\n"
    running.drop_in(setting)
    machine.run("systemctl", "restart", "nexusd")
    refused = machine.run("nexusctl", "backup", "now", check=False)
    assert refused.returncode != 0
    assert f"{ELSEWHERE} takes no backup: Read-only file system" in refused.stderr
    running.drop_in(f"{setting}ReadWritePaths={ELSEWHERE}\n")
    machine.run("systemctl", "restart", "nexusd")
    name = backup(running)
    assert machine.output("ls", ELSEWHERE) == f"{name}.tar"

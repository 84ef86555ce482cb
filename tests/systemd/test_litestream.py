"""Litestream as a service beside nexusd's own: the shipped unit and settings, in the unit's sandbox."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

import pytest
from harness.installed import Installed
from harness.litestream import NOT_THERE, PROGRAM

pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason=NOT_THERE)

UNIT = "nexusd-litestream.service"
# As the README says it, with the program of this checkout in the place of pip's.
SET_UP = """
set -e
shipped=/run/host/project/systemd/litestream
install -D /run/host/litestream /opt/litestream/bin/litestream
install -m 640 -g nexusd $shipped/directory.yml /etc/nexusd/litestream.yml
install -m 644 $shipped/nexusd-litestream.service /etc/systemd/system/
install -d -o nexusd -g nexusd -m 700 /srv/nexusd-replica
sed -i 's/^  checkpoints: own /  checkpoints: litestream /' /etc/nexusd/config.yaml
systemctl daemon-reload
systemctl enable --quiet nexusd-litestream
systemctl restart nexusd
"""
TAKE_AWAY = """
systemctl disable --now --quiet nexusd-litestream
rm -r /etc/systemd/system/nexusd-litestream.service /etc/nexusd/litestream.yml /srv/nexusd-replica /opt/litestream
sed -i 's/^  checkpoints: litestream /  checkpoints: own /' /etc/nexusd/config.yaml
systemctl daemon-reload
systemctl restart nexusd
"""
# Until the replica has something that is newer than a file.
REPLICATED = 'until find /srv/nexusd-replica -name "*.ltx" -newer "$1" | grep -q .; do sleep 0.05; done'
RESTORE = """
set -e
as() { runuser -u nexusd -- "$@"; }
systemctl stop nexusd
mv /var/lib/nexusd /var/lib/nexusd.lost
install -d -o nexusd -g nexusd -m 700 /var/lib/nexusd
settings=/etc/nexusd/litestream.yml
as /opt/litestream/bin/litestream restore -config $settings -integrity-check full /var/lib/nexusd/nexus.db
as /opt/nexusd/current/bin/nexusd --config /etc/nexusd/config.yaml --data /var/lib/nexusd --adopt
systemctl start nexusd
"""


@pytest.fixture
def replicating(running: Installed) -> Iterator[Installed]:
    """With Litestream beside it, as enabled by its administrator; without it again afterwards."""
    shutil.copy(PROGRAM, running.machine.shared / "litestream")
    running.machine.run("sh", "-c", SET_UP)
    yield running
    running.machine.run("sh", "-c", TAKE_AWAY)


def replication(nexus: Installed) -> str:
    """What the doctor says of it."""
    return next(str(one["state"]) for one in nexus.call("system.check")["checks"] if one["check"] == "replication")


def test_litestream_comes_and_goes_with_the_daemon_and_brings_its_memories_back(replicating: Installed) -> None:
    machine = replicating.machine
    assert machine.show(UNIT, "ActiveState", "User") == {"ActiveState": "active", "User": "nexusd"}
    machine.run("touch", "/run/before")
    replicating.call("sessions.create", externalId="kitchen window")
    machine.run("sh", "-c", REPLICATED, "wait", "/run/before")
    assert replication(replicating) == "ok"
    first = machine.show(UNIT, "MainPID")
    machine.run("systemctl", "restart", "nexusd")
    assert machine.show(UNIT, "ActiveState")["ActiveState"] == "active"
    assert machine.show(UNIT, "MainPID") != first, "it let go of the database while that was stopped"

    machine.run("sh", "-c", RESTORE)
    assert replicating.call("sessions.getByExternalId", externalId="kitchen window")["externalId"] == "kitchen window"
    assert machine.show(UNIT, "ActiveState")["ActiveState"] == "active"

    report = machine.output("systemd-analyze", "security", "--no-pager", UNIT)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", report)
    assert found is not None
    assert float(found[1]) <= 1.5
    machine.run("systemctl", "stop", "nexusd")
    assert machine.show(UNIT, "ActiveState")["ActiveState"] == "inactive"

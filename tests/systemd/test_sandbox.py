"""What the unit may touch: its state, and nothing else. Tried from inside the unit, with its own sandbox."""

from __future__ import annotations

import json
import re

from harness.installed import Installed

ALLOWED = {"lower its own priority", "write its state", "a file of its own in /tmp"}


def attempts(nexus: Installed) -> dict[str, str]:
    """Each attempt's outcome, when the unit makes it before it starts."""
    nexus.drop_in(
        "[Service]\n"
        "ExecStartPre=/opt/nexusd/current/bin/python /run/host/inside/attempts.py /var/lib/nexusd/attempts.json\n"
    )
    nexus.machine.run("systemctl", "restart", "nexusd")
    found: dict[str, str] = json.loads(nexus.machine.output("cat", "/var/lib/nexusd/attempts.json"))
    return found


def test_from_inside_the_unit_everything_but_its_state_is_out_of_reach(running: Installed) -> None:
    outcomes = attempts(running)
    assert {name for name, outcome in outcomes.items() if outcome == "done"} == ALLOWED
    assert set(outcomes.values()) - {"done"} <= {
        "EPERM", "EACCES", "EROFS", "ENOENT", "EAFNOSUPPORT", "EPROTONOSUPPORT", "ESRCH",
    }  # fmt: skip


def test_outside_of_the_unit_the_same_attempts_succeed(running: Installed) -> None:
    """Or the test above would show nothing."""
    running.machine.run("/usr/bin/python3", "/run/host/inside/attempts.py", "/run/host/attempts.json")
    outcomes = json.loads((running.machine.shared / "attempts.json").read_text())
    # the machine's own kernel settings are read-only for everybody in it
    assert {name: outcome for name, outcome in outcomes.items() if outcome != "done"} == {"write /proc/sys": "EROFS"}


def test_systemd_itself_finds_little_exposed(running: Installed) -> None:
    report = running.machine.output("systemd-analyze", "security", "--no-pager", "nexusd.service")
    found = re.search(r"Overall exposure level for nexusd.service: ([0-9.]+)", report)
    assert found is not None
    assert float(found[1]) <= 1.2

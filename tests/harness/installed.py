"""nexusd installed on a machine by scripts/install, from a copy of this project and with the packages of this checkout.

The packages are put there as those of an earlier release, which the script takes over: nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from harness.machine import Machine

PROJECT = Path(__file__).parents[2]
COPIED = ("nexusd", "systemd", "scripts", "pyproject.toml", "config.yaml", "README.md", "CHANGELOG.md", "LICENSE")
LOCKS = ("requirements.lock", "requirements-build.lock")
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
# Links into what is mounted: ten thousand files would otherwise be linked for every release.
SEED = """
set -e
umask 022
mkdir -p /opt/packages "/opt/nexusd/releases/seed/lib/$2/site-packages"
mountpoint -q /opt/packages || mount --bind "$1" /opt/packages
ln -s /opt/packages/* "/opt/nexusd/releases/seed/lib/$2/site-packages/"
"""
# The interpreter of the tests may lie in somebody's home, which the service cannot see.
MOVE_PYTHON = """
set -e
mkdir /opt/python
mount --bind "$1" /opt/python
echo /opt/python/lib >/etc/ld.so.conf.d/00-python.conf
ldconfig
"""
FORGET_DROP_INS = """
set -- /run/systemd/system/nexusd*.d
[ ! -e "$1" ] || { rm -r "$@"; systemctl daemon-reload; echo changed; }
"""
STAMP = "import sys; print(sys.base_prefix)"


class Installed:
    """The project on one machine, and what people do with it there."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.source = machine.shared / "project"        # as this machine sees it
        self.script = "/run/host/project/scripts/install"
        self.python = ""
        shutil.copytree(PROJECT / "tests" / "systemd" / "inside", machine.shared / "inside")
        machine.run("useradd", "mallory")   # who may not connect
        self.source.mkdir()
        for name in COPIED:
            if (PROJECT / name).is_dir():
                shutil.copytree(PROJECT / name, self.source / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(PROJECT / name, self.source)

    def seed_packages(self) -> None:
        """Make the packages of this checkout those of an earlier release."""
        self.machine.run("sh", "-c", SEED, "seed", sysconfig.get_path("purelib"), VERSION)
        self.python = f"/usr/bin/{VERSION}"
        if self.machine.run("test", "-x", self.python, check=False).returncode != 0:
            self.machine.run("sh", "-c", MOVE_PYTHON, "move", sys.base_prefix)
            self.python = f"/opt/python/bin/{VERSION}"
        said = self.machine.run(self.python, "-VV").stdout + self.machine.run(self.python, "-c", STAMP).stdout
        locks = b"".join((self.source / "scripts" / name).read_bytes() for name in LOCKS)
        stamp = hashlib.sha256(locks + said.encode()).hexdigest()
        self.machine.write("/opt/nexusd/releases/seed/packages", f"{stamp}  -\n")

    def install(self, *arguments: str, check: bool = True, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run scripts/install."""
        return self.machine.run(
            self.script, "--python", self.python, *arguments, check=check, text=text, timeout_s=300,
        )

    def call(self, method: str, *, user: str | None = None, **params: Any) -> Any:
        """Call a method by nexusctl; its result."""
        given = [f"{name}:={json.dumps(value)}" for name, value in params.items()]
        return json.loads(self.machine.run("nexusctl", "--json", "call", method, *given, user=user).stdout)

    def main_pid(self) -> int:
        """The daemon's process, as the machine numbers it."""
        return int(self.machine.show("nexusd.service", "MainPID")["MainPID"])

    def drop_in(self, text: str, *, unit: str = "nexusd.service") -> None:
        """What a test changes about a unit."""
        self.machine.write(f"/run/systemd/system/{unit}.d/90-test.conf", text)
        self.machine.run("systemctl", "daemon-reload")

    def forget_drop_ins(self) -> None:
        """As it was installed, and up again if it had been changed."""
        if self.machine.output("sh", "-c", FORGET_DROP_INS) == "changed":
            self.machine.run("systemctl", "reset-failed", "nexusd*", check=False)
            self.machine.run("systemctl", "start", "nexusd-unix.socket")
            self.machine.run("systemctl", "restart", "nexusd.service")

    def journal(self, *arguments: str) -> list[dict[str, Any]]:
        """Entries of the unit."""
        printed = self.machine.output("journalctl", "--unit=nexusd.service", "--output=json", "--quiet", *arguments)
        return [json.loads(line) for line in printed.splitlines()]

    def wait_until(self, state: str, *, since: int = 0, timeout_s: float = 30.0) -> None:
        """Until the unit is in this state, in a process other than `since`."""
        script = """
            while [ "$(systemctl show --value --property=ActiveState nexusd)" != "$1" ] ||
                  [ "$(systemctl show --value --property=MainPID nexusd)" = "$2" ]; do sleep 0.05; done"""
        self.machine.run("sh", "-c", script, "wait", state, since, timeout_s=timeout_s)

"""One machine with nexusd installed for all tests that change nothing about the installation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
from harness.installed import Installed
from harness.machine import Machine, why_not

QUICK_STOP = "[Service]\nEnvironment=NEXUSD_OUTBOX__DRAIN_TIMEOUT_S=0\n"


@cache
def reason() -> str:
    """Why there can be no machine; empty where there can."""
    return why_not()


@pytest.fixture(scope="session")
def booting() -> None:
    """Skips what wants a machine, where there can be none."""
    if reason():
        pytest.skip(reason())


@pytest.fixture(scope="session")
def nexus(booting: None) -> Iterator[Installed]:
    """nexusd as scripts/install leaves it; alice may connect, mallory may not."""
    with Machine() as machine:
        nexus = Installed(machine)
        nexus.seed_packages()
        # a restart does not embed first what the test before has left
        machine.write("/etc/systemd/system/nexusd.service.d/tests.conf", QUICK_STOP)
        nexus.install()
        nexus.machine.run("useradd", "--groups", "nexus", "alice")
        yield nexus


@pytest.fixture
def running(nexus: Installed) -> Iterator[Installed]:
    """The same, up when the test begins; its drop-ins are gone when it ends."""
    if nexus.machine.show("nexusd.service", "ActiveState")["ActiveState"] != "active":
        nexus.machine.run("systemctl", "start", "nexusd")
    yield nexus
    nexus.forget_drop_ins()
